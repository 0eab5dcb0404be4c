// Sbom prints the modules that Go programs were built from, as the build
// recorded them, in an SPDX 2.3 document (https://spdx.github.io/spdx-spec/v2.3/).
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"time"
)

type document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      creation       `json:"creationInfo"`
	Packages          []*pkg         `json:"packages"`
	Relationships     []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type pkg struct {
	SPDXID           string     `json:"SPDXID"`
	Name             string     `json:"name"`
	Version          string     `json:"versionInfo,omitempty"`
	DownloadLocation string     `json:"downloadLocation"`
	FilesAnalyzed    bool       `json:"filesAnalyzed"`
	Checksums        []checksum `json:"checksums,omitempty"`
	ExternalRefs     []external `json:"externalRefs,omitempty"`
	Comment          string     `json:"comment,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type external struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: sbom PROGRAM...")
		os.Exit(2)
	}
	doc, err := describe(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", " ")
	if err := out.Encode(doc); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func describe(programs []string) (*document, error) {
	doc := &document{SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", Name: "pcapper",
		CreationInfo: creation{Created: time.Now().UTC().Format(time.RFC3339), Creators: []string{"Tool: pcapper-sbom"}}}
	known := map[string]bool{}
	sum := sha256.New()
	for _, name := range programs {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		info, err := buildinfo.ReadFile(name)
		if err != nil {
			return nil, err
		}
		digest := sha256.Sum256(data)
		sum.Write(digest[:])
		program := &pkg{
			SPDXID: id("Program", filepath.Base(name)), Name: filepath.Base(name), Version: info.Main.Version, DownloadLocation: "NOASSERTION",
			Checksums: []checksum{{"SHA256", hex.EncodeToString(digest[:])}},
		}
		doc.Packages = append(doc.Packages, program)
		doc.Relationships = append(doc.Relationships, relationship{doc.SPDXID, "DESCRIBES", program.SPDXID})
		std := &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}
		for _, m := range append([]*debug.Module{std}, info.Deps...) {
			if m.Replace != nil {
				m = m.Replace
			}
			p := module(m)
			if !known[p.SPDXID] {
				known[p.SPDXID] = true
				doc.Packages = append(doc.Packages, p)
			}
			doc.Relationships = append(doc.Relationships, relationship{program.SPDXID, "DEPENDS_ON", p.SPDXID})
		}
	}
	doc.DocumentNamespace = "https://github.com/pcapper/pcapper/sbom/" + hex.EncodeToString(sum.Sum(nil))
	return doc, nil
}

// module is a Go module as a package. Its h1 sum is a SHA-256 of the sums of
// its files (golang.org/x/mod/sumdb/dirhash), not of an archive.
func module(m *debug.Module) *pkg {
	p := &pkg{
		SPDXID: id("Module", m.Path+"-"+m.Version), Name: m.Path, Version: m.Version, DownloadLocation: "NOASSERTION",
		ExternalRefs: []external{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.Path + "@" + m.Version}},
	}
	if m.Path != "stdlib" {
		p.DownloadLocation = "https://proxy.golang.org/" + m.Path + "/@v/" + m.Version + ".zip"
	}
	if b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:")); err == nil && len(b) == sha256.Size {
		p.Comment = "h1 sum of the module's files: " + hex.EncodeToString(b)
	}
	return p
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func id(kind, name string) string { return "SPDXRef-" + kind + "-" + unfit.ReplaceAllString(name, "-") }
