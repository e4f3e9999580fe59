// Package vitals owns the words of the field: Reading, Indicator, Component, Unit, their LOINC and UCUM codes,
// exact unit pairs, plausibility limits, and the verdicts on freshness and quality.
//
// It owns no storage, no clock and no policy: whoever needs "now" passes it in. All types are plain values; a
// Reading may be shared between goroutines once nobody changes it any more, everything else is immutable.
package vitals
