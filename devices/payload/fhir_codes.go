package payload

import "vitalwatch/vitals"

// fhirMeaning is what a code says about an Observation or a component.
type fhirMeaning struct {
	ind     vitals.Indicator
	comp    vitals.Component // of ind; Value for a panel as a whole
	not     string           // why an Observation of this code is no reading, "" when it is one
	meal    vitals.Meal
	resting bool
	told    bool // stated by the person, not measured
	site    string
	posture string
}

func simple(i vitals.Indicator) fhirMeaning { return fhirMeaning{ind: i} }

func part(c vitals.Component) fhirMeaning {
	return fhirMeaning{ind: vitals.BloodPressure, comp: c}
}

func fasting() fhirMeaning { return fhirMeaning{ind: vitals.Glucose, meal: vitals.Fasting} }

func warm(site string) fhirMeaning { return fhirMeaning{ind: vitals.Temperature, site: site} }

const (
	notSummary = "this is a summary over a period and not a reading; send the readings themselves"
	notControl = "a control solution is not a reading of a person"
	notStatus  = "this describes the device or its clock and is not a reading"
	notOne     = "the codings of one concept mean different things; which one counts is not guessed"
	notPanel   = "a panel without values of its own is not a reading; its members are"
)

// loinc: FHIR R4 vital signs profile, US Core, HL7 PHD and CGM guides; the others by their names in the LOINC table.
// Glucose in urine (2350-7) and other fluids that say nothing of the blood are absent on purpose, and so is the
// temperature of the skin (39106-0).
var loinc = map[string]fhirMeaning{
	"85354-9": simple(vitals.BloodPressure), "55284-4": simple(vitals.BloodPressure), "35094-2": simple(vitals.BloodPressure),
	"8480-6": part(vitals.Systolic), "8462-4": part(vitals.Diastolic), "8478-0": part(vitals.Mean),
	"8459-0": {ind: vitals.BloodPressure, comp: vitals.Systolic, posture: "sitting"},
	"8453-3": {ind: vitals.BloodPressure, comp: vitals.Diastolic, posture: "sitting"},
	"8460-8": {ind: vitals.BloodPressure, comp: vitals.Systolic, posture: "standing"},
	"8454-1": {ind: vitals.BloodPressure, comp: vitals.Diastolic, posture: "standing"},
	"8461-6": {ind: vitals.BloodPressure, comp: vitals.Systolic, posture: "lying"},
	"8455-8": {ind: vitals.BloodPressure, comp: vitals.Diastolic, posture: "lying"},

	"2339-0": simple(vitals.Glucose), "15074-8": simple(vitals.Glucose), // blood, mass and molar
	"41653-7": simple(vitals.Glucose), "32016-8": simple(vitals.Glucose), // capillary, by meter and not
	"14743-9": simple(vitals.Glucose), "14745-4": simple(vitals.Glucose),
	"2340-8": simple(vitals.Glucose), "2341-6": simple(vitals.Glucose), // test strip, automated and by hand
	"2345-7": simple(vitals.Glucose), "14749-6": simple(vitals.Glucose), // serum or plasma
	"74774-1": simple(vitals.Glucose),
	"99504-3": simple(vitals.Glucose), "105272-9": simple(vitals.Glucose), // interstitial fluid by CGM
	"1558-6": fasting(), "14771-0": fasting(), "76629-5": fasting(), "1556-0": fasting(),

	"8867-4": simple(vitals.HeartRate), "8889-8": simple(vitals.HeartRate), // 8889-8 by pulse oximetry
	"40443-4": {ind: vitals.HeartRate, resting: true},
	"69000-8": {ind: vitals.HeartRate, posture: "sitting"}, "69001-6": {ind: vitals.HeartRate, posture: "standing"},
	"68999-2": {ind: vitals.HeartRate, posture: "lying"},

	"59408-5": simple(vitals.SpO2), "2708-6": simple(vitals.SpO2), "20564-1": simple(vitals.SpO2),

	"8310-5": simple(vitals.Temperature),
	"8331-1": warm("mouth"), "8332-9": warm("rectum"), "8333-7": warm("tympanum"), "8328-7": warm("armpit"),
	"76010-8": warm("nose"), "76011-6": warm("ear"), "75539-7": warm("temporal_artery"), "8329-5": warm("core"),

	"29463-7": simple(vitals.Weight), "3141-9": simple(vitals.Weight), "3142-7": {ind: vitals.Weight, told: true},
	"8302-2": simple(vitals.Height), "3137-7": simple(vitals.Height), "8306-3": {ind: vitals.Height, posture: "lying"},
	"3138-5":  {ind: vitals.Height, told: true},
	"41982-0": simple(vitals.BodyFat),
	"9279-1":  simple(vitals.Respiration),
	"41950-7": simple(vitals.Steps), "55423-8": simple(vitals.Steps),
	"93832-4": simple(vitals.Sleep),
	"93829-0": {ind: vitals.Sleep, comp: vitals.REM}, "93830-8": {ind: vitals.Sleep, comp: vitals.Light},
	"93831-6": {ind: vitals.Sleep, comp: vitals.Deep},
	"80404-7": simple(vitals.HRV),

	"85353-1": {not: notPanel}, "34566-0": {not: notPanel}, "8716-3": {not: notPanel},
	"96607-7": {not: notSummary}, "96608-5": {not: notSummary}, "96609-3": {not: notSummary}, // average blood pressure
	"107931-8": {not: notSummary}, "97507-8": {not: notSummary}, "105273-7": {not: notSummary}, // CGM summaries
	"97506-0": {not: notSummary}, "106793-3": {not: notSummary}, "104642-4": {not: notSummary},
	"104641-6": {not: notSummary}, "97510-2": {not: notSummary}, "104640-8": {not: notSummary},
	"104639-0": {not: notSummary}, "104638-2": {not: notSummary}, "104636-6": {not: notSummary},
	"104637-4": {not: notSummary},
}

