// Package influxtest gives tests a real InfluxDB: 1.8.10 with Flux, built once from its module into the user's cache
// folder and started on a free port with its files in the test's folder; or, where VITALWATCH_TEST_INFLUXDB_URL,
// _TOKEN, _ORG and _BUCKET are set, that server (2.x), whose bucket is emptied. Where there is neither, the test is
// skipped by name. It owns the process it started and ends it with the test.
//
// Starting takes seconds of CPU (the server compiles its Flux library), so the tests of a package share one: Main runs
// them and ends it, Shared gives it to a test. A test that stops the server has one of its own, from Local.
//
// Concurrency: a Server belongs to its test's goroutine.
package influxtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vitalwatch/internal/freeport"
)

// Server is a running, or stopped, InfluxDB with one bucket.
type Server struct {
	// URL, Token, Org and Bucket are what a client needs. URL stays the same over Stop and Start.
	URL, Token, Org, Bucket string
	// V1 says that it is the 1.8 that was built for the tests: it can be stopped, and has no organisations or tokens.
	V1 bool

	t      testing.TB
	dir    string
	binary string
	users  bool // it wants to know who asks
	cmd    *exec.Cmd
	exited chan struct{}
}

const startTimeout = 3 * time.Minute // six seconds of CPU, on a machine that may be busy

// Main runs the tests of a package and then ends the shared server: call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	if shared.s != nil && shared.s.V1 {
		shared.s.end(syscall.SIGKILL)
		os.RemoveAll(shared.s.dir)
	}
	os.Exit(code)
}

var shared struct {
	once sync.Once
	s    *Server
	err  error
	skip bool
}

// Shared returns the server of the package, whose TestMain calls Main. Its bucket is new and empty.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.once.Do(func() {
		dir, err := os.MkdirTemp("", "influxtest")
		if err != nil {
			shared.err = err
			return
		}
		shared.s, shared.skip, shared.err = open(dir, false)
	})
	if shared.err != nil {
		give(t, shared.skip, shared.err)
	}
	s := *shared.s
	s.t = t
	s.Bucket = s.NewBucket()
	return &s
}

// Local starts a server for one test, which may stop it; it skips the test when a server is given from outside.
func Local(t testing.TB) *Server {
	t.Helper()
	return local(t, false)
}

// LocalWithToken is Local with a server that answers nobody without the Token.
func LocalWithToken(t testing.TB) *Server {
	t.Helper()
	return local(t, true)
}

func local(t testing.TB, users bool) *Server {
	t.Helper()
	if os.Getenv("VITALWATCH_TEST_INFLUXDB_URL") != "" {
		t.Skipf("skipped %s: needs an InfluxDB that it may stop; unset VITALWATCH_TEST_INFLUXDB_URL", t.Name())
	}
	s, skip, err := open(t.TempDir(), users)
	if err != nil {
		give(t, skip, err)
	}
	s.t = t
	t.Cleanup(func() { s.end(syscall.SIGKILL) })
	if users {
		s.post("/query?"+url.Values{"q": {`CREATE USER "vitalwatch" WITH PASSWORD 'right' WITH ALL PRIVILEGES`}}.Encode(), "")
		s.Token = "vitalwatch:right"
	}
	s.Bucket = s.NewBucket()
	return s
}

func give(t testing.TB, skip bool, err error) {
	t.Helper()
	if skip {
		t.Skipf("skipped %s: needs InfluxDB %s, which could not be built: %v", t.Name(), version, err)
	}
	t.Fatalf("influxd: %v", err)
}

// open starts a server; skip says that there is none on this machine.
func open(dir string, users bool) (s *Server, skip bool, err error) {
	if u := os.Getenv("VITALWATCH_TEST_INFLUXDB_URL"); u != "" {
		return &Server{URL: strings.TrimSuffix(u, "/"), Token: os.Getenv("VITALWATCH_TEST_INFLUXDB_TOKEN"), Org: os.Getenv("VITALWATCH_TEST_INFLUXDB_ORG"),
			Bucket: os.Getenv("VITALWATCH_TEST_INFLUXDB_BUCKET")}, false, nil
	}
	b, err := binary()
	if err != nil {
		return nil, true, err
	}
	s = &Server{V1: true, dir: dir, binary: b, users: users}
	// The address is to be the same after a restart: no port that may be given away meanwhile.
	for try := 1; ; try++ {
		addr, err := freeport.Loopback()
		if err == nil {
			err = s.start(addr)
		}
		if err == nil || try == 3 { // another process may be faster
			return s, false, err
		}
	}
}

