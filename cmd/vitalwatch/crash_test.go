package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"encoding/json"

	"vitalwatch/internal/loadgen"
)

// TestCrash kills the real binary again and again while hundreds of devices publish, and then compares what was
// acknowledged with what is stored, alerted and delivered. VITALWATCH_SOAK=10m makes it as long.
func TestCrash(t *testing.T) {
	kills, until := 10, time.Time{}
	if v := os.Getenv("VITALWATCH_SOAK"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatalf("VITALWATCH_SOAK=%q is not a duration such as 10m", v)
		}
		kills, until = 1<<30, time.Now().Add(d)
	} else if testing.Short() {
		t.Skip("-short: the crash test takes half a minute")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))

	rcv := &receiver{bodies: map[string]string{}, failed: map[string]int{}, alerts: map[string][]delivery{}, fail: rand.New(rand.NewPCG(seed, 1))}
	hook := httptest.NewServer(rcv)
	defer hook.Close()
	dir := t.TempDir()
	secret, err := writeSecret(filepath.Join(dir, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, fmt.Sprintf("registration: open\ndefault_conditions: [type2_diabetes]\nlog: {level: warn}\n"+
		"hooks: [{name: test, url: %q, secret_file: %q, events: [alert.opened, alert.worsened, alert.resolved], min_severity: warning, allow_private: true}]\n", hook.URL, secret))

	const conns = 200
	base := time.Now().UTC().Truncate(time.Millisecond)
	var mu sync.Mutex
	acked := make([]map[int]bool, conns)
	for i := range acked {
		acked[i] = map[int]bool{}
	}
	lowAt := func(i int) int { return 20 + i%50 } // the one message of device i that must open an alert
	name := deviceName("crash")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := loadgen.Run(ctx, loadgen.Config{
			Addr: s.MQTT, Conns: conns, Rate: 4000, Reconnect: true, Device: name,
			Payload: func(dst []byte, i, n int) []byte {
				v := 60 + (n*7+i)%40 // 6.0 to 9.9
				if n == lowAt(i) {
					v = 28
				}
				return fmt.Appendf(dst, `{"indicator":"glucose","taken_at":%d,"value":%d.%d,"unit":"mmol/L","seq":%d}`,
					base.Add(time.Duration(n)*time.Millisecond).UnixMilli(), v/10, v%10, n)
			},
			OnAck: func(i, n int, _ time.Duration) {
				mu.Lock()
				acked[i][n] = true
				mu.Unlock()
			},
		})
		done <- err
	}()

	killed := 0
	for killed < kills && (until.IsZero() || time.Now().Before(until)) {
		pause := time.Duration(200+rnd.IntN(800)) * time.Millisecond
		select {
		case err := <-done:
			t.Fatalf("the generator ended early: %v", err)
		case <-time.After(pause):
		}
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
		killed++
		start, stop := context.WithTimeout(ctx, patience)
		if _, err := s.Start(start); err != nil {
			t.Fatalf("after kill %d: %v", killed, err)
		}
		stop()
	}
	// Everybody must have had the chance to publish the low reading and to recover from it.
	waitFor(t, "all devices to be past their low reading", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for i := range acked {
			if !acked[i][lowAt(i)+3] {
				return false
			}
		}
		return true
	})
	cancel()
	<-done
	level, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if _, err := s.Level(level); err != nil {
		t.Fatal(err)
	}

	total := 0
	for i := range conns {
		patient := "P-" + name(i)
		stored := map[int]int{}
		for _, r := range list[struct {
			TakenAt time.Time `json:"taken_at"`
		}](t, s, "/api/v1/patients/"+patient+"/readings?indicator=glucose&limit=5000") {
			stored[int(r.TakenAt.Sub(base)/time.Millisecond)]++
		}
		for n := range acked[i] {
			total++
			if stored[n] != 1 {
				t.Fatalf("%s: acknowledged reading %d is stored %d times", patient, n, stored[n])
			}
		}
		for n, times := range stored {
			if times != 1 {
				t.Fatalf("%s: reading %d is stored %d times", patient, n, times)
			}
		}
		alerts := list[struct {
			ID   string `json:"id"`
			Rule string `json:"rule"`
		}](t, s, "/api/v1/alerts?state=all&limit=100&patient="+patient)
		if len(alerts) != 1 || alerts[0].Rule != "glucose_low" {
			t.Fatalf("%s: alerts %+v, want one of glucose_low", patient, alerts)
		}
		id := alerts[0].ID
		waitFor(t, "the hook to hear of "+id, func() bool { return rcv.heard(id, "alert.opened") })
	}
	if killed < kills && until.IsZero() {
		t.Fatalf("killed %d times, want %d", killed, kills)
	}
	rcv.check(t)
	t.Logf("killed %d times, %d acknowledged readings, %d alerts, %d deliveries", killed, total, conns, rcv.deliveries())
}

// patience bounds every wait for what must happen; a test that needs it has failed, or its machine is very busy.
const patience = 3 * time.Minute

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond) // polls another process: there is no event to wait for
	}
}

// receiver is a hook's endpoint that fails one time in ten, though not so often for one event that its next attempt is
// minutes away, and remembers everything.
type receiver struct {
	mu     sync.Mutex
	fail   *rand.Rand
	failed map[string]int        // by webhook-id
	bodies map[string]string     // by webhook-id
	alerts map[string][]delivery // by alert, successful ones in the order of arrival
	errs   []string
}

type delivery struct {
	id, event string
	seq       uint64
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	b, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender was killed
	}
	var body struct {
		Type string `json:"type"`
		Data struct {
			AlertID string `json:"alert_id"`
			Seq     uint64 `json:"seq"`
		} `json:"data"`
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.Unmarshal(b, &body); err != nil {
		r.errs = append(r.errs, err.Error())
		return
	}
	id := req.Header.Get("webhook-id")
	if prev, ok := r.bodies[id]; ok && prev != string(b) {
		r.errs = append(r.errs, "webhook-id "+id+" came with two bodies")
	}
	r.bodies[id] = string(b)
	if r.fail.IntN(10) == 0 && r.failed[id] < 2 {
		r.failed[id]++
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	r.alerts[body.Data.AlertID] = append(r.alerts[body.Data.AlertID], delivery{id, body.Type, body.Data.Seq})
}

func (r *receiver) heard(alert, event string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.alerts[alert] {
		if d.event == event {
			return true
		}
	}
	return false
}

func (r *receiver) deliveries() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ds := range r.alerts {
		n += len(ds)
	}
	return n
}

// check: one webhook-id per event, and first deliveries in the order of the events.
func (r *receiver) check(t *testing.T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.errs {
		t.Error(e)
	}
	for alert, ds := range r.alerts {
		ids := map[uint64]string{}
		last := uint64(0)
		for _, d := range ds {
			if known, ok := ids[d.seq]; ok {
				if known != d.id {
					t.Errorf("alert %s: event %d came as %s and as %s", alert, d.seq, known, d.id)
				}
				continue
			}
			ids[d.seq] = d.id
			if d.seq < last {
				t.Errorf("alert %s: event %s came after %s", alert, strconv.FormatUint(d.seq, 10), strconv.FormatUint(last, 10))
			}
			last = d.seq
		}
	}
}
