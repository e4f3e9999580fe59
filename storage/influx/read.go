package influx

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"vitalwatch/storage"
	"vitalwatch/vitals"
)

// errStop ends a scan whose consumer has had enough.
var errStop = errors.New("stop")

// series is one series of InfluxDB within a patient and indicator: what the tags say.
type series struct {
	device    vitals.DeviceID
	unit      vitals.Unit
	freshness vitals.Freshness
	quality   vitals.Quality
}

// page is what one question brought: the first or last n readings of each series of one indicator.
type page struct {
	rs     []vitals.Reading
	series []seriesCount
}

type seriesCount struct {
	series
	n           int
	first, last int64 // milliseconds
}

func (p *page) add(r *vitals.Reading) {
	k := series{r.Device, r.Unit, r.Freshness, r.Quality}
	at := milli(r.TakenAt)
	for i := range p.series {
		if c := &p.series[i]; c.series == k {
			c.n, c.first, c.last = c.n+1, min(c.first, at), max(c.last, at)
			return
		}
	}
	p.series = append(p.series, seriesCount{k, 1, at, at})
}

// order sorts the readings as the interface wants them. Of those that stand in one place, because one was revised, or
// was written by a server that numbered it otherwise, the last accepted stays.
func (p *page) order() {
	if !slices.IsSortedFunc(p.rs, inOrder) {
		slices.SortFunc(p.rs, inOrder)
	}
	kept := p.rs[:0]
	first := 0 // of this instant, in kept
	for i := range p.rs {
		r := &p.rs[i]
		if len(kept) == 0 || kept[len(kept)-1].TakenAt != r.TakenAt || kept[len(kept)-1].Indicator != r.Indicator {
			first = len(kept)
		} else if place := storage.PositionOf(r); slices.ContainsFunc(kept[first:], func(o vitals.Reading) bool { return storage.PositionOf(&o) == place }) {
			kept = append(kept[:first], slices.DeleteFunc(kept[first:], func(o vitals.Reading) bool { return storage.PositionOf(&o) == place })...)
		}
		kept = append(kept, *r)
	}
	p.rs = kept
}

func inOrder(a, b vitals.Reading) int {
	return cmp.Or(cmp.Compare(a.Indicator, b.Indicator), cmp.Compare(a.TakenAt, b.TakenAt), cmp.Compare(a.Seq, b.Seq))
}

// interval is the milliseconds, half open, that may hold readings of a query.
func interval(from, to vitals.Micros) (start, stop int64) {
	start, stop = firstMilli, lastMilli+1
	if from != 0 {
		start = milli(from)
	}
	if to != 0 {
		stop = milli(to-1) + 1
	}
	return start, stop
}

func (s *Store) scan(ctx context.Context, q storage.Query, emit func(*vitals.Reading) bool) error {
	indicators := []vitals.Indicator{q.Indicator}
	if q.Indicator == 0 {
		indicators = vitals.Indicators()
	}
	if q.After != nil {
		indicators = slices.DeleteFunc(slices.Clone(indicators), func(i vitals.Indicator) bool { return i < q.After.Indicator })
	}
	if q.From != 0 && q.To != 0 && q.From >= q.To {
		return nil
	}
	if q.Newest && q.Limit > 0 {
		return s.newest(ctx, &q, indicators, emit)
	}
	left := q.Limit
	for _, ind := range indicators {
		if err := s.forward(ctx, &q, ind, &left, emit); err != nil {
			return err
		}
	}
	return nil
}

// slack is what a page fetches more than it needs, for readings that the query leaves out.
const slack = 64

// forward hands out the readings of one indicator, oldest first; left counts down the limit.
func (s *Store) forward(ctx context.Context, q *storage.Query, ind vitals.Indicator, left *int, emit func(*vitals.Reading) bool) error {
	start, stop := interval(q.From, q.To)
	if q.After != nil && q.After.Indicator == ind {
		start = max(start, milli(q.After.TakenAt))
	}
	n := s.o.Page
	if q.Limit > 0 {
		n = min(n, *left+slack)
	}
	for start < stop {
		p, err := s.fetch(ctx, q.Patient, ind, start, stop, "limit", n)
		if err != nil {
			return err
		}
		// A series that was cut off may have more from its last instant on: only what is before is complete.
		whole := stop
		for _, c := range p.series {
			if c.n >= n {
				whole = min(whole, c.last)
			}
		}
		if whole <= start { // more readings of one millisecond than a page holds
			n *= 4
			continue
		}
		for i := range wanted(p.rs, q) {
			r := &p.rs[i]
			if milli(r.TakenAt) >= whole {
				break
			}
			if !emit(r) {
				return errStop
			}
			if q.Limit > 0 {
				if *left--; *left == 0 {
					return errStop
				}
			}
		}
		start = whole
	}
	return nil
}

