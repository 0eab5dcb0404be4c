package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// dist is the output of web/build.mjs. A clone without it has only the placeholder,
// which says what to run.
//
//go:embed dist
var dist embed.FS

const placeholder = "placeholder.html"

// asset is one file of the page, ready to be sent.
type asset struct {
	plain, zipped []byte // zipped is nil if compression does not help
	contentType   string
	tag           string // ETag
}

// loadAssets reads the bundle. built is false if there is none; then "/" is the
// placeholder.
func loadAssets(dir fs.FS) (assets map[string]*asset, built bool, err error) {
	assets = make(map[string]*asset)
	err = fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		assets["/"+name] = newAsset(name, data)
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	index, built := assets["/index.html"]
	if !built {
		index = assets["/"+placeholder]
	}
	delete(assets, "/index.html") // it has a single address
	delete(assets, "/"+placeholder)
	assets["/"] = index
	return assets, built, nil
}

func newAsset(name string, data []byte) *asset {
	sum := sha256.Sum256(data)
	a := &asset{plain: data, tag: `"` + hex.EncodeToString(sum[:12]) + `"`}
	switch ext := path.Ext(name); ext {
	case ".woff2": // missing in some hosts' mime.types
		a.contentType = "font/woff2"
	case ".js":
		a.contentType = "text/javascript; charset=utf-8"
	default:
		a.contentType = mime.TypeByExtension(ext)
	}
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is valid
	z.Write(data)
	z.Close()
	if b.Len() < len(data)*9/10 {
		a.zipped = b.Bytes()
	}
	return a
}

func (a *asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("ETag", a.tag)
	h.Set("Cache-Control", "no-cache") // cached but revalidated: another version of the program may be listening
	h.Set("Vary", "Accept-Encoding")
	if r.Header.Get("If-None-Match") == a.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := a.plain
	if a.zipped != nil && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = a.zipped
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

func acceptsGzip(r *http.Request) bool {
	for _, word := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		coding, params, _ := strings.Cut(strings.TrimSpace(word), ";")
		if coding == "gzip" {
			q, ok := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
			return !ok || strings.Trim(q, "0.") != ""
		}
	}
	return false
}
