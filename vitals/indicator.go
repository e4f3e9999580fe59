package vitals

// Indicator is what is measured. The numbers are stored on disk: append, never renumber.
type Indicator uint8

// The indicators of contract section 3. 0 is not an indicator.
const (
	BloodPressure Indicator = iota + 1
	Glucose
	HeartRate
	SpO2
	Temperature
	Weight
	Respiration
	Steps
	Sleep
	HRV
	Rhythm
	Height
	BodyFat
	numIndicators
)

// Component is one number of a reading. The numbers are stored on disk: append, never renumber.
type Component uint8

// The components. Value is the only one of single-valued indicators.
const (
	Value Component = iota
	Systolic
	Diastolic
	Mean
	Pulse
	Total
	Deep
	Light
	REM
	Awake
	numComponents
)

var componentNames = [numComponents]string{"value", "systolic", "diastolic", "mean", "pulse", "total", "deep", "light", "rem", "awake"}

func (c Component) String() string { return nameOf(componentNames[:], int(c)) }

// InReadingUnit reports whether the component is in the reading's unit; a cuff's pulse is always /min.
func (c Component) InReadingUnit() bool { return c != Pulse }

// ParseComponent returns the component of a name.
func ParseComponent(s string) (Component, bool) {
	for i, n := range componentNames {
		if n == s {
			return Component(i), true
		}
	}
	return 0, false
}

type indicatorDef struct {
	name       string
	loinc      string // LOINC code of the observation, "" where none is confirmed
	components []Component
	required   uint8 // bits of components that must be there
	units      []Unit
	canonical  Unit
}

// LOINC codes: facts/clinical.md A0; those marked G there are still to be checked against the LOINC table.
var indicators = [numIndicators]indicatorDef{
	BloodPressure: {"blood_pressure", "85354-9", []Component{Systolic, Diastolic, Mean, Pulse}, 0b11, []Unit{MmHg, KPa}, MmHg},
	Glucose:       {"glucose", "15074-8" /* G */, []Component{Value}, 1, []Unit{MmolL, MgDL}, MgDL},
	HeartRate:     {"heart_rate", "8867-4", []Component{Value}, 1, []Unit{PerMin}, PerMin},
	SpO2:          {"spo2", "59408-5", []Component{Value, Pulse}, 1, []Unit{Percent}, Percent},
	Temperature:   {"temperature", "8310-5", []Component{Value}, 1, []Unit{Cel, DegF, Kelvin}, Cel},
	Weight:        {"weight", "29463-7", []Component{Value}, 1, []Unit{Kg, Lb, Jin, Gram, Stone, Ounce}, Kg},
	Respiration:   {"respiration", "9279-1", []Component{Value}, 1, []Unit{PerMin}, PerMin},
	Steps:         {"steps", "55423-8" /* G */, []Component{Value}, 1, []Unit{StepCount}, StepCount},
	Sleep:         {"sleep", "93832-4" /* G */, []Component{Total, Deep, Light, REM, Awake}, 1, []Unit{Hours, Minutes, Seconds}, Hours},
	HRV:           {"hrv", "80404-7" /* G */, []Component{Value}, 1, []Unit{Milli}, Milli},
	Rhythm:        {"rhythm", "", []Component{Value}, 1, []Unit{One}, One},
	Height:        {"height", "8302-2", []Component{Value}, 1, []Unit{Cm, Metre, Inch}, Cm},
	BodyFat:       {"body_fat", "", []Component{Value}, 1, []Unit{Percent}, Percent},
}

func (i Indicator) def() *indicatorDef {
	if i == 0 || i >= numIndicators {
		return &indicatorDef{name: "unknown"}
	}
	return &indicators[i]
}

func (i Indicator) String() string { return i.def().name }

// LOINC returns the code, "" where none is confirmed.
func (i Indicator) LOINC() string { return i.def().loinc }

// Components lists the components in storage order. Do not change the slice.
func (i Indicator) Components() []Component { return i.def().components }

// Required is the bit set of components a reading must have.
func (i Indicator) Required() uint8 { return i.def().required }

// Units lists the units that may be sent, most usual first. Do not change the slice.
func (i Indicator) Units() []Unit { return i.def().units }

// Canonical is the unit that metrics compute in.
func (i Indicator) Canonical() Unit { return i.def().canonical }

// Accepts reports whether u may stand with the indicator.
func (i Indicator) Accepts(u Unit) bool {
	for _, x := range i.def().units {
		if x == u {
			return true
		}
	}
	return false
}

// Index returns the place of c in Components, -1 when the indicator has no such component.
func (i Indicator) Index(c Component) int {
	for k, x := range i.def().components {
		if x == c {
			return k
		}
	}
	return -1
}

var indicatorByName = func() map[string]Indicator {
	m := map[string]Indicator{}
	for i := Indicator(1); i < numIndicators; i++ {
		m[i.String()] = i
	}
	return m
}()

// ParseIndicator returns the indicator of a contract name.
func ParseIndicator(s string) (Indicator, bool) { i, ok := indicatorByName[s]; return i, ok }

// Indicators lists all indicators in order.
func Indicators() []Indicator {
	var out []Indicator
	for i := Indicator(1); i < numIndicators; i++ {
		out = append(out, i)
	}
	return out
}