// mdc: ISO/IEEE 11073-10101 nomenclature as context-free codes (partition × 65536 + term), from the device
// specializations 10404 (oximeter), 10407 (cuff), 10408 (thermometer), 10415 (scale), 10417 (glucose meter), 10425 (CGM).
var mdc = map[string]fhirMeaning{
	"150016": simple(vitals.BloodPressure), "150020": simple(vitals.BloodPressure), // 150020 by a cuff
	"150017": part(vitals.Systolic), "150018": part(vitals.Diastolic), "150019": part(vitals.Mean),
	"150021": part(vitals.Systolic), "150022": part(vitals.Diastolic), "150023": part(vitals.Mean),
	"160184": simple(vitals.Glucose), "160188": simple(vitals.Glucose), // capillary whole blood, plasma
	"160192": simple(vitals.Glucose), "160196": simple(vitals.Glucose), // venous
	"160200": simple(vitals.Glucose), "160204": simple(vitals.Glucose), // arterial
	"160212": simple(vitals.Glucose),                                   // interstitial fluid
	"160364": simple(vitals.Glucose), "160368": simple(vitals.Glucose), // undetermined
	"160208": {not: notControl},
	"147842": simple(vitals.HeartRate), "149514": simple(vitals.HeartRate), "149530": simple(vitals.HeartRate),
	"149546": simple(vitals.HeartRate), // pulse of a cuff
	"150316": simple(vitals.SpO2), "150320": simple(vitals.SpO2), "150456": simple(vitals.SpO2),
	"150364": simple(vitals.Temperature),
	"188420": warm("rectum"), "188424": warm("mouth"), "188428": warm("ear"), "188432": warm("finger"),
	"188448": warm("toe"), "188452": warm("armpit"), "150392": warm("tympanum"), "188456": warm("gastrointestinal_tract"),
	"188736": simple(vitals.Weight), "188740": simple(vitals.Height), "188748": simple(vitals.BodyFat),
	"151562": simple(vitals.Respiration), "151570": simple(vitals.Respiration), "151578": simple(vitals.Respiration),
	"151594": simple(vitals.Respiration),                                                                        // airway, thorax, CO2
	"67975":  {not: notStatus}, "67983": {not: notStatus}, "68072": {not: notStatus}, "68226": {not: notStatus}, // clocks
	mdcCuffStatus: {not: notStatus},
}

