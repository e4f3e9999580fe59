// Package influx keeps readings in InfluxDB, 2.x or 1.8 with Flux, through influxdb-client-go's blocking API. It owns
// the schema (docs/influxdb.md), what each of the server's answers means, and the cursor up to which the server has
// confirmed everything; it owns no process and no other copy of the readings. Store is the readings store; Writer
// carries the journal to it in large batches.
//
// Concurrency: all methods are safe for concurrent use; Store.Write serialises. Nothing of it runs by itself except
// Writer.Run.
package influx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	influxdb2 "github.com/influxdata/influxdb-client-go/v2"
	"github.com/influxdata/influxdb-client-go/v2/api"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"vitalwatch/storage"
	"vitalwatch/vitals"
)

var _ storage.Readings = (*Store)(nil)

// Defaults of Options.
const (
	DefaultWriteTimeout = 20 * time.Second
	DefaultQueryTimeout = 60 * time.Second
	DefaultPage         = 50_000
	defaultRequest      = 4 << 20
)

// Cursor keeps, durably, up to which sequence InfluxDB has confirmed everything.
type Cursor interface {
	// Load returns false when nothing was saved yet.
	Load(ctx context.Context) (seq uint64, ok bool, err error)
	Save(ctx context.Context, seq uint64) error
}

// Options of Open. URL and Bucket must be set; the zero value of the others means their default.
type Options struct {
	URL, Org, Bucket string
	// Token returns the token as it is now: it is asked at each request, so that a new one is taken up without a
	// restart. nil: none.
	Token func() (string, error)
	// Cursor is where the cursor is kept; nil: only in memory.
	Cursor Cursor
	// Refused takes a reading that InfluxDB will never take, such as one that conflicts with the type of a field
	// there. It must make it durable; on an error it is asked again. It is called at least once for each.
	Refused func(ctx context.Context, r *vitals.Reading, reason string) error
	Logger  zerolog.Logger
	// WriteTimeout bounds one write request, QueryTimeout one question.
	WriteTimeout, QueryTimeout time.Duration
	// Page is how many readings one question brings at most, of each series.
	Page int
}

// Store is a bucket of an InfluxDB.
type Store struct {
	o       Options
	client  influxdb2.Client
	http    *http.Client
	writer  api.WriteAPIBlocking
	api     string // …/api/v2/
	metrics *metrics
	limit   atomic.Int64 // bytes of one write request

	cursor  atomic.Uint64 // confirmed
	durable atomic.Uint64 // and saved
	fresh   atomic.Bool   // no cursor was saved yet

	mu    sync.Mutex // Write
	batch batch
	save  sync.Mutex // one writer of the cursor
}

// Open prepares the store; the server need not run.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := CheckURL(o.URL); err != nil {
		return nil, err
	}
	if o.Bucket == "" {
		return nil, errors.New("influxdb: the bucket has no name: set storage.influxdb.bucket")
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = DefaultWriteTimeout
	}
	if o.QueryTimeout == 0 {
		o.QueryTimeout = DefaultQueryTimeout
	}
	if o.Page == 0 {
		o.Page = DefaultPage
	}
	s := &Store{o: o, metrics: newMetrics()}
	s.limit.Store(defaultRequest)
	if o.Cursor != nil {
		seq, ok, err := o.Cursor.Load(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the cursor of influxdb: %w", err)
		}
		s.fresh.Store(!ok)
		s.cursor.Store(seq)
		s.durable.Store(seq)
	}
	transport := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		// Compressing costs both ends more CPU than the bytes cost a local network.
		DisableCompression: true, TLSHandshakeTimeout: 5 * time.Second, MaxIdleConnsPerHost: 8, IdleConnTimeout: 90 * time.Second, ForceAttemptHTTP2: true,
	}
	s.http = &http.Client{Transport: &authorized{transport, o.Token}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s.client = influxdb2.NewClientWithOptions(o.URL, "", influxdb2.DefaultOptions().SetHTTPClient(s.http).SetUseGZip(false).SetApplicationName("vitalwatch"))
	s.writer = s.client.WriteAPIBlocking(o.Org, o.Bucket) // its precision is ns by default
	s.api = s.client.HTTPService().ServerAPIURL()
	return s, nil
}

// CheckURL says what is wrong with an address.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q is not an address such as http://127.0.0.1:8086", raw)
	}
	if u.User != nil || u.RawQuery != "" {
		return errors.New("the address holds more than scheme, host and path: the token belongs in storage.influxdb.token_file")
	}
	return nil
}

