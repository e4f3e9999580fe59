// Package bundle turns the console's TypeScript sources into the files that web/console embeds, with esbuild's Go
// API, so that neither building the binary nor rebuilding the bundle needs Node.
//
// It owns no policy of serving and keeps no state: every function may be called from several goroutines.
package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// ErrNoRoot is returned when no directory above holds the module.
var ErrNoRoot = errors.New("go.mod of module vitalwatch not found above; run this inside the repository")

// Paths below the repository root.
const (
	srcDir  = "web/console/src"
	distDir = "web/console/dist"
)

// File is one built file; Name is slash-separated below dist.
type File struct {
	Name string
	Data []byte
}

// Root finds the repository's root from the working directory upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(b, []byte("module vitalwatch\n")) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", ErrNoRoot
		}
		dir = up
	}
}

// Build bundles the console in memory. The same sources give the same bytes on every machine: paths enter the
// output only relative to root, and nothing of the environment does.
func Build(root string) ([]File, error) {
	res := api.Build(api.BuildOptions{
		AbsWorkingDir:     root,
		EntryPoints:       []string{srcDir + "/main.ts", srcDir + "/style.css"},
		EntryNames:        "assets/[name]-[hash]",
		Outdir:            filepath.Join(root, distDir),
		Bundle:            true,
		External:          []string{"/favicon.svg"},
		MinifySyntax:      true,
		MinifyWhitespace:  true,
		MinifyIdentifiers: true,
		Format:            api.FormatESModule,
		Target:            api.ES2022,
		Charset:           api.CharsetUTF8,
		LegalComments:     api.LegalCommentsEndOfFile, // uPlot's MIT notice travels with its code.
		LogLevel:          api.LogLevelSilent,
	})
	if err := failed(res.Errors, res.Warnings); err != nil {
		return nil, err
	}
	var files []File
	asset := map[string]string{}
	for _, f := range res.OutputFiles {
		rel, err := filepath.Rel(filepath.Join(root, distDir), f.Path)
		if err != nil {
			return nil, err
		}
		name := filepath.ToSlash(rel)
		asset[path.Ext(name)] = name
		files = append(files, File{name, f.Contents})
	}
	page, err := os.ReadFile(filepath.Join(root, srcDir, "index.html"))
	if err != nil {
		return nil, err
	}
	for _, p := range []struct{ mark, ext string }{{"%SCRIPT%", ".js"}, {"%STYLE%", ".css"}} {
		if bytes.Count(page, []byte(p.mark)) != 1 || asset[p.ext] == "" {
			return nil, fmt.Errorf("index.html needs %s exactly once, and the build a %s file", p.mark, p.ext)
		}
		page = bytes.ReplaceAll(page, []byte(p.mark), []byte(asset[p.ext]))
	}
	files = append(files, File{"index.html", page})
	icon, err := os.ReadFile(filepath.Join(root, srcDir, "favicon.svg"))
	if err != nil {
		return nil, err
	}
	files = append(files, File{"favicon.svg", icon})
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// BuildTest bundles one TypeScript test file for Node's test runner.
func BuildTest(root, entry string) ([]byte, error) {
	res := api.Build(api.BuildOptions{
		AbsWorkingDir: root,
		EntryPoints:   []string{entry},
		Bundle:        true,
		Format:        api.FormatESModule,
		Platform:      api.PlatformNode,
		Target:        api.ES2022,
		Charset:       api.CharsetUTF8,
		LogLevel:      api.LogLevelSilent,
		Sourcemap:     api.SourceMapInline,
		Outfile:       "test.mjs",
	})
	if err := failed(res.Errors, res.Warnings); err != nil {
		return nil, err
	}
	return res.OutputFiles[0].Contents, nil
}

func failed(groups ...[]api.Message) error {
	var errs []error
	for _, g := range groups {
		for _, m := range g {
			if m.Location != nil {
				errs = append(errs, fmt.Errorf("%s:%d:%d: %s", m.Location.File, m.Location.Line, m.Location.Column+1, m.Text))
			} else {
				errs = append(errs, errors.New(m.Text))
			}
		}
	}
	return errors.Join(errs...)
}

// Stale compares files with what lies in dist and describes every difference; nil means dist is up to date.
func Stale(root string, files []File) ([]string, error) {
	want := map[string][]byte{}
	for _, f := range files {
		want[f.Name] = f.Data
	}
	var diff []string
	dist := filepath.Join(root, distDir)
	err := filepath.WalkDir(dist, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(dist, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		have, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		switch w, ok := want[name]; {
		case !ok:
			diff = append(diff, name+" is not built any more")
		case !bytes.Equal(w, have):
			diff = append(diff, name+" differs from its sources")
		}
		delete(want, name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for name := range want {
		diff = append(diff, name+" is missing")
	}
	slices.Sort(diff)
	return diff, nil
}

// Write replaces dist by files. The new assets come first and the page last, so that a process that embeds or
// serves the folder meanwhile never finds a page without its assets.
func Write(root string, files []File) error {
	dist := filepath.Join(root, distDir)
	keep := map[string]bool{}
	for _, page := range []bool{false, true} {
		for _, f := range files {
			if (f.Name == "index.html") != page {
				continue
			}
			keep[f.Name] = true
			p := filepath.Join(dist, filepath.FromSlash(f.Name))
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(p, f.Data, 0o644); err != nil {
				return err
			}
		}
	}
	return filepath.WalkDir(dist, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dist, p)
		if err != nil {
			return err
		}
		if !keep[filepath.ToSlash(rel)] {
			return os.Remove(p)
		}
		return nil
	})
}
