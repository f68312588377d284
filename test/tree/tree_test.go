// Package tree holds the rules about the source tree as tests: who may import
// whom, how long files and functions get, what every package has to say about
// itself. ARCHITECTURE.md has the picture; this is what keeps it true.
package tree

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// wall says what a package may import. Ours are named without the module and
// internal/; third-party ones by the beginning of their path.
type wall struct {
	ours, theirs []string
	// pure packages see no machine: no os, net, time, log, context.
	pure bool
}

var (
	netlinks = []string{"github.com/vishvananda/netlink", "github.com/mdlayher/netlink", "github.com/google/nftables", "golang.org/x/sys", "golang.org/x/net"}
	walls    = map[string]wall{
		"spec":      {pure: true},
		"host":      {pure: true},
		"render":    {ours: []string{"spec", "host"}, pure: true},
		"plan":      {ours: []string{"host"}, pure: true},
		"topology":  {ours: []string{"spec", "host"}, theirs: []string{"golang.org/x/text/width"}, pure: true},
		"ruleset":   {pure: true},
		"diagnose":  {ours: []string{"spec", "host", "ruleset", "topology"}, pure: true},
		"txn":       {ours: []string{"spec", "host", "plan"}},
		"engine":    {ours: []string{"spec", "host", "render", "plan", "txn", "ruleset", "diagnose"}},
		"linux":     {ours: []string{"host", "plan", "txn", "ruleset", "diagnose"}, theirs: netlinks},
		"hostconf":  {ours: []string{"host", "plan", "txn"}, theirs: []string{"github.com/godbus/dbus", "golang.org/x/sys", "github.com/coreos/go-systemd", "go.yaml.in/yaml"}},
		"latency":   {},
		"capture":   {theirs: []string{"golang.org/x/sys"}},
		"dhcp":      {ours: []string{"host", "plan", "latency"}, theirs: []string{"github.com/insomniacslk/dhcp", "go.etcd.io/bbolt", "golang.org/x/sys", "golang.org/x/net"}},
		"ra":        {ours: []string{"host", "plan"}, theirs: []string{"github.com/mdlayher/ndp", "golang.org/x/sys", "golang.org/x/net"}},
		"dns":       {ours: []string{"host", "plan", "latency"}, theirs: []string{"github.com/miekg/dns", "golang.org/x/net", "golang.org/x/sys"}},
		"snoop":     {ours: []string{"host", "plan"}, theirs: []string{"golang.org/x/sys"}},
		"services":  {ours: []string{"host", "plan", "dhcp", "dns", "ra", "snoop"}, theirs: []string{"golang.org/x/sys"}},
		"guard":     {ours: []string{"txn"}, theirs: []string{"golang.org/x/sys"}},
		"store":     {ours: []string{"spec", "host", "txn"}, theirs: []string{"go.etcd.io/bbolt"}},
		"login":     {},
		"rest/page": {},
		"api":       {theirs: []string{"golang.org/x/sys", "go.yaml.in/yaml"}},
		"rest":      {ours: []string{"spec", "host", "plan", "txn", "engine", "latency", "api", "login", "rest/page", "topology", "diagnose"}, theirs: []string{"github.com/danielgtaylor/huma", "go.yaml.in/yaml", "golang.org/x/sys"}},
		"cli":       {ours: []string{"api", "capture"}, theirs: []string{"github.com/spf13", "go.yaml.in/yaml", "golang.org/x/sys", "golang.org/x/term"}},
	}
	// testOnly packages are imported by tests and by the demonstration alone.
	testOnly = []string{"nettest"}
	notPure  = []string{"os", "net", "time", "log", "log/slog", "context"}
)

type source struct {
	path string
	pkg  string // "spec", "cmd/drawbridge", "nettest/dhcpload"
	file *ast.File
	test bool
	text string
}

