package influx

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"

	"vitalwatch/storage"
	"vitalwatch/vitals"
)

// verdict is what an answer of InfluxDB to a write means.
type verdict string

const (
	stored  verdict = "stored"
	retry   verdict = "retry"   // nothing wrong with the lines: again, soon
	hold    verdict = "hold"    // an operator must act: again, seldom
	halve   verdict = "halve"   // too much at once
	bisect  verdict = "bisect"  // at least one line is refused; the others may be stored
	expired verdict = "expired" // older than the bucket keeps: as good as stored
)

// Error says why InfluxDB did not take readings or answer a question, with what to do next. It holds nothing of what
// the server wrote: its messages quote lines, and those are health data.
type Error struct {
	Status     int           // of HTTP, 0: no answer
	RetryAfter time.Duration // what the server asked for, 0: nothing
	Held       bool          // waiting does not mend it
	text       string
	err        error
}

func (e *Error) Error() string { return "influxdb: " + e.text }

func (e *Error) Unwrap() error { return e.err }

// Is makes every failure to get an answer a storage.ErrUnreachable.
func (e *Error) Is(target error) bool { return target == storage.ErrUnreachable }

// classify is the table of what each answer means; dropped is the number of lines that were too old for the bucket.
func classify(err error) (v verdict, e *Error, dropped int) {
	if err == nil {
		return stored, nil, 0
	}
	e = &Error{err: err}
	var answer *influxhttp.Error
	if !errors.As(err, &answer) || answer.StatusCode == 0 {
		e.text = fmt.Sprintf("no answer: %v: see that it runs and can be reached", err)
		return retry, e, 0
	}
	e.Status, e.RetryAfter = answer.StatusCode, time.Duration(answer.RetryAfter)*time.Second
	e.err = nil // its text is the server's
	status := strconv.Itoa(e.Status)
	switch {
	case strings.Contains(answer.Message, "retention policy not found"): // 1.8 says 500
		e.text = status + ": it has no such retention policy: make it, or correct storage.influxdb.bucket"
	case e.Status == http.StatusTooManyRequests, e.Status == http.StatusRequestTimeout, e.Status >= 500:
		e.text = "it answered " + status + ": tried again by itself"
		return retry, e, 0
	case e.Status == http.StatusRequestEntityTooLarge:
		e.text = "413: a single reading is too large for it: raise its limit for request bodies"
		return halve, e, 0
	case e.Status == http.StatusBadRequest, e.Status == http.StatusUnprocessableEntity:
		if n, ok := beyondRetention(answer.Message); ok {
			return expired, nil, n
		}
		if limit, ok := full(answer.Message); ok {
			e.text = status + ": it takes no new series: " + limit + ": raise that limit in its configuration"
			break
		}
		e.text = status + ": " + refusal(answer.Message)
		return bisect, e, 0
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden:
		e.text = status + ": it refuses the token: put one that may read and write the bucket into storage.influxdb.token_file"
	case e.Status == http.StatusNotFound:
		e.text = "404: it has no such bucket or organisation: make the bucket, or correct storage.influxdb"
	default:
		e.text = "it answered " + status + ": see that storage.influxdb.url is an InfluxDB"
	}
	e.Held = true
	return hold, e, 0
}

// refusal names what is wrong with a line, without quoting it.
func refusal(message string) string {
	for _, known := range []string{"field type conflict", "unable to parse"} {
		if strings.Contains(message, known) {
			return "it refuses a line: " + known
		}
	}
	return "it refuses a line"
}

// full: InfluxDB has reached a limit of its own. There is nothing wrong with the line: every new device's would be
// refused, so that quarantining them one by one would leave whole people out of the history.
func full(message string) (limit string, ok bool) {
	for _, limit := range []string{"max-values-per-tag limit exceeded", "max-series-per-database limit exceeded"} {
		if strings.Contains(message, limit) {
			return limit, true
		}
	}
	return "", false
}

// beyondRetention: "partial write: points beyond retention policy dropped=3"; the other points are stored.
func beyondRetention(message string) (dropped int, ok bool) {
	if !strings.Contains(message, "points beyond retention policy") {
		return 0, false
	}
	_, n, _ := strings.Cut(message, "dropped=")
	dropped, err := strconv.Atoi(strings.TrimRight(n, "\"} \n"))
	return max(dropped, 1), err == nil || n == ""
}

// batch is what is sent together. Its todo shrinks as parts of it are dealt with, so that what a later failure
// interrupts goes on where it stood.
type batch struct {
	encoder
	buf   []byte
	lines []line
	todo  []segment // what is not dealt with, the next one last; set by send
	begun bool
	sound bool // InfluxDB has taken something since this batch was begun

	refused []*vitals.Reading // never made it into a line
	revised []*vitals.Reading // take the place of others
	count   int               // readings, with the refused ones
	last    uint64            // the cursor after it
	since   vitals.Micros     // receipt of the first reading
}

type line struct {
	end int // in buf; it starts where the one before ends
	r   *vitals.Reading
}

type segment struct{ from, to int } // indices of lines

