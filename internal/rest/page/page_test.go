package page

import (
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strings"
	"testing"
)

func ask(method, path, tag string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

func TestFilesAreServedOnceForEachVersion(t *testing.T) {
	for path, kind := range map[string]string{
		"/": "text/html; charset=utf-8", "/page/app.js": "text/javascript; charset=utf-8", "/page/page.css": "text/css; charset=utf-8", "/page/icon.svg": "image/svg+xml",
	} {
		w := ask("GET", path, "")
		tag := w.Header().Get("ETag")
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != kind || w.Header().Get("Cache-Control") != "no-cache" || len(tag) < 10 || w.Body.Len() == 0 {
			t.Errorf("%s: %d %v", path, w.Code, w.Header())
		}
		if again := ask("GET", path, tag); again.Code != http.StatusNotModified || again.Body.Len() > 0 {
			t.Errorf("%s again: %d", path, again.Code)
		}
		if other := ask("GET", path, `"other"`); other.Code != http.StatusOK {
			t.Errorf("%s with an old tag: %d", path, other.Code)
		}
		if head := ask("HEAD", path, ""); head.Code != http.StatusOK || head.Body.Len() > 0 {
			t.Errorf("HEAD %s: %d", path, head.Code)
		}
	}
	for path, status := range map[string]int{"/page/": 404, "/page/index.html": 404, "/page/static/app.js": 404, "/page/../page.go": 404, "/page/page.go": 404} {
		if got := ask("GET", path, ""); got.Code != status {
			t.Errorf("%s: %d", path, got.Code)
		}
	}
	if got := ask("POST", "/", ""); got.Code != http.StatusMethodNotAllowed || got.Header().Get("Allow") == "" {
		t.Errorf("POST: %d", got.Code)
	}
}

// TestNothingIsAskedForTwice: what the document names may be kept forever, and has
// another name once anything is different.
func TestNothingIsAskedForTwice(t *testing.T) {
	_, version := read()
	document := ask("GET", "/", "").Body.String()
	for _, m := range referred.FindAllStringSubmatch(document, -1) {
		if !strings.HasPrefix(m[1], prefix+version) {
			t.Errorf("the document names %s without the version", m[1])
			continue
		}
		w := ask("GET", m[1], "")
		if plain := ask("GET", prefix+strings.TrimPrefix(m[1], prefix+version), ""); w.Code != http.StatusOK || w.Body.String() != plain.Body.String() {
			t.Errorf("%s: %d", m[1], w.Code)
		}
		if got := w.Header().Get("Cache-Control"); got != "max-age=31536000, immutable" {
			t.Errorf("%s may be kept: %s", m[1], got)
		}
	}
	for path, status := range map[string]int{prefix + version: 404, prefix + version + index: 404, prefix + "0123456789ab/app.js": 404, prefix + version + version + "app.js": 404} {
		if got := ask("GET", path, ""); got.Code != status {
			t.Errorf("%s: %d", path, got.Code)
		}
	}
}

func TestEveryFileHasAType(t *testing.T) {
	all, _ := read()
	for name, f := range all {
		if f.kind == "" {
			t.Errorf("%s has no type", name)
		}
	}
}

var (
	imported  = regexp.MustCompile(`(?m)^import [^;]* from '([^']+)';|import\('([^']+)'\)`)
	referred  = regexp.MustCompile(`(?:href|src)="([^"#][^"]*)"`)
	elsewhere = regexp.MustCompile(`(?i)\b(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	markup    = regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|javascript:`)
	inline    = regexp.MustCompile(`(?i)<script(?:>| [^>]*>[^<])|<style|\son[a-z]+=|\sstyle=`)
)

// The policy that the page is served with forbids all of this too; here it is
// found before a browser does.
func TestPageLoadsFromItselfAndMakesNoMarkup(t *testing.T) {
	all, version := read()
	reached := map[string]bool{index: true}
	for name, f := range all {
		text := string(f.content)
		if found := elsewhere.FindString(text); found != "" && !strings.Contains(text, "'http://www.w3.org/2000/svg'") && path.Ext(name) != ".svg" {
			t.Errorf("%s names another host: %s", name, found)
		}
		if found := markup.FindString(text); found != "" {
			t.Errorf("%s makes markup of text: %s", name, found)
		}
		var names []string
		switch path.Ext(name) {
		case ".js":
			for _, m := range imported.FindAllStringSubmatch(text, -1) {
				names = append(names, strings.TrimPrefix(strings.TrimPrefix(m[1]+m[2], "./"), prefix))
			}
		case ".html":
			if found := inline.FindString(text); found != "" {
				t.Errorf("%s has inline script or style: %s", name, found)
			}
			for _, m := range referred.FindAllStringSubmatch(text, -1) {
				names = append(names, strings.TrimPrefix(m[1], prefix+version))
			}
		}
		for _, n := range names {
			reached[n] = true
			if _, ok := all[n]; !ok {
				t.Errorf("%s needs %s, which is not there", name, n)
			}
		}
	}
	for name := range all {
		if !reached[name] {
			t.Errorf("%s is used by nothing", name)
		}
	}
}

// TestModulesNameEachOtherByPlace: a module that is named from the root is another one
// than that which the document loaded, with a state of its own that nobody fills.
func TestModulesNameEachOtherByPlace(t *testing.T) {
	all, _ := read()
	for name, f := range all {
		if path.Ext(name) == ".js" && strings.Contains(string(f.content), prefix) {
			t.Errorf("%s names a file below %s; say ./FILE", name, prefix)
		}
	}
}
