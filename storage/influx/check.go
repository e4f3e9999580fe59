package influx

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// checkTimeout bounds each of the two questions of Check; an InfluxDB under load may be slow to answer.
const checkTimeout = 15 * time.Second

// Check asks InfluxDB whether it would take readings and give them back, and changes nothing there: a write of no lines,
// which is refused when the server is away, the token wrong or the bucket missing, and a question that finds nothing.
func (s *Store) Check(ctx context.Context) error {
	if err := s.checkWrite(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errTimeout)
	defer cancel()
	q := fmt.Sprintf("from(bucket: %s) |> range(start: %s, stop: %s) |> filter(fn: (r) => r._field == %q) |> limit(n: 1) |> keep(columns: [\"_value\"])",
		quote(s.o.Bucket), stamp(firstMilli-2), stamp(firstMilli-1), recordField)
	err := s.query(ctx, q, func([]byte) error { return nil })
	var e *Error
	if errors.As(err, &e) && e.Held && e.Status != http.StatusForbidden { // the write has found the bucket, so it is not missing
		e.text = fmt.Sprintf("%d: it takes readings and gives none back: the token must be allowed to read the bucket", e.Status)
	}
	return err
}

func (s *Store) checkWrite(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errTimeout)
	defer cancel()
	err := s.ask(ctx, s.api+"write?"+url.Values{"org": {s.o.Org}, "bucket": {s.o.Bucket}, "precision": {"ns"}}.Encode(), "text/plain; charset=utf-8", nil)
	if err != nil && context.Cause(ctx) == errTimeout {
		err = errTimeout
	}
	switch v, e, _ := classify(err); v {
	case retry, hold:
		return e
	}
	return nil // 204 from 1.8; 400 from 2.x, which wants lines once it has found token and bucket in order
}
