package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"vitalwatch/alerting/ledger"
	"vitalwatch/vitals"
	"vitalwatch/web/feed"
)

// Server answers HTTP. Make one with New, end it with Shutdown.
type Server struct {
	d    Deps
	c    Config
	log  zerolog.Logger
	now  func() time.Time
	hub  *feed.Hub
	tail *Tail

	api        huma.API
	handler    http.Handler
	audit      *audit
	byAddress  *limiter // logins
	byName     *limiter
	guesses    guesses             // claim codes and credentials of devices
	computing  *semaphore.Weighted // trends at once
	localhost  bool                // the listener is bound to loopback
	unsub      func()
	teamsMoved atomic.Bool // somebody's team may have changed: ask the feed to look at rights again

	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec

	stop context.CancelFunc
	own  sync.WaitGroup

	needed struct {
		sync.Mutex
		seq       uint64
		byPatient map[vitals.PatientID]need
	}
}

// New wires the routes and starts the hub, the tail and the audit.
func New(d Deps, c Config) (*Server, error) {
	if d.Auth == nil || d.Patients == nil || d.Readings == nil || d.Ledger == nil || d.Monitor == nil || d.Quarantine == nil || d.Pipeline == nil || d.Registry == nil {
		return nil, errors.New("web: Auth, Patients, Readings, Ledger, Monitor, Quarantine, Pipeline and Registry must be set")
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	s := &Server{d: d, c: c, now: d.Now, log: d.Log.With().Str("component", "web").Logger(),
		byAddress: newLimiter(3*time.Second, 20, 1<<16), byName: newLimiter(10*time.Second, 6, 1<<16),
		guesses: newGuesses(), computing: semaphore.NewWeighted(2), localhost: loopbackAddress(c.Listen)}
	if c.Anonymous && !s.localhost {
		return nil, fmt.Errorf("auth.anonymous is only for loopback: set http.listen to 127.0.0.1 or turn it off")
	}
	s.audit = newAudit(d.Auth.db, d.Now, s.log)
	s.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_http_requests_total", Help: "HTTP requests by route and status."}, []string{"route", "code"})
	s.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "vitalwatch_http_request_seconds", Help: "Duration of HTTP requests by route.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 8)}, []string{"route"})
	for _, col := range []prometheus.Collector{s.requests, s.seconds} {
		if err := d.Registry.Register(col); err != nil {
			return nil, fmt.Errorf("register web metrics: %w", err)
		}
	}
	hub, err := feed.New(feed.Options{History: history{d.Ledger}, Auth: feedAuth{s}, Ack: s.feedAck, Subscribed: s.feedSubscribed,
		Problem: s.feedProblem, Origins: c.Origins, Metrics: d.Registry, Log: s.log})
	if err != nil {
		return nil, err
	}
	s.hub, s.tail = hub, newTail(hub)
	if s.handler, err = s.routes(); err != nil {
		return nil, errors.Join(err, hub.Shutdown(context.Background()))
	}
	d.Ledger.Subscribe(func(events []ledger.Event) { hub.Publish(feedEvents(events)...) })
	s.unsub = d.Patients.Subscribe(func(vitals.PatientID) { s.teamsMoved.Store(true) })
	d.Auth.mu.Lock()
	d.Auth.changed = hub.Reauthorise
	d.Auth.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.own.Go(func() { s.tail.run(ctx) })
	s.own.Go(func() { s.audit.run(ctx, s.everySecond) })
	return s, nil
}

func (s *Server) everySecond(ctx context.Context) {
	if s.teamsMoved.Swap(false) {
		s.hub.Reauthorise()
	}
	if err := s.d.Auth.flushUse(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn().Err(err).Msg("the last use of sessions and keys could not be stored")
	}
}

// Handler is the whole server.
func (s *Server) Handler() http.Handler { return s.handler }

// Hub is the feed.
func (s *Server) Hub() *feed.Hub { return s.hub }

// Observe takes accepted readings for the feed's live channels; it never waits.
func (s *Server) Observe(rs []vitals.Reading) { s.tail.Observe(rs) }

// OpenAPI is the document of /openapi.json.
func (s *Server) OpenAPI() ([]byte, error) { return s.api.OpenAPI().MarshalJSON() }

// Shutdown says goodbye to the feed's clients and writes what is left of the audit. Call it beside the
// http.Server's own Shutdown, which does not know of WebSockets.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.hub.Shutdown(ctx)
	s.unsub()
	s.stop()
	s.own.Wait()
	return err
}

// HTTPServer returns h with the timeouts and limits that every listener of ours has.
func HTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

type contextKey struct{}

// viewOf is the view of the request's principal; routes without authentication have none.
func viewOf(ctx context.Context) *view {
	v, _ := ctx.Value(contextKey{}).(*view)
	return v
}