// wanted yields the indices of the readings that the query wants, in order. Those up to the page's start are left out
// if the reading that it names is there.
func wanted(rs []vitals.Reading, q *storage.Query) func(func(int) bool) {
	skip := 0
	if a := q.After; a != nil {
		for i := range rs {
			if rs[i].TakenAt > a.TakenAt {
				break
			}
			if rs[i].TakenAt < a.TakenAt || storage.PositionOf(&rs[i]) == *a {
				skip = i + 1
			}
		}
		if len(rs) > 0 && rs[0].Indicator != a.Indicator {
			skip = 0
		}
	}
	return func(yield func(int) bool) {
		for i := skip; i < len(rs); i++ {
			r := &rs[i]
			if q.From != 0 && r.TakenAt < q.From || q.To != 0 && r.TakenAt >= q.To || q.MaxSeq != 0 && r.Seq > q.MaxSeq {
				continue
			}
			if !yield(i) {
				return
			}
		}
	}
}

// newest hands out the last Limit readings, oldest first.
func (s *Store) newest(ctx context.Context, q *storage.Query, indicators []vitals.Indicator, emit func(*vitals.Reading) bool) error {
	var out []vitals.Reading // the newest indicator's readings last
	for _, ind := range slices.Backward(indicators) {
		start, stop := interval(q.From, q.To)
		if q.After != nil && q.After.Indicator == ind {
			start = max(start, milli(q.After.TakenAt))
		}
		want := q.Limit - len(out)
		for n := want + slack; start < stop; n *= 4 {
			p, err := s.fetch(ctx, q.Patient, ind, start, stop, "tail", n)
			if err != nil {
				return err
			}
			whole, cut := start-1, false // what is after it is complete
			for _, c := range p.series {
				if c.n >= n {
					whole, cut = max(whole, c.first), true
				}
			}
			var got []vitals.Reading
			for i := range wanted(p.rs, q) {
				if milli(p.rs[i].TakenAt) > whole {
					got = append(got, p.rs[i])
				}
			}
			if len(got) < want && cut {
				continue
			}
			out = append(got[max(0, len(got)-want):], out...)
			break
		}
		if len(out) == q.Limit {
			break
		}
	}
	for i := range out {
		if !emit(&out[i]) {
			return errStop
		}
	}
	return nil
}

// Latest implements storage.Readings with one question.
func (s *Store) Latest(ctx context.Context, id vitals.PatientID) ([]vitals.Reading, error) {
	for n := 4; ; n *= 8 {
		p, err := s.fetch(ctx, id, 0, firstMilli, lastMilli+1, "tail", n)
		if err != nil {
			return nil, fmt.Errorf("read latest: %w", err)
		}
		// Points of one millisecond stand in the order of acceptance, not of their microseconds.
		if slices.ContainsFunc(p.series, func(c seriesCount) bool { return c.n >= n && c.first == c.last }) {
			continue
		}
		var out []vitals.Reading
		for i := range p.rs {
			switch k := len(out); {
			case k == 0 || out[k-1].Indicator != p.rs[i].Indicator:
				out = append(out, p.rs[i])
			case p.rs[i].Flags&vitals.Replaced == 0 || out[k-1].Flags&vitals.Replaced != 0:
				out[k-1] = p.rs[i]
			}
		}
		// What says that a reading counts no more may have been cut off.
		if slices.ContainsFunc(p.series, func(c seriesCount) bool {
			return c.quality == vitals.Invalid && c.n >= n && slices.ContainsFunc(out, func(r vitals.Reading) bool { return milli(r.TakenAt) <= c.first })
		}) {
			continue
		}
		return out, nil
	}
}

// fetch asks for the first ("limit") or last ("tail") n readings of each series between two milliseconds, half open;
// indicator 0: all of them. One record per row is what Flux answers fastest, in half the time of rows with their tags,
// and both 1.8 and 2.x know these words.
func (s *Store) fetch(ctx context.Context, id vitals.PatientID, ind vitals.Indicator, start, stop int64, pick string, n int) (*page, error) {
	rs, err := s.points(ctx, id, ind, start, stop, pick, n)
	if err != nil {
		return nil, err
	}
	p := &page{rs: rs}
	for i := range rs {
		p.add(&rs[i])
	}
	p.order()
	return p, nil
}

