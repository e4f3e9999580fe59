// Package trends computes metrics over a person's readings: continuous and self-measured glucose, blood pressure,
// and direction and change of anything else. It owns formulas and the words for whether there is enough data; it
// owns no store, no clock, no thresholds for alerts and no rounding: numbers come in full precision and whoever
// shows them rounds. Everything is a pure function and safe for concurrent use.
//
// Formulas are those of facts/clinical.md C1 to C3, where each has its source; the tests hold their check values.
//
// # Which readings count
//
// Averages, shares and slopes are over clean values only. Left out, and counted in Result.Excluded, are readings of
// quality invalid, censored ones (the device's LOW or HIGH is a limit, not a value), those that the device marks as
// taken with movement, a loose cuff, a wrong position, poor contact or a low signal, and those for display only.
// Values outside of the usual range alone do not exclude a reading: a true crisis belongs into the average.
// Self-reported readings count, because many people have nothing else, and Result.SelfReported says how many.
package trends
