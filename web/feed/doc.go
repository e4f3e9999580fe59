// Package feed is the coaches' WebSocket: the hub, its subscriptions, bounded queues and resume by epoch and
// sequence (docs/feed.md). It owns no alert and no rights: what happened comes from a History, who may see whom
// from an Auth, both declared here and given by the caller.
//
// Concurrency: every exported method may be called by any goroutine and none of them waits for a client. One
// dispatcher goroutine gives every event its place in every queue, a few writers empty the queues with writes that
// never block, and a connection that does block gets a goroutine of its own until it is level or closed. One
// goroutine per connection reads.
package feed
