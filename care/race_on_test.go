//go:build race

package care_test

const raceEnabled = true
