package hooks_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.yaml.in/yaml/v4"

	"vitalwatch/alerting"
	"vitalwatch/alerting/hooks"
	"vitalwatch/internal/freeport"
	"vitalwatch/vitals"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func secret(fill byte) hooks.Secret {
	return hooks.Secret("whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, 32)))
}

func config(url string) hooks.Config {
	return hooks.Config{Name: "desk", URL: url, Secrets: []hooks.Secret{secret(1)}, AllowPrivate: true}
}

func newHook(t *testing.T, c hooks.Config, o hooks.Options) *hooks.Webhook {
	t.Helper()
	w, err := hooks.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func delivery() *alerting.Delivery {
	return &alerting.Delivery{ID: "vw_e_1_desk", Hook: "desk", Seq: 1, AlertID: "a", Body: []byte(`{"type":"alert.opened","data":{"n":1}}`)}
}

// event is an alert of the given severity after one transition.
func event(k alerting.Kind, now, highest alerting.Severity) *alerting.Event {
	at := vitals.At(time.Date(2026, 11, 21, 8, 0, 0, 5e6, time.UTC))
	e := &alerting.Event{Seq: 42, Highest: highest,
		Transition: alerting.Transition{AlertID: "al-1", Patient: "P-1", Rule: "glucose_low", Condition: "general", Kind: k, Severity: now, At: at,
			Actor: "li", Note: "MARKED-NOTE", Outcome: "MARKED-OUTCOME"},
		Alert: alerting.Alert{ID: "al-1", PatientID: "P-1", Rule: "glucose_low", Condition: "general", Severity: now, State: alerting.Open, Signal: "live",
			OpenedAt: "2026-11-21T08:00:00.000Z", UpdatedAt: "2026-11-21T08:00:00.005Z", Title: alerting.Text{"en": "Low glucose", "zh-CN": "低血糖"},
			Trigger: alerting.Trigger{ReadingID: "r1", Indicator: "glucose", Values: map[string]float64{"value": 2.75}, Unit: "mmol/L",
				TakenAt: "2026-11-21T07:59:58.000Z", ReceivedAt: "2026-11-21T08:00:00.000Z", DeviceID: "D-1"},
			Explanation: json.RawMessage(`{"threshold":"3.0 mmol/L"}`), Seq: 42}}
	return e
}

func TestSend_IsVerifiedByThePublicVerifier(t *testing.T) {
	type request struct {
		header http.Header
		body   []byte
	}
	got := make(chan request, 4)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- request{r.Header, b}
		io.WriteString(w, `{"receipt":{"accepted_by":"Dr. Zhang"}}`)
	}))
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c := config(srv.URL)
	c.Secrets = []hooks.Secret{secret(1), secret(2)} // rotation: the new one and the old one
	w := newHook(t, c, hooks.Options{RootCAs: roots})
	d := w.Deliver(event(alerting.Opened, alerting.Critical, alerting.Critical))
	d.ID = "vw_epoch_42_desk"
	for range 2 {
		r, err := w.Send(t.Context(), &d)
		if err != nil || r.AcceptedBy != "Dr. Zhang" {
			t.Fatalf("Send = %+v, %v", r, err)
		}
	}
	for range 2 {
		req := <-got
		for _, s := range c.Secrets {
			v, err := standardwebhooks.NewWebhook(string(s))
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Verify(req.body, req.header); err != nil {
				t.Errorf("the public verifier: %v", err)
			}
			if err := v.Verify(append(req.body, ' '), req.header); err == nil {
				t.Error("the public verifier took a changed body")
			}
		}
		other, err := standardwebhooks.NewWebhook(string(secret(3)))
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Verify(req.body, req.header); err == nil {
			t.Error("a secret that did not sign verifies")
		}
		if id := req.header.Get("webhook-id"); id != d.ID || !bytes.Equal(req.body, d.Body) {
			t.Errorf("id %q body %q, want those of the delivery", id, req.body)
		}
		for k := range req.header {
			if strings.Contains(strings.ToLower(k), "idempotency") {
				t.Errorf("header %q was sent", k)
			}
		}
	}
}

