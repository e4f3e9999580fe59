// Package trace reads a recorded trace, a CSV of times and values, and sends it to a broker as the device would have:
// as history with its own times, or live, one reading after the other stamped now. It judges no value: the server
// does, and what it refuses is counted. The digits of the file go into the message as they are.
//
// Concurrency: plain functions, no shared state.
package trace

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"vitalwatch/internal/mqttdevice"
	"vitalwatch/vitals"
)

// Row is one reading of the file.
type Row struct {
	At     time.Time
	Values []Value // in the order of the columns, at least one
}

// Value is a component and its digits as they stand in the file.
type Value struct {
	Component vitals.Component
	Text      string
}

// Read reads a trace of one indicator. The first line names the columns, in any case and order: one of time,
// taken_at, timestamp, datetime or date_time, and value, the indicator's name, gl (glucose), or the names of
// components; other columns are skipped, and so are rows whose values are all empty, NA or NaN, which skipped counts.
//
// Times are RFC 3339, or local "2006-01-02 15:04:05" (also with T, without seconds or with a fraction) of zone, which
// must then not be nil. A local time that the zone skips in spring is read as if the clock had not been moved (02:30
// becomes 03:30 summer time). One that comes twice in autumn is the first, or the second where the rows of the file
// would otherwise go against its direction of time.
func Read(r io.Reader, ind vitals.Indicator, zone *time.Location) (rows []Row, skipped int, err error) {
	c := csv.NewReader(r)
	c.FieldsPerRecord = -1
	c.ReuseRecord = true
	c.LazyQuotes = true
	header, err := c.Read()
	if errors.Is(err, io.EOF) {
		return nil, 0, errors.New("the file is empty")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the header: %w", err)
	}
	cols, err := columns(header, ind)
	if err != nil {
		return nil, 0, err
	}
	var local []localTime
	for {
		rec, err := c.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("read the file: %w", err)
		}
		line, _ := c.FieldPos(0)
		row, t, err := cols.row(rec, zone)
		if err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", line, err)
		}
		if row.Values == nil {
			skipped++
			continue
		}
		rows, local = append(rows, row), append(local, t)
	}
	place(rows, local, zone)
	return rows, skipped, nil
}

type columnSet struct {
	time   int
	values []column
}

type column struct {
	at int
	c  vitals.Component
}

func columns(header []string, ind vitals.Indicator) (columnSet, error) {
	cs := columnSet{time: -1}
	seen := map[vitals.Component]bool{}
	for i, name := range header {
		name = strings.ToLower(strings.Trim(strings.TrimPrefix(name, "\ufeff"), " \t\""))
		switch name {
		case "time", "taken_at", "timestamp", "datetime", "date_time":
			if cs.time >= 0 {
				return cs, errors.New("two columns are named as the time; leave one")
			}
			cs.time = i
			continue
		}
		c, ok := vitals.ParseComponent(name)
		if !ok && (name == ind.String() || name == "gl" && ind == vitals.Glucose) {
			c, ok = vitals.Value, true
		}
		if ok && c == vitals.Value && ind.Index(c) < 0 && ind.Required() == 1 {
			c = ind.Components()[0] // sleep's total
		}
		if !ok || ind.Index(c) < 0 {
			continue
		}
		if seen[c] {
			return cs, fmt.Errorf("two columns are named as %s; leave one", c)
		}
		seen[c] = true
		cs.values = append(cs.values, column{i, c})
	}
	switch {
	case cs.time < 0:
		return cs, errors.New("no column is named time; the first line must name the columns, such as: time,value")
	case len(cs.values) == 0:
		return cs, fmt.Errorf("no column is named as a value of %s; name it value or as its components", ind)
	}
	return cs, nil
}

// localTime is a wall-clock time without zone, counted as if it were UTC; zero when the row has its own offset.
type localTime struct{ wall time.Time }

var localLayouts = []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006/01/02 15:04:05", "2006/01/02 15:04"}

