package vitals

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// AppendJSON appends r as the API, the feed and `decode` show it (contract section 4): times in UTC, values by the
// names of their components, context and flags always there even when empty. An id needs a patient, a receive time
// a server: what r does not have is left out.
func AppendJSON(dst []byte, r *Reading) []byte {
	dst = append(dst, '{')
	if r.Patient != "" {
		dst = append(dst, `"id":"`...)
		dst = r.AppendID(dst)
		dst = append(dst, `",`...)
	}
	if r.Device != "" {
		dst = append(dst, `"device_id":`...)
		dst = appendQuoted(dst, string(r.Device))
		dst = append(dst, ',')
	}
	dst = append(dst, `"indicator":"`...)
	dst = append(dst, r.Indicator.String()...)
	dst = append(dst, `","taken_at":"`...)
	dst = AppendTime(dst, r.TakenAt)
	if r.ReceivedAt != 0 {
		dst = append(dst, `","received_at":"`...)
		dst = AppendTime(dst, r.ReceivedAt)
	}
	dst = append(dst, `","values":{`...)
	first := true
	for i, c := range r.Indicator.Components() {
		if r.Has&(1<<i) == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, c.String()...)
		dst = append(dst, `":`...)
		dst = AppendNumber(dst, r.V[i])
	}
	dst = append(dst, `},"unit":"`...)
	dst = append(dst, r.Unit.String()...) // UCUM codes need no escapes
	dst = append(dst, `","context":`...)
	dst = appendContext(dst, r)
	dst = append(dst, `,"flags":[`...)
	dst = appendFlags(dst, r)
	dst = append(dst, `],"freshness":"`...)
	dst = append(dst, r.Freshness.String()...)
	dst = append(dst, `","quality":"`...)
	dst = append(dst, r.Quality.String()...)
	dst = append(dst, '"')
	if r.Extra != nil && r.Extra.DeviceReadingID != "" {
		dst = append(dst, `,"device_reading_id":`...)
		dst = appendQuoted(dst, r.Extra.DeviceReadingID)
	}
	if r.Extra != nil && r.Extra.Revision != "" {
		dst = append(dst, `,"revision":`...)
		dst = append(dst, r.Extra.Revision...)
	}
	if r.Extra != nil && r.Extra.Clock != "" {
		dst = append(dst, `,"clock":`...)
		dst = append(dst, r.Extra.Clock...)
	}
	if r.Failed() {
		dst = append(dst, `,"error":`...)
		dst = AppendFault(dst, r.Extra.Fault)
	}
	if r.DeviceSeq >= 0 {
		dst = append(dst, `,"seq":`...)
		dst = strconv.AppendInt(dst, r.DeviceSeq, 10)
	}
	if r.UserSlot != 0 {
		dst = append(dst, `,"user_slot":`...)
		dst = strconv.AppendUint(dst, uint64(r.UserSlot), 10)
	}
	return append(dst, '}')
}

// AppendFault appends f as {"class":…,"code":…}, without code where the device named none.
func AppendFault(dst []byte, f DeviceFault) []byte {
	dst = append(dst, `{"class":`...)
	dst = appendQuoted(dst, f.Class)
	if f.Code != "" {
		dst = append(dst, `,"code":`...)
		dst = appendQuoted(dst, f.Code)
	}
	return append(dst, '}')
}

// AppendTime appends m as RFC 3339 in UTC with milliseconds, and with microseconds where m has them.
func AppendTime(dst []byte, m Micros) []byte {
	if m < year1 || m >= year10000 {
		layout := "2006-01-02T15:04:05.000Z"
		if m%Millisecond != 0 {
			layout = "2006-01-02T15:04:05.000000Z"
		}
		return time.UnixMicro(int64(m)).UTC().AppendFormat(dst, layout)
	}
	// Counted from March 1 of the year 0, so that a leap day is the last of its year: Howard Hinnant's civil_from_days.
	t := uint64(m - march1)
	days, rest := t/uint64(Day), t%uint64(Day)
	era, doe := days/146097, days%146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	year, month, day := era*400+yoe, mp+3, doy-(153*mp+2)/5+1
	if month > 12 {
		year, month = year+1, month-12
	}
	dst = append(dst, digits[year/100*2:][:2]...)
	dst = append(dst, digits[year%100*2:][:2]...)
	dst = append(dst, '-', digits[month*2], digits[month*2+1], '-', digits[day*2], digits[day*2+1], 'T')
	s, micro := rest/uint64(Second), rest%uint64(Second)
	h, min, s := s/3600, s/60%60, s%60
	dst = append(dst, digits[h*2], digits[h*2+1], ':', digits[min*2], digits[min*2+1], ':', digits[s*2], digits[s*2+1], '.')
	ms, us := micro/1000, micro%1000
	dst = append(dst, byte('0'+ms/100), digits[ms%100*2], digits[ms%100*2+1])
	if us != 0 {
		dst = append(dst, byte('0'+us/100), digits[us%100*2], digits[us%100*2+1])
	}
	return append(dst, 'Z')
}

