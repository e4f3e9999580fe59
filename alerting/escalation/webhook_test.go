package escalation_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"vitalwatch/alerting"
	"vitalwatch/alerting/escalation"
	"vitalwatch/alerting/hooks"
	"vitalwatch/alerting/ledger"
	"vitalwatch/internal/leaktest"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// desk is the whole way out: ledger, courier and signed webhooks to a real HTTP server.
func desk(t testing.TB, url string, o escalation.Options, h hooks.Options) (l *ledger.Ledger, stop func()) {
	t.Helper()
	set, err := hooks.Open([]hooks.Config{{Name: "desk", URL: url, AllowPrivate: true, Detail: hooks.Full, MinSeverity: alerting.Warning,
		Secrets: []hooks.Secret{deskSecret}}}, h)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "s.db"))
	if err != nil {
		t.Fatal(err)
	}
	if l, err = ledger.Open(context.Background(), db, ledger.Options{Router: set, Log: o.Log}); err != nil {
		t.Fatal(err)
	}
	c, err := escalation.New(l, []escalation.Channel{set[0]}, o)
	if err != nil {
		t.Fatal(err)
	}
	l.Subscribe(c.Notify)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	return l, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		set.Close()
		db.Close()
	}
}

var deskSecret = hooks.Secret("whsec_" + base64.StdEncoding.EncodeToString([]byte("MARKED-SECRET-MARKED-SECRET-MARK")))

func openedAlert(id string) alerting.Transition {
	return alerting.Transition{AlertID: id, Patient: vitals.PatientID("P-" + id), Rule: "r", Kind: alerting.Opened, Severity: alerting.Critical,
		At: vitals.At(time.Now()), Title: alerting.Text{"en": "Low glucose"}, Note: "MARKED-NOTE",
		Trigger:     &alerting.Trigger{ReadingID: "r1", Indicator: "glucose", Values: map[string]float64{"value": 2.8642}, Unit: "mmol/L"},
		Explanation: json.RawMessage(`{"why":"MARKED-EXPLANATION"}`)}
}

// TestWebhooks_NothingPrivateIsLogged sends marked values, names and secrets down every failing path and looks for
// them in the log.
func TestWebhooks_NothingPrivateIsLogged(t *testing.T) {
	defer leaktest.None(t)
	answers := []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "MARKED-ANSWER", 500) },
		func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/MARKED-LOCATION")
			w.WriteHeader(302)
		},
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); <-r.Context().Done() },
		func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"receipt":{"accepted_by":"MARKED-RECEIPT"}}`)
		},
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) },
	}
	verifier, err := standardwebhooks.NewWebhook(string(deskSecret))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return // the sender's time was over before all of it had come
		}
		if err := verifier.Verify(b, r.Header); err != nil {
			t.Errorf("the public verifier: %v", err)
		}
		if !bytes.Contains(b, []byte("2.8642")) || !bytes.Contains(b, []byte("MARKED-NOTE")) {
			t.Errorf("the marks are not in the body, so this test proves nothing: %s", b)
		}
		r.Body = io.NopCloser(bytes.NewReader(nil))
		mu.Lock()
		n++
		answer := answers[min(n, len(answers))-1]
		mu.Unlock()
		answer(w, r)
	}))
	defer srv.Close()
	var logged lockedBuffer
	gone := make(chan string, 1)
	l, stop := desk(t, srv.URL+"/MARKED-PATH", escalation.Options{Log: zerolog.New(&logged).Level(zerolog.DebugLevel), Jitter: func() float64 { return 0 },
		OnDisabled: func(h string) { gone <- h }}, hooks.Options{Timeout: 200 * time.Millisecond})
	for _, id := range []string{"a", "b"} {
		if _, err := l.Commit(t.Context(), ledger.Batch{Transitions: []alerting.Transition{openedAlert(id)}}); err != nil {
			t.Fatal(err)
		}
	}
	<-gone
	stop()
	if s := logged.String(); strings.Contains(s, "MARKED") || strings.Contains(s, "2.8642") || strings.Contains(s, "127.0.0.1") || s == "" {
		t.Errorf("logged:\n%s", s)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Time from handing a decision to the ledger until the receiver has the request, one after the other, on loopback.
//
// go test -run - -bench CommitToReceiver ./alerting/escalation
func BenchmarkCommitToReceiver(b *testing.B) {
	arrived := make(chan time.Time, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- time.Now()
		io.Copy(io.Discard, r.Body)
	}))
	defer srv.Close()
	l, stop := desk(b, srv.URL, escalation.Options{}, hooks.Options{})
	defer stop()
	var took []time.Duration
	n := 0
	for b.Loop() {
		t := openedAlert(fmt.Sprint("a", n))
		n++
		start := time.Now()
		if _, err := l.Commit(context.Background(), ledger.Batch{Cursor: uint64(n), Transitions: []alerting.Transition{t}}); err != nil {
			b.Fatal(err)
		}
		took = append(took, (<-arrived).Sub(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