func TestSend_Faults(t *testing.T) {
	var redirected atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { redirected.Add(1) }))
	defer elsewhere.Close()
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	status := func(code int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			io.WriteString(w, `{"receipt":{"accepted_by":"nobody"}}`)
		}
	}
	hang := func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then does the server notice that the client has gone
		<-r.Context().Done()
	}
	for _, c := range []struct {
		name       string
		handler    http.HandlerFunc
		class      string // "" for arrived
		acceptedBy string
		retryAfter time.Duration
		gone       bool
		cutOff     time.Duration // the timeout, which alone ends it
	}{
		{name: "accepted", handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"receipt":{"accepted_by":"li"}}`) }, acceptedBy: "li"},
		{name: "no content", handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
		{name: "no json", handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `OK`) }},
		{name: "receipt of another type", handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"receipt":{"accepted_by":7}}`) }},
		{name: "server error", handler: status(500), class: "http_500"},
		{name: "bad request", handler: status(400), class: "http_400"},
		{name: "moved is no way", handler: status(301, "Location", elsewhere.URL), class: "http_301"},
		{name: "see other is no way", handler: status(307, "Location", elsewhere.URL), class: "http_307"},
		{name: "gone", handler: status(410), class: "http_410", gone: true},
		{name: "too many", handler: status(429, "Retry-After", "17"), class: "http_429", retryAfter: 17 * time.Second},
		{name: "too many for a year", handler: status(429, "Retry-After", "31536000"), class: "http_429", retryAfter: time.Hour},
		{name: "too many since yesterday", handler: status(429, "Retry-After", "-5"), class: "http_429"},
		{name: "unavailable until", handler: status(503, "Retry-After", now.Add(90*time.Second).Format(http.TimeFormat)), class: "http_503", retryAfter: 90 * time.Second},
		{name: "unavailable", handler: status(503, "Retry-After", "soon"), class: "http_503"},
		{name: "hangs", handler: hang, class: "timeout", cutOff: 200 * time.Millisecond},
		{name: "closes", handler: func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }, class: "closed"},
		{name: "a slow drip after the status has arrived", cutOff: 500 * time.Millisecond, handler: func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.(http.Flusher).Flush()
			for r.Context().Err() == nil {
				io.WriteString(w, " ")
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		}},
		{name: "an answer of a gigabyte is not read", handler: func(w http.ResponseWriter, r *http.Request) {
			chunk := bytes.Repeat([]byte(`{"receipt":{"accepted_by":"x"}}`), 2000)
			sent := 0
			for range 1 << 14 {
				n, err := w.Write(chunk)
				if sent += n; err != nil {
					break
				}
			}
			if sent > 64<<20 { // the buffers of both ends are far smaller
				t.Errorf("%d bytes of the answer were taken", sent)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(c.handler)
			srv.Config.ErrorLog = nil
			srv.Start()
			defer srv.Close()
			timeout := time.Minute // a loaded machine is no fault
			if c.cutOff > 0 {
				timeout = c.cutOff
			}
			send := func() (alerting.Receipt, error) {
				return newHook(t, config(srv.URL), hooks.Options{Timeout: timeout, Now: func() time.Time { return now }}).Send(t.Context(), delivery())
			}
			r, err := send()
			var se *alerting.SendError
			for c.class == "" && errors.As(err, &se) && se.Class == "timeout" && timeout < time.Minute {
				timeout *= 2 // the machine was too busy for the status to come within it
				r, err = send()
			}
			if c.class == "" {
				if err != nil || r.AcceptedBy != c.acceptedBy {
					t.Fatalf("Send = %+v, %v; want arrived, accepted by %q", r, err, c.acceptedBy)
				}
				return
			}
			if !errors.As(err, &se) || se.Class != c.class || se.RetryAfter != c.retryAfter || se.Gone != c.gone || r.AcceptedBy != "" {
				t.Fatalf("Send = %+v, %+v; want class %q, retry after %v, gone %v", r, err, c.class, c.retryAfter, c.gone)
			}
			if u, _, _ := strings.Cut(strings.TrimPrefix(srv.URL, "http://"), ":"); strings.Contains(err.Error(), u) {
				t.Errorf("the error tells the address: %v", err)
			}
		})
	}
	if n := redirected.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestSend_TLSAndConnectionFaults(t *testing.T) {
	for _, c := range []struct {
		name, class string
		url         func(t *testing.T) string
	}{
		{"a certificate that nobody signed", "tls", func(t *testing.T) string {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return srv.URL
		}},
		{"plain http behind https", "tls", func(t *testing.T) string {
			ln := listen(t)
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					io.WriteString(conn, "220 mail ready\r\n")
					io.Copy(io.Discard, conn)
					conn.Close()
				}
			}()
			return "https://" + ln.Addr().String()
		}},
		{"nobody listens", "refused", func(t *testing.T) string {
			addr, err := freeport.Loopback() // and nobody comes meanwhile
			if err != nil {
				t.Fatal(err)
			}
			return "http://" + addr
		}},
		{"accepts and says nothing", "timeout", func(t *testing.T) string { return "https://" + listen(t).Addr().String() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			timeout := time.Minute
			if c.class == "timeout" {
				timeout = 200 * time.Millisecond
			}
			w := newHook(t, config(c.url(t)), hooks.Options{Timeout: timeout})
			_, err := w.Send(t.Context(), delivery())
			var se *alerting.SendError
			if !errors.As(err, &se) || se.Class != c.class {
				t.Errorf("Send = %v, want class %q", err, c.class)
			}
		})
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// resolver answers every question with the addresses, over a real DNS server on loopback; questions counts them.
func resolver(t *testing.T, addrs ...string) (r *net.Resolver, questions *atomic.Int32) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	questions = new(atomic.Int32)
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			questions.Add(1)
			pc.WriteTo(answer(buf[:n], addrs), from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}, questions
}

