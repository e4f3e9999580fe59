package feed_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vitalwatch/web/feed"
)

// From publishing one alert until every client has it, over real sockets, clients in the same process:
//
//	go test ./web/feed -run '^$' -bench FanOut -benchtime 3s
//
// B/client is the growth of heap and stacks of server and client together.
func BenchmarkFanOut(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprintf("clients=%d", n), func(b *testing.B) {
			l := newLedger("e1")
			hub, err := feed.New(feed.Options{History: l, Auth: newPeople()})
			if err != nil {
				b.Fatal(err)
			}
			srv := httptest.NewServer(hub)
			defer srv.Close()
			defer hub.Shutdown(b.Context())
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var got atomic.Int64
			arrived := make(chan struct{}, 1)
			var target atomic.Int64
			var left sync.WaitGroup
			for range n {
				nc, br := rawClient(b, srv.Listener.Addr().String())
				defer nc.Close()
				left.Go(func() {
					for {
						if skipFrame(br) != nil {
							return
						}
						if got.Add(1) == target.Load() {
							arrived <- struct{}{}
						}
					}
				})
			}
			for got.Load() < int64(3*n) { // hello, subscribed, snapshot
				runtime.Gosched()
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportAllocs()
			var total time.Duration
			for b.Loop() {
				e := l.commitSized("P-1", "worsened", 1200)
				target.Store(got.Load() + int64(n))
				at := time.Now()
				hub.Publish(e)
				<-arrived
				total += time.Since(at)
			}
			b.ReportMetric(float64(total.Nanoseconds())/float64(b.N)/float64(n), "ns/delivery")
			b.ReportMetric(float64(after.HeapInuse+after.StackInuse-before.HeapInuse-before.StackInuse)/float64(n), "B/client")
		})
	}
}

// rawClient subscribes to alerts without a library, so that the benchmark measures the hub.
func rawClient(tb testing.TB, addr string) (net.Conn, *bufio.Reader) {
	tb.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	fmt.Fprintf(nc, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer all\r\n\r\n", addr)
	br := bufio.NewReaderSize(nc, 2048)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		tb.Fatalf("upgrade: %v %v", resp, err)
	}
	msg := `{"op":"subscribe","id":1,"channels":["alerts"]}`
	var sb strings.Builder
	sb.Write([]byte{0x81, 0x80 | byte(len(msg)), 0, 0, 0, 0}) // a mask of zeros leaves the payload as it is
	sb.WriteString(msg)
	if _, err := io.WriteString(nc, sb.String()); err != nil {
		tb.Fatal(err)
	}
	return nc, br
}

// skipFrame reads one unmasked frame that is not a control frame.
func skipFrame(br *bufio.Reader) error {
	for {
		var h [8]byte
		if _, err := io.ReadFull(br, h[:2]); err != nil {
			return err
		}
		control, n := h[0]&0x08 != 0, int(h[1])
		switch n {
		case 126:
			if _, err := io.ReadFull(br, h[:2]); err != nil {
				return err
			}
			n = int(binary.BigEndian.Uint16(h[:]))
		case 127:
			if _, err := io.ReadFull(br, h[:]); err != nil {
				return err
			}
			n = int(binary.BigEndian.Uint64(h[:]))
		}
		if _, err := br.Discard(n); err != nil {
			return err
		}
		if !control {
			return nil
		}
	}
}
