package influx_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"vitalwatch/storage/influx"
	"vitalwatch/vitals"
)

// scripted is an InfluxDB that answers writes as a test says, and keeps what it took.
type scripted struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(try int, lines []string) answer
	tries  int
	kept   map[string]bool
	sizes  []int // lines of each request
}

type answer struct {
	status  int // 0: the connection is cut
	header  map[string]string
	body    string
	takes   []string // lines that are stored, whatever the status
	hanging bool     // no answer until the client gives up
}

func takesAll(lines []string) answer { return answer{status: http.StatusNoContent, takes: lines} }

func newScripted(t *testing.T, f func(try int, lines []string) answer) *scripted {
	s := &scripted{answer: f, kept: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		if req.URL.Path != "/api/v2/write" || req.URL.Query().Get("precision") != "ns" || req.URL.Query().Get("bucket") != "b" || req.URL.Query().Get("org") != "o" {
			t.Errorf("asked %s", req.URL)
		}
		if got := req.Header.Get("Authorization"); got != "Token secret" {
			t.Errorf("got authorization %q", got)
		}
		lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
		s.mu.Lock()
		s.tries++
		s.sizes = append(s.sizes, len(lines))
		a := s.answer(s.tries, lines)
		for _, l := range a.takes {
			s.kept[l] = true
		}
		s.mu.Unlock()
		switch {
		case a.hanging:
			<-req.Context().Done()
			return
		case a.status == 0:
			panic(http.ErrAbortHandler)
		}
		for k, v := range a.header {
			w.Header().Set(k, v)
		}
		if a.body != "" {
			w.Header().Set("Content-Type", "application/json")
		}
		w.WriteHeader(a.status)
		io.WriteString(w, a.body)
	}))
	t.Cleanup(s.Close)
	return s
}

// marked is a value that must show nowhere.
const marked = 66.4242

func isBad(line string) bool { return strings.Contains(line, "66.4242") }

func isProbe(line string) bool { return strings.HasPrefix(line, "vitalwatch_probe") }

func good(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return isBad(l) || isProbe(l) })
}

