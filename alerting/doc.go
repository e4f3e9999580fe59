// Package alerting judges readings: Rule, Alert, Transition, the pure Engine and the Monitor that feeds it from
// the journal. Deciding takes (state, reading or tick, at) and reads no clock, no store, no configuration of the
// moment. Storage of alerts is alerting/ledger's, rules come from alerting/conditions, delivery is
// alerting/escalation's and alerting/hooks'.
//
// Concurrency: an Engine belongs to one goroutine; the Monitor runs one per shard and serialises everything that
// concerns one patient.
package alerting