// authenticate says who sent a request.
func (s *Server) authenticate(r *http.Request) (*Principal, error) {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, key, ok := strings.Cut(h, " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return nil, ErrUnauthenticated
		}
		p, err := s.d.Auth.key(r.Context(), strings.TrimSpace(key))
		if err == nil {
			s.d.Auth.touch(p)
		}
		return p, err
	}
	if c, err := r.Cookie(s.cookieName(r)); err == nil && len(c.Value) <= 100 {
		p, err := s.d.Auth.session(r.Context(), digest(c.Value))
		if err == nil {
			s.d.Auth.touch(p)
			return p, nil
		}
		if !errors.Is(err, ErrUnauthenticated) {
			return nil, err
		}
	}
	if s.anonymous(r) {
		return &Principal{Kind: "anonymous", ID: "anonymous", Name: "anonymous", Role: Viewer, credential: "anonymous:"}, nil
	}
	return nil, ErrUnauthenticated
}

// anonymous reports whether a request without credentials may read. A proxy on this machine, and a page of another
// site whose name resolves to loopback (DNS rebinding), are not this machine's user.
func (s *Server) anonymous(r *http.Request) bool {
	if !s.c.Anonymous || !s.localhost {
		return false
	}
	for name := range r.Header { // whatever a proxy may say of whom it speaks for
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return false
		}
	}
	return loopbackAddress(r.RemoteAddr) && loopbackAddress(r.Host)
}

func loopbackAddress(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = strings.Trim(addr, "[]")
	}
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func (s *Server) secure(r *http.Request) bool { return r.TLS != nil || s.c.SecureCookies }

// cookieName has the __Host- prefix wherever browsers accept it: no other host or path can set it then.
func (s *Server) cookieName(r *http.Request) string {
	if s.secure(r) {
		return "__Host-vitalwatch"
	}
	return "vitalwatch"
}

func (s *Server) cookie(r *http.Request, token string, expires time.Time) *http.Cookie {
	c := &http.Cookie{Name: s.cookieName(r), Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: s.secure(r), Expires: expires}
	if token == "" {
		c.MaxAge = -1
	}
	return c
}

// routes builds the handler from the list in routes.go.
func (s *Server) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	hc := huma.DefaultConfig("vitalwatch", "1")
	hc.Info.Description = "Home health monitoring. Errors are application/problem+json with a stable type; lists take limit and cursor; times are RFC 3339 UTC, from and to half-open. See docs/api.md."
	hc.DocsPath, hc.SchemasPath, hc.CreateHooks = "", "", nil
	hc.Formats = formats()
	hc.RejectUnknownQueryParameters = true
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"key":     {Type: "http", Scheme: "bearer", Description: "an API key"},
		"session": {Type: "apiKey", In: "cookie", Name: "vitalwatch", Description: "the cookie of POST /api/v1/session"},
	}
	s.api = humago.New(mux, hc)
	for _, rt := range slices.Concat(apiRoutes(), deviceRoutes(), commandRoutes()) {
		op := huma.Operation{Method: rt.method, Path: rt.path, OperationID: rt.id, Summary: rt.summary, DefaultStatus: rt.status, MaxBodyBytes: rt.body, Errors: rt.errors()}
		if op.MaxBodyBytes == 0 {
			op.MaxBodyBytes = 16 << 10
		}
		op.MaxBodyBytes++ // huma refuses a body that fills its bound
		if !rt.public {
			op.Security = []map[string][]string{{"key": {}}, {"session": {}}}
			op.Middlewares = huma.Middlewares{s.guard(rt.need)}
		} else {
			op.Middlewares = huma.Middlewares{s.withRequest}
		}
		rt.register(s, mux, op)
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, r *http.Request) { plain(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.d.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 20 * time.Second}))
	mux.HandleFunc("/api/", s.noRoute(mux))
	if s.d.Console != nil {
		mux.Handle("/", s.d.Console)
	}
	cross := http.NewCrossOriginProtection()
	for _, o := range s.c.Origins {
		if err := cross.AddTrustedOrigin(o); err != nil {
			return nil, fmt.Errorf("http origins: %w; write an origin as https://desk.example", err)
		}
	}
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, crossOrigin())
	}))
	return s.outer(cross.Handler(mux)), nil
}

// noRoute answers what no route takes: 405 when another method would, else 404.
func (s *Server) noRoute(mux *http.ServeMux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var allow []string
		for _, m := range []string{http.MethodDelete, http.MethodGet, http.MethodPost} {
			if _, pattern := mux.Handler(&http.Request{Method: m, URL: r.URL, Host: r.Host}); pattern != "/api/" && pattern != "" {
				allow = append(allow, m)
			}
		}
		if len(allow) > 0 && !slices.Contains(allow, r.Method) {
			w.Header().Set("Allow", strings.Join(allow, ", "))
			writeProblem(w, problem(http.StatusMethodNotAllowed, "method", "method not allowed", "allowed: "+strings.Join(allow, ", ")))
			return
		}
		writeProblem(w, errNotFound)
	}
}