func sources(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	set := token.NewFileSet()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (strings.HasPrefix(name, ".") && path != root || name == "testdata" || name == "node_modules" || name == "dist") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(set, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, filepath.Dir(path))
		all = append(all, source{
			path: path, pkg: strings.TrimPrefix(filepath.ToSlash(rel), "internal/"), file: f,
			test: strings.HasSuffix(name, "_test.go"), text: string(text),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d source files found below %s", len(all), root)
	}
	return set, all
}

func imports(f *ast.File) []string {
	var paths []string
	for _, i := range f.Imports {
		paths = append(paths, strings.Trim(i.Path.Value, `"`))
	}
	return paths
}

func TestImportsGoDownOnly(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		w, walled := walls[s.pkg]
		if s.test || !walled {
			continue
		}
		for _, path := range imports(s.file) {
			ours, isOurs := strings.CutPrefix(path, "drawbridge/internal/")
			switch {
			case isOurs:
				if !slices.Contains(w.ours, ours) {
					t.Errorf("%s: package %s must not import %s", s.path, s.pkg, ours)
				}
			case strings.Contains(strings.Split(path, "/")[0], "."):
				if !slices.ContainsFunc(w.theirs, func(p string) bool { return strings.HasPrefix(path, p) }) {
					t.Errorf("%s: package %s must not import %s", s.path, s.pkg, path)
				}
			case w.pure && slices.Contains(notPure, path):
				t.Errorf("%s: package %s is pure and must not import %s", s.path, s.pkg, path)
			}
		}
	}
}

func TestEveryPackageStandsBehindAWall(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.test || !strings.HasPrefix(s.path, root+"/internal/") {
			continue
		}
		if _, ok := walls[s.pkg]; !ok && !slices.Contains(testOnly, strings.Split(s.pkg, "/")[0]) {
			t.Errorf("%s: package %s is not in the table of walls", s.path, s.pkg)
		}
	}
}

func TestTestPackagesAreImportedByTestsOnly(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.test || strings.HasPrefix(s.pkg, "nettest") || strings.HasPrefix(s.pkg, "test/") {
			continue
		}
		for _, path := range imports(s.file) {
			if strings.HasPrefix(path, "drawbridge/internal/nettest") {
				t.Errorf("%s imports %s, which is for tests", s.path, path)
			}
		}
	}
}

func TestFilesAndFunctionsStayShort(t *testing.T) {
	const maxFile, maxFunc = 500, 70
	set, all := sources(t)
	for _, s := range all {
		if s.test {
			continue
		}
		if n := strings.Count(s.text, "\n"); n > maxFile {
			t.Errorf("%s has %d lines, at most %d are allowed: split it", s.path, n, maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1; n > maxFunc {
				t.Errorf("%s: %s has %d lines, at most %d are allowed", set.Position(f.Pos()), f.Name.Name, n, maxFunc)
			}
		}
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	_, all := sources(t)
	docs := map[string]string{}
	for _, s := range all {
		if !s.test {
			docs[s.pkg] += s.file.Doc.Text()
		}
	}
	for pkg, doc := range docs {
		doc = strings.ToLower(strings.Join(strings.Fields(doc), " "))
		if doc == "" {
			t.Errorf("package %s has no comment", pkg)
			continue
		}
		if _, walled := walls[pkg]; !walled {
			continue
		}
		for _, must := range []string{"own", "know", "start reading"} {
			if !strings.Contains(doc, must) {
				t.Errorf("the comment of package %s does not say %q: what it owns, what it does not know, where to start reading", pkg, must)
			}
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	set, all := sources(t)
	for _, s := range all {
		if s.test || !strings.HasPrefix(s.path, root+"/internal/") {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			// Error and String mean what they mean everywhere.
			known := ok && f.Recv != nil && (f.Name.Name == "Error" || f.Name.Name == "String")
			if ok && !known && f.Name.IsExported() && f.Doc == nil && (f.Recv == nil || exportedReceiver(f)) {
				t.Errorf("%s: %s has no comment", set.Position(f.Pos()), f.Name.Name)
			}
		}
	}
}

func exportedReceiver(f *ast.FuncDecl) bool {
	t := f.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	id, ok := t.(*ast.Ident)
	return ok && id.IsExported()
}

func TestTestsDoNotSleep(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.test && strings.Contains(s.text, "time."+"Sleep(") {
			t.Errorf("%s sleeps: wait for an event with a limit, or use a fake clock", s.path)
		}
	}
}

func TestNamesSayWhatTheyMean(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		for _, word := range []string{"util", "utils", "common", "base", "helper", "helpers", "misc", "manager"} {
			if s.file.Name.Name == word || strings.TrimSuffix(filepath.Base(s.path), ".go") == word {
				t.Errorf("%s: %q names nothing", s.path, word)
			}
		}
	}
}

func TestNoInitAndNoTextMatching(t *testing.T) {
	set, all := sources(t)
	for _, s := range all {
		if s.test {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "init" && f.Recv == nil {
				t.Errorf("%s: wiring is done by hand, without init()", set.Position(f.Pos()))
			}
		}
		if strings.Contains(s.text, "err.Error() ==") || strings.Contains(s.text, "strings.Contains(err.Error()") {
			t.Errorf("%s matches the text of an error", s.path)
		}
	}
}
