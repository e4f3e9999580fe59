import assert from "node:assert/strict";
import { test } from "node:test";
import { channels } from "../feed";
import { parseFrame, say } from "../frames";
import { fixture, names } from "./fixtures";

const types: Record<string, string> = {
  hello: "hello", subscribed: "other", snapshot: "snapshot", alert: "alert", reading: "reading", gap: "gap",
  heartbeat: "heartbeat", result: "result", pong: "other", bye: "bye",
};

for (const name of names("server-")) {
  test(`reads ${name}`, () => {
    const kind = name.split("-")[1]!;
    assert.equal(parseFrame(fixture(name)).type, types[kind]);
  });
}

for (const name of names("invalid-")) {
  test(`refuses ${name}`, () => assert.throws(() => parseFrame(fixture(name)), { name: "DecodeError" }));
}

test("refuses what is not JSON", () => assert.throws(() => parseFrame("{"), SyntaxError));

test("keeps everything of an alert", () => {
  const f = parseFrame(fixture("server-alert-acknowledged"));
  assert(f.type === "alert");
  assert.equal(f.transition, "acknowledged");
  assert.equal(f.alert.acknowledgedBy, "coach.li");
  assert.equal(f.alert.openedAt, Date.parse("2026-11-21T00:00:01.250Z"));
  assert.deepEqual(f.alert.trigger?.values, { systolic: 186, diastolic: 112, pulse: 92 });
  assert.equal(f.alert.title["zh-CN"], "血压极高");
  assert.equal(f.alert.snoozedUntil, 0);
});

test("a heartbeat without a place is told from one with", () => {
  const level = parseFrame(fixture("server-heartbeat")), behind = parseFrame(fixture("server-heartbeat-behind"));
  assert(level.type === "heartbeat" && behind.type === "heartbeat");
  assert.equal(level.seq, 42);
  assert.equal(behind.seq, null);
});

const said: Record<string, string> = {
  "client-auth": say.auth("tk_1"),
  "client-subscribe": say.subscribe(1, channels, null),
  "client-subscribe-from": say.subscribe(1, channels, { epoch: "e1", seq: 41 }),
  "client-ping": say.ping(),
};

for (const name of names("client-")) {
  test(`says ${name}`, () => assert.deepEqual(JSON.parse(said[name] ?? "null"), JSON.parse(fixture(name))));
}
