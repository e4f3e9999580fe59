// Package escalation sees to it that what must leave the house arrives: the courier empties the outbox into the
// hooks. It decides when a delivery is tried, again, or given up; what is sent and to whom the ledger has fixed when
// the alert changed, how it is sent is the channel's. Policies and timers that call people will live here too.
//
// A delivery is made at least once, under one id, and the deliveries of one alert to one hook go out in the order of
// their events: none before the one ahead of it has arrived or is dead. Hooks never wait for each other.
//
// Concurrency: a Courier is safe for concurrent use. Run owns one goroutine per hook, which alone touches that hook's
// queue, one that writes results down, and one per attempt, at most Options.Concurrency per hook.
package escalation
