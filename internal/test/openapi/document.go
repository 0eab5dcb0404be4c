package openapi

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/pcapper/pcapper/internal/collector/api"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/collector/web"
)

// Endpoints are all that the page's server has. They describe; they cannot answer.
func Endpoints() []api.Endpoint { return append(web.Endpoints(nil), path.Endpoints(nil, nil)...) }

// names are what the description calls types whose name is taken, or says too little outside their package.
var names = map[string]string{
	"web.Flow": "FlowSetup", "web.Host": "HostSetup", "web.healthOfAll": "Health", "web.healthJSON": "StageHealth",
	"ledger.Entry": "LedgerEntry", "ledger.Loss": "LedgerLoss", "ledger.Amount": "LedgerAmount",
	"path.Map": "PathMap", "path.Node": "MapNode", "path.Link": "PathLink", "path.Tuple": "PathTuple", "path.Flow": "PathFlow",
	"path.Report": "PathReport", "path.Delay": "HopDelay", "path.Change": "PathChange", "path.Packet": "PathPacket", "path.Path": "PathTaken",
}

// common are errors that any address may answer with.
var common = map[int]string{
	http.StatusUnauthorized:     "No user or token was named, or the password is wrong",
	http.StatusForbidden:        "The request comes from a page of another site, or asks for this host by another name",
	http.StatusMethodNotAllowed: "The address does not take this method",
	http.StatusNotAcceptable:    "The request does not accept the only content type that the answer can have",
	http.StatusTooManyRequests:  "Too many passwords have to be checked",
}

// Document returns an OpenAPI 3.1 document of all addresses, and the same as TypeScript. The directory of the
// Go module is root.
func Document(root string) (document, typescript []byte) {
	endpoints := Endpoints()
	s := &schemas{&source{root, "github.com/pcapper/pcapper", map[string]*texts{}}, names, map[string]reflect.Type{}, map[string]object{}, map[string][]string{}}
	paths := object{}
	for i := range endpoints {
		e := &endpoints[i]
		item, _ := paths[e.Path].(object)
		if item == nil {
			item = object{}
			paths[e.Path] = item
		}
		method, _, _ := strings.Cut(e.Pattern(), " ")
		item[strings.ToLower(method)] = s.operation(e, method)
	}
	failure := s.schema(reflect.TypeFor[api.Failure]())
	errors := object{"400": errorResponse("A parameter is not known, or has a wrong value: error names it", failure)}
	for code, text := range common {
		errors[strconv.Itoa(code)] = errorResponse(text, failure)
	}
	d := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "recollect", "version": "v1",
			"description": "What a collector of PCapper knows. Within v1 fields are only added, never renamed or given another meaning; unknown ones have to be ignored.",
			"license":     object{"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
		},
		"servers": []object{{"url": "/"}},
		"paths":   paths,
		"components": object{
			"schemas": s.schemas, "responses": errors,
			"securitySchemes": object{"user": object{"type": "http", "scheme": "basic"}, "token": object{"type": "http", "scheme": "bearer"}},
		},
		"security": []object{{}, {"user": []string{}}, {"token": []string{}}},
	}
	document, err := json.MarshalIndent(d, "", "\t")
	if err != nil {
		panic(err)
	}
	return append(document, '\n'), s.typescript(endpoints)
}

func errorResponse(text string, failure object) object {
	return object{"description": text, "content": object{api.JSON: object{"schema": failure}}}
}

func (s *schemas) operation(e *api.Endpoint, method string) object {
	answer := object{"description": "The answer", "content": object{e.Type: object{"schema": object{"type": "string"}}}}
	if e.Type == "" {
		answer["content"] = object{api.JSON: object{"schema": s.schema(reflect.TypeOf(e.Answer))}}
	}
	responses := object{"200": answer}
	codes := []int{http.StatusBadRequest}
	for code := range common {
		codes = append(codes, code)
	}
	for _, code := range codes {
		responses[strconv.Itoa(code)] = object{"$ref": "#/components/responses/" + strconv.Itoa(code)}
	}
	for code, text := range e.Errors {
		schema := s.schema(reflect.TypeFor[api.Failure]())
		if e.Path == "/healthz" { // it has the same answer, whether it is well or not
			schema = s.schema(reflect.TypeOf(e.Answer))
		}
		responses[strconv.Itoa(code)] = errorResponse(text, schema)
	}
	o := object{"operationId": identifier(e.Path, method), "summary": e.Summary, "responses": responses}
	if len(e.Parameters) > 0 {
		var list []object
		for i := range e.Parameters {
			list = append(list, parameter(&e.Parameters[i]))
		}
		o["parameters"] = list
	}
	if e.Body != nil {
		o["requestBody"] = object{"required": true, "content": object{api.JSON: object{"schema": s.schema(reflect.TypeOf(e.Body))}}}
	}
	if e.Path == "/healthz" {
		o["security"] = []object{{}}
	}
	return o
}

func parameter(p *api.Parameter) object {
	schema := object{"type": "string"}
	switch p.Kind {
	case api.Integer:
		schema = object{"type": "integer", "minimum": p.Min, "maximum": p.Max}
	case api.Word:
		schema["enum"] = p.Words
	}
	if p.Pattern != "" {
		schema["pattern"] = p.Pattern
	}
	if p.Default != nil {
		schema["default"] = p.Default
	}
	if p.Repeated {
		schema = object{"type": "array", "items": schema}
	}
	o := object{"name": p.Name, "in": "query", "description": p.Meaning, "schema": schema}
	if p.InPath {
		o["in"] = "path"
	}
	if p.Required || p.InPath {
		o["required"] = true
	}
	return o
}

// identifier is /api/v1/mgen/history as mgenHistory; that of a POST has its method in front.
func identifier(address, method string) string {
	name := ""
	for _, word := range strings.FieldsFunc(strings.TrimPrefix(address, "/api/v1"), func(r rune) bool { return strings.ContainsRune("/{}.", r) }) {
		if name != "" {
			word = upper(word)
		}
		name += word
	}
	if method == http.MethodPost {
		name = "post" + upper(name)
	}
	return name
}
