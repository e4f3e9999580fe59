package influx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	influxhttp "github.com/influxdata/influxdb-client-go/v2/api/http"

	"vitalwatch/vitals"
)

// DeletePatient implements storage.Readings.
func (s *Store) DeletePatient(ctx context.Context, id vitals.PatientID) error {
	err := s.delete(ctx, `patient=`+strconv.Quote(string(id)), lastMilli+1, `DROP SERIES WHERE "patient" = '`+escape1(string(id))+`'`)
	if err != nil {
		return fmt.Errorf("delete patient's readings: %w", err)
	}
	return nil
}

// DeleteBefore removes the readings of an indicator that were taken before t: what is past its retention.
func (s *Store) DeleteBefore(ctx context.Context, ind vitals.Indicator, t vitals.Micros) error {
	stop := milli(t)
	err := s.delete(ctx, `_measurement=`+strconv.Quote(ind.String()), stop, fmt.Sprintf(`DELETE FROM "%s" WHERE time < %d`, ind, stop*perMilli))
	if err != nil {
		return fmt.Errorf("delete old readings: %w", err)
	}
	return nil
}

// deletePoint removes the point of one reading.
func (s *Store) deletePoint(ctx context.Context, r *vitals.Reading) error {
	tags := [][2]string{{"patient", string(r.Patient)}, {"device", string(r.Device)}, {"quality", r.Quality.String()}, {"freshness", r.Freshness.String()}, {"unit", r.Unit.String()}}
	v2, v1 := `_measurement=`+strconv.Quote(r.Indicator.String()), fmt.Sprintf(`DELETE FROM "%s" WHERE time = %d`, r.Indicator, pointTime(r))
	for _, t := range tags {
		if t[1] != "" {
			v2 += " AND " + t[0] + "=" + strconv.Quote(t[1])
			v1 += ` AND "` + t[0] + `" = '` + escape1(t[1]) + `'`
		}
	}
	at := time.Unix(0, pointTime(r)).UTC().Format(time.RFC3339Nano)
	if err := s.deleteSpan(ctx, v2, at, at, v1); err != nil {
		return fmt.Errorf("delete a revised reading: %w", err)
	}
	return nil
}

// delete removes what predicate says from the beginning of time to stop (milliseconds).
func (s *Store) delete(ctx context.Context, predicate string, stop int64, influxQL string) error {
	return s.deleteSpan(ctx, predicate, stamp(firstMilli), stamp(stop), influxQL)
}

// deleteSpan removes what predicate says between two times. InfluxDB 1.8 has no /api/v2/delete: there the InfluxQL
// statement does it.
func (s *Store) deleteSpan(ctx context.Context, predicate, start, stop, influxQL string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.QueryTimeout, errTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]string{"start": start, "stop": stop, "predicate": predicate})
	if err != nil {
		return err
	}
	err = s.ask(ctx, s.api+"delete?"+url.Values{"org": {s.o.Org}, "bucket": {s.o.Bucket}}.Encode(), "application/json", body)
	var answer *influxhttp.Error
	if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound && answer.Header.Get("X-Influxdb-Version") != "" && answer.Header.Get("X-Influxdb-Version")[0] != 'v' {
		err = s.ask(ctx, s.client.HTTPService().ServerURL()+"query?"+url.Values{"db": {s.o.Bucket}, "q": {influxQL}}.Encode(), "application/x-www-form-urlencoded", nil)
	}
	if err == nil {
		return nil
	}
	if context.Cause(ctx) == errTimeout {
		err = errTimeout
	}
	v, e, _ := classify(err)
	if v == bisect {
		e.text = strconv.Itoa(e.Status) + ": it does not delete"
	}
	return e
}

func (s *Store) ask(ctx context.Context, address, kind string, body []byte) error {
	return asError(s.client.HTTPService().DoPostRequest(ctx, address, bytes.NewReader(body), func(req *http.Request) {
		req.Header.Set("Content-Type", kind)
	}, func(resp *http.Response) error { return failedStatement(resp) }))
}

// failedStatement finds the error that 1.8 answers with status 200.
func failedStatement(resp *http.Response) error {
	defer resp.Body.Close()
	var answer struct {
		Results []struct {
			Error string `json:"error"`
		} `json:"results"`
	}
	if resp.StatusCode == http.StatusNoContent || json.NewDecoder(resp.Body).Decode(&answer) != nil {
		return nil // 2.x has nothing to say
	}
	for _, r := range answer.Results {
		if r.Error != "" {
			return errors.New("the statement failed: look at its log")
		}
	}
	return nil
}

// escape1 escapes for an InfluxQL string.
func escape1(s string) string {
	var out []byte
	for i := range len(s) {
		if s[i] == '\'' || s[i] == '\\' {
			out = append(out, '\\')
		}
		out = append(out, s[i])
	}
	return string(out)
}