func (cs *columnSet) row(rec []string, zone *time.Location) (row Row, t localTime, err error) {
	if cs.time >= len(rec) {
		return row, t, errors.New("the row has no time")
	}
	for _, col := range cs.values {
		if col.at >= len(rec) {
			continue
		}
		text := strings.TrimSpace(rec[col.at])
		switch strings.ToLower(text) {
		case "", "na", "nan", "null":
			continue
		}
		if !isNumber(text) {
			return row, t, fmt.Errorf("%s is not a number as JSON writes it; correct or empty the field", col.c)
		}
		row.Values = append(row.Values, Value{col.c, strings.Clone(text)})
	}
	text := strings.TrimSpace(rec[cs.time])
	if row.At, err = time.Parse(time.RFC3339Nano, text); err == nil {
		return row, t, nil
	}
	for _, layout := range localLayouts {
		if t.wall, err = time.Parse(layout, text); err == nil {
			if zone == nil {
				return row, t, errors.New("the time has no offset; say with --tz in which zone the trace was recorded")
			}
			return row, t, nil
		}
	}
	return row, t, errors.New("the time is neither RFC 3339 nor YYYY-MM-DD HH:MM:SS")
}

func isNumber(s string) bool {
	return json.Valid([]byte(s)) && (s[0] == '-' || s[0] >= '0' && s[0] <= '9')
}

// place gives the rows with wall-clock times their instants.
func place(rows []Row, local []localTime, zone *time.Location) {
	back := false // newest first
	for i := 1; i < len(local); i++ {
		if a, b := local[i-1].wall, local[i].wall; !a.IsZero() && !b.IsZero() && !a.Equal(b) {
			back = wallOf(local[0], rows[0]).After(wallOf(local[len(local)-1], rows[len(rows)-1]))
			break
		}
	}
	for i := range rows {
		if local[i].wall.IsZero() {
			continue
		}
		first, second := instants(local[i].wall, zone)
		if back {
			first, second = second, first
		}
		rows[i].At = first
		if i > 0 && !first.Equal(second) {
			prev := rows[i-1].At
			if !back && !first.After(prev) && second.After(prev) || back && !first.Before(prev) && second.Before(prev) {
				rows[i].At = second
			}
		}
	}
}

func wallOf(l localTime, r Row) time.Time {
	if l.wall.IsZero() {
		return r.At
	}
	return l.wall
}

// instants returns the instants at which clocks of zone show wall, the same twice when there is one. Where there is
// none, it is the instant by the offset that held before the change.
func instants(wall time.Time, zone *time.Location) (first, second time.Time) {
	// The offsets a day before and after are those on both sides of a change.
	_, before := wall.Add(-24 * time.Hour).In(zone).Zone()
	_, after := wall.Add(24 * time.Hour).In(zone).Zone()
	a := wall.Add(-time.Duration(before) * time.Second).In(zone)
	b := wall.Add(-time.Duration(after) * time.Second).In(zone)
	shows := func(t time.Time) bool {
		_, off := t.Zone()
		return t.Add(time.Duration(off) * time.Second).UTC().Equal(wall)
	}
	switch okA, okB := shows(a), shows(b); {
	case okA && okB && b.Before(a):
		return b, a
	case okA && okB:
		return a, b
	case okB:
		return b, b
	}
	return a, a
}

// AppendReading appends the row as the payload of contract section 3.
func AppendReading(dst []byte, row Row, ind vitals.Indicator, unit string) []byte {
	dst = append(dst, `{"indicator":"`...)
	dst = append(dst, ind.String()...)
	dst = append(dst, `","taken_at":"`...)
	dst = row.At.AppendFormat(dst, time.RFC3339Nano)
	if len(row.Values) == 1 && row.Values[0].Component == vitals.Value {
		dst = append(dst, `","value":`...)
		dst = append(dst, row.Values[0].Text...)
	} else {
		dst = append(dst, `","values":{`...)
		for i, v := range row.Values {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, '"')
			dst = append(dst, v.Component.String()...)
			dst = append(dst, `":`...)
			dst = append(dst, v.Text...)
		}
		dst = append(dst, '}')
	}
	dst = append(dst, `,"unit":`...)
	u, _ := json.Marshal(unit) // a string always marshals
	dst = append(dst, u...)
	return append(dst, '}')
}

