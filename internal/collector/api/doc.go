// Package api describes the addresses at which a collector tells what it knows. A description says
// what an address takes and answers: it checks requests while the server runs, and openapi.json and
// the page's TypeScript types are generated from it and from the Go types that it names (package
// internal/test/openapi; "go generate ./internal/collector/api").
package api

import _ "embed"

// Document is the OpenAPI description of all addresses.
//
//go:embed openapi.json
var Document []byte

//go:generate go test ../../test/openapi -run TestFiles -write
