package simulator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vitalwatch/devices/payload"
	"vitalwatch/internal/fakebroker"
	"vitalwatch/internal/freeport"
	"vitalwatch/internal/leaktest"
	"vitalwatch/vitals"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// live returns what a patient's devices measure in so many minutes.
func live(seed uint64, index, minutes int) []Reading {
	b := newBody(seed, index, kinds[index%len(kinds)], 390)
	var out []Reading
	for m := range minutes {
		out = append(out, b.minute(m)...)
	}
	return out
}

func TestBody_sameSeedSameReadings(t *testing.T) {
	for i := range kinds {
		a, b, c := live(7, i, 3*day), live(7, i, 3*day), live(8, i, 3*day)
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("patient %d: one seed, two lives", i)
		}
		if fmt.Sprint(a) == fmt.Sprint(c) {
			t.Errorf("patient %d: two seeds, one life", i)
		}
	}
}

// Twenty days of every kind of patient: everything decodes, nothing is impossible, and the numbers are those of people
// with these conditions.
func TestBody_isPlausible(t *testing.T) {
	const days = 20
	at := time.Date(2026, 1, 1, 6, 30, 0, 0, time.UTC)
	for i, conditions := range kinds {
		var glucose, morning, evening []float64
		low, flags := 0, 0
		seen := map[vitals.Indicator]int{}
		for _, r := range live(3, i, days*day) {
			in := appendReading(nil, r, at.Add(r.At))
			items, err := payload.Decode("readings", payload.Input{Payload: in}, nil)
			if err != nil || items[0].Problem != nil {
				t.Fatalf("%s: %v %v", in, err, items)
			}
			x := &items[0].Reading
			if q, c := vitals.JudgeValues(x); q == vitals.Invalid || q == vitals.Suspect && x.Flags == 0 {
				t.Fatalf("%s: %s is %s", in, c, q)
			}
			if x.Extra != nil && x.Extra.OtherFlags != "" {
				t.Fatalf("%s: a flag that nobody knows", in)
			}
			seen[x.Indicator]++
			if x.Flags != 0 {
				flags++
			}
			switch x.Indicator {
			case vitals.Glucose:
				glucose = append(glucose, x.V[0])
				if x.V[0] < 3.9 {
					low++
				}
			case vitals.BloodPressure:
				if h := x.TakenAt.Time().Hour(); h < 12 {
					morning = append(morning, x.V[0])
				} else {
					evening = append(evening, x.V[0])
				}
			}
		}
		mean := func(v []float64) float64 {
			s := 0.0
			for _, x := range v {
				s += x
			}
			return s / float64(len(v))
		}
		has := func(c string) bool { return slices.Contains(conditions, c) }
		if n := len(morning) + len(evening); n < 3*days || mean(morning) <= mean(evening) {
			t.Errorf("%v: %d blood pressures, morning %.1f, evening %.1f", conditions, n, mean(morning), mean(evening))
		}
		if has("hypertension") && mean(morning) < 130 {
			t.Errorf("%v: morning mean %.1f", conditions, mean(morning))
		}
		if diabetes := has("type1_diabetes") || has("type2_diabetes"); diabetes != (len(glucose) > 0) || diabetes && (mean(glucose) < 5.5 || mean(glucose) > 11) {
			t.Errorf("%v: glucose %d, mean %.1f", conditions, len(glucose), mean(glucose))
		}
		if share := float64(low) / float64(len(glucose)); has("type1_diabetes") && !(share > 0 && share < 0.1) {
			t.Errorf("%v: %.3f of glucose is low", conditions, share)
		}
		if (has("copd") || has("heart_failure")) != (seen[vitals.SpO2] > 0) || has("heart_failure") && seen[vitals.Weight] < days-1 {
			t.Errorf("%v: %v", conditions, seen)
		}
		if flags == 0 || seen[vitals.Sleep] < days-2 || seen[vitals.HeartRate] != days*288 {
			t.Errorf("%v: %d flagged, %v", conditions, flags, seen)
		}
	}
}

