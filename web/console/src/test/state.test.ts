import assert from "node:assert/strict";
import { test } from "node:test";
import type { Alert } from "../decode";
import { parseFrame, type Frame } from "../frames";
import { apply, applyAll, initial, serverNow, staleSince, type Event, type State } from "../state";
import { fixture } from "./fixtures";
import { makeAlert, makePatient, makeReading, random } from "./make";

const hello = (seq: number, epoch = "e1"): Frame => ({ type: "hello", epoch, seq, heartbeatS: 15 });
const snapshot = (seq: number, alerts: Alert[], epoch = "e1"): Frame => ({ type: "snapshot", epoch, seq, alerts, readings: [] });
const told = (a: Alert, transition = "opened"): Frame => ({ type: "alert", seq: a.seq, transition, alert: a });
const beat = (seq: number | null, at = 0): Frame => ({ type: "heartbeat", at, seq });
const after = (...events: Event[]): State => applyAll(initial(0), events, 100);
const open = (s: State): string[] => [...s.alerts.values()].filter((a) => a.state !== "resolved").map((a) => a.id).sort();

test("the shared frames in order", () => {
  const s = after(...["server-hello", "server-subscribed", "server-snapshot", "server-alert-acknowledged", "server-reading", "server-heartbeat"].map((n) => parseFrame(fixture(n))));
  assert.equal(s.link, "up");
  assert.equal(s.sync, "complete");
  assert.deepEqual(s.position, { epoch: "e1", seq: 43 });
  assert.equal(s.alerts.get("01a")?.state, "acknowledged");
});

test("does not change the state it was given", () => {
  const before = after(hello(1), snapshot(1, [makeAlert("a")]));
  const copy = new Map(before.alerts);
  apply(before, told(makeAlert("b", { seq: 2 })), 200);
  apply(before, told(makeAlert("a", { seq: 3, state: "resolved" }), "resolved"), 200);
  assert.deepEqual(before.alerts, copy);
});

test("an older truth that comes late changes nothing", () => {
  const s = after(hello(1), snapshot(1, []), told(makeAlert("a", { seq: 5, state: "acknowledged" })), { type: "alerts", alerts: [makeAlert("a", { seq: 4 })] });
  assert.equal(s.alerts.get("a")?.state, "acknowledged");
});

test("a snapshot ends what it does not list, keeps what is newer than it, and resolved ones stay", () => {
  const s = after(hello(9), snapshot(9, [makeAlert("gone", { seq: 3 }), makeAlert("stays", { seq: 4 })]),
    told(makeAlert("done", { seq: 10, state: "resolved" }), "resolved"), told(makeAlert("newer", { seq: 12 })),
    snapshot(11, [makeAlert("stays", { seq: 4 })]));
  assert.deepEqual(open(s), ["newer", "stays"]);
  assert(s.alerts.has("done"));
});

test("a snapshot of another epoch is believed whatever its numbers", () => {
  const s = after(hello(90), snapshot(90, [makeAlert("old", { seq: 90 }), makeAlert("both", { seq: 80, state: "acknowledged" })]),
    { type: "link", link: "down" }, hello(3, "e2"), snapshot(3, [makeAlert("both", { seq: 2 })], "e2"));
  assert.deepEqual(open(s), ["both"]);
  assert.equal(s.alerts.get("both")?.state, "open");
  assert.deepEqual(s.position, { epoch: "e2", seq: 3 });
});

test("resuming is complete only when a heartbeat says so", () => {
  let s = after(hello(5), snapshot(5, []), { type: "link", link: "down" }, hello(8));
  assert.equal(s.sync, "resuming");
  s = applyAll(s, [told(makeAlert("x", { seq: 7 })), beat(null)], 200);
  assert.equal(s.sync, "resuming");
  s = apply(s, beat(8), 300);
  assert.equal(s.sync, "complete");
  assert.deepEqual(s.position, { epoch: "e1", seq: 8 });
});

test("resuming where nothing happened is complete at once", () => {
  assert.equal(after(hello(5), snapshot(5, []), { type: "link", link: "down" }, hello(5)).sync, "complete");
});

test("after a gap the place is forgotten until the snapshot", () => {
  const s = after(hello(5), snapshot(5, []), parseFrame(fixture("server-gap")), told(makeAlert("x", { seq: 200 })), beat(200));
  assert.equal(s.sync, "missing");
  assert.equal(s.position, null);
});

test("too slow: everything is asked for again", () => {
  const s = after(hello(5), snapshot(5, []), parseFrame(fixture("server-bye")));
  assert.equal(s.link, "down");
  assert.equal(s.position, null);
});

test("stale: silence for twice the heartbeat, a lost link, and never a page that is just loading", () => {
  const t0 = 1_000_000;
  assert.equal(staleSince(initial(t0), t0 + 3000), null);
  assert.equal(staleSince(initial(t0), t0 + 5000), t0);
  const s = applyAll(initial(t0), [hello(1), snapshot(1, [])], t0 + 100);
  assert.equal(staleSince(s, t0 + 100 + 30_000), null);
  assert.equal(staleSince(s, t0 + 100 + 30_001), t0 + 100);
  assert.equal(staleSince(apply(s, { type: "link", link: "down" }, t0 + 200), t0 + 200), t0 + 100);
  // Reconnecting is not being connected.
  assert.equal(staleSince(apply(s, { type: "link", link: "connecting" }, t0 + 200), t0 + 300), t0 + 100);
});

