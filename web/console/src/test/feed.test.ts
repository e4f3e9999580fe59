import assert from "node:assert/strict";
import { test } from "node:test";
import { Feed, type FeedWorld, type SocketLike } from "../feed";
import { apply, initial, type Event, type State } from "../state";
import { fixture } from "./fixtures";

/** A world with a clock of its own. */
class World implements FeedWorld {
  state: State = initial(0);
  events: Event[] = [];
  sockets: FakeSocket[] = [];
  tickets = 0;
  failTicket: unknown = null;
  rnd = 0;
  private clock = 0;
  private timers: { at: number; f: () => void }[] = [];

  ticket(): Promise<string> {
    this.tickets++;
    return this.failTicket === null ? Promise.resolve(`t${this.tickets}`) : Promise.reject(this.failTicket);
  }
  open(): SocketLike {
    const s = new FakeSocket();
    this.sockets.push(s);
    return s;
  }
  now(): number { return this.clock; }
  after(ms: number, f: () => void): () => void {
    const t = { at: this.clock + ms, f };
    this.timers.push(t);
    return () => { this.timers = this.timers.filter((x) => x !== t); };
  }
  random(): number { return this.rnd; }
  position(): State["position"] { return this.state.position; }
  heartbeatS(): number { return this.state.heartbeatS; }
  emit(e: Event): void {
    this.events.push(e);
    this.state = apply(this.state, e, this.clock);
  }
  isUnauthorised(e: unknown): boolean { return e === 401; }
  isForbidden(e: unknown): boolean { return e === 403; }

  /** Moves the clock, running what is due. */
  async pass(ms: number): Promise<void> {
    const end = this.clock + ms;
    await settle();
    for (;;) {
      const next = this.timers.filter((t) => t.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.timers = this.timers.filter((t) => t !== next);
      this.clock = Math.max(this.clock, next.at);
      next.f();
      await settle();
    }
    this.clock = end;
  }
  last(): FakeSocket { return this.sockets[this.sockets.length - 1]!; }
  get link(): string { return this.state.link; }
}

class FakeSocket implements SocketLike {
  sent: string[] = [];
  closed = false;
  onopen: (() => void) | null = null;
  onmessage: ((data: unknown) => void) | null = null;
  onclose: ((code: number) => void) | null = null;
  send(d: string): void { this.sent.push(d); }
  close(): void { this.closed = true; }
  say(name: string): void { this.onmessage?.(fixture(name)); }
}

async function settle(): Promise<void> { for (let i = 0; i < 5; i++) await Promise.resolve(); }

async function connected(): Promise<[World, Feed]> {
  const w = new World(), f = new Feed(w);
  f.start();
  await settle();
  w.last().onopen?.();
  w.last().say("server-hello");
  w.last().say("server-snapshot");
  return [w, f];
}

test("ticket, auth, subscribe; then resume from the last place", async () => {
  const [w] = await connected();
  assert.deepEqual(w.last().sent.map((x) => JSON.parse(x)), [{ op: "auth", ticket: "t1" }, { op: "subscribe", id: 1, channels: ["alerts", "readings"] }]);
  w.last().onclose?.(1006);
  assert.equal(w.link, "down");
  await w.pass(600);
  assert.equal(w.sockets.length, 2);
  w.last().onopen?.();
  assert.deepEqual(JSON.parse(w.last().sent[1]!).from, { epoch: "e1", seq: 42 });
  assert.equal(JSON.parse(w.last().sent[0]!).ticket, "t2", "a ticket is used once");
});

test("backs off up to half a minute, with jitter", async () => {
  for (const rnd of [0, 0.999]) {
    const w = new World();
    w.rnd = rnd;
    w.failTicket = new Error("offline");
    new Feed(w).start();
    await settle();
    const at: number[] = [];
    let seen = w.tickets;
    for (let t = 0; t < 300_000; t += 50) {
      await w.pass(50);
      if (w.tickets > seen) { at.push(t); seen = w.tickets; }
    }
    const waits = at.map((t, i) => t - (at[i - 1] ?? 0));
    assert(waits[0]! <= 500, `first wait ${waits[0]}`);
    const longest = Math.max(...waits);
    assert(rnd === 0 ? longest <= 15_100 && longest >= 14_900 : longest <= 30_100 && longest >= 29_000, `longest wait ${longest} at ${rnd}`);
  }
});

test("a connection that is closed at once does not start the back-off anew", async () => {
  const [w] = await connected();
  let opened = 0;
  for (let t = 0; t < 60_000; t += 100) {
    await w.pass(100);
    if (w.sockets.length > opened) {
      opened = w.sockets.length;
      w.last().onopen?.();
      w.last().say("server-hello");
      w.last().onclose?.(1006);
    }
  }
  assert(opened < 15, `${opened} connections in a minute`);
});

test("silence of twice the heartbeat ends the connection", async () => {
  const [w] = await connected();
  const first = w.last();
  await w.pass(29_000);
  assert.equal(first.closed, false);
  await w.pass(2_000);
  assert.equal(first.closed, true);
  assert(w.sockets.length === 2 || w.link === "down");
});

test("a server that does not greet is given up", async () => {
  const w = new World();
  new Feed(w).start();
  await settle();
  w.last().onopen?.();
  await w.pass(12_000);
  assert.equal(w.sockets[0]!.closed, true);
});

test("4401 asks for a login, 4403 for an administrator, and neither tries again", async () => {
  for (const [code, link] of [[4401, "login"], [4403, "forbidden"]] as const) {
    const [w] = await connected();
    w.last().onclose?.(code);
    assert.equal(w.link, link);
    await w.pass(120_000);
    assert.equal(w.sockets.length, 1);
  }
});

test("a refused ticket asks for a login", async () => {
  const w = new World();
  w.failTicket = 401;
  new Feed(w).start();
  await settle();
  assert.equal(w.link, "login");
});

test("4408: comes back and asks for everything", async () => {
  const [w] = await connected();
  w.last().say("server-bye");
  w.last().onclose?.(4408);
  await w.pass(1_900);
  assert.equal(w.sockets.length, 1, "not before retry_ms");
  await w.pass(1_000);
  w.last().onopen?.();
  assert.equal("from" in JSON.parse(w.last().sent[1]!), false);
});

test("a frame that cannot be read is reported, and the connection lives", async () => {
  const [w] = await connected();
  w.last().say("invalid-severity");
  assert.equal(w.state.unreadable, 1);
  w.last().say("server-alert-acknowledged");
  assert.equal(w.state.alerts.get("01a")?.state, "acknowledged");
});

test("a refused subscription is not a live page", async () => {
  const [w] = await connected();
  w.last().onmessage?.(JSON.stringify({ type: "result", id: 1, ok: false, problem: {} }));
  assert.equal(w.link, "down");
});

test("stopped means stopped, and an old socket cannot speak any more", async () => {
  const [w, f] = await connected();
  const old = w.last();
  f.stop();
  const before = w.events.length;
  old.say("server-alert-resolved");
  old.onclose?.(1006);
  await w.pass(60_000);
  assert.equal(w.events.length, before);
  assert.equal(w.sockets.length, 1);
});
