import assert from "node:assert/strict";
import { test } from "node:test";
import type { Threshold } from "../decode";
import { allLines, lines, mark, series, spread, thresholdIn, yRange } from "../series";
import { makeReading } from "./make";

const min = 60_000;
const line = (over: Partial<Threshold>): Threshold => ({
  rule: "r", condition: "general", indicator: "glucose", component: "value", severity: "warning", op: "<", values: { "mmol/L": 3.9, "mg/dL": 70 }, asks: {}, source: "", title: {}, ...over,
});

test("sorts, converts to one unit, and leaves gaps as gaps", () => {
  const s = series("glucose", [
    makeReading({ takenAt: 125 * min, values: { value: 90 }, unit: "mg/dL" }), makeReading({ takenAt: 0 }), makeReading({ takenAt: 5 * min }), makeReading({ takenAt: 120 * min }),
  ]);
  assert.equal(s.unit, "mmol/L");
  assert.deepEqual(s.x, [0, 300, 62.5 * 60, 7200, 7500]);
  assert.equal(s.y[0]![2], null);
  assert.equal(s.readings[2], null);
  assert(Math.abs(s.y[0]![4]! - 4.9957) < 1e-3);
});

test("the line passes over suspect and invalid readings, and they stay in the chart", () => {
  const s = series("heart_rate", [0, 1, 2].map((i) => makeReading({ indicator: "heart_rate", unit: "/min", takenAt: i * min, values: { value: 70 }, quality: ["good", "suspect", "invalid"][i]! })));
  assert.deepEqual(s.y[0], [70, undefined, undefined]);
  assert.equal(s.readings.length, 3);
});

test("readings twice a day are no gap", () => {
  const s = series("blood_pressure", [0, 12, 24, 37].map((t) => makeReading({ indicator: "blood_pressure", unit: "mm[Hg]", takenAt: t * 60 * min, values: { systolic: 140, diastolic: 80 } })));
  assert(s.readings.every((r) => r !== null));
  assert.deepEqual(s.components, ["systolic", "diastolic"]);
});

test("marks", () => {
  assert.equal(mark(makeReading()), "good");
  assert.equal(mark(makeReading({ freshness: "backfill" })), "late");
  assert.equal(mark(makeReading({ freshness: "late", quality: "suspect" })), "suspect");
  assert.equal(mark(makeReading({ quality: "invalid" })), "invalid");
});

test("a threshold is the stored pair, else converted, else no line", () => {
  assert.equal(thresholdIn(line({}), "mmol/L"), 3.9);
  assert.equal(thresholdIn(line({ values: { "mg/dL": 54 } }), "mg/dL"), 54);
  assert(Math.abs(thresholdIn(line({ values: { "mg/dL": 54 } }), "mmol/L")! - 2.99740) < 1e-4);
  assert.equal(thresholdIn(line({ values: { "mm[Hg]": 180 } }), "mmol/L"), null);
  assert.equal(thresholdIn(line({ values: {} }), "mmol/L"), null);
});

test("equal lines of several rules become one, the most severe", () => {
  const s = series("glucose", [makeReading()]);
  const ls = lines([line({ severity: "warning" }), line({ severity: "critical", rule: "q" }), line({ op: ">", values: { "mmol/L": 13.9 } }), line({ indicator: "spo2" })], s);
  assert.deepEqual(ls.map((l) => [l.at, l.threshold.severity]), [[13.9, "warning"], [3.9, "critical"]]);
});

test("a line says what one reading beyond it means; the list has what a second one means, too", () => {
  const s = series("glucose", [makeReading()]);
  const all = [line({ severity: "emergency", asks: { for: "15m" } }), line({ severity: "critical" }), line({ severity: "warning" })];
  assert.deepEqual(lines(all, s).map((l) => l.threshold.severity), ["critical"]);
  assert.deepEqual(allLines(all, s).map((l) => l.threshold.severity), ["critical", "warning", "emergency"]);
  assert.deepEqual(lines(all.slice(0, 1), s).map((l) => l.threshold.severity), ["emergency"]);
});

test("the axis shows all readings but the invalid, and lines that are near", () => {
  const s = series("glucose", [makeReading({ values: { value: 6 } }), makeReading({ takenAt: min, values: { value: 50 }, quality: "invalid" })]);
  const [lo, hi] = yRange(s, lines([line({}), line({ op: ">", values: { "mmol/L": 33 } })], s));
  assert(lo < 3.9 && hi > 6 && hi < 20, `${lo} ${hi}`);
});

test("labels are moved apart as little as needed, within the plot", () => {
  assert.deepEqual(spread([], 10, 0, 100), []);
  assert.deepEqual(spread([20, 50], 10, 0, 100), [20, 50]);
  assert.deepEqual(spread([20, 22, 24], 10, 0, 100), [20, 30, 40]);
  assert.deepEqual(spread([80, 95, 98, 99], 10, 0, 100), [70, 80, 90, 100]);
  assert.deepEqual(spread([-5, 0], 10, 0, 100), [0, 10]);
});
