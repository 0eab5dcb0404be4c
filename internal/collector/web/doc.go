// Package web is the collector's dashboard: a page that it serves to browsers,
// the data behind it as JSON, Prometheus metrics and a health check.
//
// It only reads: there is nothing that a request could change, and every
// method but GET and HEAD is refused. What it shows comes from a Source.
//
// Once a second each open page gets a frame over server-sent events. A frame
// is encoded once, whatever the number of pages, and its size depends on hosts
// and flows, never on packets. A page that reads too slowly gets the newest
// frame when it is ready, and is told how many it missed.
//
// docs/api.md describes the addresses.
package web
