// Package console owns the coaches' console: its TypeScript sources (src), the built bundle (dist, made by
// internal/consolebuild and committed, so that building the binary needs no Node), and the handler that serves it.
// It owns no data and no security headers: both are web's.
//
// Concurrency: everything is fixed when the program starts; the handler may serve any number of requests at once.
package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

//go:embed dist
var dist embed.FS

// ContentSecurityPolicy is what the console needs and nothing more: it has no inline script and no inline style,
// and the chart library sets styles through the CSSOM only. web sends it with every page.
const ContentSecurityPolicy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

// The types that dist holds; the machine's own table is not asked, because it differs between machines.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

type file struct {
	data, gz    []byte
	etag, ctype string
	immutable   bool
}

var files = sync.OnceValue(func() map[string]*file {
	m := map[string]*file{}
	err := fs.WalkDir(dist, "dist", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := dist.ReadFile(p)
		if err != nil {
			return err
		}
		var z bytes.Buffer
		w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		name := strings.TrimPrefix(p, "dist")
		m[name] = &file{
			data: data, gz: z.Bytes(),
			etag:      `"` + hex.EncodeToString(sum[:12]) + `"`,
			ctype:     types[path.Ext(p)],
			immutable: strings.HasPrefix(name, "/assets/"), // their names carry a hash of their content
		}
		return nil
	})
	if err != nil {
		panic(err) // the file system is inside the binary: this cannot fail at run time
	}
	m["/"] = m["/index.html"]
	delete(m, "/index.html")
	return m
})

// Handler serves the console at "/". Assets with hashed names are cached for ever, the page itself is asked for
// again each time, so that a new server never meets an old page.
func Handler() http.Handler {
	all := files()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := all[r.URL.Path]
		if f == nil {
			http.NotFound(w, r)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.ctype)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("ETag", f.etag)
		h.Set("Vary", "Accept-Encoding")
		if f.immutable {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		} else {
			h.Set("Cache-Control", "no-cache")
		}
		if match(r.Header.Get("If-None-Match"), f.etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		body := f.data
		if acceptsGzip(r.Header.Get("Accept-Encoding")) {
			h.Set("Content-Encoding", "gzip")
			body = f.gz
		}
		h.Set("Content-Length", strconv.Itoa(len(body)))
		if r.Method == http.MethodHead {
			return
		}
		_, _ = w.Write(body) // the client has gone; there is nobody left to tell
	})
}

// match implements If-None-Match's weak comparison, RFC 9110 section 13.1.2.
func match(header, etag string) bool {
	for _, t := range strings.Split(header, ",") {
		t = strings.TrimPrefix(strings.TrimSpace(t), "W/")
		if t == etag || t == "*" {
			return true
		}
	}
	return false
}

// acceptsGzip reads Accept-Encoding; "gzip;q=0" refuses it, RFC 9110 section 12.5.3.
func acceptsGzip(header string) bool {
	for _, c := range strings.Split(header, ",") {
		name, param, _ := strings.Cut(strings.TrimSpace(c), ";")
		if strings.TrimSpace(name) != "gzip" {
			continue
		}
		q, found := strings.CutPrefix(strings.ReplaceAll(param, " ", ""), "q=")
		v, err := strconv.ParseFloat(q, 64)
		return !found || err == nil && v > 0
	}
	return false
}
