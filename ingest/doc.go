// Package ingest takes readings in: Pipeline.Accept decodes, resolves whose device it is, judges plausibility and
// freshness, and appends to the journal; it returns when everything is durable. It owns quarantine, consumers and
// counters, not the wire (ingest/mqttd, ingest/subscriber) and not the disk format (ingest/journal).
//
// Concurrency: Accept may be called by any number of goroutines; the journal commits their groups together.
package ingest
