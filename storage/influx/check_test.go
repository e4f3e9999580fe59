package influx_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"vitalwatch/internal/influxtest"
	"vitalwatch/storage/influx"
)

func TestStore_check(t *testing.T) {
	srv := influxtest.Shared(t)
	s := open(t, srv)
	defer s.Close()
	for range 2 {
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("a good bucket: %v", err)
		}
	}
	if empty, err := s.Empty(t.Context()); err != nil || !empty {
		t.Errorf("the check left something behind: %v, %v", empty, err)
	}
	for bucket, want := range map[string]string{"nowhere": "404: it has no such bucket", srv.Bucket + "/nowhere": "it has no such"} {
		missing, err := influx.Open(t.Context(), options(srv, bucket))
		if err != nil {
			t.Fatal(err)
		}
		defer missing.Close()
		err = missing.Check(t.Context())
		if e := new(influx.Error); !errors.As(err, &e) || !e.Held || !strings.Contains(err.Error(), want) {
			t.Errorf("bucket %q: %v, want %q and an operator to act", bucket, err, want)
		}
	}
}

// What 2.x answers is scripted: it is not at hand everywhere.
func TestStore_check_answers(t *testing.T) {
	const nothing = "\r\n"
	for _, c := range []struct {
		name         string
		write, query int // status
		body         string
		want         string // "": all is well
		held         bool
	}{
		{"2.x that is well", 400, 200, `{"code":"invalid","message":"writing requires points"}`, "", false},
		{"1.8 that is well", 204, 200, "", "", false},
		{"wrong token", 401, 401, `{"code":"unauthorized","message":"unauthorized access"}`, "401: it refuses the token", true},
		{"a token that may not write", 403, 200, `{"code":"forbidden","message":"insufficient permissions for write"}`, "403: it refuses the token", true},
		{"no such bucket", 404, 404, `{"code":"not found","message":"bucket \"b\" not found"}`, "404: it has no such bucket", true},
		{"a token that may only write", 400, 404, `{"code":"not found","message":"failed to initialize execute state: could not find bucket \"b\""}`, "404: it takes readings and gives none back", true},
		{"1.8 without Flux", 204, 403, "", "403: it gives no readings back", true},
		{"no such retention policy", 500, 200, "retention policy not found: nowhere", "500: it has no such retention policy", true},
		{"overloaded", 503, 200, "", "it answered 503", false},
		{"another server", 405, 405, "", "it answered 405", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				switch req.URL.Path {
				case "/api/v2/write":
					if len(body) > 0 || req.URL.Query().Get("bucket") != "b" || req.URL.Query().Get("org") != "o" || req.Header.Get("Authorization") != "Token secret" {
						t.Errorf("asked %s with %d bytes", req.URL, len(body))
					}
					if strings.HasPrefix(c.body, "{") {
						w.Header().Set("Content-Type", "application/json")
					}
					w.WriteHeader(c.write)
					io.WriteString(w, c.body)
				case "/api/v2/query":
					w.WriteHeader(c.query)
					io.WriteString(w, nothing)
				default:
					t.Errorf("asked %s", req.URL)
				}
			}))
			defer srv.Close()
			s, err := influx.Open(t.Context(), influx.Options{URL: srv.URL, Org: "o", Bucket: "b", Token: func() (string, error) { return "secret", nil }})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			err = s.Check(t.Context())
			if c.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			e := new(influx.Error)
			if !errors.As(err, &e) || e.Held != c.held || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q, held %v", err, c.want, c.held)
			}
		})
	}
}
