// Package journal is the append-only local log of accepted readings: what is in it was on disk before it was
// acknowledged, each reading once, in one order for all consumers. It owns the order (Seq), exact de-duplication for
// ever, the quarantine of refused messages (because that, too, must be durable before the acknowledgement), trimming
// once all consumers are past, and what happens when the disk is full or fails. It does not own decoding, whose
// device it is, or the consumers' cursors. docs/storage.md describes the bytes on disk.
//
// Concurrency: all methods are safe for concurrent use. Append collects the groups of all callers into one batch;
// one goroutine decides about duplicates, numbers and encodes the batch and hands it to Pebble, a second one waits
// for the fsync, so that the next batch is built while the last one is synced. The callers copy their group into the
// batch themselves: once Append has returned, for whatever reason, nothing reads the caller's memory.
package journal
