// Package conditions turns condition packs, strict YAML written by clinical people, into rules: it owns the language
// of the packs, which pack wins where two define one rule, guideline profiles, personal thresholds, and the unit
// tests of packs. It judges nothing itself; package alerting does.
//
// A Packs is immutable after Load and safe for concurrent use.
package conditions
