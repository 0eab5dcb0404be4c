// Sbom prints what Go programs were built from, as an SPDX 2.3 document
// (https://spdx.github.io/spdx-spec/v2.3/): the modules, as the build recorded
// them, and the parts of the page, each with its license. With -licenses it
// prints the texts of these licenses, which have to accompany the programs. It
// runs in the directory of the main module. SOURCE_DATE_EPOCH, in seconds since
// 1970, is the time of the document.
package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
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
	LicenseConcluded string     `json:"licenseConcluded"`
	LicenseDeclared  string     `json:"licenseDeclared"`
	Copyright        string     `json:"copyrightText"`
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
	version := flag.String("version", "", "the programs' own `version`")
	texts := flag.Bool("licenses", false, "print the texts of the licenses instead")
	flag.Parse()
	if flag.NArg() == 0 || *version == "" {
		fmt.Fprintln(os.Stderr, "usage: sbom [-licenses] -version VERSION PROGRAM...")
		os.Exit(2)
	}
	b := builder{version: *version, licenses: map[string]license{}}
	doc, err := b.describe(flag.Args())
	if err == nil && *texts {
		b.printLicenses(doc)
	} else if err == nil {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", " ")
		err = out.Encode(doc)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// A builder makes the document.
type builder struct {
	version  string
	dirs     map[string]string  // module -> its directory in the module cache
	licenses map[string]license // package's SPDXID -> its license
	doc      *document
	known    map[string]bool // SPDXIDs in the document
}

func (b *builder) describe(programs []string) (*document, error) {
	created, err := now()
	if err != nil {
		return nil, err
	}
	if b.dirs, err = moduleDirs(); err != nil {
		return nil, err
	}
	b.known = map[string]bool{}
	b.doc = &document{SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: "SPDXRef-DOCUMENT", Name: "pcapper-" + b.version,
		CreationInfo: creation{Created: created.UTC().Format(time.RFC3339), Creators: []string{"Tool: pcapper-sbom"}}}
	sum := sha256.New()
	for _, name := range programs {
		if err := b.program(name, sum); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	b.doc.DocumentNamespace = "https://github.com/pcapper/pcapper/sbom/" + hex.EncodeToString(sum.Sum(nil))
	return b.doc, nil
}

// now is the time of the document.
func now() (time.Time, error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%q is no number of seconds", epoch)
	}
	return time.Unix(seconds, 0), nil
}

// moduleDirs returns where the modules' files are.
func moduleDirs() (map[string]string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Path}}@{{.Version}} {{.Dir}}", "all").Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m all: %w", err)
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, dir, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			dirs[name] = dir
		}
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	dirs["stdlib"] = strings.TrimSpace(string(root))
	return dirs, nil
}

// program adds a program, its modules, and the parts of the page in it.
func (b *builder) program(name string, sum io.Writer) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(name)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(data)
	sum.Write(digest[:])
	program := &pkg{
		SPDXID: id("Program", filepath.Base(name)), Name: filepath.Base(name), Version: b.version, DownloadLocation: "NOASSERTION",
		Checksums: []checksum{{"SHA256", hex.EncodeToString(digest[:])}},
	}
	if err := b.add(program, "."); err != nil {
		return err
	}
	b.doc.Relationships = append(b.doc.Relationships, relationship{b.doc.SPDXID, "DESCRIBES", program.SPDXID})
	parts, err := pageParts(data)
	if err != nil {
		return err
	}
	std := &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range append([]*debug.Module{std}, info.Deps...) {
		if m.Replace != nil {
			m = m.Replace
		}
		dir := b.dirs[m.Path+"@"+m.Version]
		if m == std {
			dir = b.dirs["stdlib"]
		}
		parts = append(parts, part{module(m), dir})
	}
	for _, p := range parts {
		if err := b.add(p.pkg, p.dir); err != nil {
			return err
		}
		b.doc.Relationships = append(b.doc.Relationships, relationship{program.SPDXID, "DEPENDS_ON", p.pkg.SPDXID})
	}
	return nil
}

// A part is what a program contains, and the directory with its license.
type part struct {
	pkg *pkg
	dir string
}

// add adds a package, once, with the license in dir.
func (b *builder) add(p *pkg, dir string) error {
	if b.known[p.SPDXID] {
		return nil
	}
	b.known[p.SPDXID] = true
	l, err := readLicense(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	p.LicenseConcluded, p.LicenseDeclared, p.Copyright = l.id, l.id, l.copyright
	b.licenses[p.SPDXID] = l
	b.doc.Packages = append(b.doc.Packages, p)
	return nil
}

func (b *builder) printLicenses(doc *document) {
	for _, p := range doc.Packages {
		fmt.Printf("%s %s (%s)\n\n%s\n\n%s\n\n", p.Name, p.Version, p.LicenseDeclared, strings.TrimSpace(b.licenses[p.SPDXID].text), strings.Repeat("-", 78))
	}
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

// pageParts returns the npm packages that a program's page is made of: those
// whose license the page shows, and so the program contains.
func pageParts(program []byte) (list []part, err error) {
	data, err := os.ReadFile("web/package-lock.json")
	if err != nil {
		return nil, err
	}
	var lock struct {
		Packages map[string]struct{ Version, Resolved string }
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		return nil, fmt.Errorf("web/package-lock.json: %w", err)
	}
	for _, path := range slices.Sorted(maps.Keys(lock.Packages)) {
		name, ok := strings.CutPrefix(path, "node_modules/")
		if !ok {
			continue
		}
		dir := filepath.Join("web", path)
		text, err := os.ReadFile(filepath.Join(dir, "LICENSE"))
		if err != nil || !bytes.Contains(program, bytes.TrimSpace(text)) {
			continue // not installed, or a tool
		}
		p := lock.Packages[path]
		list = append(list, part{&pkg{
			SPDXID: id("Npm", name+"-"+p.Version), Name: name, Version: p.Version, DownloadLocation: cmp.Or(p.Resolved, "NOASSERTION"),
			ExternalRefs: []external{{"PACKAGE-MANAGER", "purl", "pkg:npm/" + strings.Replace(name, "@", "%40", 1) + "@" + p.Version}},
		}, dir})
	}
	return list, nil
}

var unfit = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func id(kind, name string) string { return "SPDXRef-" + kind + "-" + unfit.ReplaceAllString(name, "-") }
