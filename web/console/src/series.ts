// From readings to what a chart draws. Pure.

import type { Reading, Threshold } from "./decode";
import { component, convert, displayUnit } from "./format";

/** How far a reading can be trusted, as the chart tells it apart. */
export type Mark = "good" | "late" | "suspect" | "invalid";

export interface Series {
  readonly indicator: string;
  /** The one unit of the chart. */
  readonly unit: string;
  readonly components: readonly string[];
  /** Seconds since the epoch, ascending. Where a gap was put in there is no reading. */
  readonly x: readonly number[];
  /** Per component: a number, null for a gap, undefined where the line passes over a reading it does not trust. */
  readonly y: readonly (readonly (number | null | undefined)[])[];
  readonly readings: readonly (Reading | null)[];
}

export function mark(r: Reading): Mark {
  if (r.quality === "invalid") return "invalid";
  if (r.quality === "suspect") return "suspect";
  return r.freshness === "" || r.freshness === "live" ? "good" : "late";
}

/** The components that a chart of the indicator shows. */
export function charted(indicator: string): readonly string[] {
  if (indicator === "blood_pressure") return ["systolic", "diastolic"];
  if (indicator === "sleep") return ["total"];
  return ["value"];
}

/** The shortest silence in ms that is drawn as a gap. */
const leastGap = 30 * 60_000;

/** A silence this many times longer than usual is a gap. */
const gapFactor = 4;

/** `readings` are of one indicator, in any order. */
export function series(indicator: string, readings: readonly Reading[]): Series {
  const sorted = [...readings].sort((a, b) => a.takenAt - b.takenAt || a.receivedAt - b.receivedAt);
  const last = sorted[sorted.length - 1];
  const unit = last ? displayUnit(indicator, last.unit) : "";
  const components = charted(indicator);
  const gap = Math.max(leastGap, gapFactor * medianStep(sorted));
  const x: number[] = [];
  const y: (number | null | undefined)[][] = components.map(() => []);
  const out: (Reading | null)[] = [];
  let before = 0;
  for (const r of sorted) {
    if (out.length > 0 && r.takenAt - before > gap) {
      x.push((before + r.takenAt) / 2000);
      for (const c of y) c.push(null);
      out.push(null);
    }
    before = r.takenAt;
    x.push(r.takenAt / 1000);
    const m = mark(r);
    components.forEach((c, i) => y[i]!.push(m === "suspect" || m === "invalid" ? undefined : component(r, c, unit)));
    out.push(r);
  }
  return { indicator, unit, components, x, y, readings: out };
}

function medianStep(sorted: readonly Reading[]): number {
  const steps: number[] = [];
  for (let i = 1; i < sorted.length; i++) steps.push(sorted[i]!.takenAt - sorted[i - 1]!.takenAt);
  steps.sort((a, b) => a - b);
  return steps[steps.length >> 1] ?? 0;
}

/** A threshold in the unit of the chart. */
export interface Line {
  readonly at: number;
  readonly exact: boolean;
  readonly threshold: Threshold;
}

const severe: readonly string[] = ["info", "warning", "critical", "emergency"];

/** All thresholds of a chart, from the highest down; at one number what one reading is enough for, the most severe, first. */
export function allLines(all: readonly Threshold[], s: Series): Line[] {
  const out: Line[] = [];
  for (const t of all) {
    if (t.indicator !== s.indicator || !s.components.includes(t.component)) continue;
    const at = thresholdIn(t, s.unit);
    if (at !== null) out.push({ at, exact: t.values[s.unit] !== undefined, threshold: t });
  }
  const once = (l: Line): number => Object.keys(l.threshold.asks).length === 0 ? 0 : 1;
  return out.sort((a, b) => b.at - a.at || once(a) - once(b) || severe.indexOf(b.threshold.severity) - severe.indexOf(a.threshold.severity));
}

/** The threshold lines that are drawn: each number once, named by what one reading beyond it means. */
export function lines(all: readonly Threshold[], s: Series): Line[] {
  const places = new Set<string>();
  return allLines(all, s).filter(({ at, threshold: t }) => {
    const key = `${t.component} ${t.op[0]} ${at.toFixed(4)}`;
    return !places.has(key) && places.add(key);
  });
}

/** The number of a threshold in a unit: the stored pair where there is one, else converted. */
export function thresholdIn(t: Threshold, unit: string): number | null {
  const exact = t.values[unit];
  if (exact !== undefined) return exact;
  const pair = Object.entries(t.values).sort(([a], [b]) => a < b ? -1 : 1)[0];
  if (!pair) return null;
  const v = convert(pair[1], pair[0], unit);
  return v === pair[1] && pair[0] !== unit ? null : v; // units of another kind: no line rather than a wrong one
}

/** The least spread of a chart in its unit, so that noise does not look like drama. */
const leastSpread: Readonly<Record<string, number>> = {
  "mm[Hg]": 40, "mmol/L": 4, "mg/dL": 72, "/min": 30, "%": 10, "Cel": 2, "[degF]": 4, "kg": 4, "[lb_av]": 8, "[jin]": 8,
};

/** The range of the y axis: all trusted and suspect readings, and the threshold lines that are near them. */
export function yRange(s: Series, ls: readonly Line[]): [number, number] {
  let lo = Infinity, hi = -Infinity;
  for (const r of s.readings) {
    if (r === null || mark(r) === "invalid") continue;
    for (const c of s.components) {
      const v = component(r, c, s.unit);
      if (v === null) continue;
      lo = Math.min(lo, v);
      hi = Math.max(hi, v);
    }
  }
  if (lo > hi) [lo, hi] = ls.length ? [ls[ls.length - 1]!.at, ls[0]!.at] : [0, 1];
  const spread = Math.max(hi - lo, leastSpread[s.unit] ?? Math.abs(hi) * 0.1 + 1);
  const mid = (lo + hi) / 2;
  lo = Math.min(lo, mid - spread / 2);
  hi = Math.max(hi, mid + spread / 2);
  const near = spread * 0.6, from = lo, upTo = hi;
  for (const l of ls) {
    if (l.at >= from - near && l.at <= upTo + near) {
      lo = Math.min(lo, l.at);
      hi = Math.max(hi, l.at);
    }
  }
  const pad = (hi - lo) * 0.08;
  const range: [number, number] = [lo - pad, hi + pad];
  if (s.unit === "%" && s.indicator === "spo2") range[1] = Math.min(range[1], 101);
  if (lo >= 0 && range[0] < 0) range[0] = 0;
  return range;
}

/** Moves places, in ascending order, apart to at least `gap`, as little as that needs, within lo and hi where they fit. */
export function spread(places: readonly number[], gap: number, lo: number, hi: number): number[] {
  const out: number[] = [];
  for (const p of places) out.push(Math.max(p, out.length > 0 ? out[out.length - 1]! + gap : lo));
  for (let i = out.length - 1, limit = hi; i >= 0 && out[i]! > limit; i--, limit -= gap) out[i] = limit;
  return out;
}