// answer builds a DNS response (RFC 1035 section 4) to a query of one question.
func answer(q []byte, addrs []string) []byte {
	end := 12
	for q[end] != 0 { // the labels of the name
		end += int(q[end]) + 1
	}
	end += 5 // the root label, type and class
	kind := q[end-3]
	msg := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
	for _, a := range addrs {
		ip := netip.MustParseAddr(a)
		if (kind == 1) != ip.Is4() || kind != 1 && kind != 28 {
			continue
		}
		msg[7]++
		raw := ip.AsSlice()
		msg = append(msg, 0xC0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, byte(len(raw)))
		msg = append(msg, raw...)
	}
	return msg
}

func TestSend_RefusesNamesThatResolveInward(t *testing.T) {
	var hit atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hit.Add(1) }))
	defer srv.Close()
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		addrs []string
		allow bool
		class string
	}{
		{"metadata", []string{"169.254.169.254"}, false, "address_forbidden"},
		{"metadata, private allowed", []string{"169.254.169.254"}, true, "address_forbidden"},
		{"loopback", []string{"127.0.0.1"}, false, "address_forbidden"},
		{"loopback in IPv6", []string{"::1"}, false, "address_forbidden"},
		{"loopback mapped into IPv6", []string{"::ffff:127.0.0.1"}, false, "address_forbidden"},
		{"private after private", []string{"10.0.0.1", "192.168.1.1", "fd00::1"}, false, "address_forbidden"},
		{"loopback, private allowed", []string{"127.0.0.1"}, true, ""},
		{"no address", nil, true, "dns"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, questions := resolver(t, c.addrs...)
			hit.Store(0)
			cfg := config("https://desk.example.test:" + port)
			if cfg.AllowPrivate = c.allow; c.class == "" {
				cfg.URL = "http://desk.example.test:" + port
			}
			w := newHook(t, cfg, hooks.Options{Resolver: r, Timeout: time.Minute})
			_, err := w.Send(t.Context(), delivery())
			if questions.Load() == 0 {
				t.Fatal("the name was not looked up")
			}
			if c.class == "" {
				if err != nil || hit.Load() != 1 {
					t.Fatalf("Send = %v, %d requests arrived; want one", err, hit.Load())
				}
				return
			}
			var se *alerting.SendError
			if !errors.As(err, &se) || se.Class != c.class || hit.Load() != 0 {
				t.Errorf("Send = %v, %d requests arrived; want class %q and none", err, hit.Load(), c.class)
			}
		})
	}
}

func TestSend_TakesNoProxyFromTheEnvironment(t *testing.T) {
	var proxied, direct atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
	defer proxy.Close()
	for _, v := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(v, proxy.URL)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { direct.Add(1) }))
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	r, _ := resolver(t, "127.0.0.1")
	w := newHook(t, config("http://desk.example.test:"+port), hooks.Options{Resolver: r, Timeout: time.Minute})
	if _, err := w.Send(t.Context(), delivery()); err != nil || proxied.Load() != 0 || direct.Load() != 1 {
		t.Errorf("Send = %v; %d requests by the proxy, %d direct", err, proxied.Load(), direct.Load())
	}
}

