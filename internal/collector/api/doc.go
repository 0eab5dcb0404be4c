// Package api describes the endpoints of a collector's HTTP API. A description states
// what an endpoint accepts and returns: the server checks requests against it, and
// openapi.json and the page's TypeScript types are generated from it and from the Go
// types that it names (package internal/test/openapi; "go generate
// ./internal/collector/api").
package api

import _ "embed"

// Document is the OpenAPI description of all endpoints.
//
//go:embed openapi.json
var Document []byte

//go:generate go test ../../test/openapi -run TestFiles -write