// maxMessage keeps messages below the server's 64 KiB.
const maxMessage = 60 << 10

// Messages lays rows into array messages of up to batch readings; counts says how many are in each.
func Messages(rows []Row, ind vitals.Indicator, unit string, batch int) (msgs [][]byte, counts []int) {
	var m []byte
	n := 0
	flush := func() {
		if n > 0 {
			msgs, counts = append(msgs, append(m, ']')), append(counts, n)
		}
		m, n = nil, 0
	}
	for _, row := range rows {
		one := AppendReading(nil, row, ind, unit)
		if n == batch || n > 0 && len(m)+len(one) > maxMessage {
			flush()
		}
		if n == 0 {
			m = append(m, '[')
		} else {
			m = append(m, ',')
		}
		m = append(m, one...)
		n++
	}
	flush()
	return msgs, counts
}

// Config says how to publish.
type Config struct {
	Device    mqttdevice.Config // OnError is taken
	Indicator vitals.Indicator
	Unit      string
	Batch     int // readings per message, 1 to 500; 0 means 100
	// Live sends one reading every Interval, stamped Now, in the order of the file.
	Live     bool
	Interval time.Duration
	Now      func() time.Time // nil: time.Now
	// Linger is how long to listen for refusals after the last PUBACK.
	Linger time.Duration
}

// Summary counts readings; Refusals counts what came on down/errors, by problem code.
type Summary struct {
	Sent, Acknowledged int
	Refused            int
	Refusals           map[string]int
}

// String is the summary line of the command.
func (s *Summary) String() string {
	out := fmt.Sprintf("sent %d, acknowledged %d, errors heard %d", s.Sent, s.Acknowledged, s.Refused)
	if len(s.Refusals) > 0 {
		b, _ := json.Marshal(s.Refusals) // sorted by key
		out += " " + string(b)
	}
	return out
}

// Publish sends rows and returns when every one is acknowledged, the context ends or the broker refuses us. The
// summary is right in any case.
func Publish(ctx context.Context, cfg Config, rows []Row) (Summary, error) {
	if cfg.Batch == 0 {
		cfg.Batch = 100
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := Summary{Sent: len(rows)}
	var mu sync.Mutex
	refusals := map[string]int{}
	heard := 0
	cfg.Device.OnError = func(r mqttdevice.Refusal) {
		mu.Lock()
		defer mu.Unlock()
		heard++
		if len(refusals) < 50 || refusals[r.Problem] > 0 {
			refusals[r.Problem]++
		}
	}
	d := mqttdevice.New(cfg.Device)
	var err error
	if cfg.Live {
		err = live(ctx, cfg, d, rows, &s)
	} else {
		msgs, counts := Messages(rows, cfg.Indicator, cfg.Unit, cfg.Batch)
		err = d.Send(ctx, msgs, func(i int) { s.Acknowledged += counts[i] })
	}
	if !d.Reached() {
		s.Sent = 0
	}
	if err == nil && cfg.Linger > 0 && ctx.Err() == nil {
		t := time.NewTimer(cfg.Linger)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
	d.Close()
	mu.Lock()
	defer mu.Unlock()
	s.Refused, s.Refusals = heard, refusals
	return s, err
}

func live(ctx context.Context, cfg Config, d *mqttdevice.Device, rows []Row, s *Summary) error {
	tick := time.NewTicker(cfg.Interval)
	defer tick.Stop()
	s.Sent = 0
	for i, row := range rows {
		if i > 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		row.At = cfg.Now().Truncate(time.Millisecond)
		s.Sent++
		if err := d.Send(ctx, [][]byte{AppendReading(nil, row, cfg.Indicator, cfg.Unit)}, func(int) { s.Acknowledged++ }); err != nil {
			return err
		}
	}
	return nil
}
