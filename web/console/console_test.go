package console_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"vitalwatch/web/console"
)

func get(t *testing.T, h http.Handler, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHandler(t *testing.T) {
	h := console.Handler()
	page := body(t, get(t, h, "GET", "/").Body)
	script := regexp.MustCompile(`src="(/assets/main-[A-Z0-9]{8}\.js)"`).FindStringSubmatch(page)
	style := regexp.MustCompile(`href="(/assets/style-[A-Z0-9]{8}\.css)"`).FindStringSubmatch(page)
	if script == nil || style == nil {
		t.Fatalf("the page names no hashed assets:\n%s", page)
	}
	for _, c := range []struct {
		name, method, path string
		header             []string
		status             int
		ctype, cache       string
	}{
		{"page", "GET", "/", nil, 200, "text/html; charset=utf-8", "no-cache"},
		{"script", "GET", script[1], nil, 200, "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"},
		{"style", "GET", style[1], nil, 200, "text/css; charset=utf-8", "public, max-age=31536000, immutable"},
		{"icon", "GET", "/favicon.svg", nil, 200, "image/svg+xml", "no-cache"},
		{"head", "HEAD", "/", nil, 200, "text/html; charset=utf-8", "no-cache"},
		{"unknown", "GET", "/assets/main-00000000.js", nil, 404, "text/plain; charset=utf-8", ""},
		{"page by file name", "GET", "/index.html", nil, 404, "text/plain; charset=utf-8", ""},
		{"out of the folder", "GET", "/../console.go", nil, 404, "text/plain; charset=utf-8", ""},
		{"post", "POST", "/", nil, 405, "text/plain; charset=utf-8", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := get(t, h, c.method, c.path, c.header...)
			if res.StatusCode != c.status || res.Header.Get("Content-Type") != c.ctype || res.Header.Get("Cache-Control") != c.cache {
				t.Errorf("%s %s: got %d, %q, %q; want %d, %q, %q", c.method, c.path, res.StatusCode, res.Header.Get("Content-Type"), res.Header.Get("Cache-Control"), c.status, c.ctype, c.cache)
			}
		})
	}
	t.Run("not modified", func(t *testing.T) {
		etag := get(t, h, "GET", "/").Header.Get("ETag")
		for _, have := range []string{etag, `"x", W/` + etag, "*"} {
			if res := get(t, h, "GET", "/", "If-None-Match", have); res.StatusCode != 304 {
				t.Errorf("If-None-Match %s: got %d", have, res.StatusCode)
			}
		}
		if res := get(t, h, "GET", "/", "If-None-Match", `"x"`); res.StatusCode != 200 {
			t.Errorf("another ETag: got %d", res.StatusCode)
		}
	})
	t.Run("gzip", func(t *testing.T) {
		res := get(t, h, "GET", script[1], "Accept-Encoding", "br, gzip")
		if res.Header.Get("Content-Encoding") != "gzip" {
			t.Fatal("not compressed")
		}
		z, err := gzip.NewReader(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if body(t, z) != body(t, get(t, h, "GET", script[1]).Body) {
			t.Error("compressed and plain differ")
		}
		if res := get(t, h, "GET", script[1], "Accept-Encoding", "gzip;q=0"); res.Header.Get("Content-Encoding") != "" {
			t.Error("compressed for a client that refuses it")
		}
	})
}

// The page must work under ContentSecurityPolicy: nothing inline, nothing from elsewhere.
func TestPage_HasNothingInline(t *testing.T) {
	page := body(t, get(t, console.Handler(), "GET", "/").Body)
	for _, bad := range []string{"<style", " style=", " onclick", "javascript:", "http://", "https://", "//"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	if regexp.MustCompile(`<script[^>]*>[^<]`).MatchString(page) {
		t.Error("the page has an inline script")
	}
}
