// Package web is the collector's dashboard: it serves a page to browsers, the data
// behind it as JSON, Prometheus metrics, and a health check.
//
// Except for controlling a replay, it is read-only: every other method than GET and
// HEAD is rejected. What it displays comes from a Source.
//
// Once a second, each open page gets a frame over server-sent events. A frame is
// encoded once, regardless of the number of pages, and its size depends on the number
// of hosts and flows, never on packets. A page that reads too slowly skips frames, and
// is told how many it skipped.
package web