test("the server's clock is used when it differs", () => {
  assert.equal(serverNow(apply(initial(0), beat(null, 100_000), 90_000), 91_000), 101_000);
  assert.equal(serverNow(apply(initial(0), beat(null, 90_500), 90_000), 91_000), 91_000);
});

test("readings: the newest wins, an unknown patient is left to the caller", () => {
  const p = makePatient("P-1", { lastReading: makeReading({ id: "old", takenAt: 5 }) });
  const s = after({ type: "patients", patients: [p], complete: true },
    { type: "reading", patientId: "P-1", reading: makeReading({ id: "new", takenAt: 9 }) },
    { type: "reading", patientId: "P-1", reading: makeReading({ id: "older", takenAt: 7 }) },
    { type: "reading", patientId: "P-2", reading: makeReading() });
  assert.equal(s.patients.get("P-1")?.lastReading?.id, "new");
  assert.equal(s.patients.size, 1);
  // A list that was on its way when the reading came does not turn the clock back.
  const again = apply(s, { type: "patients", patients: [p], complete: true }, 200);
  assert.equal(again.patients.get("P-1")?.lastReading?.id, "new");
});

test("resolved alerts are bounded, open ones are not", () => {
  const many: Event[] = [hello(1), snapshot(1, [])];
  for (let i = 0; i < 2500; i++) many.push(told(makeAlert(`r${i}`, { seq: 2 + i, state: "resolved", updatedAt: i })));
  for (let i = 0; i < 1500; i++) many.push(told(makeAlert(`o${i}`, { seq: 5000 + i })));
  const s = after(...many);
  assert.equal(open(s).length, 1500);
  assert(s.alerts.size <= 2000);
  assert(s.alerts.has("r2499"));
});

// A server that opens, changes and resolves alerts, a connection that breaks anywhere, and at the end the console
// must hold exactly the server's open alerts. One event at a time and in batches must give the same.
test("whatever breaks when, the console ends with the server's truth", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const rnd = random(seed);
    const truth = new Map<string, Alert>();
    let log: Frame[] = [], seq = 0, epoch = 1;
    let s = initial(0), batched = initial(0), pending: Event[] = [];
    let up = false, sent = 0;
    const feed = (e: Event): void => {
      s = apply(s, e, 1);
      pending.push(e);
      if (rnd() < 0.4) flush();
    };
    const flush = (): void => { batched = applyAll(batched, pending, 1); pending = []; };
    const openNow = (): Alert[] => [...truth.values()].filter((a) => a.state !== "resolved");
    const connect = (): void => {
      flush();
      const from = s.position;
      feed(hello(seq, `e${epoch}`));
      if (from === null || from.epoch !== `e${epoch}` || seq - from.seq > 10) {
        if (from !== null) feed({ type: "gap", from: from.seq, to: seq });
        if (rnd() < 0.15) { drop(); return; }
        feed(snapshot(seq, openNow(), `e${epoch}`));
        sent = seq;
      } else sent = from.seq;
      up = true;
    };
    const drop = (): void => { up = false; feed({ type: "link", link: "down" }); };
    const deliver = (n: number): void => {
      for (; up && n > 0 && sent < seq; n--) feed(log[sent++]!);
      if (up && sent === seq && rnd() < 0.3) feed(beat(seq));
    };
    for (let i = 0; i < 120; i++) {
      const r = rnd();
      if (r < 0.5) {
        const id = `a${Math.floor(rnd() * 12)}`;
        const held = truth.get(id);
        seq++;
        const next = makeAlert(id, { seq, state: !held || held.state === "resolved" ? "open" : rnd() < 0.5 ? "acknowledged" : "resolved" });
        truth.set(id, next);
        log.push(told(next));
      } else if (r < 0.6) up ? drop() : connect();
      else if (r < 0.62) {
        // The server is restored from a backup: other numbers, another epoch.
        if (up) drop();
        epoch++;
        seq = 0;
        log = [];
        for (const a of truth.values()) { truth.set(a.id, { ...a, seq: ++seq }); log.push(told({ ...a, seq })); }
      } else deliver(Math.floor(rnd() * 4));
    }
    for (let tries = 0; !up && tries < 50; tries++) connect();
    deliver(Infinity);
    feed(beat(seq));
    flush();
    assert.deepEqual(open(s), openNow().map((a) => a.id).sort(), `seed ${seed}`);
    for (const a of openNow()) assert.equal(s.alerts.get(a.id)?.state, a.state, `seed ${seed}, ${a.id}`);
    assert.equal(s.sync, "complete", `seed ${seed}`);
    assert.deepEqual(batched, s, `seed ${seed}: batches differ`);
  }
});