// snomed: the concepts that national profiles put beside or in the place of LOINC.
var snomed = map[string]fhirMeaning{
	"75367002":  simple(vitals.BloodPressure),
	"271649006": part(vitals.Systolic), "271650006": part(vitals.Diastolic), "6797001": part(vitals.Mean),
	"364075005": simple(vitals.HeartRate), "78564009": simple(vitals.HeartRate),
	"431314004": simple(vitals.SpO2), "103228002": simple(vitals.SpO2),
	"386725007": simple(vitals.Temperature),
	"27113001":  simple(vitals.Weight), "50373000": simple(vitals.Height),
	"86290005": simple(vitals.Respiration),
	"33747003": simple(vitals.Glucose), "405176005": simple(vitals.Glucose),
}

// The code systems by their URL and their OID.
func fhirSystem(system []byte) map[string]fhirMeaning {
	switch string(system) {
	case "http://loinc.org", "urn:oid:2.16.840.1.113883.6.1":
		return loinc
	case "urn:iso:std:iso:11073:10101", "urn:oid:2.16.840.1.113883.6.24":
		return mdc
	case "http://snomed.info/sct", "urn:oid:2.16.840.1.113883.6.96":
		return snomed
	}
	return nil
}

// mdcUnits: the dimensions of 11073-10101, partition 4.
var mdcUnits = map[string]vitals.Unit{
	"266016": vitals.MmHg, "265987": vitals.KPa, "264274": vitals.MgDL, "266866": vitals.MmolL,
	"264864": vitals.PerMin, "264928": vitals.PerMin, "262688": vitals.Percent,
	"268192": vitals.Cel, "266560": vitals.DegF, "263875": vitals.Kg, "263904": vitals.Lb, "263872": vitals.Gram,
	"268800": vitals.StepCount, "264384": vitals.Hours, "264352": vitals.Minutes, "264320": vitals.Seconds,
	"264338": vitals.Milli, "263441": vitals.Cm, "263424": vitals.Metre, "263520": vitals.Inch,
}

// The context of a glucose reading as a component (10417).
const mdcMeal = "8417864"

var mdcMeals = map[string]vitals.Meal{
	"8417868": vitals.BeforeMeal, "8417872": vitals.AfterMeal, "8417876": vitals.Fasting, "8417880": vitals.Casual,
	"8417908": vitals.Bedtime,
}

// mdcCuffStatus is MDC_BLOOD_PRESSURE_MEASUREMENT_STATUS; the PHD guide writes its bits as "8410608.0" and so on.
const mdcCuffStatus = "8410608"

var cuffBits = [...]vitals.Flags{vitals.Movement, vitals.CuffLoose, vitals.IrregularPulse, vitals.PulseOutOfRange,
	vitals.PulseOutOfRange, vitals.WrongPosition}

// absentReasons is http://terminology.hl7.org/CodeSystem/data-absent-reason: the words that a detail may repeat.
var absentReasons = map[string]string{}

func init() {
	for _, w := range []string{"unknown", "asked-unknown", "temp-unknown", "not-asked", "asked-declined", "masked",
		"not-applicable", "unsupported", "as-text", "error", "not-a-number", "negative-infinity", "positive-infinity",
		"not-performed", "not-permitted"} {
		absentReasons[w] = "the sender says that there is no value: " + w
	}
}
