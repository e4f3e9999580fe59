//go:build race

package mqttd_test

const raceEnabled = true
