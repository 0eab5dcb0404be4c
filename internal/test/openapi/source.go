package openapi

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// source is Go source, which has what reflection does not know.
type source struct {
	root, module string // the directory and the path of the module
	packages     map[string]*texts
}

// texts are comments of types and of fields (Type.Field), and constants by their type.
type texts struct {
	comments  map[string]string
	constants map[string][]string
}

func (s *source) of(t reflect.Type) *texts {
	if s.packages[t.PkgPath()] == nil {
		s.packages[t.PkgPath()] = s.parse(t.PkgPath())
	}
	return s.packages[t.PkgPath()]
}

// comment returns that of a type, or of a field if there is one.
func (s *source) comment(t reflect.Type, field string) string {
	if field == "" {
		return s.of(t).comments[t.Name()]
	}
	return s.of(t).comments[t.Name()+"."+field]
}

// constants returns the values of a type's constants.
func (s *source) constants(t reflect.Type) []string {
	if t.PkgPath() == "" {
		return nil
	}
	return s.of(t).constants[t.Name()]
}

func (s *source) parse(path string) *texts {
	found := &texts{map[string]string{}, map[string][]string{}}
	rest, ok := strings.CutPrefix(path, s.module+"/")
	if !ok {
		return found
	}
	files, err := filepath.Glob(filepath.Join(s.root, rest, "*.go"))
	if err != nil || len(files) == 0 {
		panic("openapi: no source of " + path)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			panic(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			panic(err)
		}
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.GenDecl); ok {
				found.declared(d)
			}
		}
	}
	return found
}

func (t *texts) declared(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			t.comments[spec.Name.Name] = plain(spec.Name.Name, d.Doc, spec.Doc)
			if s, ok := spec.Type.(*ast.StructType); ok {
				t.fields(spec.Name.Name, s)
			}
		case *ast.ValueSpec:
			kind, ok := spec.Type.(*ast.Ident)
			if !ok || d.Tok != token.CONST {
				continue
			}
			for _, value := range spec.Values {
				if literal, ok := value.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					word, _ := strconv.Unquote(literal.Value) // it has been parsed
					t.constants[kind.Name] = append(t.constants[kind.Name], word)
				}
			}
		}
	}
}

func (t *texts) fields(of string, s *ast.StructType) {
	for _, field := range s.Fields.List {
		for _, name := range field.Names {
			t.comments[of+"."+name.Name] = plain(name.Name, field.Doc, field.Comment)
		}
	}
}

// plain is a comment on one line, without the Go name of what it is about, which the document may call
// something else.
func plain(name string, groups ...*ast.CommentGroup) string {
	var words []string
	for _, g := range groups {
		words = append(words, strings.Fields(g.Text())...)
	}
	switch {
	case len(words) > 1 && words[0] == name+":":
		words = words[1:]
	case len(words) > 2 && words[0] == name && slices.Contains([]string{"is", "are", "has", "says"}, words[1]):
		words = words[2:]
	}
	return upper(strings.Join(words, " "))
}

// upper begins text with a capital letter.
func upper(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// sorted returns the keys of m in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
