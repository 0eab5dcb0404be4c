// Package openapi generates what describes the collector's addresses to others: an OpenAPI document
// and TypeScript types. It reads the Go types that an api.Endpoint names by reflection, and their
// comments and constants from the source.
package openapi

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/collector/api"
)

// object is a piece of JSON.
type object = map[string]any

// schemas are those of Go types that have a name, by the name that they have in the document.
type schemas struct {
	source  *source
	names   map[string]string       // of types, by "package.Name", that are not called what they are in Go
	types   map[string]reflect.Type // which type has a name
	schemas map[string]object
	fields  map[string][]string // of a schema, in the order of the Go type
}

// name returns what a type is called in the document: without the "JSON" of unexported types.
func (s *schemas) name(t reflect.Type) string {
	name, ok := s.names[t.String()]
	if !ok {
		name = strings.TrimSuffix(t.Name(), "JSON")
		if rest, ok := strings.CutPrefix(name, "mgen"); ok {
			name = "MGEN" + rest
		}
		name = strings.ToUpper(name[:1]) + name[1:]
	}
	if other := s.types[name]; other != nil && other != t {
		panic(fmt.Sprintf("openapi: %v and %v would both be called %s: give one another name", other, t, name))
	}
	return name
}

// schema returns the schema of what encoding/json makes of a value of type t, or a reference to it.
func (s *schemas) schema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t.Implements(reflect.TypeFor[api.Nullable]()):
		return object{"type": []string{"integer", "null"}, "minimum": 0}
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return object{"type": "string"}
	case t.Implements(reflect.TypeFor[json.Marshaler]()):
		panic(fmt.Sprintf("openapi: %v encodes itself in a way that is not known", t))
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		if words := s.source.constants(t); len(words) > 0 {
			return object{"type": "string", "enum": words}
		}
		return object{"type": "string"}
	case reflect.Slice:
		return object{"type": "array", "items": s.element(t)}
	case reflect.Array:
		return object{"type": "array", "items": s.element(t), "minItems": t.Len(), "maxItems": t.Len()}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.element(t)}
	case reflect.Interface:
		return object{}
	case reflect.Pointer:
		return s.schema(t.Elem())
	case reflect.Struct:
		return s.reference(t)
	}
	panic(fmt.Sprintf("openapi: %v is not in any answer", t))
}

// element is the schema of the elements of a list or a map: a pointer may be null.
func (s *schemas) element(t reflect.Type) object {
	if t.Elem().Kind() == reflect.Pointer {
		return nullable(s.schema(t.Elem()))
	}
	return s.schema(t.Elem())
}

// reference has the schema of a struct under its name.
func (s *schemas) reference(t reflect.Type) object {
	name := s.name(t)
	if s.types[name] == nil {
		s.types[name] = t
		schema := object{"type": "object", "properties": object{}, "required": []string{}}
		if text := s.source.comment(t, ""); text != "" {
			schema["description"] = text
		}
		s.addFields(t, name, schema)
		s.schemas[name] = schema
	}
	return object{"$ref": "#/components/schemas/" + name}
}

// addFields adds those of a struct, and of structs that are embedded in it, to the schema that is called of.
func (s *schemas) addFields(t reflect.Type, of string, schema object) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		list := strings.Split(options, ",")
		switch {
		case field.Anonymous && name == "":
			s.addFields(field.Type, of, schema)
			continue
		case !field.IsExported() || name == "-":
			continue
		case name == "":
			panic(fmt.Sprintf("openapi: %v.%s has no json tag", t, field.Name))
		}
		optional := slices.Contains(list, "omitempty") || slices.Contains(list, "omitzero")
		value := s.schema(field.Type)
		if slices.Contains(list, "string") {
			value = object{"type": "string", "pattern": "^-?[0-9]+$"}
		}
		if words := field.Tag.Get("enum"); words != "" {
			value["enum"] = strings.Split(words, ",")
		}
		if field.Type.Kind() == reflect.Pointer && !optional {
			value = nullable(value)
		}
		if text := s.source.comment(t, field.Name); text != "" {
			value["description"] = text
		}
		schema["properties"].(object)[name] = value
		s.fields[of] = append(s.fields[of], name)
		if !optional {
			schema["required"] = append(schema["required"].([]string), name)
		}
	}
}

func nullable(schema object) object {
	if kind, ok := schema["type"].(string); ok {
		schema["type"] = []string{kind, "null"}
		return schema
	}
	return object{"oneOf": []object{schema, {"type": "null"}}}
}
