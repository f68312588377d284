// Package page is the web page: files that a browser loads once and that speak
// to the API from then on.
//
// It owns the files, their types and their caching. It does not know the API's
// server, who is logged in, nor anything of networks: the files have no secrets
// and are served to everybody who gets this far. They load nothing from
// elsewhere and need no build step.
//
// Start reading at Handler below; the page starts in static/index.html and
// static/app.js.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed static
var files embed.FS

// prefix is where everything but the document itself is.
const prefix = "/page/"

const index = "index.html"

// types are those of the files' extensions: the host's table of types is not
// asked, as what it says is not ours to know.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// Has says whether a path is the page's.
func Has(p string) bool { return p == "/" || strings.HasPrefix(p, prefix) }

type file struct {
	content   []byte
	kind, tag string
}

// Handler serves the page: its document at /, the rest below /page/. What the
// document names is below /page/VERSION/, of which a browser asks for nothing twice.
func Handler() http.Handler {
	all, version := read()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := index
		if r.URL.Path != "/" {
			name = strings.TrimPrefix(r.URL.Path, prefix)
		}
		name, forever := strings.CutPrefix(name, version)
		f, ok := all[name]
		if !ok || name == index && r.URL.Path != "/" {
			http.Error(w, "the page has no such file", http.StatusNotFound)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the page is only read", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.kind)
		h.Set("Cache-Control", "no-cache") // asked for each time, answered by the tag
		if forever {
			h.Set("Cache-Control", "max-age=31536000, immutable") // another version has another name
		}
		h.Set("ETag", f.tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.content))
	})
}

// read returns the files by name, and what comes before the names of those of this
// version: "VERSION/".
func read() (all map[string]file, version string) {
	all = map[string]file{}
	whole := sha256.New()
	sub, err := fs.Sub(files, "static")
	if err == nil {
		err = fs.WalkDir(sub, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			content, err := fs.ReadFile(sub, name)
			fmt.Fprintln(whole, name, len(content))
			whole.Write(content)
			all[name] = file{content: content, kind: types[path.Ext(name)]}
			return err
		})
	}
	if err != nil {
		panic(err) // the files are part of the program
	}
	version = hex.EncodeToString(whole.Sum(nil)[:6]) + "/"
	for name, f := range all {
		if name == index {
			f.content = bytes.ReplaceAll(f.content, []byte(`"`+prefix), []byte(`"`+prefix+version))
		}
		sum := sha256.Sum256(f.content)
		f.tag = `"` + hex.EncodeToString(sum[:12]) + `"`
		all[name] = f
	}
	return all, version
}