// The script makes, by the printed safety lines, one alert of each severity from warning to emergency in the first
// minute.
func TestScript(t *testing.T) {
	var warning, critical, emergency, recovered, atOnce, stays []string
	for _, p := range Roster(Config{Scripted: true}) {
		cues, silent := script(p)
		pressureHigh, last := 0, -time.Second
		lowest := map[vitals.Indicator]float64{vitals.Glucose: 99, vitals.SpO2: 99}
		var end float64
		for _, c := range cues {
			if c.at < last || c.at >= silent[c.r.Indicator] {
				t.Fatalf("%s: a cue at %v after %v", p.Device, c.at, last)
			}
			last = c.at
			v, _ := strconv.ParseFloat(c.r.Values[0].Text, 64)
			end = v
			if c.at > time.Minute {
				continue
			}
			switch c.r.Indicator {
			case vitals.BloodPressure:
				if v >= 180 {
					pressureHigh++
				}
			default:
				lowest[c.r.Indicator] = min(lowest[c.r.Indicator], v)
			}
		}
		g, o := lowest[vitals.Glucose], lowest[vitals.SpO2]
		if pressureHigh > 0 || g < 3.9 || o <= 93 {
			warning = append(warning, p.Device)
		}
		if pressureHigh > 1 || g < 3.0 || o <= 92 {
			critical = append(critical, p.Device)
		}
		if g < 2.2 || o <= 88 {
			emergency = append(emergency, p.Device)
		}
		if len(cues) > 0 && cues[0].r.Indicator == vitals.Glucose && g < 3.0 && cues[0].r.Values[0].Text == fixed(g, 1) {
			atOnce = append(atOnce, p.Device)
		}
		if last > ScriptLength && end <= 88 {
			stays = append(stays, p.Device)
		}
		if g < 3.9 && end > 5 || o <= 93 && end > 95 {
			recovered = append(recovered, p.Device)
		}
	}
	if len(atOnce) < 2 || len(stays) < 1 {
		t.Errorf("critical or worse at once %v, an emergency that stays %v", atOnce, stays)
	}
	if len(emergency) < 2 || len(critical) <= len(emergency) || len(warning) <= len(critical) || len(recovered) < 2 {
		t.Errorf("warning %v, critical %v, emergency %v, recovered %v", warning, critical, emergency, recovered)
	}
}

func TestRoster(t *testing.T) {
	ps := Roster(Config{Patients: 143, DevicePrefix: "ward"})
	names := map[string]bool{}
	for _, p := range ps {
		if !vitals.ValidID(p.Device) || !vitals.ValidID(p.ID) || p.ID != "P-"+p.Device || len(p.Conditions) == 0 || p.Name["zh-CN"] == "" || p.Name["en"] == "" {
			t.Errorf("%+v", p)
		}
		names[p.Name["zh-CN"]] = true
	}
	if len(names) != 143 {
		t.Errorf("143 people have %d names", len(names))
	}
	kinds := map[string]bool{}
	for _, p := range Roster(Config{}) {
		kinds[strings.Join(p.Conditions, "+")] = true
	}
	if len(Roster(Config{})) < 12 || len(kinds) < 6 {
		t.Errorf("%d patients of %d kinds", len(Roster(Config{})), len(kinds))
	}
}

