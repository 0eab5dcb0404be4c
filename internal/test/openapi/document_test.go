package openapi

import (
	"bytes"
	"flag"
	"os"
	"testing"
)

var write = flag.Bool("write", false, "write the files instead of comparing them")

// TestFiles: openapi.json and the page's types are those of the Go types. "go generate ./internal/collector/api"
// writes them.
func TestFiles(t *testing.T) {
	document, typescript := Document("../../..")
	for name, want := range map[string][]byte{
		"../../collector/api/openapi.json": document, "../../../web/src/api.ts": typescript,
	} {
		if *write {
			if err := os.WriteFile(name, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the Go types say (%v): run \"go generate ./internal/collector/api\"", name, err)
		}
	}
}
