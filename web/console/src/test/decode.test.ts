import assert from "node:assert/strict";
import { test } from "node:test";
import * as d from "../decode";
import { parseRoute, to } from "../route";

const at = "2026-11-21T08:00:00.000Z", ms = Date.parse(at);
const reading = { indicator: "weight", taken_at: at, values: { value: 81.3 }, unit: "kg" };
const refused = { id: "24", at, last_at: at, times: 12, device_id: "bp-3", format: "gatt/2A35", source: "mqtt", payload_bytes: 3, problem: "unit_unknown", detail: "send mm[Hg]", refused: 2 };

test("reads what waits for an owner", () => {
  const w = d.unassigned({ id: "31-255", device_id: "s", user_slot: 255, problem: "owner_doubtful", patient_id: "P-1", readings: 3, messages: 2, indicators: ["weight"], first_taken_at: at, last_received_at: at, newest: reading });
  assert.deepEqual([w.userSlot, w.patientId, w.readings, w.messages, w.firstTaken, w.newest?.values["value"]], [255, "P-1", 3, 2, ms, 81.3]);
  assert.equal(d.unassigned({ id: "1-0", device_id: "s", user_slot: 0, problem: "device_unknown", readings: 1, messages: 1, indicators: null, last_received_at: at }).newest, null);
});

test("an alert says how severe it ever was", () => {
  const a = { id: "1", patient_id: "P-1", rule: "r", severity: "info", state: "open", opened_at: at, title: { en: "x" }, seq: 1 };
  assert.equal(d.alert({ ...a, highest_severity: "emergency" }).highest, "emergency");
  assert.equal(d.alert(a).highest, "info", "an older server does not say");
});

test("reads the bytes of a refused message", () => {
  const c = d.content({ ...refused, payload_base64: "FgD/" });
  assert.deepEqual([...c.bytes], [0x16, 0, 0xff]);
  assert.deepEqual([c.text, c.about.times, c.about.refused, c.about.lastAt], ["", 12, 2, ms]);
});

test("reads devices, commands, guides and sittings", () => {
  const x = d.device({ id: "c", model: "", serial: "", created_at: at, disabled: false, battery: 0, credentials: [], bindings: [{ patient_id: "P-1", user_slot: 1, to: at }],
    gateways: [{ gateway_id: "old", from: at, to: at }, { gateway_id: "gw", from: at }] });
  assert.deepEqual([x.battery, x.bindings[0], x.gateways], [0, { patientId: "P-1", userSlot: 1, from: 0, to: ms }, ["gw"]]);
  assert.equal(d.device({ id: "c", bindings: [], gateways: [] }).battery, null);
  const c = d.command({ id: "1", topic: "cmd", state: "answered", created_at: at, answered_at: at, body: { cmd: "remeasure", text: { en: "again" } } });
  assert.deepEqual([c.cmd, c.text["en"], c.doneAt], ["remeasure", "again", ms]);
  assert.equal(d.command({ id: "1", topic: "config", state: "sent", created_at: at, body: [1] }).cmd, "", "a body may be any JSON");
  const g = d.guide({ device_id: "c", indicators: [], sections: [{ topic: "rest", steps: { en: ["sit"] } }], errors: [{ code: "E1", class: "cuff", means: { en: "m" }, do: { en: "r" }, source: "", verified: false }], faults: null });
  assert.deepEqual([g.sections[0]?.steps["en"], g.errors[0]?.remedy["en"], g.faults], [["sit"], "r", []]);
  assert.deepEqual([d.sitting({ from: at, to: at, device_id: "c", systolic: 150, diastolic: 90.5, counted: 2, third_wanted: true, readings: [] })].map((s) => [s.pulse, s.diastolic, s.thirdWanted]), [[null, 90.5, true]]);
});

const bad: Readonly<Record<string, () => unknown>> = {
  "a slot that is no whole number": () => d.unassigned({ id: "1-0", device_id: "s", user_slot: 0.5, problem: "x", readings: 1, messages: 1 }),
  "fewer readings than none": () => d.unassigned({ id: "1-0", device_id: "s", user_slot: 0, problem: "x", readings: -1, messages: 1 }),
  "a newest reading without unit": () => d.unassigned({ id: "1-0", device_id: "s", problem: "x", newest: { ...reading, unit: 1 } }),
  "content that is not base64": () => d.content({ ...refused, payload_base64: "*" }),
  "content that is missing": () => d.content(refused),
  "a battery of 101 %": () => d.device({ id: "c", battery: 101 }),
  "a binding to nobody": () => d.device({ id: "c", bindings: [{ user_slot: 0 }] }),
  "a gateway without id": () => d.device({ id: "c", gateways: [{ from: at }] }),
  "a status without time": () => d.deviceStatus({ state: "online" }),
  "steps that are no texts": () => d.guide({ sections: [{ topic: "rest", steps: { en: [1] } }] }),
  "an error code without code": () => d.guide({ errors: [{ means: {}, do: {} }] }),
  "a mean that is no number": () => d.sitting({ from: at, systolic: "150", diastolic: 90, readings: [] }),
  "an outcome that counts backwards": () => d.outcome({ accepted: -1 }),
};
for (const [name, f] of Object.entries(bad)) test(`refuses ${name}`, () => assert.throws(f, { name: "DecodeError" }));

test("places have addresses", () => {
  for (const [hash, want] of [
    [to.unassigned, { name: "unassigned" }], [to.devices, { name: "devices" }], [to.device("a/b 1"), { name: "device", id: "a/b 1" }], [to.quarantine, { name: "quarantine" }], ["#/devices/%", { name: "devices" }],
  ] as const) assert.deepEqual(parseRoute(hash), want);
});
