package vitals

// Unit is a UCUM unit. The numbers are stored on disk: append, never renumber. 0 means none was sent.
type Unit uint8

// The units that readings may carry.
const (
	NoUnit Unit = iota
	MmHg
	KPa
	MmolL
	MgDL
	PerMin
	Percent
	Cel
	DegF
	Kg
	Lb
	Jin
	Gram
	StepCount
	Hours
	Minutes
	Milli
	One
	Cm
	Metre
	Kelvin
	Seconds
	Inch
	Ounce
	Stone
	numUnits
)

type unitDef struct {
	ucum    string
	aliases []string
	scale   float64 // canonical = v*scale + shift
	shift   float64
}

// MgPerMmolGlucose is the molar mass of glucose in g/mol ÷ 10: mmol/L × this = mg/dL (facts E; Nightscout, Tidepool).
const MgPerMmolGlucose = 18.01559

// UCUM codes: FHIR vital-signs unit set (facts A0). [jin_i'H] does not exist in UCUM: jin (斤) is exactly 0.5 kg
// and has the private code "[jin]".
var units = [numUnits]unitDef{
	NoUnit:    {"", nil, 1, 0},
	MmHg:      {"mm[Hg]", []string{"mmHg", "mmhg", "MMHG"}, 1, 0},
	KPa:       {"kPa", []string{"kpa"}, 7.50061683, 0}, // 1 mmHg = 0.133322387 kPa
	MmolL:     {"mmol/L", []string{"mmol/l", "mmol"}, MgPerMmolGlucose, 0},
	MgDL:      {"mg/dL", []string{"mg/dl", "MG/DL"}, 1, 0},
	PerMin:    {"/min", []string{"bpm", "beats/min", "1/min", "{beats}/min", "{breaths}/min", "breaths/min", "BPM"}, 1, 0},
	Percent:   {"%", []string{"percent"}, 1, 0},
	Cel:       {"Cel", []string{"C", "°C", "celsius", "degC"}, 1, 0},
	DegF:      {"[degF]", []string{"F", "°F", "fahrenheit", "degF"}, 5.0 / 9.0, -160.0 / 9.0},
	Kg:        {"kg", []string{"KG"}, 1, 0},
	Lb:        {"[lb_av]", []string{"lb", "lbs"}, 0.45359237, 0},
	Jin:       {"[jin]", []string{"jin", "斤"}, 0.5, 0},
	Gram:      {"g", nil, 0.001, 0},
	StepCount: {"{steps}", []string{"steps", "{steps}/d", "count"}, 1, 0},
	Hours:     {"h", []string{"hour", "hours", "hr"}, 1, 0},
	Minutes:   {"min", []string{"minute", "minutes"}, 1.0 / 60, 0},
	Milli:     {"ms", []string{"msec"}, 1, 0},
	One:       {"1", nil, 1, 0},
	Cm:        {"cm", nil, 1, 0},
	Metre:     {"m", nil, 100, 0},
	Kelvin:    {"K", nil, 1, -273.15},
	Seconds:   {"s", []string{"sec", "second", "seconds"}, 1.0 / 3600, 0},
	Inch:      {"[in_i]", []string{"in", "inch", "inches"}, 2.54, 0},
	Ounce:     {"[oz_av]", []string{"oz"}, 0.028349523125, 0},
	Stone:     {"[stone_av]", []string{"st", "stone"}, 6.35029318, 0},
}

// String returns the UCUM code.
func (u Unit) String() string {
	if u < numUnits {
		return units[u].ucum
	}
	return ""
}

var unitByName = func() map[string]Unit {
	m := map[string]Unit{}
	for u := Unit(1); u < numUnits; u++ {
		m[units[u].ucum] = u
		for _, a := range units[u].aliases {
			m[a] = u
		}
	}
	return m
}()

// ParseUnit returns the unit of a UCUM code or a common alias. It never guesses: an empty or unknown text fails.
func ParseUnit(s string) (Unit, bool) { u, ok := unitByName[s]; return u, ok }

// ToCanonical converts v from u to the indicator's canonical unit. It is for metrics, charts and identity, never
// for judging against a threshold: those compare in the unit that was sent (guarantee 9).
func ToCanonical(_ Indicator, u Unit, v float64) float64 {
	if u >= numUnits {
		return v
	}
	d := &units[u]
	return v*d.scale + d.shift
}

// Convert converts v from one unit to another of the same dimension, for display and metrics.
func Convert(v float64, from, to Unit) float64 {
	if from == to || from >= numUnits || to >= numUnits {
		return v
	}
	f, t := &units[from], &units[to]
	return (v*f.scale + f.shift - t.shift) / t.scale
}