func TestSend_SurvivesAClosedIdleConnection(t *testing.T) {
	// The receiver closes idle connections at once; the request that takes one must be repeated, not fail.
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	srv.Start()
	defer srv.Close()
	w := newHook(t, config(srv.URL), hooks.Options{Timeout: time.Minute})
	for i := range 20 {
		if _, err := w.Send(t.Context(), delivery()); err != nil {
			t.Fatalf("attempt %d: %v", i, err)
		}
		srv.CloseClientConnections()
	}
}

func TestWants(t *testing.T) {
	i, wa, c, em := alerting.Info, alerting.Warning, alerting.Critical, alerting.Emergency
	all := []string{"alert.opened", "alert.worsened", "alert.eased", "alert.acknowledged", "alert.resolved", "alert.signal_lost"}
	for _, tc := range []struct {
		kind         alerting.Kind
		now, highest alerting.Severity
		events       []string
		min          alerting.Severity
		want         bool
	}{
		{alerting.Opened, c, c, nil, 0, true},
		{alerting.Opened, wa, wa, nil, 0, false}, // critical unless said otherwise
		{alerting.Opened, wa, wa, nil, wa, true},
		{alerting.Opened, i, i, nil, i, true},
		{alerting.Worsened, em, em, nil, em, true},
		{alerting.Worsened, wa, em, nil, c, false}, // it was worse before, and this is no news at that height
		{alerting.ResolvedBy, i, c, nil, c, true},  // who heard of the opening hears of the end
		{alerting.AcknowledgedBy, wa, em, nil, em, true},
		{alerting.AcknowledgedBy, wa, wa, nil, c, false},
		{alerting.Escalated, c, c, nil, c, true},
		{alerting.Eased, wa, c, nil, c, false}, // not among the events of the contract
		{alerting.Eased, wa, c, all, c, true},
		{alerting.SignalLost, c, c, all, c, true},
		{alerting.Noted, em, em, all, i, false},
	} {
		cfg := config("http://127.0.0.1:1")
		cfg.Events, cfg.MinSeverity = tc.events, tc.min
		w := newHook(t, cfg, hooks.Options{})
		e := event(tc.kind, tc.now, tc.highest)
		if got := w.Wants(e); got != tc.want {
			t.Errorf("%s at %v (highest %v) for events %v from %v = %v, want %v", tc.kind, tc.now, tc.highest, tc.events, tc.min, got, tc.want)
		}
		if ds := (hooks.Set{w}).Route(e); (len(ds) == 1) != tc.want {
			t.Errorf("Route gave %d deliveries, want %v", len(ds), tc.want)
		}
	}
}

