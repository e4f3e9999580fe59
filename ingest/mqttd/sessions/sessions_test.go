package sessions_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vitalwatch/ingest/mqttd/sessions"
	"vitalwatch/internal/leaktest"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// clock is set by tests.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Unix(1_795_300_000, 0)} }

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(d) }

func openDB(t testing.TB, path string) *sqlite.DB {
	t.Helper()
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func open(t testing.TB, db *sqlite.DB, c *clock) *sessions.Store {
	t.Helper()
	s, err := sessions.Open(t.Context(), db, sessions.Options{Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func state(t testing.TB, s *sessions.Store, id string) sessions.Info {
	t.Helper()
	m, err := s.Find(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// settle returns when all that was given before is written: a write that waits comes after it.
func settle(t testing.TB, s *sessions.Store) {
	t.Helper()
	if err := s.MarkSent(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

func TestSend(t *testing.T) {
	c := newClock()
	s := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")), c)
	var mu sync.Mutex
	var told []vitals.DeviceID
	s.Subscribe(func(d vitals.DeviceID) { mu.Lock(); defer mu.Unlock(); told = append(told, d) })
	send := func(m sessions.Message) (string, error) { return s.Send(t.Context(), "D-1", m) }

	id, err := send(sessions.Message{Topic: "cmd", Payload: []byte("x")})
	if err != nil || !vitals.ValidID(id) {
		t.Fatalf("%q, %v", id, err)
	}
	if m := state(t, s, id); m.State != sessions.Waiting || m.Device != "D-1" || string(m.Payload) != "x" || m.CreatedAt != vitals.At(c.now()) {
		t.Errorf("%+v", m)
	}
	mu.Lock()
	if !slices.Equal(told, []vitals.DeviceID{"D-1"}) {
		t.Errorf("told %v", told)
	}
	mu.Unlock()
	if !s.IsOwed("D-1") || !s.Owed("D-1") || s.Owed("D-1") || s.Owed("D-2") {
		t.Error("not owed, or twice")
	}
	for range 2 { // the same again is the same
		if got, err := send(sessions.Message{ID: "mine", Topic: "cmd", Payload: []byte("y")}); err != nil || got != "mine" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, err := send(sessions.Message{ID: "mine", Topic: "cmd", Payload: []byte("z")}); !errors.Is(err, sessions.ErrExists) {
		t.Errorf("another under the same id: %v", err)
	}
	for name, m := range map[string]sessions.Message{
		"no topic": {}, "wildcard": {Topic: "#"}, "plus": {Topic: "a/+"}, "slash": {Topic: "/a"}, "end": {Topic: "a/"}, "config": {Topic: "config"}, "errors": {Topic: "errors"},
		"id": {ID: "a b", Topic: "cmd"}, "large": {Topic: "cmd", Payload: make([]byte, sessions.MaxPayload+1)},
		"late": {Topic: "cmd", ExpiresAt: vitals.At(c.now())},
	} {
		if _, err := send(m); !errors.Is(err, sessions.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Send(t.Context(), "no device", sessions.Message{Topic: "cmd"}); !errors.Is(err, sessions.ErrInvalid) {
		t.Error(err)
	}
	if _, err := s.Find(t.Context(), "never"); !errors.Is(err, sessions.ErrNotFound) {
		t.Error(err)
	}
}

// A full queue refuses the newest and drops nothing; what expires makes room.
func TestSend_bound(t *testing.T) {
	c := newClock()
	s := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")), c)
	var wg sync.WaitGroup
	for i := range sessions.MaxOpen {
		wg.Go(func() {
			if _, err := s.Send(t.Context(), "D-1", sessions.Message{ID: fmt.Sprint("m", i), Topic: "cmd", ExpiresAt: vitals.At(c.now().Add(time.Hour))}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := s.Send(t.Context(), "D-1", sessions.Message{Topic: "cmd"}); !errors.Is(err, sessions.ErrFull) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := s.Send(t.Context(), "D-1", sessions.Message{ID: "m5", Topic: "cmd"}); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	if _, err := s.Send(t.Context(), "D-2", sessions.Message{Topic: "cmd"}); err != nil {
		t.Errorf("another device: %v", err)
	}
	c.add(time.Hour)
	if _, err := s.Send(t.Context(), "D-1", sessions.Message{Topic: "cmd"}); err != nil {
		t.Errorf("when all have expired: %v", err)
	}
}

func TestList(t *testing.T) {
	s := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")), newClock())
	for i := range 5 {
		s.Send(t.Context(), "D-1", sessions.Message{ID: fmt.Sprint(i), Topic: "cmd"})
	}
	var got []string
	for before := int64(0); ; {
		page, err := s.List(t.Context(), "D-1", before, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			got = append(got, m.ID)
			before = m.Seq
		}
	}
	if fmt.Sprint(got) != "[4 3 2 1 0]" {
		t.Errorf("listed %v", got)
	}
}

func TestCommand(t *testing.T) {
	c := newClock()
	s := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")), c)
	for name, cmd := range map[string]sessions.Command{
		"none": {}, "unknown": {Cmd: "explode"}, "message without text": {Cmd: sessions.Text},
		"language": {Cmd: sessions.Remind, Text: map[string]string{"e\nn": "x"}}, "long": {Cmd: sessions.Text, Text: map[string]string{"en": strings.Repeat("x", 2001)}},
		"not UTF-8": {Cmd: sessions.Text, Text: map[string]string{"en": "\xff"}},
	} {
		if _, err := s.Command(t.Context(), "D-1", cmd); !errors.Is(err, sessions.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 2 {
		if _, err := s.Command(t.Context(), "D-1", sessions.Command{ID: "c1", Cmd: sessions.Remeasure}); err != nil {
			t.Fatal(err)
		}
		c.add(time.Minute) // the default expiry is that of the first
	}
	m := state(t, s, "c1")
	if want := `{"id":"c1","cmd":"remeasure","expires_at":"2026-11-22T22:26:40Z"}`; string(m.Payload) != want {
		t.Errorf("%s, want %s", m.Payload, want)
	}
	if err := s.Answer(t.Context(), "D-1", sessions.Answer{ID: "c1", Result: "done"}); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("an answer to what was never sent: %v", err)
	}
	if err := s.MarkSent(t.Context(), []sessions.Delivery{{Seq: m.Seq, PacketID: 3}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Answer(t.Context(), "D-2", sessions.Answer{ID: "c1", Result: "done"}); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("another device's answer: %v", err)
	}
	c.add(48 * time.Hour)
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := state(t, s, "c1"); m.State != sessions.Expired {
		t.Errorf("%+v", m)
	}
	for _, result := range []string{"declined", "done"} { // late counts; the first counts
		if err := s.Answer(t.Context(), "D-1", sessions.Answer{ID: "c1", Result: result, Detail: "asleep"}); err != nil {
			t.Fatal(err)
		}
	}
	if m := state(t, s, "c1"); m.State != sessions.Answered || m.Result != "declined" || m.Detail != "asleep" {
		t.Errorf("%+v", m)
	}
	c.add(31 * 24 * time.Hour)
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(t.Context(), "c1"); !errors.Is(err, sessions.ErrNotFound) {
		t.Errorf("kept for ever: %v", err)
	}
}

func TestParseAnswer(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want *sessions.Answer
	}{
		{`{"id":"c1","result":"done"}`, &sessions.Answer{ID: "c1", Result: "done"}},
		{` {"detail":"没电","result":"failed","id":"c1","more":[1]} `, &sessions.Answer{ID: "c1", Result: "failed", Detail: "没电"}},
		{`{"id":"c1"}`, &sessions.Answer{ID: "c1", Result: "done"}},
		{`{"id":"c1","result":""}`, nil}, {`{"result":"done"}`, nil}, {`{"id":"","result":"done"}`, nil}, {`{"id":"c/1","result":"done"}`, nil},
		{`{"id":1,"result":"done"}`, nil}, {`{"id":"c1","result":"d o"}`, nil}, {`{"id":"c1","result":"done","detail":"a\nb"}`, nil},
		{`{"id":"c1","result":"done"}{}`, nil}, {`[]`, nil}, {``, nil}, {"\xff", nil},
		{`{"id":"c1","result":"done","detail":"` + strings.Repeat("x", 201) + `"}`, nil},
		{`{"id":"c1","result":"done","more":"` + strings.Repeat("x", 4096) + `"}`, nil},
	} {
		got, err := sessions.ParseAnswer([]byte(tc.in))
		if tc.want == nil != (err != nil) || tc.want != nil && got != *tc.want || err != nil && !errors.Is(err, sessions.ErrAnswerInvalid) {
			t.Errorf("%.60s: %+v, %v", tc.in, got, err)
		}
	}
}

// FuzzParseAnswer: never a panic; what is taken is fit for a table and a list.
func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"id":"c1","result":"done","detail":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := sessions.ParseAnswer(b)
		if err != nil {
			if !errors.Is(err, sessions.ErrAnswerInvalid) {
				t.Fatal(err)
			}
			return
		}
		if !vitals.ValidID(a.ID) || !vitals.ValidID(a.Result) || len(a.Detail) > 200 {
			t.Fatalf("%+v", a)
		}
	})
}

func TestConfig(t *testing.T) {
	s := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")), newClock())
	if _, ok, err := s.Config(t.Context(), "D-1"); ok || err != nil || s.Configured("D-1") {
		t.Error("a configuration of nobody")
	}
	for i, body := range []string{"one", "", "two"} {
		if err := s.SetConfig(t.Context(), "D-1", []byte(body)); err != nil {
			t.Fatal(err)
		}
		r, ok, err := s.Config(t.Context(), "D-1")
		if !ok || err != nil || string(r.Payload) != body || r.Rev != int64(i+1) || !s.Configured("D-1") {
			t.Errorf("%+v, %v, %v", r, ok, err)
		}
	}
	s.ConfigDelivered("D-1", 3)
	s.ConfigDelivered("D-1", 2) // an older one, late
	settle(t, s)
	if r, _, _ := s.Config(t.Context(), "D-1"); r.Delivered != 3 {
		t.Errorf("%+v", r)
	}
	if err := s.SetConfig(t.Context(), "D-1", make([]byte, sessions.MaxPayload+1)); !errors.Is(err, sessions.ErrInvalid) {
		t.Error(err)
	}
}

// Sessions come back as they were put last; after a crash they have been away since the restart.
func TestRecover(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			c := newClock()
			db := openDB(t, filepath.Join(t.TempDir(), "s.db"))
			s := open(t, db, c)
			if got, err := s.Recover(t.Context()); err != nil || len(got) != 0 {
				t.Fatalf("%v, %v", got, err)
			}
			gone := vitals.At(c.now())
			filters := []sessions.Filter{{Filter: "#", QoS: 1, RAP: true, ID: 7}, {Filter: "cmd"}}
			s.Put("D-1", sessions.Session{Expiry: 10})
			s.Put("D-1", sessions.Session{Expiry: 60, Filters: filters})
			s.Put("D-2", sessions.Session{Expiry: 60, AwaySince: gone, Will: []byte("lost"), WillAt: gone.Add(time.Minute)})
			s.Put("D-3", sessions.Session{Expiry: 60})
			wait := s.End("D-3")
			if err := wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			id, _ := s.Send(t.Context(), "D-1", sessions.Message{Topic: "cmd"})
			orphan, _ := s.Send(t.Context(), "D-3", sessions.Message{Topic: "cmd"})
			at0, _ := s.Send(t.Context(), "D-3", sessions.Message{Topic: "cmd"})
			if err := s.MarkSent(t.Context(), []sessions.Delivery{{Seq: state(t, s, id).Seq, PacketID: 9}, {Seq: state(t, s, orphan).Seq, PacketID: 9}, {Seq: state(t, s, at0).Seq}}); err != nil {
				t.Fatal(err)
			}
			if clean {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			c.add(time.Hour)
			s = open(t, db, c)
			got, err := s.Recover(t.Context())
			if err != nil || len(got) != 2 {
				t.Fatalf("%+v, %v", got, err)
			}
			slices.SortFunc(got, func(a, b sessions.Recovered) int { return strings.Compare(string(a.Device), string(b.Device)) })
			one, two := got[0], got[1]
			now := vitals.At(c.now())
			if one.Device != "D-1" || one.Expiry != 60 || one.AwaySince != now || !slices.Equal(one.Filters, filters) || one.Will != nil ||
				!slices.Equal(one.Sent, []sessions.Delivery{{Seq: state(t, s, id).Seq, PacketID: 9}}) {
				t.Errorf("%+v", one)
			}
			since := gone
			if !clean {
				since = now
			}
			if two.AwaySince != since || string(two.Will) != "lost" || two.WillAt != gone.Add(time.Minute) || len(two.Filters) != 0 {
				t.Errorf("%+v, want away since %v", two, since)
			}
			if m := state(t, s, orphan); m.State != sessions.Waiting || m.PacketID != 0 || !s.IsOwed("D-3") {
				t.Errorf("%+v", m)
			}
			if m := state(t, s, at0); m.State != sessions.Sent {
				t.Errorf("%+v", m)
			}
		})
	}
}

func TestErase(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"))
	s := open(t, db, newClock())
	for _, d := range []vitals.DeviceID{"D-1", "D-2"} {
		s.Send(t.Context(), d, sessions.Message{Topic: "cmd"})
		s.SetConfig(t.Context(), d, []byte("x"))
		s.Put(d, sessions.Session{Expiry: 60})
	}
	if err := s.Erase(t.Context(), "D-1"); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"mqtt_sessions", "mqtt_messages", "mqtt_retained"} {
		var one, two int
		if err := db.Reader().QueryRow(`SELECT sum(device_id = 'D-1'), sum(device_id = 'D-2') FROM `+table).Scan(&one, &two); err != nil || one != 0 || two != 1 {
			t.Errorf("%s: %d and %d rows, %v", table, one, two, err)
		}
	}
	if s.IsOwed("D-1") || s.Configured("D-1") || !s.IsOwed("D-2") {
		t.Error("remembered")
	}
}

// Another process sends beside the server.
func TestRefresh(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	server, tool := open(t, openDB(t, path), newClock()), open(t, openDB(t, path), newClock())
	server.Recover(t.Context())
	var told []vitals.DeviceID
	server.Subscribe(func(d vitals.DeviceID) { told = append(told, d) })
	tool.Send(t.Context(), "D-1", sessions.Message{Topic: "cmd"})
	tool.SetConfig(t.Context(), "D-2", []byte("x"))
	if n, err := server.Refresh(t.Context()); err != nil || n != 2 || !server.IsOwed("D-1") || !server.Configured("D-2") {
		t.Errorf("%d, %v", n, err)
	}
	if len(told) != 2 {
		t.Errorf("told %v", told)
	}
	// The tool's end does not look like the server's.
	if err := tool.Close(); err != nil {
		t.Fatal(err)
	}
	var clean int
	if err := openDB(t, path).Reader().QueryRow(`SELECT clean FROM mqtt_server`).Scan(&clean); err != nil || clean != 0 {
		t.Errorf("clean = %d, %v", clean, err)
	}
}

// Thousands of devices share transactions, and what a device waits for is there when the wait is over.
func TestPut_storm(t *testing.T) {
	db := openDB(t, filepath.Join(t.TempDir(), "s.db"))
	s := open(t, db, newClock())
	const n = 2000
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := s.Put(vitals.DeviceID(fmt.Sprint("D-", i)), sessions.Session{Expiry: 60})(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var rows int
	if err := db.Reader().QueryRow(`SELECT count(*) FROM mqtt_sessions`).Scan(&rows); err != nil || rows != n {
		t.Errorf("%d sessions, %v", rows, err)
	}
}

// A write that fails is tried again; who waits gives up with its context, and an operation that is refused by the
// database fails alone.
func TestWrites_are_tried_again(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	db := openDB(t, path)
	warned := make(chan error, 100)
	s, err := sessions.Open(t.Context(), db, sessions.Options{Warn: func(err error) { warned <- err }})
	if err != nil {
		t.Fatal(err)
	}
	exec := func(q string) {
		t.Helper()
		if err := db.Write(t.Context(), func(ctx context.Context, tx *sql.Tx) error { _, err := tx.ExecContext(ctx, q); return err }); err != nil {
			t.Fatal(err)
		}
	}
	exec(`ALTER TABLE mqtt_sessions RENAME TO hidden`)
	ctx, cancel := context.WithCancel(t.Context())
	wait := s.Put("D-1", sessions.Session{Expiry: 60})
	<-warned
	cancel()
	if err := wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v", err)
	}
	later := s.Put("D-2", sessions.Session{Expiry: 60})
	exec(`ALTER TABLE hidden RENAME TO mqtt_sessions`)
	for _, w := range []func(context.Context) error{wait, later} {
		if err := w(t.Context()); err != nil {
			t.Error(err)
		}
	}
	exec(`ALTER TABLE mqtt_retained RENAME TO hidden`)
	if err := s.SetConfig(t.Context(), "D-1", []byte("x")); err == nil {
		t.Error("a configuration without its table")
	}
	exec(`ALTER TABLE hidden RENAME TO mqtt_retained`)
	if err := s.SetConfig(t.Context(), "D-1", []byte("x")); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Send(t.Context(), "D-1", sessions.Message{Topic: "cmd"}); err == nil {
		t.Error("sent after Close")
	}
	if err := s.Put("D-1", sessions.Session{})(t.Context()); err == nil {
		t.Error("put after Close")
	}
}

// Messages against an obvious model: whatever happens in whatever order, what waits is delivered in the order of
// sending, nothing comes back from its end, and nothing vanishes.
func TestMessages_model(t *testing.T) {
	c, n := newClock(), 0
	s := open(t, openDB(t, filepath.Join(t.TempDir(), "s.db")), c)
	rapid.Check(t, func(rt *rapid.T) {
		n++
		device := vitals.DeviceID(fmt.Sprint("D-", n))
		type msg struct {
			id      string
			seq     int64
			state   sessions.State
			pid     uint16
			expires time.Time
			wasSent bool
		}
		var all []*msg
		isOpen := func(m *msg) bool {
			return m.state == sessions.Waiting || m.state == sessions.Sent && m.pid > 0
		}
		pick := func() *msg {
			if len(all) == 0 {
				return nil
			}
			return rapid.SampledFrom(all).Draw(rt, "message")
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": func(rt *rapid.T) {
				m := &msg{id: fmt.Sprint("m", n, "-", len(all)), state: sessions.Waiting, expires: c.now().Add(time.Duration(rapid.IntRange(1, 100).Draw(rt, "minutes")) * time.Minute)}
				if _, err := s.Send(t.Context(), device, sessions.Message{ID: m.id, Topic: "cmd", ExpiresAt: vitals.At(m.expires)}); err != nil {
					rt.Fatal(err)
				}
				i, err := s.Find(t.Context(), m.id)
				if err != nil {
					rt.Fatal(err)
				}
				m.seq = i.Seq
				all = append(all, m)
			},
			"sent": func(rt *rapid.T) {
				m, pid := pick(), uint16(rapid.IntRange(0, 5).Draw(rt, "packet id"))
				if m == nil {
					return
				}
				s.MarkSent(t.Context(), []sessions.Delivery{{Seq: m.seq, PacketID: pid}})
				if m.state == sessions.Waiting {
					m.state, m.pid, m.wasSent = sessions.Sent, pid, true
				}
			},
			"delivered": func(rt *rapid.T) {
				m := pick()
				if m == nil {
					return
				}
				s.MarkDelivered(m.seq)
				if m.state == sessions.Waiting || m.state == sessions.Sent {
					m.state = sessions.Delivered
				}
			},
			"failed": func(rt *rapid.T) {
				m := pick()
				if m == nil {
					return
				}
				s.MarkFailed(m.seq, "why")
				if m.state == sessions.Waiting || m.state == sessions.Sent {
					m.state = sessions.Failed
				}
			},
			"answered": func(rt *rapid.T) {
				m := pick()
				if m == nil {
					return
				}
				err := s.Answer(t.Context(), device, sessions.Answer{ID: m.id, Result: "done"})
				if (err == nil) != m.wasSent {
					rt.Fatalf("answer: %v, was sent %v", err, m.wasSent)
				}
				if m.wasSent {
					m.state = sessions.Answered
				}
			},
			"requeue": func(*rapid.T) {
				s.Requeue(device)
				for _, m := range all {
					if m.state == sessions.Sent && m.pid > 0 {
						m.state = sessions.Waiting
					}
				}
			},
			"sweep": func(rt *rapid.T) {
				c.add(time.Duration(rapid.IntRange(0, 50).Draw(rt, "minutes")) * time.Minute)
				s.Sweep(t.Context())
				for _, m := range all {
					if (m.state == sessions.Waiting || m.state == sessions.Sent) && !c.now().Before(m.expires) {
						m.state = sessions.Expired
					}
				}
			},
			"look": func(rt *rapid.T) {
				if err := s.MarkSent(t.Context(), nil); err != nil {
					rt.Fatal(err)
				}
				var want []string
				list, err := s.List(t.Context(), device, 0, len(all)+1)
				if err != nil || len(list) != len(all) {
					rt.Fatalf("%d messages of %d, %v", len(list), len(all), err)
				}
				for k, m := range all {
					if i := list[len(all)-1-k]; i.ID != m.id || i.State != m.state {
						rt.Fatalf("%s is %s, want %s %s", i.ID, i.State, m.id, m.state)
					}
					if isOpen(m) {
						want = append(want, m.id)
					}
				}
				got, err := s.Open(t.Context(), device)
				if err != nil {
					rt.Fatal(err)
				}
				var ids []string
				for _, m := range got {
					ids = append(ids, m.ID)
				}
				if !slices.Equal(ids, want) {
					rt.Fatalf("open %v, want %v", ids, want)
				}
			},
		})
	})
}
