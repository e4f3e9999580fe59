package influxtest

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// CI runs this test first, alone: it builds the server.
func TestStart(t *testing.T) {
	s := Shared(t)
	write := func(bucket string) {
		t.Helper()
		s.post("/api/v2/write?"+url.Values{"org": {s.Org}, "bucket": {bucket}, "precision": {"ns"}}.Encode(), "m,t=a v=1 1")
	}
	query := func(bucket string) string {
		t.Helper()
		body := `{"type":"flux","query":"from(bucket:\"` + bucket + `\") |> range(start: 1969-01-01T00:00:00Z)"}`
		req, err := http.NewRequest("POST", s.URL+"/api/v2/query?"+url.Values{"org": {s.Org}}.Encode(), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Token "+s.Token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("query: %s: %s", resp.Status, b)
		}
		return string(b)
	}
	b := s.NewBucket()
	write(b)
	if got := query(b); !strings.Contains(got, ",v,m,a") {
		t.Errorf("got %q, want the point that was written", got)
	}
	if got := query(s.NewBucket()); strings.Contains(got, ",v,m,a") {
		t.Errorf("a new bucket has %q, want nothing", got)
	}
}
