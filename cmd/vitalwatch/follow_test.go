package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"vitalwatch/care"
	"vitalwatch/devices"
	"vitalwatch/ingest/mqttd"
	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// registries opens both on the state database, as each process does.
func registries(t *testing.T, path string) (*sqlite.DB, *care.Registry, *devices.Registry) {
	t.Helper()
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	people, err := care.Open(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	things, err := devices.Open(t.Context(), db, people)
	if err != nil {
		t.Fatal(err)
	}
	return db, people, things
}

// A device connects right after the verb that concerned it has come back: no turn of the clock lies between.
func TestFollower_ConnectingSeesWhatTheCommandLineWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, people, things := registries(t, path)
	_, otherPeople, other := registries(t, path) // the command line
	a := &App{cfg: DefaultConfig(), db: db, people: people, devices: things, follow: &follower{db: db, people: people, things: things}}
	a.cfg.Registration = "open"
	connect := func(secret string) error {
		_, err := authenticator{a}.Authenticate(t.Context(), mqttd.Login{ClientID: "cuff", Username: "cuff", HasUsername: true, Password: []byte(secret), HasPassword: secret != ""})
		return err
	}
	if _, err := otherPeople.Add(t.Context(), care.Patient{ID: "P-1"}); err != nil {
		t.Fatal(err)
	}
	_, first, err := other.Add(t.Context(), devices.New{ID: "cuff", Patient: "P-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(""); !errors.Is(err, mqttd.ErrBadCredentials) {
		t.Errorf("added with a secret, connects without one: %v", err)
	}
	if err := connect(first); err != nil {
		t.Errorf("its secret is refused: %v", err)
	}
	if _, ok := people.Find("P-1"); !ok {
		t.Error("the person is not known")
	}
	second, err := other.Rotate(t.Context(), "cuff", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(first); !errors.Is(err, mqttd.ErrBadCredentials) {
		t.Errorf("the secret before is taken: %v", err)
	}
	if err := connect(second); err != nil {
		t.Errorf("the new secret is refused: %v", err)
	}
	if err := other.SetDisabled(t.Context(), "cuff", true); err != nil {
		t.Fatal(err)
	}
	if err := connect(second); !errors.Is(err, mqttd.ErrNotAuthorized) {
		t.Errorf("disabled, and connects: %v", err)
	}
}

// Many at once share a look, and each sees what was there before it asked.
func TestFollower_Together(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, people, things := registries(t, path)
	_, other, _ := registries(t, path)
	f := &follower{db: db, people: people, things: things}
	var wg sync.WaitGroup
	for _, id := range []vitals.PatientID{"A", "B", "C", "D"} {
		if _, err := other.Add(t.Context(), care.Patient{ID: id}); err != nil {
			t.Fatal(err)
		}
		for range 8 {
			wg.Go(func() {
				if err := f.now(t.Context()); err != nil {
					t.Error(err)
				}
				if _, ok := people.Find(id); !ok {
					t.Errorf("%s is not known", id)
				}
			})
		}
	}
	wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.now(ctx); err == nil {
		t.Error("a look that was given up has succeeded")
	}
}

// What this process has written itself is known: nobody waits for its next write, which may wait for the disk.
func TestFollower_OwnWritesHoldNobodyUp(t *testing.T) {
	db, people, things := registries(t, filepath.Join(t.TempDir(), "state.db"))
	f := &follower{db: db, people: people, things: things}
	if _, err := things.Register(t.Context(), "first", nil); err != nil {
		t.Fatal(err)
	}
	begun, end := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := people.Update(t.Context(), devices.OpenPatient("first"), func(*care.Patient) error {
			close(begun)
			<-end
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-begun
	if err := f.now(t.Context()); err != nil {
		t.Error(err)
	}
	close(end)
	wg.Wait()
}

// When the tables cannot be read, those who wait do not each try again.
func TestFollower_FailsTogether(t *testing.T) {
	db, people, things := registries(t, filepath.Join(t.TempDir(), "state.db"))
	f := &follower{db: db, people: people, things: things}
	db.Close()
	f.asked.Add(3) // who waits for the lock
	first := f.now(t.Context())
	if first == nil || f.done != 4 || !errors.Is(f.err, first) {
		t.Errorf("a look at closed tables: %v; served up to %d: %v", first, f.done, f.err)
	}
	if err := f.now(t.Context()); err == nil || f.done != 5 {
		t.Errorf("who asks afterwards looks anew: %v, served up to %d", err, f.done)
	}
}

// The API knows a person who was added a moment ago.
func TestFollower_API(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir, cfg.HTTP.Listen, cfg.MQTT.Embedded.Listen, cfg.Journal.MinFree = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "1MiB"
	a, err := startParts(t.Context(), cfg, zerolog.Nop(), "web")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Stop()
	key, err := a.auth.CreateKey(t.Context(), "test", "coach", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, other, _ := registries(t, cfg.statePath())
	if _, err := other.Add(t.Context(), care.Patient{ID: "P-1"}); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/api/v1/patients/P-1", nil)
	r.Header.Set("Authorization", "Bearer "+key)
	w := httptest.NewRecorder()
	a.web.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Errorf("status %d: %s", w.Code, w.Body)
	}
}