// guard lets a request pass whose principal has an ability, and gives it its view.
func (s *Server) guard(needed ability) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		v, err := s.admit(r, needed)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		s.withRequest(huma.WithValue(ctx, contextKey{}, v), next)
	}
}

func (s *Server) admit(r *http.Request, needed ability) (*view, error) {
	p, err := s.authenticate(r)
	if err != nil {
		return nil, err
	}
	if s.d.Fresh != nil {
		_ = s.d.Fresh(r.Context()) // who cannot read it now logs it; what is in memory serves
	}
	v := &view{s: s, p: p, remote: remoteIP(r)}
	if needed != 0 && !p.can(needed) {
		if err := v.record(r.Context(), "denied", "", ""); err != nil {
			return nil, err
		}
		return nil, errForbidden
	}
	return v, nil
}

type requestKey struct{}

// withRequest keeps the request for the handlers that set cookies or need the address.
func (s *Server) withRequest(ctx huma.Context, next func(huma.Context)) {
	r, _ := humago.Unwrap(ctx)
	next(huma.WithValue(ctx, requestKey{}, r))
}

func requestOf(ctx context.Context) *http.Request { return ctx.Value(requestKey{}).(*http.Request) }

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.note(r, err)
	writeProblem(w, err)
}

// note logs what only the operator may see.
func (s *Server) note(r *http.Request, err error) {
	if problemOf(err).Status == http.StatusInternalServerError && r.Context().Err() == nil {
		s.log.Error().Err(err).Str("route", r.Pattern).Msg("a request failed")
	}
}

type statusWriter struct {
	http.ResponseWriter
	code int
}

func (w *statusWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// outer is around every request: headers, metrics, and a panic that ends only its own request.
func (s *Server) outer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		w := &statusWriter{ResponseWriter: rw}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Content-Security-Policy", contentSecurityPolicy(r.Host))
		h.Set("X-Request-Id", requestID())
		if s.secure(r) {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if strings.HasPrefix(r.URL.Path, "/api/") {
			h.Set("Cache-Control", "no-store")
		}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				// The value of a panic may quote what was sent; its place cannot.
				s.log.Error().Str("route", r.Pattern).Str("panic", fmt.Sprintf("%T", p)).Bytes("stack", debug.Stack()).Msg("a request handler panicked")
				if w.code == 0 {
					writeProblem(w, errors.New("panic"))
				}
			}
			route := r.Pattern
			if route == "" {
				route = "none"
			}
			if w.code == 0 {
				w.code = http.StatusOK
			}
			s.requests.WithLabelValues(route, strconv.Itoa(w.code)).Inc()
			s.seconds.WithLabelValues(route).Observe(time.Since(start).Seconds())
		}()
		next.ServeHTTP(w, r)
	})
}

// contentSecurityPolicy allows the page its own files and its own feed. Browsers differ on whether 'self' covers
// WebSockets, so the own host is named.
func contentSecurityPolicy(host string) string {
	own := ""
	if host != "" && len(host) <= 255 && !strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-:[]", r))
	}) {
		own = " ws://" + host + " wss://" + host
	}
	return "default-src 'self'; connect-src 'self'" + own + "; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
}

func requestID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func plain(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	fmt.Fprint(w, body)
}

// checkTimeout bounds one question of /readyz.
const checkTimeout = 2 * time.Second

// ready asks all checks at once. With ?verbose it lists each.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	errs := make([]error, len(s.d.Checks))
	var wg sync.WaitGroup
	for i, c := range s.d.Checks {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- c.Run(ctx) }() // a check that hangs must not hang the answer
			select {
			case errs[i] = <-done:
			case <-ctx.Done():
				errs[i] = errors.New("no answer in time")
			}
		})
	}
	wg.Wait()
	var lines strings.Builder
	p := problem(http.StatusServiceUnavailable, "not-ready", "not ready", "")
	for i, c := range s.d.Checks {
		if errs[i] == nil {
			fmt.Fprintf(&lines, "[+] %s ok\n", c.Name)
			continue
		}
		if d := Degraded(""); errors.As(errs[i], &d) {
			fmt.Fprintf(&lines, "[~] %s: %s\n", c.Name, d)
			continue
		}
		p.Errors = append(p.Errors, ProblemField{c.Name, errs[i].Error()})
	}
	if len(p.Errors) > 0 {
		var names []string
		for _, e := range p.Errors {
			names = append(names, e.Location)
		}
		p.Detail = "failing: " + strings.Join(names, ", ")
		writeProblem(w, p)
		return
	}
	if _, verbose := r.URL.Query()["verbose"]; verbose {
		plain(w, http.StatusOK, lines.String()+"ok\n")
		return
	}
	plain(w, http.StatusOK, "ok\n")
}