var listening = regexp.MustCompile(`Listening on HTTP.*addr=(\S+)`)

func (s *Server) start(addr string) error {
	conf := filepath.Join(s.dir, "influxdb.conf")
	text := fmt.Sprintf(`reporting-disabled = true
bind-address = "127.0.0.1:0"
[meta]
  dir = %q
[data]
  dir = %q
  wal-dir = %q
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = %q
  flux-enabled = true
  log-enabled = false
  auth-enabled = %t
`, filepath.Join(s.dir, "meta"), filepath.Join(s.dir, "data"), filepath.Join(s.dir, "wal"), addr, s.users)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(s.binary, "-config", conf)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stderr, cmd.Stdout = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	exited, found := make(chan struct{}), make(chan string, 1)
	s.cmd, s.exited = cmd, exited
	var mu sync.Mutex
	var said []string
	go func() {
		defer close(exited)
		defer r.Close()
		sc := bufio.NewScanner(r)
		for sc.Scan() {
			mu.Lock()
			said = append(said, sc.Text())
			said = said[max(0, len(said)-20):]
			mu.Unlock()
			if m := listening.FindStringSubmatch(sc.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
		cmd.Wait()
	}()
	fail := func(what string) error {
		s.end(syscall.SIGKILL)
		mu.Lock()
		defer mu.Unlock()
		return fmt.Errorf("%s; it said:\n%s", what, strings.Join(said, "\n"))
	}
	deadline := time.After(startTimeout)
	select {
	case a := <-found:
		s.URL = "http://" + a
	case <-exited:
		return fail("it ended")
	case <-deadline:
		return fail("it did not start")
	}
	for {
		resp, err := http.Get(s.URL + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-exited:
			return fail("it ended")
		case <-deadline:
			return fail("it did not become healthy")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// NewBucket returns an empty bucket: a database of its own with 1.8, the emptied one with 2.x.
func (s *Server) NewBucket() string {
	s.t.Helper()
	if s.V1 {
		name := fmt.Sprintf("readings%d", buckets.Add(1))
		s.post("/query?"+url.Values{"q": {`CREATE DATABASE "` + name + `"`}}.Encode(), "")
		return name
	}
	s.post("/api/v2/delete?"+url.Values{"org": {s.Org}, "bucket": {s.Bucket}}.Encode(), `{"start":"1677-09-22T00:00:00Z","stop":"2262-04-11T00:00:00Z"}`)
	return s.Bucket
}

var buckets atomic.Int64

// InfluxQL has a statement done on the bucket and returns the answer as CSV; only with V1.
func (s *Server) InfluxQL(statement string) string {
	s.t.Helper()
	return s.post("/query?"+url.Values{"db": {s.Bucket}, "epoch": {"ns"}, "q": {statement}}.Encode(), "")
}

// Write writes lines of line protocol into the bucket, with times in ns.
func (s *Server) Write(lines string) {
	s.t.Helper()
	s.post("/api/v2/write?"+url.Values{"org": {s.Org}, "bucket": {s.Bucket}, "precision": {"ns"}}.Encode(), lines)
}

// post asks the server and fails the test unless it agrees.
func (s *Server) post(path, body string) string {
	s.t.Helper()
	req, err := http.NewRequest("POST", s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.Token != "" {
		req.Header.Set("Authorization", "Token "+s.Token)
	}
	req.Header.Set("Accept", "application/csv")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		s.t.Fatalf("influxdb: POST %s: %s: %v: %s", path, resp.Status, err, tail(string(b), 300))
	}
	return string(b)
}

// Stop ends the server in order; only with V1.
func (s *Server) Stop() {
	s.t.Helper()
	if err := s.end(syscall.SIGTERM); err != nil {
		s.t.Errorf("influxd: %v", err)
	}
}

// Kill ends the server at once.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Start runs a stopped server again, at the same address and with its data.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.start(strings.TrimPrefix(s.URL, "http://")); err != nil {
		s.t.Fatalf("influxd: %v", err)
	}
}

// Pid is the process id of the server that was started, 0 for one from outside.
func (s *Server) Pid() int {
	if s.cmd == nil {
		return 0
	}
	return s.cmd.Process.Pid
}

func (s *Server) end(sig os.Signal) error {
	if s.cmd == nil {
		return nil
	}
	s.cmd.Process.Signal(sig)
	select {
	case <-s.exited:
	case <-time.After(startTimeout):
		s.cmd.Process.Kill()
		<-s.exited
		s.cmd = nil
		return errors.New("it did not stop in time and was killed")
	}
	s.cmd = nil
	return nil
}
