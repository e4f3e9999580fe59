package mqttd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// WebSocketOptions bound MQTT over WebSocket, section 6 of the MQTT specifications.
type WebSocketOptions struct {
	// Path is the only one that is answered.
	Path string
	// Origins are what a browser's page may come from, "https://console.example"; "*" lets in all. Clients that are
	// not browsers send none and pass; a browser's page from the same host passes too.
	Origins []string
	// MaxMessageBytes bounds one WebSocket message, however many frames it has. Compression is not negotiated, so
	// these are bytes on the wire.
	MaxMessageBytes int
	// Plain leaves TLS to a proxy in front although Deps.TLS is there.
	Plain bool
}

func (o *WebSocketOptions) validate() error {
	var errs []error
	if !strings.HasPrefix(o.Path, "/") {
		errs = append(errs, fmt.Errorf("websocket path is %q; it starts with /", o.Path))
	}
	if o.MaxMessageBytes < 1024 || o.MaxMessageBytes > 16<<20 {
		errs = append(errs, fmt.Errorf("websocket max message bytes is %d; use 1024 to %d", o.MaxMessageBytes, 16<<20))
	}
	for _, origin := range o.Origins {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "") {
			errs = append(errs, fmt.Errorf("websocket origin %q is not like https://console.example", origin))
		}
	}
	return errors.Join(errs...)
}

const subprotocol = "mqtt" // [MQTT-6.0.0-3]

// wsBuffer is what a WebSocket connection keeps for frame headers; payload goes past it.
const wsBuffer = 1 << 10

var wsWriteBuffers sync.Pool

// wsConn is MQTT in binary frames over a stream. MQTT packets and frames need not begin together [MQTT-6.0.0-2].
type wsConn struct {
	stream                 // below
	ws     *websocket.Conn // reads and writes through feed
	br     *bufio.Reader   // what ws reads from
	r      io.Reader       // the message being read; nil: the next one is due
}

// feed is what gorilla/websocket sees as its connection. Deadlines are ours.
type feed struct{ stream }

func (f feed) Read(p []byte) (int, error)       { return readStream(f.stream, p) }
func (f feed) SetDeadline(time.Time) error      { return nil }
func (f feed) SetWriteDeadline(time.Time) error { return nil }

// upgrade answers the HTTP request with which a WebSocket begins; at most maxBytes of it are read.
func (o *WebSocketOptions) upgrade(under stream, maxBytes int, writeTimeout time.Duration) (*wsConn, error) {
	br := bufio.NewReaderSize(&io.LimitedReader{R: feed{under}, N: int64(maxBytes)}, wsBuffer)
	req, err := http.ReadRequest(br)
	if err != nil {
		return nil, err
	}
	w := &answer{conn: feed{under}, br: br, header: http.Header{}}
	refuse := func(code int, text string) (*wsConn, error) {
		http.Error(w, text, code)
		w.flush()
		return nil, errors.New(text)
	}
	switch {
	case req.URL.Path != o.Path:
		return refuse(http.StatusNotFound, "MQTT is at "+o.Path)
	case !o.allowed(req):
		return refuse(http.StatusForbidden, "origin is not allowed, ask the operator to add it")
	case websocket.IsWebSocketUpgrade(req) && !slices.Contains(websocket.Subprotocols(req), subprotocol):
		return refuse(http.StatusBadRequest, "ask for the WebSocket subprotocol mqtt")
	}
	up := websocket.Upgrader{Subprotocols: []string{subprotocol}, CheckOrigin: func(*http.Request) bool { return true }, // done above
		WriteBufferPool: &wsWriteBuffers, WriteBufferSize: 4 << 10}
	ws, err := up.Upgrade(w, req, nil)
	if err != nil {
		w.flush()
		return nil, err
	}
	ws.SetReadLimit(int64(o.MaxMessageBytes))
	// A ping may come while nothing else is written: the deadline of the last write would be long past.
	ws.SetPingHandler(func(data string) error {
		under.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(lastWrite)); err != nil && !errors.Is(err, websocket.ErrCloseSent) {
			return err
		}
		return nil
	})
	return &wsConn{stream: under, ws: ws, br: br}, nil // Upgrade made br read from feed without the bound
}

// allowed checks the Origin, which only browsers send, and whose user may be somebody else than our client.
func (o *WebSocketOptions) allowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(o.Origins, "*") {
		return true
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return true
	}
	return slices.ContainsFunc(o.Origins, func(allowed string) bool { return strings.EqualFold(allowed, origin) })
}

func (w *wsConn) pending() bool { return w.br.Buffered() > 0 || w.stream.pending() }

func (w *wsConn) ready() error {
	if w.br.Buffered() > 0 {
		return nil
	}
	return w.stream.ready()
}

var errText = errors.New("WebSocket message is not binary")

func (w *wsConn) take(p []byte) (n int, err error) {
	for n < len(p) && w.pending() {
		if w.r == nil {
			kind, r, err := w.ws.NextReader() // may wait for the rest of a frame's header
			if err != nil {
				return n, err
			}
			if kind != websocket.BinaryMessage { // [MQTT-6.0.0-1]
				w.closing(websocket.CloseUnsupportedData, "MQTT comes in binary frames")
				return 0, errText
			}
			w.r = r
			continue
		}
		m, err := w.r.Read(p[n:])
		n += m
		if err == io.EOF {
			w.r = nil
		} else if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (w *wsConn) Read(p []byte) (int, error) { return readStream(w, p) }

func (w *wsConn) Write(p []byte) (int, error) {
	if err := w.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *wsConn) closing(code int, text string) {
	w.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(lastWrite))
}

// CloseWrite says goodbye and leaves the client time to read it.
func (w *wsConn) CloseWrite() error {
	w.closing(websocket.CloseNormalClosure, "")
	if cw, ok := w.stream.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

// answer is the http.ResponseWriter of one upgrade.
type answer struct {
	conn   net.Conn
	br     *bufio.Reader
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) { a.code = code }

func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// Hijack implements http.Hijacker.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return a.conn, bufio.NewReadWriter(a.br, bufio.NewWriterSize(a.conn, 512)), nil
}

// flush writes what was answered instead of an upgrade.
func (a *answer) flush() {
	if a.code == 0 {
		return
	}
	resp := http.Response{StatusCode: a.code, ProtoMajor: 1, ProtoMinor: 1, Header: a.header, ContentLength: int64(a.body.Len()),
		Body: io.NopCloser(&a.body), Close: true}
	resp.Write(a.conn)
}
