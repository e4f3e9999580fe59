package web

import (
	"context"
	"database/sql"
	"encoding/csv"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"vitalwatch/storage/sqlite"
	"vitalwatch/vitals"
)

// Record notes an act that did not come over HTTP in the record of access.
func Record(ctx context.Context, db *sqlite.DB, actor, action, patient, subject string) error {
	err := db.Write(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO web_audit (at, actor, role, action, patient, subject, remote) VALUES (?, ?, 'operator', ?, ?, ?, '')`,
			int64(vitals.At(time.Now())), actor, action, patient, subject)
		return err
	})
	if err != nil {
		return fmt.Errorf("record access: %w", err)
	}
	return nil
}

// Export writes readings one by one as they come and returns how many: "jsonl", a line each as in the API, or "csv", a
// line per value with a header.
func Export(w io.Writer, format string, rs iter.Seq2[vitals.Reading, error]) (n int, err error) {
	write := exportJSON(w)
	if format == "csv" {
		if write, err = exportCSV(w); err != nil {
			return 0, err
		}
	}
	for r, err := range rs {
		if err != nil {
			return n, err
		}
		if err := write(&r); err != nil {
			return n, fmt.Errorf("write: %w", err)
		}
		n++
	}
	return n, nil
}

func exportJSON(w io.Writer) func(*vitals.Reading) error {
	var line []byte
	return func(r *vitals.Reading) error {
		line = append(vitals.AppendJSON(line[:0], r), '\n')
		_, err := w.Write(line)
		return err
	}
}

// csvHeader names the columns; a reading of several components takes a row for each.
var csvHeader = []string{"id", "device_id", "indicator", "taken_at", "received_at", "component", "value", "unit", "freshness", "quality", "flags", "meal", "activity", "context"}

func exportCSV(w io.Writer) (func(*vitals.Reading) error, error) {
	c := csv.NewWriter(w)
	if err := c.Write(csvHeader); err != nil {
		return nil, err
	}
	c.Flush()
	row := make([]string, len(csvHeader))
	return func(r *vitals.Reading) error {
		context, flags := "", strings.Join(r.Flags.Names(), " ")
		if r.Extra != nil {
			context = r.Extra.Context
			if r.Extra.OtherFlags != "" {
				flags = strings.TrimSpace(flags + " " + strings.ReplaceAll(r.Extra.OtherFlags, ",", " "))
			}
		}
		for _, part := range r.Indicator.Components() {
			v, ok := r.Value(part)
			if !ok {
				continue
			}
			unit := r.Unit.String()
			if !part.InReadingUnit() {
				unit = vitals.PerMin.String()
			}
			row = append(row[:0], r.ID(), noFormula(string(r.Device)), r.Indicator.String(), stamp(r.TakenAt), stamp(r.ReceivedAt), part.String(),
				strconv.FormatFloat(v, 'f', -1, 64), unit, r.Freshness.String(), r.Quality.String(), noFormula(flags), r.Meal.String(), r.Activity.String(), noFormula(context))
			if err := c.Write(row); err != nil {
				return err
			}
		}
		c.Flush()
		return c.Error()
	}, nil
}

// noFormula keeps a spreadsheet from taking foreign text for a formula (OWASP, CSV injection).
func noFormula(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r\n", rune(s[0])) {
		return "'" + s
	}
	return s
}