func TestBody(t *testing.T) {
	for _, c := range []struct {
		file   string
		detail hooks.Detail
		e      *alerting.Event
	}{
		{"thin_opened.json", "", event(alerting.Opened, alerting.Critical, alerting.Critical)},
		{"full_resolved.json", hooks.Full, event(alerting.ResolvedBy, alerting.Warning, alerting.Emergency)},
	} {
		cfg := config("http://127.0.0.1:1")
		cfg.Detail = c.detail
		d := newHook(t, cfg, hooks.Options{}).Deliver(c.e)
		var got bytes.Buffer
		if err := json.Indent(&got, d.Body, "", "  "); err != nil {
			t.Fatal(err)
		}
		got.WriteByte('\n')
		path := filepath.Join("testdata", c.file)
		if *update {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || string(want) != got.String() {
			t.Errorf("%s (%v):\n%s", c.file, err, got.String())
		}
		if d.Type != "alert."+string(c.e.Transition.Kind) || d.Hook != "desk" {
			t.Errorf("delivery of type %q to %q", d.Type, d.Hook)
		}
		if thin := c.detail != hooks.Full; thin == (strings.Contains(got.String(), "2.75") || strings.Contains(got.String(), "MARKED")) {
			t.Errorf("%s: a thin body must carry neither values nor notes, a full one both:\n%s", c.file, got.String())
		}
	}
}

func TestBody_StaysBelowTheLimit(t *testing.T) {
	big := strings.Repeat("血压", 20_000)
	for name, grow := range map[string]func(*alerting.Event){
		"explanation":      func(e *alerting.Event) { e.Alert.Explanation = json.RawMessage(`"` + big + `"`) },
		"broken":           func(e *alerting.Event) { e.Alert.Explanation = json.RawMessage(`{"x":`) },
		"note":             func(e *alerting.Event) { e.Transition.Note = big },
		"title":            func(e *alerting.Event) { e.Alert.Title = alerting.Text{"en": big} },
		"actor":            func(e *alerting.Event) { e.Transition.Actor = big },
		"values":           func(e *alerting.Event) { e.Alert.Trigger.Unit = big },
		"everything":       func(e *alerting.Event) { e.Transition.Note, e.Transition.Actor, e.Alert.Trigger.Unit = big, big, big },
		"accepted by them": func(e *alerting.Event) { e.Alert.AcceptedBy = big },
	} {
		cfg := config("http://127.0.0.1:1")
		cfg.Detail = hooks.Full
		e := event(alerting.Opened, alerting.Critical, alerting.Critical)
		grow(e)
		b := newHook(t, cfg, hooks.Options{}).Deliver(e).Body
		var m struct {
			Type string
			Data struct {
				AlertID   string `json:"alert_id"`
				Severity  string
				Truncated bool
			}
		}
		if err := json.Unmarshal(b, &m); err != nil || len(b) >= 20_000 || m.Type != "alert.opened" || m.Data.AlertID != "al-1" ||
			m.Data.Severity != "critical" || !m.Data.Truncated {
			t.Errorf("%s: %d bytes, %+v (%v)", name, len(b), m, err)
		}
	}
}

func TestConfig_ValidateTellsAllMistakes(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := string(secret(7))
	ok := hooks.Config{Name: "desk", URL: "https://desk.example/hook", SecretFile: file("ok", string(secret(7))+"\n"+string(secret(8))+"\n")}
	with := func(f func(*hooks.Config)) hooks.Config { c := ok; f(&c); return c }
	for _, c := range []struct {
		name   string
		c      hooks.Config
		fields []string
	}{
		{"good", ok, nil},
		{"all at once", hooks.Config{Name: "a.b", URL: "ftp://u:p@x/#f", Events: []string{"alert.opend", "alert.opened", "alert.opened"}, Detail: "fat", MinSeverity: 9},
			[]string{"name", "url", "url", "url", "secret_file", "events", "events", "min_severity", "detail"}},
		{"nothing", hooks.Config{}, []string{"name", "url", "secret_file"}},
		{"plain http", with(func(c *hooks.Config) { c.URL = "http://desk.example" }), []string{"url"}},
		{"plain http allowed", with(func(c *hooks.Config) { c.URL, c.AllowPrivate = "http://desk.example", true }), nil},
		{"loopback", with(func(c *hooks.Config) { c.URL = "https://127.0.0.1/" }), []string{"url"}},
		{"loopback mapped", with(func(c *hooks.Config) { c.URL = "https://[::ffff:127.0.0.1]/" }), []string{"url"}},
		{"loopback by name", with(func(c *hooks.Config) { c.URL = "https://LocalHost./" }), []string{"url"}},
		{"loopback allowed", with(func(c *hooks.Config) { c.URL, c.AllowPrivate = "http://localhost:8099/hook", true }), nil},
		{"metadata is never allowed", with(func(c *hooks.Config) { c.URL, c.AllowPrivate = "http://169.254.169.254/", true }), []string{"url"}},
		{"no host", with(func(c *hooks.Config) { c.URL = "https:///hook" }), []string{"url"}},
		{"secret without prefix", with(func(c *hooks.Config) { c.SecretFile = file("np", strings.TrimPrefix(good, "whsec_")) }), []string{"secret_file"}},
		{"short secret", with(func(c *hooks.Config) {
			c.SecretFile = file("s", "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 23)))
		}), []string{"secret_file"}},
		{"long secret", with(func(c *hooks.Config) {
			c.SecretFile = file("l", "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 65)))
		}), []string{"secret_file"}},
		{"one bad of two", with(func(c *hooks.Config) { c.SecretFile = file("two", string(secret(7))+" whsec_MARKED!") }), []string{"secret_file"}},
		{"empty secret", with(func(c *hooks.Config) { c.SecretFile = file("e", "\n") }), []string{"secret_file"}},
		{"no such file", with(func(c *hooks.Config) { c.SecretFile = filepath.Join(dir, "none") }), []string{"secret_file"}},
		{"endless file", with(func(c *hooks.Config) { c.SecretFile = "/dev/zero" }), []string{"secret_file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.c.Validate()
			var fields []string
			if err != nil {
				for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
					var fe *hooks.FieldError
					if !errors.As(e, &fe) {
						t.Fatalf("%v is not a *FieldError", e)
					}
					fields = append(fields, fe.Field)
				}
				if strings.Contains(err.Error(), "MARKED") || strings.Contains(err.Error(), "u:p@") {
					t.Errorf("the error tells a secret: %v", err)
				}
			}
			if fmt.Sprint(fields) != fmt.Sprint(c.fields) {
				t.Errorf("Validate = %v\nfields %v, want %v", err, fields, c.fields)
			}
			if _, nerr := hooks.New(c.c, hooks.Options{}); (nerr == nil) != (len(c.fields) == 0) {
				t.Errorf("New = %v", nerr)
			}
		})
	}
	if set, err := hooks.Open([]hooks.Config{ok, ok, {}}, hooks.Options{}); err == nil || len(set) != 1 || !strings.Contains(err.Error(), "another hook has this name") {
		t.Errorf("Open with two of one name and a bad one = %d hooks, %v", len(set), err)
	}
}

func TestConfig_FromYAML(t *testing.T) {
	var got []hooks.Config
	err := yaml.Load([]byte(`
- name: dispatch
  url: https://desk.example/hook
  secret_file: /run/secrets/dispatch
  events: [alert.opened, alert.resolved]
  min_severity: critical
  detail: thin
  allow_private: false
`), &got, yaml.WithKnownFields())
	want := hooks.Config{Name: "dispatch", URL: "https://desk.example/hook", SecretFile: "/run/secrets/dispatch",
		Events: []string{"alert.opened", "alert.resolved"}, MinSeverity: alerting.Critical, Detail: hooks.Thin}
	if err != nil || len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("got %+v (%v), want %+v", got, err, want)
	}
	for _, bad := range []string{"- {name: a, min_severity: huge}", "- {name: a, Secrets: [x]}", "- {name: a, secrets: [x]}"} {
		if err := yaml.Load([]byte(bad), &got, yaml.WithKnownFields()); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestSecret_IsNeverPrinted(t *testing.T) {
	s := hooks.Secret("whsec_MARKED")
	c := hooks.Config{Secrets: []hooks.Secret{s}}
	j, err := json.Marshal(map[string]any{"s": s, "c": c})
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Dump(map[string]any{"s": s})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{string(j), string(y), fmt.Sprint(s, c, &c), fmt.Sprintf("%v %+v %#v %s %q %x %d", c, c, c, s, s, s, s), errors.New(s.String()).Error()} {
		if strings.Contains(out, "MARKED") || strings.Contains(out, fmt.Sprintf("%x", "MARKED")) {
			t.Errorf("printed: %s", out)
		}
	}
}

func FuzzSend_Answer(f *testing.F) {
	for _, s := range []string{`{"receipt":{"accepted_by":"li"}}`, `{}`, `[]`, `{"receipt":null}`, "\xff", strings.Repeat("[", 20000), `{"receipt":{"accepted_by":{}}}`} {
		f.Add([]byte(s), "120")
	}
	f.Add([]byte("x"), "Fri, 31 Dec 1999 23:59:59 GMT")
	f.Add([]byte("x"), "99999999999999999999")
	var body atomic.Pointer[[]byte]
	var after atomic.Pointer[string]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a := after.Load(); a != nil {
			w.Header().Set("Retry-After", *a)
			w.WriteHeader(429)
		}
		w.Write(*body.Load())
	}))
	f.Cleanup(srv.Close)
	w, err := hooks.New(config(srv.URL), hooks.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte, retryAfter string) {
		body.Store(&b)
		after.Store(nil)
		r, err := w.Send(t.Context(), delivery())
		if err != nil {
			t.Fatalf("an answer of 200 failed: %v", err)
		}
		if r.AcceptedBy != "" { // only from where the contract puts it
			var m map[string]any
			if json.Unmarshal(b, &m) != nil {
				t.Fatalf("receipt %q of %q", r.AcceptedBy, b)
			}
		}
		after.Store(&retryAfter)
		_, err = w.Send(t.Context(), delivery())
		var se *alerting.SendError
		if errors.As(err, &se) && strings.ContainsFunc(retryAfter, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return // not HTTP: whatever the client makes of it is a failure of the attempt
		}
		if !errors.As(err, &se) || se.Class != "http_429" || se.RetryAfter < 0 || se.RetryAfter > time.Hour {
			t.Fatalf("Retry-After %q: %+v", retryAfter, err)
		}
	})
}