func (s *Store) points(ctx context.Context, id vitals.PatientID, ind vitals.Indicator, start, stop int64, pick string, n int) (rs []vitals.Reading, err error) {
	q := fmt.Sprintf("from(bucket: %s) |> range(start: %s, stop: %s) |> filter(fn: (r) => %sr.patient == %s and r._field == %q) |> %s(n: %d) |> keep(columns: [\"_value\"])",
		quote(s.o.Bucket), stamp(start), stamp(stop), measurement(ind), quote(string(id)), recordField, pick, n)
	names := names{}
	var record []byte
	err = s.query(ctx, q, func(value []byte) (err error) {
		if record, err = base64.RawURLEncoding.AppendDecode(record[:0], value); err != nil {
			return errForeign
		}
		r, _, err := vitals.DecodeReading(record, names.intern)
		if err != nil {
			return fmt.Errorf("%w: %w", errForeign, err)
		}
		r.Patient = id
		rs = append(rs, r)
		return nil
	})
	return rs, err
}

// errForeign: the bucket should be ours alone.
var errForeign = errors.New("influxdb holds a point that is not of this server's release: use a bucket of its own, and the newest release")

func measurement(i vitals.Indicator) string {
	if i == 0 {
		return ""
	}
	return `r._measurement == "` + i.String() + `" and `
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// quote makes a Flux string literal.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `${`, `\${`, "\n", `\n`).Replace(s) + `"`
}

// names shares the strings of one answer: few devices.
type names struct{ last string }

func (n *names) intern(b []byte) string {
	switch {
	case len(b) == 0:
		return "" // the patient
	case string(b) != n.last:
		n.last = string(b)
	}
	return n.last
}

// query asks and calls row with the only value of each row. It parses InfluxDB's CSV itself, as it comes: the client's
// parser makes a map of every row.
func (s *Store) query(ctx context.Context, flux string, row func(value []byte) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.QueryTimeout, errTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]any{"query": flux, "type": "flux",
		"dialect": map[string]any{"header": true, "delimiter": ",", "annotations": []string{}}})
	if err != nil {
		return err
	}
	var bad error
	err = asError(s.client.HTTPService().DoPostRequest(ctx, s.api+"query?"+url.Values{"org": {s.o.Org}}.Encode(), bytes.NewReader(body), func(req *http.Request) {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "text/csv")
	}, func(resp *http.Response) error {
		defer resp.Body.Close()
		bad = parseRows(resp.Body, row)
		return nil
	}))
	switch {
	case err != nil:
		_, e, _ := classify(err)
		if e == nil { // what it says of writing does not concern a question
			e = &Error{}
		}
		switch e.Status {
		case http.StatusBadRequest:
			e.text = "400: it does not understand the question: is Flux enabled there ([http] flux-enabled = true with 1.8)?"
		case http.StatusForbidden:
			e.text = "403: it gives no readings back: the token must be allowed to read the bucket, and 1.8 wants [http] flux-enabled = true"
		}
		return e
	case bad != nil && context.Cause(ctx) == errTimeout:
		return &Error{text: errTimeout.Error(), err: bad}
	}
	return bad
}

// asError keeps a nil of the client's own error type from becoming an error.
func asError[E interface {
	*T
	error
}, T any](err E) error {
	if err == nil {
		return nil
	}
	return err
}

// maxRow bounds one row of an answer: the largest reading is a payload of 64 KiB in base 64.
const maxRow = 1 << 20

// parseRows reads tables whose last column is _value: a header, then rows, then an empty line. No value of ours holds
// a comma, a quote or a line end.
func parseRows(r io.Reader, row func(value []byte) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 64<<10), maxRow)
	header, failed := true, false
	for sc.Scan() {
		line := bytes.TrimSuffix(sc.Bytes(), []byte("\r"))
		if len(line) == 0 {
			header = true
			continue
		}
		if header {
			header = false
			failed = bytes.HasPrefix(line, []byte(",error,")) || bytes.HasPrefix(line, []byte("error,"))
			if !failed && !bytes.HasSuffix(line, []byte(",_value")) && !bytes.HasPrefix(line, []byte(",result,table")) {
				return errAnswer
			}
			continue
		}
		if failed {
			return errors.New("influxdb: the question ended in an error: look at its log")
		}
		if err := row(line[bytes.LastIndexByte(line, ',')+1:]); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("influxdb: its answer broke off: %w", err)
	}
	return nil
}

var errAnswer = errors.New("influxdb: its answer is not a table: see that storage.influxdb.url is an InfluxDB")
