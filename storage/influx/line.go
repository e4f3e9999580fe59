package influx

import (
	"encoding/base64"
	"errors"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"vitalwatch/vitals"
)

// recordField holds the whole reading, see docs/influxdb.md: one field to read a reading back as it was.
const recordField = "r"

// A point's time is the millisecond of TakenAt, and below it the reading's sequence: two readings of one device and
// instant have points of their own unless exactly a multiple of a million readings was accepted between them, and
// writing a reading again writes the same point. The exact TakenAt is in the record.
const perMilli = 1_000_000 // ns

// InfluxDB's times end in 1677 and 2262; a device may say any year. What is beyond these stands at them.
var (
	firstMilli = time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	lastMilli  = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
)

// milli is the millisecond at which a reading taken at t stands.
func milli(t vitals.Micros) int64 {
	ms := int64(t / vitals.Millisecond)
	if t%vitals.Millisecond < 0 {
		ms--
	}
	return min(max(ms, firstMilli), lastMilli)
}

// pointTime is where the point of r stands, in ns.
func pointTime(r *vitals.Reading) int64 { return milli(r.TakenAt)*perMilli + int64(r.Seq%perMilli) }

// errNotANumber: InfluxDB has no NaN and no infinity.
var errNotANumber = errors.New("a value is not a finite number")

var tagEscaper = strings.NewReplacer(" ", `\ `, ",", `\,`, "=", `\=`)

// unitTags has ",unit=…" for each unit.
var unitTags = func() (tags [256]string) {
	for u := range tags {
		if code := vitals.Unit(u).String(); code != "" {
			tags[u] = ",unit=" + tagEscaper.Replace(code)
		}
	}
	return tags
}()

// encoder makes lines of readings. One goroutine uses it at a time.
type encoder struct{ record []byte }

// appendLine appends r as a line of InfluxDB's line protocol, with its line end. Tags are sorted, as InfluxDB likes it.
func (e *encoder) appendLine(dst []byte, r *vitals.Reading) ([]byte, error) {
	for has := r.Has; has != 0; has &= has - 1 {
		if v := r.V[bits.TrailingZeros8(has)]; math.IsNaN(v) || math.IsInf(v, 0) {
			return dst, errNotANumber
		}
	}
	dst = append(dst, r.Indicator.String()...)
	dst = appendTag(dst, ",device=", string(r.Device))
	dst = append(dst, ",freshness="...)
	dst = append(dst, r.Freshness.String()...)
	dst = appendTag(dst, ",patient=", string(r.Patient))
	dst = append(dst, ",quality="...)
	dst = append(dst, r.Quality.String()...)
	dst = append(dst, unitTags[r.Unit]...)
	sep := byte(' ')
	components := r.Indicator.Components()
	for has := r.Has; has != 0; has &= has - 1 {
		i := bits.TrailingZeros8(has)
		dst = append(dst, sep)
		dst = append(dst, components[i].String()...)
		dst = append(dst, '=')
		dst = strconv.AppendFloat(dst, r.V[i], 'g', -1, 64)
		sep = ','
	}
	if r.Flags != 0 {
		dst = append(dst, sep)
		dst = append(dst, `flags="`...)
		dst = append(dst, strings.Join(r.Flags.Names(), ",")...)
		dst = append(dst, '"')
		sep = ','
	}
	dst = append(dst, sep)
	dst = append(dst, recordField...)
	dst = append(dst, `="`...)
	bare := *r
	bare.Patient = "" // it is in the tag, and whoever reads has asked for it
	e.record = vitals.AppendReading(e.record[:0], &bare)
	dst = base64.RawURLEncoding.AppendEncode(dst, e.record)
	dst = append(dst, `" `...)
	dst = strconv.AppendInt(dst, pointTime(r), 10)
	return append(dst, '\n'), nil
}

// appendTag escapes what an id may not hold anyway.
func appendTag(dst []byte, key, v string) []byte {
	if v == "" {
		return dst // an empty tag is no tag
	}
	dst = append(dst, key...)
	if vitals.ValidID(v) {
		return append(dst, v...)
	}
	return append(dst, tagEscaper.Replace(strings.Map(printable, v))...)
}

func printable(r rune) rune {
	if r < ' ' || r == '\\' {
		return '_'
	}
	return r
}