// harness drives a Writer against a scripted server; pauses are noted and not waited for.
type harness struct {
	t       *testing.T
	srv     *scripted
	store   *influx.Store
	w       *influx.Writer
	log     lockedBuffer
	mu      sync.Mutex
	pauses  []time.Duration
	states  []influx.State
	refused []uint64 // sequences
	reasons []string
	stored  int
	refuse  func() error // nil: taken
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
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

type savedCursor struct {
	mu  sync.Mutex
	seq uint64
	ok  bool
}

func (c *savedCursor) Load(context.Context) (uint64, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seq, c.ok, nil
}
func (c *savedCursor) Save(_ context.Context, seq uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq, c.ok = seq, true
	return nil
}

func newHarness(t *testing.T, f func(try int, lines []string) answer) *harness {
	return newHarnessWaiting(t, time.Minute, f) // a busy machine is no InfluxDB that hangs
}

// newHarnessWaiting is one whose writer takes a request for hanging after some time.
func newHarnessWaiting(t *testing.T, timeout time.Duration, f func(try int, lines []string) answer) *harness {
	h := &harness{t: t, srv: newScripted(t, f)}
	s, err := influx.Open(context.Background(), influx.Options{URL: h.srv.URL, Org: "o", Bucket: "b", Token: func() (string, error) { return "secret\n", nil },
		Cursor: &savedCursor{}, WriteTimeout: timeout, Logger: zerolog.New(&h.log),
		Refused: func(_ context.Context, r *vitals.Reading, reason string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.refuse != nil {
				if err := h.refuse(); err != nil {
					return err
				}
			}
			h.refused, h.reasons = append(h.refused, r.Seq), append(h.reasons, reason)
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	h.store = s
	h.w = influx.NewWriter(s, influx.WriterOptions{Lines: 64, Linger: time.Millisecond,
		Stored: func(n int) { h.mu.Lock(); h.stored += n; h.mu.Unlock() },
		Pause: func(_ context.Context, d time.Duration) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.pauses = append(h.pauses, d)
			h.states = append(h.states, *h.w.State())
		}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// hand gives the writer readings of sequence from..to; those in bad have the marked value.
func (h *harness) hand(from, to uint64, bad ...uint64) {
	h.t.Helper()
	var rs []vitals.Reading
	for seq := from; seq <= to; seq++ {
		v := 70.0
		if slices.Contains(bad, seq) {
			v = marked
		}
		rs = append(rs, reading(seq, v))
	}
	if err := h.w.Handle(context.Background(), rs, to); err != nil {
		h.t.Fatal(err)
	}
}

func reading(seq uint64, v float64) vitals.Reading {
	r := vitals.Reading{Seq: seq, Patient: "P-1", Device: "dev-1", Indicator: vitals.HeartRate, Unit: vitals.PerMin, DeviceSeq: -1, OffsetMin: vitals.NoOffset,
		TakenAt: 1795300000000000 + vitals.Micros(seq)*vitals.Second, ReceivedAt: 1795300000000000 + vitals.Micros(seq)*vitals.Second}
	r.Set(vitals.Value, v)
	return r
}

// level waits until everything up to seq is confirmed.
func (h *harness) level(seq uint64) {
	h.t.Helper()
	until(h.t, "the writer is level", func() bool { return h.w.Cursor() >= seq })
}

func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for begin := time.Now(); !f(); {
		if time.Since(begin) > time.Minute {
			t.Fatalf("gave up waiting until %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// kept is how many readings, without probes, the server has.
func (h *harness) kept() (n, bad int) {
	h.srv.mu.Lock()
	defer h.srv.mu.Unlock()
	for l := range h.srv.kept {
		switch {
		case isProbe(l):
		case isBad(l):
			bad++
		default:
			n++
		}
	}
	return n, bad
}

// What each answer means: facts about influxdb-client-go 2.14 and its server. In every case no good reading is lost.
func TestWriter_answers(t *testing.T) {
	const n = 40
	// once answers the first try with a, which stores nothing, and then takes everything.
	once := func(a answer) func(int, []string) answer {
		return func(try int, lines []string) answer {
			if try == 1 {
				return a
			}
			return takesAll(lines)
		}
	}
	// picky refuses requests with a bad line in them but stores the other lines, as a partial write does.
	picky := func(status int, body string) func(int, []string) answer {
		return func(_ int, lines []string) answer {
			if slices.ContainsFunc(lines, isBad) {
				return answer{status: status, body: body, takes: good(lines)}
			}
			return takesAll(lines)
		}
	}
	quoting := `{"code":"invalid","message":"unable to parse 'heart_rate,patient=P-1 value=66.4242'"}`
	for _, c := range []struct {
		name   string
		answer func(int, []string) answer
		hangs  bool
		bad    []uint64
		// what is expected
		refused      []uint64
		pauses       int
		least, most  time.Duration // of each pause
		held         bool
		requests     int // 0: not looked at
		loggedStatus string
	}{
		{name: "401 holds", answer: once(answer{status: 401, body: `{"code":"unauthorized","message":"unauthorized access"}`}), pauses: 1, least: 7 * time.Second, most: 16 * time.Second, held: true, requests: 2, loggedStatus: "401"},
		{name: "403 holds", answer: once(answer{status: 403}), pauses: 1, least: 7 * time.Second, most: 16 * time.Second, held: true, requests: 2, loggedStatus: "403"},
		{name: "404 holds", answer: once(answer{status: 404, body: `{"code":"not found","message":"bucket \"b\" not found"}`}), pauses: 1, least: 7 * time.Second, most: 16 * time.Second, held: true, requests: 2, loggedStatus: "404"},
		{name: "a limit of its own holds", answer: func(try int, lines []string) answer {
			if try == 1 {
				return answer{status: 400, body: `{"error":"…"}`, header: map[string]string{"X-Influxdb-Error": "partial write: max-series-per-database limit exceeded: (1000000) dropped=9"}, takes: lines[9:]}
			}
			return takesAll(lines)
		}, pauses: 1, least: 7 * time.Second, most: 16 * time.Second, held: true, requests: 2, loggedStatus: "max-series-per-database"},
		{name: "405 of a foreign server holds", answer: once(answer{status: 405}), pauses: 1, least: 7 * time.Second, most: 16 * time.Second, held: true, requests: 2},
		{name: "a redirect is not followed", answer: once(answer{status: 307, header: map[string]string{"Location": "/elsewhere"}}), pauses: 1, least: 7 * time.Second, most: 16 * time.Second, held: true, requests: 2},
		{name: "429 waits as long as it is asked to", answer: once(answer{status: 429, header: map[string]string{"Retry-After": "7"}}), pauses: 1, least: 7 * time.Second, most: 7 * time.Second, requests: 2},
		{name: "429 without Retry-After", answer: once(answer{status: 429}), pauses: 1, least: 100 * time.Millisecond, most: 200 * time.Millisecond, requests: 2},
		{name: "429 that asks for a year", answer: once(answer{status: 429, header: map[string]string{"Retry-After": "31536000"}}), pauses: 1, least: 5 * time.Minute, most: 5 * time.Minute, requests: 2},
		{name: "503 tries again", answer: once(answer{status: 503}), pauses: 1, least: 100 * time.Millisecond, most: 200 * time.Millisecond, requests: 2},
		{name: "503 with Retry-After", answer: once(answer{status: 503, header: map[string]string{"Retry-After": "3"}}), pauses: 1, least: 3 * time.Second, most: 3 * time.Second, requests: 2},
		{name: "500 tries again", answer: once(answer{status: 500, body: `not json`}), pauses: 1, least: 100 * time.Millisecond, most: 200 * time.Millisecond, requests: 2},
		// A machine that is too busy to answer the second in time is one more that hangs.
		{name: "a hang tries again", answer: once(answer{hanging: true}), hangs: true, pauses: -1, least: 100 * time.Millisecond, most: 10 * time.Second},
		{name: "a cut connection tries again", answer: once(answer{}), pauses: 1, least: 100 * time.Millisecond, most: 200 * time.Millisecond, requests: 2},
		{name: "503 eight times backs off", answer: func(try int, lines []string) answer {
			if try <= 8 {
				return answer{status: 503}
			}
			return takesAll(lines)
		}, pauses: 8, least: 100 * time.Millisecond, most: 10 * time.Second, requests: 9},
		{name: "413 halves", answer: func(_ int, lines []string) answer {
			if len(lines) > 10 {
				return answer{status: 413}
			}
			return takesAll(lines)
		}, requests: 1 + 2 + 4},
		{name: "413 for one line", answer: picky(413, ""), bad: []uint64{17}, refused: []uint64{17}},
		{name: "422, partial", answer: picky(422, quoting), bad: []uint64{1, 17, 18, 40}, refused: []uint64{1, 17, 18, 40}},
		{name: "400, all or nothing", answer: func(_ int, lines []string) answer {
			if slices.ContainsFunc(lines, isBad) {
				return answer{status: 400, body: quoting}
			}
			return takesAll(lines)
		}, bad: []uint64{9}, refused: []uint64{9}},
		{name: "every line is bad, the probe is not", answer: picky(422, quoting), bad: []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40},
			refused: []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40}},
		{name: "a server that refuses everything holds", answer: func(try int, lines []string) answer {
			if try <= 30 {
				return answer{status: 400, body: quoting}
			}
			return takesAll(lines)
		}, pauses: -1, least: 7 * time.Second, most: 16 * time.Second, held: true},
		{name: "an outage while it looks for the bad line", answer: func(try int, lines []string) answer {
			if try%3 == 0 {
				return answer{status: 503}
			}
			return picky(422, quoting)(try, lines)
		}, bad: []uint64{5, 30}, refused: []uint64{5, 30}, pauses: -1, least: 100 * time.Millisecond, most: 10 * time.Second},
		{name: "older than the bucket keeps", answer: func(_ int, lines []string) answer {
			return answer{status: 422, body: `{"code":"unprocessable entity","message":"failure writing points to database: partial write: points beyond retention policy dropped=2"}`, takes: lines}
		}, requests: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			timeout := time.Minute
			if c.hangs {
				timeout = time.Second
			}
			h := newHarnessWaiting(t, timeout, c.answer)
			h.hand(1, n, c.bad...)
			h.level(n)
			kept, bad := h.kept()
			if want := n - len(c.bad); kept != want || bad != 0 {
				t.Errorf("the server has %d good and %d bad readings, want %d and 0", kept, bad, want)
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if !slices.Equal(h.refused, c.refused) {
				t.Errorf("quarantined %v, want %v", h.refused, c.refused)
			}
			if c.pauses >= 0 && len(h.pauses) != c.pauses || c.pauses < 0 && len(h.pauses) == 0 {
				t.Errorf("paused %v, want %d times", h.pauses, c.pauses)
			}
			for i, p := range h.pauses {
				if p < c.least || p > c.most {
					t.Errorf("pause %d of %v, want %v to %v", i, p, c.least, c.most)
				}
				if h.states[i].Held != c.held {
					t.Errorf("held: %v, want %v: %v", h.states[i].Held, c.held, h.states[i].Err)
				}
			}
			if len(h.pauses) > 7 && h.pauses[7] < 5*time.Second {
				t.Errorf("the eighth pause is %v, want it to have grown", h.pauses[7])
			}
			if c.requests != 0 && h.srv.tries != c.requests {
				t.Errorf("made %d requests of %v lines, want %d", h.srv.tries, h.srv.sizes, c.requests)
			}
			if h.stored != n {
				t.Errorf("counted %d readings as dealt with, want %d", h.stored, n)
			}
			if h.w.State() != nil {
				t.Errorf("still says %v", h.w.State().Err)
			}
			said := h.log.String() + strings.Join(h.reasons, "\n")
			for _, st := range h.states {
				said += st.Err.Error() + "\n"
			}
			if strings.Contains(said, "66.4242") || strings.Contains(said, "secret") || strings.Contains(said, "P-1") {
				t.Errorf("logs and errors hold a value, an id or the token:\n%s", said)
			}
			if !strings.Contains(said, c.loggedStatus) {
				t.Errorf("nothing says %s:\n%s", c.loggedStatus, said)
			}
		})
	}
}

func TestWriter_does_not_confirm_what_is_not_stored(t *testing.T) {
	release := make(chan struct{})
	h := newHarness(t, func(try int, lines []string) answer {
		select {
		case <-release:
			return takesAll(lines)
		default:
			return answer{status: 503}
		}
	})
	h.hand(1, 40)
	until(t, "it has tried", func() bool { return h.w.State() != nil })
	if h.w.Cursor() != 0 || h.w.Durable() != 0 {
		t.Errorf("cursor %d, durable %d before anything is stored", h.w.Cursor(), h.w.Durable())
	}
	if want := reading(1, 0).ReceivedAt; h.w.Oldest() != want {
		t.Errorf("the oldest waits since %d, want %d", h.w.Oldest(), want)
	}
	h.hand(41, 104) // the batch that fills meanwhile
	if err := h.w.Handle(context.Background(), []vitals.Reading{reading(105, 70)}, 105); err == nil {
		t.Error("took more than two batches")
	} else if e := new(influx.Error); !errors.As(err, &e) || e.Status != 503 {
		t.Errorf("got %v, want what the server said", err)
	}
	close(release)
	h.level(104)
	h.hand(100, 105) // again, and one more
	h.level(105)
	if kept, _ := h.kept(); kept != 105 {
		t.Errorf("the server has %d readings, want 105", kept)
	}
	until(t, "nothing waits", func() bool { return h.w.Oldest() == 0 }) // the cursor moves first
}

func TestWriter_values_that_are_no_numbers(t *testing.T) {
	h := newHarness(t, func(_ int, lines []string) answer {
		for _, l := range lines {
			if strings.Contains(l, "NaN") || strings.Contains(l, "Inf") {
				return answer{status: 400}
			}
		}
		return takesAll(lines)
	})
	rs := []vitals.Reading{reading(1, 70), reading(2, math.NaN()), reading(3, math.Inf(-1)), reading(4, 71)}
	if err := h.w.Handle(context.Background(), rs, 4); err != nil {
		t.Fatal(err)
	}
	h.level(4)
	h.mu.Lock()
	defer h.mu.Unlock()
	if kept, _ := h.kept(); kept != 2 || !slices.Equal(h.refused, []uint64{2, 3}) {
		t.Errorf("the server has %d, refused are %v, want 2 and [2 3]", kept, h.refused)
	}
}

func TestWriter_quarantine_that_fails(t *testing.T) {
	h := newHarness(t, func(_ int, lines []string) answer {
		if slices.ContainsFunc(lines, isBad) {
			return answer{status: 422, takes: good(lines)}
		}
		return takesAll(lines)
	})
	failures := 3
	h.refuse = func() error { // under h.mu
		if failures--; failures >= 0 {
			return errors.New("disk is full")
		}
		return nil
	}
	h.hand(1, 20, 7)
	h.level(20)
	h.mu.Lock()
	defer h.mu.Unlock()
	if kept, _ := h.kept(); kept != 19 || !slices.Equal(h.refused, []uint64{7}) || len(h.pauses) != 3 {
		t.Errorf("kept %d, refused %v, paused %d times; want 19, [7], 3", kept, h.refused, len(h.pauses))
	}
}

func TestWriter_remembers_what_was_too_large(t *testing.T) {
	h := newHarness(t, func(_ int, lines []string) answer {
		if len(strings.Join(lines, "\n")) > 40<<10 {
			return answer{status: 413}
		}
		return takesAll(lines)
	})
	big := func(from uint64) {
		var rs []vitals.Reading
		for seq := from; seq < from+50; seq++ {
			r := reading(seq, 70)
			r.Extra = &vitals.Extra{Aside: strings.Repeat("x", 1500)}
			rs = append(rs, r)
		}
		if err := h.w.Handle(context.Background(), rs, from+49); err != nil {
			t.Fatal(err)
		}
		h.level(from + 49)
	}
	big(1)
	first := h.srv.tries
	big(51)
	if second := h.srv.tries - first; second >= first {
		t.Errorf("%d requests at first, %d when it knew", first, second)
	}
	if kept, _ := h.kept(); kept != 100 {
		t.Errorf("the server has %d readings, want 100", kept)
	}
}
