//go:build !race

package care_test

const raceEnabled = false
