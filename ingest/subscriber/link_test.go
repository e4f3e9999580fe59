package subscriber

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// wire is a connection that notes what is written in one call.
type wire struct {
	net.Conn // nil: whatever else is called is a mistake
	in       io.Reader
	reads    int
	writes   []string
	fail     error
	closed   bool
}

func (w *wire) Read(p []byte) (int, error)         { w.reads++; return w.in.Read(p) }
func (w *wire) Close() error                       { w.closed = true; return nil }
func (w *wire) SetWriteDeadline(_ time.Time) error { return nil }
func (w *wire) Write(p []byte) (int, error) {
	if w.fail != nil {
		return 0, w.fail
	}
	w.writes = append(w.writes, string(p))
	return len(p), nil
}

func send(t *testing.T, l *link, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if n, err := l.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("wrote %d of %q: %v", n, s, err)
		}
	}
}

func TestLink_collects_between_hold_and_release(t *testing.T) {
	w := &wire{}
	l := newLink(w)
	send(t, l, "a", "b")
	l.hold()
	send(t, l, "c", "d", "e")
	if len(w.writes) != 2 {
		t.Errorf("written while held: %q", w.writes)
	}
	l.release()
	l.release() // nothing is left
	send(t, l, "f")
	if got := strings.Join(w.writes, "|"); got != "a|b|cde|f" {
		t.Errorf("writes %s", got)
	}
}

// What is held is bounded, and its order stays.
func TestLink_bound(t *testing.T) {
	w := &wire{}
	l := newLink(w)
	l.hold()
	want := ""
	for i := range 3 * writeBound / 10 {
		s := strings.Repeat(string(rune('a'+i%26)), 10)
		want += s
		send(t, l, s)
		if len(l.out) > writeBound {
			t.Fatalf("holds %d bytes", len(l.out))
		}
	}
	l.release()
	if got := strings.Join(w.writes, ""); got != want || len(w.writes) != 4 && len(w.writes) != 3 {
		t.Errorf("%d bytes in %d writes, want %d", len(got), len(w.writes), len(want))
	}
}

func TestLink_failure_ends_the_connection(t *testing.T) {
	broken := errors.New("broken pipe")
	w := &wire{fail: broken}
	l := newLink(w)
	l.hold()
	send(t, l, "a")
	l.release()
	if !w.closed {
		t.Error("a connection with half a packet written stays open")
	}
	if _, err := l.Write([]byte("b")); !errors.Is(err, broken) {
		t.Errorf("the next write says %v", err)
	}
}

// The bound of one write is not that of the next, which may be a ping or an acknowledgement long after.
func TestLink_writes_after_a_silence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		defer ours.Close()
		go io.Copy(io.Discard, theirs)
		l := newLink(ours)
		l.hold()
		send(t, l, "a")
		l.release()
		time.Sleep(2 * writeTimeout)
		send(t, l, "b")
		_ = l.SetWriteDeadline(time.Now().Add(writeTimeout)) // the library, around what it publishes
		time.Sleep(2 * writeTimeout)
		send(t, l, "c")
	})
}

// A broker that takes nothing any more does not hold a write for ever.
func TestLink_bounds_a_write(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		l := newLink(ours)
		if _, err := l.Write([]byte("a")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("nobody reads: %v", err)
		}
		if _, err := ours.Write([]byte("b")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the connection is not over: %v", err)
		}
	})
}

func TestLink_reads_ahead(t *testing.T) {
	text := strings.Repeat("0123456789", 100)
	w := &wire{in: strings.NewReader(text)}
	l := newLink(w)
	var got bytes.Buffer
	one := make([]byte, 1)
	for range text {
		if _, err := io.ReadFull(l, one); err != nil {
			t.Fatal(err)
		}
		got.Write(one)
	}
	if got.String() != text || w.reads != 1 {
		t.Errorf("%d reads", w.reads)
	}
}