func TestConfig_Validate(t *testing.T) {
	for _, c := range []Config{{Patients: -1}, {Patients: 100_001}, {Speed: -1}, {Speed: 1e9}, {For: -1}, {History: 40 * 24 * time.Hour}, {DevicePrefix: "a/b"}, {DevicePrefix: strings.Repeat("x", 64)}} {
		if c.Validate() == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if err := (Config{}).Validate(); err != nil {
		t.Error(err)
	}
}

// published runs and returns the readings of each device in order of their times.
func published(t *testing.T, cfg Config, broker fakebroker.Config) (map[string][]vitals.Reading, Stats) {
	t.Helper()
	var mu sync.Mutex
	got := map[string][]vitals.Reading{}
	inner := broker.OnPublish
	broker.OnPublish = func(m fakebroker.Message, reply func(string, []byte)) fakebroker.Verdict {
		if strings.HasSuffix(m.Topic, "/up/status") {
			return fakebroker.Ack
		}
		if inner != nil && inner(m, reply) == fakebroker.Drop {
			return fakebroker.Drop
		}
		if m.Topic != "vw/v1/"+m.ClientID+"/up/readings" || m.QoS != 1 {
			t.Errorf("%s from %s with QoS %d", m.Topic, m.ClientID, m.QoS)
		}
		items, err := payload.Decode("readings", payload.Input{Payload: bytes.Clone(m.Payload)}, nil)
		if err != nil {
			t.Errorf("%s: %v", m.Payload, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, it := range items {
			if it.Problem != nil {
				t.Errorf("%s: %v", m.Payload, it.Problem)
			}
			got[m.ClientID] = append(got[m.ClientID], it.Reading)
		}
		return fakebroker.Ack
	}
	cfg.Broker = fakebroker.Start(t, broker).URL()
	stats, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return got, stats
}

func TestRun(t *testing.T) {
	before := vitals.At(time.Now().Truncate(time.Millisecond))
	cfg := Config{Patients: 14, Seed: 5, Speed: 36_000, For: 300 * time.Millisecond} // three hours
	got, stats := published(t, cfg, fakebroker.Config{})
	if len(got) != 14 || stats.Acknowledged != stats.Measured || stats.Refused != 0 {
		t.Fatalf("%d devices, %+v", len(got), stats)
	}
	n := int64(0)
	for _, p := range Roster(cfg) {
		want := live(5, p.index, 3*hour+1)
		rs := got[p.Device]
		n += int64(len(rs))
		if len(rs) != len(want) {
			t.Errorf("%s sent %d readings, want %d", p.Device, len(rs), len(want))
			continue
		}
		for i, r := range rs {
			v, _ := strconv.ParseFloat(want[i].Values[0].Text, 64)
			if r.Indicator != want[i].Indicator || r.V[0] != v {
				t.Errorf("%s: reading %d is %s %v, want %+v", p.Device, i, r.Indicator, r.V[0], want[i])
			}
			if r.TakenAt < before || r.TakenAt > vitals.At(time.Now()) {
				t.Errorf("%s: taken at %v, which is not now", p.Device, r.TakenAt.Time())
			}
		}
	}
	if n != stats.Measured {
		t.Errorf("%d arrived, %d measured", n, stats.Measured)
	}
}

// A run that is over ends also when nobody takes its readings.
func TestRun_givesUp(t *testing.T) {
	nobody, err := freeport.Loopback()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Run(t.Context(), Config{Broker: "tcp://" + nobody, Patients: 2, For: time.Millisecond, GiveUp: time.Millisecond})
	if !errors.Is(err, ErrUnreachable) || s.Acknowledged != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestRun_historyAndScript lets the whole script and an hour of compressed life pass at once: the clock says that
// everything is due.
func TestRun_historyAndScript(t *testing.T) {
	start := time.Now().Truncate(time.Millisecond)
	var mu sync.Mutex
	first := true
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		if first {
			first = false
			return start
		}
		return start.Add(time.Hour)
	}
	cfg := Config{Seed: 5, Scripted: true, History: 26 * time.Hour, For: ScriptLength, Now: clock}
	got, stats := published(t, cfg, fakebroker.Config{})
	if len(got) != 14 || stats.Measured != stats.Acknowledged {
		t.Fatalf("%d devices, %+v", len(got), stats)
	}
	for _, p := range Roster(cfg) {
		cues, silent := script(p)
		due := 0
		for _, c := range cues {
			if c.at <= cfg.For {
				due++
			}
		}
		old, scripted, own := 0, 0, 0
		for _, r := range got[p.Device] {
			at := r.TakenAt.Time().Sub(start)
			if (at < 0) != (r.Flags&vitals.FromMemory != 0) {
				t.Fatalf("%s: %v after the start and flags %v", p.Device, at, r.Flags.Names())
			}
			switch {
			case at < -25*time.Hour:
				old++
			case at < 0:
			case at < silent[r.Indicator]:
				scripted++
			default:
				own++
			}
		}
		if old == 0 || scripted != due || own < 20 {
			t.Errorf("%s: %d old, %d of %d scripted, %d others", p.Device, old, scripted, due, own)
		}
	}
	// The scale of patient 5 sees more than two kilograms since the lowest of the history.
	lowest, last := 999.0, 0.0
	for _, r := range got["sim-005"] {
		if r.Indicator == vitals.Weight {
			lowest, last = min(lowest, r.V[0]), r.V[0]
		}
	}
	if last-lowest <= 2 {
		t.Errorf("weight: lowest %v, last %v", lowest, last)
	}
}

func TestRun_connectionsThatBreak(t *testing.T) {
	var mu sync.Mutex
	n := 0
	got, stats := published(t, Config{Patients: 3, Seed: 5, Speed: 36_000, For: 50 * time.Millisecond}, fakebroker.Config{
		OnPublish: func(fakebroker.Message, func(string, []byte)) fakebroker.Verdict {
			mu.Lock()
			defer mu.Unlock()
			if n++; n == 1 || n == 4 {
				return fakebroker.Drop
			}
			return fakebroker.Ack
		}})
	total := 0
	for _, rs := range got {
		total += len(rs)
	}
	if int64(total) != stats.Measured || stats.Acknowledged != stats.Measured {
		t.Errorf("%d arrived, %+v", total, stats)
	}
}

func TestRun_credentials(t *testing.T) {
	secrets := map[string]string{"sim-001": "a", "sim-002": "b"}
	b := fakebroker.Start(t, fakebroker.Config{Password: func(u string) (string, bool) { s, ok := secrets[u]; return s, ok }})
	cfg := Config{Broker: b.URL(), Patients: 2, Speed: 1000, For: time.Millisecond, Credentials: secrets}
	if _, err := Run(t.Context(), cfg); err != nil {
		t.Errorf("right secrets: %v", err)
	}
	cfg.Credentials = map[string]string{"sim-001": "a", "sim-002": "wrong"}
	if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "sim-002") {
		t.Errorf("a wrong secret: %v", err)
	}
}

func TestRun_endsWithItsContext(t *testing.T) {
	b := fakebroker.Start(t, fakebroker.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := Run(ctx, Config{Broker: b.URL(), Patients: 2}); done <- err }()
	for {
		msgs, more := b.Messages()
		if len(msgs) > 0 {
			break
		}
		<-more
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v", err)
	}
}

func TestReadCredentials(t *testing.T) {
	got, err := ReadCredentials(strings.NewReader("# ward 3\n\nsim-001  s3cret \nsim-002 a b\n"))
	if err != nil || len(got) != 2 || got["sim-001"] != "s3cret" || got["sim-002"] != "a b" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := ReadCredentials(strings.NewReader("sim-001 x\nsim-002\n")); err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "sim") {
		t.Errorf("a line without a secret: %v", err)
	}
}
