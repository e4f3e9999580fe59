package vitals

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"time"

	"github.com/cespare/xxhash/v2"
)

// PatientID and DeviceID match [A-Za-z0-9_-]{1,64}; they carry no personal data.
type (
	PatientID string
	DeviceID  string
)

// MaxIDLen is the longest device or patient id in bytes.
const MaxIDLen = 64

// ValidID reports whether s may stand as a device or patient id: it becomes part of topics, keys, file names
// and log fields, so anything that could be a separator there is refused.
func ValidID(s string) bool {
	if len(s) == 0 || len(s) > MaxIDLen {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// Micros is an instant in microseconds since the Unix epoch, UTC. Zero means unknown.
type Micros int64

// Common spans in microseconds.
const (
	Millisecond Micros = 1000
	Second             = 1000 * Millisecond
	Minute             = 60 * Second
	Hour               = 60 * Minute
	Day                = 24 * Hour
)

// At converts a time to Micros, truncating below a microsecond.
func At(t time.Time) Micros { return Micros(t.UnixMicro()) }

// Time returns the instant in UTC.
func (m Micros) Time() time.Time { return time.UnixMicro(int64(m)).UTC() }

// Duration returns a span of microseconds as a time.Duration.
func (m Micros) Duration() time.Duration { return time.Duration(m) * time.Microsecond }

// Add returns m+d.
func (m Micros) Add(d time.Duration) Micros { return m + Micros(d/time.Microsecond) }

// Sub returns m-o as a duration, or the longest there is when they are further apart than that, 292 years: a device
// may say any year.
func (m Micros) Sub(o Micros) time.Duration {
	const most = Micros(math.MaxInt64 / time.Microsecond)
	return time.Duration(min(max(m-o, -most), most)) * time.Microsecond
}

// NoOffset stands in Reading.OffsetMin when the device did not say its offset from UTC.
const NoOffset int16 = math.MinInt16

// MaxComponents is the most components an indicator has.
const MaxComponents = 6

// Reading is one measurement of one indicator of one patient by one device at TakenAt. Its components stay
// together: V[i] belongs to Indicator.Components()[i] and counts only when bit i of Has is set. Values are in
// Unit as the device sent them, for ever; nothing converts in place.
type Reading struct {
	// Seq is the journal sequence, 1 for the first; 0 until journaled. Total order of acceptance.
	Seq     uint64
	Patient PatientID
	Device  DeviceID
	// TakenAt is the device's time; ReceivedAt the server's.
	TakenAt, ReceivedAt Micros
	V                   [MaxComponents]float64
	// DeviceSeq is the device's own counter, -1 when it sent none.
	DeviceSeq int64
	Extra     *Extra // nil for most readings; never changed after decoding
	Flags     Flags
	OffsetMin int16 // the device's offset from UTC in minutes, NoOffset when not said
	Indicator Indicator
	Unit      Unit
	Has       uint8
	Freshness Freshness
	Quality   Quality
	Meal      Meal
	Activity  Activity
	UserSlot  uint8 // 0: not said; 255: the device said "unknown"
}

// Extra holds what few readings carry.
type Extra struct {
	DeviceReadingID string // the payload's "id", unique per device by contract
	Context         string // the payload's "context" object as compact JSON, "" when absent
	Aside           string // unknown fields as one compact JSON object, "" when none
	OtherFlags      string // flags that we have no bit for, joined by ","
	// Revision, a compact JSON object, says why this reading stands in the place of the same one as it was first
	// accepted: {"superseded_by":ID} or {"voided_at":TIME}. "" for a reading as it came. See Revised.
	Revision string
	// Clock, a compact JSON object, says what TakenAt was before the error of the device's clock was taken off:
	// {"device_taken_at":TIME,"offset_s":SECONDS}. "" for a time as it came.
	Clock string
	// Fault is set when the device says that the measurement failed; see Failed.
	Fault DeviceFault
}

// DeviceFault is what a device says of a measurement that failed. The zero value is none.
type DeviceFault struct {
	Class string `json:"class"`          // one of FaultClasses
	Code  string `json:"code,omitempty"` // as the device sent it, "" when it named none; see ValidFaultCode
}

// UnknownFault is the class of a code that nobody has explained.
const UnknownFault = "unknown"

// FaultClasses are the classes of what may be wrong with a device or with how it is used. Codes differ by model, so the
// code is kept and the class told.
var FaultClasses = []string{"cuff", "motion", "battery", "sensor", "sample", "strip", "temperature", "range", "clock", "memory", "signal", "hardware", UnknownFault}

// maxFaultCode is the longest code in bytes: devices show two or three characters, profiles send a number.
const maxFaultCode = 32

// ValidFaultCode reports whether s may stand as the code of a fault: it is shown and stored, and must not be a way to
// bring texts in.
func ValidFaultCode(s string) bool {
	if len(s) == 0 || len(s) > maxFaultCode {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' || c == '&' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// Failed reports whether r is no measurement but the device's word that one failed. It has no values, is Invalid, goes
// the way of the journal so that it is told once and in order, and is in no readings store.
func (r *Reading) Failed() bool { return r.Extra != nil && r.Extra.Fault != DeviceFault{} }

// Measured returns rs without what Failed. It returns rs itself when nothing did, and never changes it.
func Measured(rs []Reading) []Reading {
	for i := range rs {
		if !rs[i].Failed() {
			continue
		}
		out := append(make([]Reading, 0, len(rs)-1), rs[:i]...)
		for k := i + 1; k < len(rs); k++ {
			if !rs[k].Failed() {
				out = append(out, rs[k])
			}
		}
		return out
	}
	return rs
}

// Revised reports whether r takes the place of an accepted reading of the same device, indicator, time and values,
// because it counts no more: it is Superseded or Voided, and Invalid.
func (r *Reading) Revised() bool { return r.Extra != nil && r.Extra.Revision != "" }

// Value returns component c and whether the reading has it.
func (r *Reading) Value(c Component) (float64, bool) {
	i := r.Indicator.Index(c)
	if i < 0 || r.Has&(1<<i) == 0 {
		return 0, false
	}
	return r.V[i], true
}

// Set stores component c; it reports false when the indicator has no such component.
func (r *Reading) Set(c Component, v float64) bool {
	i := r.Indicator.Index(c)
	if i < 0 {
		return false
	}
	r.V[i], r.Has = v, r.Has|1<<i
	return true
}

// ContentHash identifies the measurement within (patient, device, indicator, taken_at): it covers the values in
// a common unit, rounded far below any device's resolution, so that the same measurement that came by two
// formats or gateways counts once, while two different ones at one time stay two.
func (r *Reading) ContentHash() uint64 { return r.hash(false) }

// MeasurementHash is ContentHash without pulse and mean pressure, which some formats of one device carry and others do
// not: no cuff and no oximeter gives the same main values twice within a second.
func (r *Reading) MeasurementHash() uint64 { return r.hash(true) }

func (r *Reading) hash(main bool) uint64 {
	if r.Failed() { // two errors of one instant stay two
		f := r.Extra.Fault
		if f.Code != "" {
			f.Class = "" // what a code means may be learnt later; it is the same error then
		}
		return xxhash.Sum64String("fault\x00" + f.Class + "\x00" + f.Code)
	}
	var b [2 + 9*MaxComponents]byte
	b[0] = byte(r.Indicator)
	n := 1
	for i := 0; i < MaxComponents; i++ {
		if r.Has&(1<<i) == 0 {
			continue
		}
		c := r.Indicator.Components()[i]
		if main && (c == Pulse || c == Mean) {
			continue
		}
		v := r.V[i]
		if c.InReadingUnit() {
			v = ToCanonical(r.Indicator, r.Unit, v)
		}
		q := uint64(int64(math.Round(v * 1000)))
		b[n] = byte(i)
		for k := 0; k < 8; k++ {
			b[n+1+k] = byte(q >> (8 * k))
		}
		n += 9
	}
	return xxhash.Sum64(b[:n])
}

// ID is the reading's public id: 32 hex digits derived from patient, device, indicator, time and content, so
// that a resend, a replay and a rebuild all give the same.
func (r *Reading) ID() string { return string(r.AppendID(nil)) }

// AppendID appends ID to dst.
func (r *Reading) AppendID(dst []byte) []byte {
	var room [256]byte // patient and device ids are short
	b := append(room[:0], r.Patient...)
	b = append(b, 0)
	b = append(b, r.Device...)
	b = append(b, byte(r.Indicator))
	b = binary.BigEndian.AppendUint64(b, uint64(r.TakenAt))
	h := r.ContentHash()
	b = binary.BigEndian.AppendUint64(b, h)
	var id [16]byte
	binary.BigEndian.PutUint64(id[:], xxhash.Sum64(b))
	binary.BigEndian.PutUint64(id[8:], h)
	return hex.AppendEncode(dst, id[:])
}

// Freshness is the verdict of design guarantee 6: only live readings open, worsen or close live alerts.
type Freshness uint8

// The verdicts. The limits are ours (facts B2: no live alert for points older than 15 minutes; B4: older than
// 24 hours is history), see Judge.
const (
	Live     Freshness = iota // taken at most LiveWindow before it was received
	Late                      // older than that
	Backfill                  // older than BackfillAfter
	Doubtful                  // the device's clock cannot be trusted: updates history only
)

var freshnessNames = [...]string{"live", "late", "backfill", "doubtful"}

func (f Freshness) String() string { return nameOf(freshnessNames[:], int(f)) }

// Quality is the verdict on plausibility.
type Quality uint8

// Good readings are judged; Suspect ones are shown and need a repeat before they alert (unless the rule says
// otherwise); Invalid ones are kept and never judged.
const (
	Good Quality = iota
	Suspect
	Invalid
)

var qualityNames = [...]string{"good", "suspect", "invalid"}

func (q Quality) String() string { return nameOf(qualityNames[:], int(q)) }

// Meal is the relation of a glucose reading to a meal.
type Meal uint8

// Meal relations, as in the Bluetooth glucose context (0x2A34).
const (
	MealUnknown Meal = iota
	Fasting
	BeforeMeal
	AfterMeal
	Casual
	Bedtime
)

var mealNames = [...]string{"", "fasting", "before_meal", "after_meal", "casual", "bedtime"}

func (m Meal) String() string { return nameOf(mealNames[:], int(m)) }

// ParseMeal reads a context.meal value; unknown words give MealUnknown (they stay in the raw context).
func ParseMeal(s string) Meal {
	switch s {
	case "fasting":
		return Fasting
	case "before_meal", "before", "preprandial", "pre_meal":
		return BeforeMeal
	case "after_meal", "after", "postprandial", "post_meal":
		return AfterMeal
	case "casual", "random":
		return Casual
	case "bedtime":
		return Bedtime
	}
	return MealUnknown
}

// Activity says what the person was doing.
type Activity uint8

// Activities that rules ask for.
const (
	ActivityUnknown Activity = iota
	Resting
	Active
)

var activityNames = [...]string{"", "resting", "active"}

func (a Activity) String() string { return nameOf(activityNames[:], int(a)) }

// ParseActivity reads a context.activity value; unknown words give ActivityUnknown.
func ParseActivity(s string) Activity {
	switch s {
	case "resting", "rest", "sedentary", "sleeping", "sleep", "at_rest":
		return Resting
	case "active", "exercise", "walking", "running", "exercising":
		return Active
	}
	return ActivityUnknown
}

// Flags are what the device said about the measurement.
type Flags uint32

// The flags that rules and judges know. Others stay, as text, in Extra.OtherFlags.
const (
	IrregularPulse Flags = 1 << iota
	Movement
	CuffLoose
	WrongPosition
	PulseOutOfRange
	PoorContact
	LowSignal
	LowBattery
	BelowRange // the value is the device's lower limit: "LOW", "LO"
	AboveRange // the value is the device's upper limit: "HIGH", "HI"
	FromMemory
	SelfReported
	DisplayOnly  // the device says: show, do not judge
	Questionable // the device itself doubts the measurement
	// These two are ours, never the device's: the reading counts no more.
	Superseded // a correction stands in its place
	Voided     // its sender took it back
)

// Replaced are the flags of readings that count no more.
const Replaced = Superseded | Voided

var flagNames = [...]string{"irregular_pulse", "movement", "cuff_loose", "wrong_position", "pulse_out_of_range",
	"poor_contact", "low_signal", "low_battery", "below_range", "above_range", "from_memory", "self_reported", "display_only", "questionable",
	"superseded", "voided"}

// ParseFlag returns the bit of a flag name, 0 when unknown, or when no device may set it.
func ParseFlag(s string) Flags {
	for i, n := range flagNames {
		if n == s {
			return 1 << i &^ Replaced
		}
	}
	return 0
}

// Names lists the set flags in bit order; nil when none.
func (f Flags) Names() []string {
	var out []string
	for i, n := range flagNames {
		if f&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	return out
}

func nameOf(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return "unknown"
}
