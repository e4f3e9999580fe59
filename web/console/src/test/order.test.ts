import assert from "node:assert/strict";
import { test } from "node:test";
import { compareAlerts, listAlerts, needs, needsAttention, snoozeMinutes, type AlertFilter } from "../order";
import { makeAlert, makePatient, random } from "./make";
import { severities, type Severity } from "../decode";

const all: AlertFilter = { severity: "", kind: "", state: "all", text: "" };
const words = (a: { id: string; patientId: string }): string => `${a.id} ${a.patientId}`;

test("unresolved, severe, unacknowledged, longest waiting first", () => {
  const list = [
    makeAlert("resolved", { severity: "emergency", state: "resolved", resolvedAt: 9 }),
    makeAlert("warning-new", { openedAt: 5 }), makeAlert("warning-old", { openedAt: 1 }),
    makeAlert("critical-acked", { severity: "critical", state: "acknowledged", openedAt: 1 }),
    makeAlert("critical", { severity: "critical", openedAt: 8 }),
    makeAlert("emergency", { severity: "emergency", openedAt: 9 }),
  ];
  assert.deepEqual(listAlerts(list, all, words).map((a) => a.id), ["emergency", "critical", "critical-acked", "warning-old", "warning-new", "resolved"]);
});

test("filters by severity, state and text", () => {
  const list = [makeAlert("a", { patientId: "P-7" }), makeAlert("b", { state: "acknowledged" }), makeAlert("c", { state: "resolved", severity: "critical" })];
  const ids = (f: Partial<AlertFilter>): string[] => listAlerts(list, { ...all, ...f }, words).map((a) => a.id);
  assert.deepEqual(ids({ state: "active" }), ["a", "b"]);
  assert.deepEqual(ids({ state: "unacknowledged" }), ["a"]);
  assert.deepEqual(ids({ state: "acknowledged" }), ["b"]);
  assert.deepEqual(ids({ state: "resolved" }), ["c"]);
  assert.deepEqual(ids({ severity: "critical" }), ["c"]);
  assert.deepEqual(ids({ text: " p-7 " }), ["a"]);
});

test("the order of alerts is total: no arrangement of the input changes it", () => {
  const rnd = random(5);
  const list = Array.from({ length: 60 }, (_, i) => makeAlert(`a${i}`, {
    severity: severities[Math.floor(rnd() * 4)]!, state: (["open", "acknowledged", "resolved"] as const)[Math.floor(rnd() * 3)]!,
    openedAt: Math.floor(rnd() * 4), resolvedAt: Math.floor(rnd() * 3),
  }));
  const want = [...list].sort(compareAlerts).map((a) => a.id);
  for (let n = 0; n < 20; n++) {
    const mixed = list.map((a) => [rnd(), a] as const).sort((a, b) => a[0] - b[0]).map(([, a]) => a);
    assert.deepEqual(mixed.sort(compareAlerts).map((a) => a.id), want);
  }
});

test("patients: worst, unacknowledged, longest waiting, signal lost, id", () => {
  const people = ["calm-b", "calm-a", "lost", "warn-acked", "warn-new", "warn-old", "crit"].map((id) => makePatient(id, id === "lost" ? { signal: "lost" } : {}));
  const alerts = [
    makeAlert("1", { patientId: "crit", severity: "critical", state: "acknowledged" }), makeAlert("2", { patientId: "warn-old", openedAt: 1 }),
    makeAlert("3", { patientId: "warn-new", openedAt: 2 }), makeAlert("4", { patientId: "warn-acked", state: "acknowledged", openedAt: 0 }),
    makeAlert("5", { patientId: "calm-a", state: "resolved", severity: "emergency" }),
  ];
  assert.deepEqual(needs(people, alerts, true).map((n) => n.patient.id), ["crit", "warn-old", "warn-new", "warn-acked", "lost", "calm-a", "calm-b"]);
});

test("while the feed is not complete the server's summary keeps a patient from looking calm", () => {
  const p = makePatient("P", { worst: "critical", openAlerts: 2 });
  const [n] = needs([p], [], false);
  assert.equal(n?.worst, "critical");
  assert.equal(n?.open, 2);
  assert.equal(needs([p], [], true)[0]?.worst, "none");
});

test("an alert without signal marks its patient", () => {
  assert.equal(needs([makePatient("P-1")], [makeAlert("a", { signal: "lost" })], true)[0]?.lost, true);
});

test("a notice alone asks for nobody's attention, a lost signal does", () => {
  const need = (severity: Severity, signal: "live" | "lost" = "live"): boolean =>
    needsAttention(needs([makePatient("P")], [makeAlert("a", { patientId: "P", severity, signal })], true)[0]!);
  assert.deepEqual([need("info"), need("warning"), need("emergency"), need("info", "lost")], [false, true, true, true]);
  assert.equal(needsAttention(needs([makePatient("P")], [], true)[0]!), false);
});

test("alerts about devices come after those about people and make nobody worse", () => {
  const alerts = [makeAlert("device", { kind: "technical", severity: "warning", openedAt: 1 }), makeAlert("person", { severity: "info", openedAt: 2 })];
  assert.deepEqual(listAlerts(alerts, all, () => "").map((a) => a.id), ["person", "device"]);
  assert.deepEqual(listAlerts(alerts, { ...all, kind: "technical" }, () => "").map((a) => a.id), ["device"]);
  assert.deepEqual(listAlerts(alerts, { ...all, kind: "clinical" }, () => "").map((a) => a.id), ["person"]);
  assert.deepEqual(needs([makePatient("P-1")], alerts, true).map((n) => [n.worst, n.open]), [["info", 1]]);
});

test("nobody is offered a snooze that the server would cut or refuse", () => {
  assert.deepEqual(snoozeMinutes("emergency"), []);
  assert.equal(Math.max(...snoozeMinutes("critical")), 15);
  assert.equal(Math.max(...snoozeMinutes("warning"), ...snoozeMinutes("info")), 120);
});
