//go:build !race

package mqttd_test

const raceEnabled = false