// The first instants of the years 1 and 10000, and of March 1 of the year 0, in the proleptic Gregorian calendar.
const (
	year1     = -62135596800 * Second
	year10000 = 253402300800 * Second
	march1    = -62162035200 * Second
)

// digits has "000102…99".
const digits = "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849" +
	"5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899"

// AppendNumber appends the shortest decimal that gives v again, as JSON; null for NaN and the infinities, which JSON
// cannot say.
func AppendNumber(dst []byte, v float64) []byte {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return append(dst, "null"...)
	case a != 0 && (a < 1e-6 || a >= 1e21): // as ECMAScript writes numbers
		return strconv.AppendFloat(dst, v, 'e', -1, 64)
	case a < 1e9 && (a != 0 || !math.Signbit(v)):
		// Devices send up to three decimals. Two numbers of at most 15 digits are never one float64, so one that gives
		// the same bits is the shortest.
		scale := 1.0
		for places := range 4 {
			if m := math.Round(v * scale); math.Float64bits(m/scale) == math.Float64bits(v) {
				return appendDecimal(dst, int64(m), places)
			}
			scale *= 10
		}
	}
	return strconv.AppendFloat(dst, v, 'f', -1, 64)
}

// appendDecimal appends m/10^places.
func appendDecimal(dst []byte, m int64, places int) []byte {
	if m < 0 {
		dst, m = append(dst, '-'), -m
	}
	if places == 0 {
		return strconv.AppendInt(dst, m, 10)
	}
	ten := [...]int64{1, 10, 100, 1000}[places]
	dst = append(strconv.AppendInt(dst, m/ten, 10), '.')
	for m %= ten; ten > 1; m %= ten {
		ten /= 10
		dst = append(dst, byte('0'+m/ten))
	}
	return dst
}

// appendContext appends the context as it was sent. Formats that say meal and activity in their own way have no such
// object; their words are given in ours.
func appendContext(dst []byte, r *Reading) []byte {
	if r.Extra != nil && r.Extra.Context != "" {
		return append(dst, r.Extra.Context...)
	}
	dst = append(dst, '{')
	if r.Meal != MealUnknown {
		dst = append(dst, `"meal":"`...)
		dst = append(dst, r.Meal.String()...)
		dst = append(dst, '"')
	}
	if r.Activity != ActivityUnknown {
		if r.Meal != MealUnknown {
			dst = append(dst, ',')
		}
		dst = append(dst, `"activity":"`...)
		dst = append(dst, r.Activity.String()...)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

func appendFlags(dst []byte, r *Reading) []byte {
	first := true
	for i, n := range flagNames {
		if r.Flags&(1<<i) == 0 {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, '"')
		dst = append(dst, n...)
		dst = append(dst, '"')
	}
	if r.Extra == nil || r.Extra.OtherFlags == "" {
		return dst
	}
	for f := range strings.SplitSeq(r.Extra.OtherFlags, ",") {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendQuoted(dst, f)
	}
	return dst
}

const hexDigits = "0123456789abcdef"

// appendQuoted appends s as a JSON string. Invalid UTF-8 becomes U+FFFD; U+2028 and U+2029 and the characters that
// HTML minds are escaped so that the text may stand in a page.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', byte(c))
		case c < ' ' || c == '<' || c == '>' || c == '&' || c == 0x7f || c == 0x2028 || c == 0x2029:
			dst = append(dst, '\\', 'u', hexDigits[c>>12&15], hexDigits[c>>8&15], hexDigits[c>>4&15], hexDigits[c&15])
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return append(dst, '"')
}