// authorized adds the token.
type authorized struct {
	base  http.RoundTripper
	token func() (string, error)
}

func (a *authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.token == nil {
		return a.base.RoundTrip(req)
	}
	token, err := a.token()
	if err != nil {
		return nil, err
	}
	if token = strings.TrimSpace(token); token != "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Token "+token)
	}
	return a.base.RoundTrip(req)
}

// Fresh reports whether no cursor was saved yet: the bucket has nothing of this data folder for all we know.
func (s *Store) Fresh() bool { return s.fresh.Load() }

// Cursor implements storage.Readings.
func (s *Store) Cursor() uint64 { return s.cursor.Load() }

// Durable implements storage.Readings: what the server has confirmed it has on disk, but after a crash everything
// after the saved cursor is sent again.
func (s *Store) Durable() uint64 { return s.durable.Load() }

// PositionOf implements storage.Readings.
func (s *Store) PositionOf(r *vitals.Reading) storage.Position { return storage.PositionOf(r) }

// Write implements storage.Readings with one request, more when InfluxDB refuses part of it.
func (s *Store) Write(ctx context.Context, rs []vitals.Reading, cursor uint64) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write readings: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch.reset()
	s.batch.add(rs, cursor)
	if err := s.send(ctx, &s.batch); err != nil {
		return fmt.Errorf("write readings: %w", err)
	}
	s.advance(cursor)
	return nil
}

// advance moves the cursor, never back.
func (s *Store) advance(to uint64) {
	for {
		at := s.cursor.Load()
		if to <= at || s.cursor.CompareAndSwap(at, to) {
			return
		}
	}
}

// Flush implements storage.Readings: it saves the cursor.
func (s *Store) Flush(ctx context.Context) error {
	s.save.Lock()
	defer s.save.Unlock()
	at := s.cursor.Load()
	if at == s.durable.Load() && !s.fresh.Load() {
		return nil
	}
	if s.o.Cursor != nil {
		if err := s.o.Cursor.Save(ctx, at); err != nil {
			return fmt.Errorf("save the cursor of influxdb: %w", err)
		}
	}
	s.fresh.Store(false)
	s.durable.Store(at)
	return nil
}

// Close saves the cursor and closes the connections.
func (s *Store) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.Flush(ctx)
	s.client.Close()
	s.http.CloseIdleConnections()
	return err
}

// Empty reports whether the bucket has no readings.
func (s *Store) Empty(ctx context.Context) (bool, error) {
	q := fmt.Sprintf("from(bucket: %s) |> range(start: %s, stop: %s) |> filter(fn: (r) => r._field == %q) |> limit(n: 1) |> keep(columns: [\"_value\"])",
		quote(s.o.Bucket), stamp(firstMilli), stamp(lastMilli+1), recordField)
	err := s.query(ctx, q, func([]byte) error { return errStop }) // the first row ends it: there is one for each series
	if errors.Is(err, errStop) {
		return false, nil
	}
	return err == nil, err
}

// Range implements storage.Readings: in pages of at most Options.Page readings.
func (s *Store) Range(ctx context.Context, q storage.Query) iter.Seq2[vitals.Reading, error] {
	return func(yield func(vitals.Reading, error) bool) {
		err := s.scan(ctx, q, func(r *vitals.Reading) bool { return yield(*r, nil) })
		if err != nil && err != errStop {
			yield(vitals.Reading{}, fmt.Errorf("read readings: %w", err))
		}
	}
}

// Collectors are the store's metrics; the caller registers them.
func (s *Store) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.metrics.requests, s.metrics.refused, s.metrics.expired, s.metrics.seconds}
}

type metrics struct {
	requests *prometheus.CounterVec
	refused  prometheus.Counter
	expired  prometheus.Counter
	seconds  prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vitalwatch_influxdb_writes_total",
			Help: "Write requests to InfluxDB, by what its answer meant."}, []string{"outcome"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_influxdb_refused_total",
			Help: "Readings that InfluxDB refused for good; they are in quarantine."}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{Name: "vitalwatch_influxdb_expired_total",
			Help: "Readings that were older than the bucket keeps."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vitalwatch_influxdb_write_seconds",
			Help: "Time until InfluxDB had confirmed a batch.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 18)}),
	}
	for _, v := range []verdict{stored, retry, hold, halve, bisect, expired} {
		m.requests.WithLabelValues(string(v))
	}
	return m
}
