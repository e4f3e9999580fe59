// Package simulator makes virtual patients: their physiology, the events in it and the flaws of their devices, and
// publishes what the devices measure over real MQTT, one client per device. It invents everything, names included;
// nothing here is a model to treat anybody by.
//
// # Two clocks
//
// A patient lives in simulated time, which starts at Config.Start and runs Config.Speed times as fast as ours. Meals,
// nights, morning surges and sessions follow simulated time, and so the values depend on seed, patient and simulated
// time alone: the same seed gives the same readings in the same order. What a device sends is stamped with our time
// of the measurement, so that the readings are live at any speed. A faster clock therefore makes values change faster
// in their own stamps than a body can: rules over rates and durations see the compressed time.
//
// # Concurrency
//
// Run starts two goroutines per device and waits for all of them. A Patient made by Roster is plain data.
package simulator