func (b *batch) add(rs []vitals.Reading, last uint64) {
	for i := range rs {
		r := &rs[i]
		if b.count++; b.count == 1 {
			b.since = r.ReceivedAt
		}
		var err error
		if b.buf, err = b.appendLine(b.buf, r); err != nil {
			b.refused = append(b.refused, r)
			continue
		}
		b.lines = append(b.lines, line{len(b.buf), r})
		if r.Revised() {
			b.revised = append(b.revised, r)
		}
	}
	b.last = last
}

func (b *batch) reset() {
	clear(b.lines)
	*b = batch{encoder: b.encoder, buf: b.buf[:0], lines: b.lines[:0], todo: b.todo[:0]}
}

func (b *batch) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.lines[i-1].end
}

// text is a copy: the HTTP client may read a body on after it has answered.
func (b *batch) text(s segment) string { return string(b.buf[b.start(s.from):b.start(s.to)]) }

func (b *batch) split(s segment) {
	mid := (s.from + s.to) / 2
	b.todo = append(b.todo, segment{mid, s.to}, segment{s.from, mid})
}

// begin cuts the batch into requests of at most limit bytes; a single line may be longer.
func (b *batch) begin(limit int) {
	if b.begun {
		return
	}
	b.begun = true
	from := 0
	for i := range b.lines {
		if i > from && b.lines[i].end-b.start(from) > limit {
			b.todo = append(b.todo, segment{from, i})
			from = i
		}
	}
	if from < len(b.lines) {
		b.todo = append(b.todo, segment{from, len(b.lines)})
	}
	slices.Reverse(b.todo)
}

// send deals with everything in b: stored, or refused for good and handed to Options.Refused. On an error the rest
// waits in b for the next call.
func (s *Store) send(ctx context.Context, b *batch) error {
	b.begin(int(s.limit.Load()))
	for len(b.todo) > 0 {
		part := b.todo[len(b.todo)-1]
		v, e, dropped := classify(s.post(ctx, b.text(part)))
		s.metrics.requests.WithLabelValues(string(v)).Inc()
		s.metrics.expired.Add(float64(dropped))
		switch v {
		case retry, hold:
			return e
		}
		b.todo = b.todo[:len(b.todo)-1]
		switch {
		case v == stored, v == expired:
			b.sound = true
		case part.to-part.from > 1:
			if v == halve {
				s.limit.Store(min(s.limit.Load(), max(minRequest, int64(len(b.text(part))/2))))
			}
			b.split(part)
		case !b.sound:
			b.todo = append(b.todo, part) // once more when it is sure that the line is what is wrong
			if err := s.doubt(ctx, e); err != nil {
				return err
			}
			b.sound = true
		default:
			if err := s.refuse(ctx, b.lines[part.from].r, e.text); err != nil {
				b.todo = append(b.todo, part)
				return err
			}
		}
	}
	for len(b.refused) > 0 {
		if err := s.refuse(ctx, b.refused[0], errNotANumber.Error()); err != nil {
			return err
		}
		b.refused = b.refused[1:]
	}
	for len(b.revised) > 0 {
		if err := s.supersede(ctx, b.revised[0]); err != nil {
			return err
		}
		b.revised = b.revised[1:]
	}
	return nil
}

// supersede removes the points of r as it was before it was revised: others who look into InfluxDB must not take it for
// good any more. Reading back does not depend on it.
func (s *Store) supersede(ctx context.Context, r *vitals.Reading) error {
	at := milli(r.TakenAt)
	all, err := s.points(ctx, r.Patient, r.Indicator, at, at+1, "limit", 1_000_000)
	if err != nil {
		return err
	}
	for i := range all {
		if o := &all[i]; o.Seq < r.Seq && storage.PositionOf(o) == storage.PositionOf(r) {
			if err := s.deletePoint(ctx, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// doubt asks whether InfluxDB takes anything at all, after it has refused a line with e: a server that refuses
// everything, because of its own settings or a proxy before it, must not empty the journal into the quarantine.
func (s *Store) doubt(ctx context.Context, e *Error) error {
	switch v, other, _ := classify(s.post(ctx, probe)); v {
	case stored, expired:
		return nil
	case retry, hold:
		return other
	}
	return &Error{Status: e.Status, Held: true,
		text: strconv.Itoa(e.Status) + ": it refuses every line, also our probe: see that storage.influxdb.url, org and bucket are right"}
}

// probe is a point of no meaning that every InfluxDB takes. It is only written when a line was refused.
const probe = "vitalwatch_probe ok=1i"

// minRequest is the smallest request that 413 makes us come down to, in bytes.
const minRequest = 16 << 10

func (s *Store) refuse(ctx context.Context, r *vitals.Reading, reason string) error {
	if s.o.Refused != nil {
		if err := s.o.Refused(ctx, r, reason); err != nil {
			return fmt.Errorf("quarantine a reading that influxdb refuses: %w", err)
		}
	}
	s.metrics.refused.Inc()
	s.o.Logger.Warn().Str("reason", reason).Str("indicator", r.Indicator.String()).Msg("a reading is in quarantine: influxdb refuses it")
	return nil
}

// post makes one request.
func (s *Store) post(ctx context.Context, lines string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.WriteTimeout, errTimeout)
	defer cancel()
	err := s.writer.WriteRecord(ctx, lines)
	if err != nil && context.Cause(ctx) == errTimeout {
		return errTimeout // the client's own text names the address only
	}
	return err
}

var errTimeout = errors.New("it did not answer in time")
