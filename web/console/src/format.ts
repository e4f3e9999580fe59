// Numbers with their units, times and spans: the one place where they become text.

import type { Reading, Severity, Values } from "./decode";
import { lang, store, t, type Key } from "./i18n";

/** How a unit is written. A unit that is not here is shown by its code. */
const unitKeys: Readonly<Record<string, Key>> = {
  "mm[Hg]": "unit.mmhg", "kPa": "unit.kpa", "mmol/L": "unit.mmol", "mg/dL": "unit.mgdl", "/min": "unit.permin",
  "%": "unit.percent", "Cel": "unit.cel", "[degF]": "unit.degf", "kg": "unit.kg", "[lb_av]": "unit.lb",
  "[jin]": "unit.jin", "g": "unit.g", "{steps}": "unit.steps", "h": "unit.h", "min": "unit.min", "ms": "unit.ms",
  "cm": "unit.cm", "m": "unit.m",
};

export function unitName(code: string): string {
  if (code === "1" || code === "") return "";
  const k = unitKeys[code];
  return k ? t(k) : code;
}

/** Decimals a unit is shown with; others show what was sent, at most two. */
const decimals: Readonly<Record<string, number>> = {
  "mm[Hg]": 0, "kPa": 1, "mmol/L": 1, "mg/dL": 0, "/min": 0, "Cel": 1, "[degF]": 1, "kg": 1, "[lb_av]": 1, "[jin]": 1,
  "{steps}": 0, "h": 2, "min": 0, "ms": 0,
};

/** 1 mmol/L of glucose in mg/dL: vitals.MgPerMmolGlucose. For display only; judging is the server's. */
const mgPerMmol = 18.01559;

export type GlucoseUnit = "mmol/L" | "mg/dL" | "sent";
const glucoseKey = "vitalwatch.glucose";

/** The unit glucose is shown in: the user's choice, else mmol/L in Chinese and as sent in English. */
export function glucoseUnit(): GlucoseUnit {
  const s = store.get(glucoseKey);
  if (s === "mmol/L" || s === "mg/dL" || s === "sent") return s;
  return lang() === "zh-CN" ? "mmol/L" : "sent";
}

export function setGlucoseUnit(u: GlucoseUnit): void { store.set(glucoseKey, u); }

/** The unit an indicator's values are shown in when they came in `sent`. */
export function displayUnit(indicator: string, sent: string): string {
  if (indicator !== "glucose" || (sent !== "mmol/L" && sent !== "mg/dL")) return sent;
  const u = glucoseUnit();
  return u === "sent" ? sent : u;
}

/** Converts between the units of one indicator that the console mixes on one chart. */
export function convert(v: number, from: string, to: string): number {
  const f = scale[from], g = scale[to];
  if (from === to || !f || !g || f.kind !== g.kind) return v;
  return (v * f.by + f.plus - g.plus) / g.by;
}

/** The same factors as vitals/unit.go. */
const scale: Readonly<Record<string, { kind: string; by: number; plus: number }>> = {
  "mg/dL": { kind: "glucose", by: 1, plus: 0 }, "mmol/L": { kind: "glucose", by: mgPerMmol, plus: 0 },
  "mm[Hg]": { kind: "pressure", by: 1, plus: 0 }, "kPa": { kind: "pressure", by: 7.50061683, plus: 0 },
  "Cel": { kind: "temperature", by: 1, plus: 0 }, "[degF]": { kind: "temperature", by: 5 / 9, plus: -160 / 9 },
  "kg": { kind: "mass", by: 1, plus: 0 }, "g": { kind: "mass", by: 0.001, plus: 0 },
  "[lb_av]": { kind: "mass", by: 0.45359237, plus: 0 }, "[jin]": { kind: "mass", by: 0.5, plus: 0 },
  "h": { kind: "span", by: 1, plus: 0 }, "min": { kind: "span", by: 1 / 60, plus: 0 },
  "cm": { kind: "length", by: 1, plus: 0 }, "m": { kind: "length", by: 100, plus: 0 },
};

/** A number as `unit` is written, with the separators of the language. */
export function number(v: number, unit: string): string {
  const d = decimals[unit];
  return new Intl.NumberFormat(lang(), d === undefined ? { maximumFractionDigits: 2 } : { minimumFractionDigits: d, maximumFractionDigits: d }).format(v);
}

/** A number with the digits that are shown. */
function rounded(v: number, unit: string): number { return Number(v.toFixed(decimals[unit] ?? 2)); }

/** A number exactly as it was sent. */
function exact(v: number): string {
  return new Intl.NumberFormat(lang(), { maximumFractionDigits: 12 }).format(v);
}

export interface Shown {
  /** The numbers, "142/91". */
  readonly value: string;
  readonly unit: string;
  /** The unit as it follows the number, with its space. */
  readonly suffix: string;
  /** What was sent, with its unit, when that is not what is shown; else "". */
  readonly sent: string;
  /** Other components that came with it, "脉率 72 次/分"; else "". */
  readonly also: string;
}

/** The value of a reading in its display unit. */
export function shown(indicator: string, values: Values, unit: string): Shown {
  const to = displayUnit(indicator, unit);
  const main = mainComponents(indicator, values);
  const value = main.map((c) => number(convert(values[c]!, unit, to), to)).join("/");
  const raw = main.map((c) => exact(values[c]!)).join("/");
  const cut = main.some((c) => exact(values[c]!) !== exact(rounded(values[c]!, to)));
  const also = Object.keys(values).filter((c) => !main.includes(c)).sort()
    .map((c) => `${componentName(c)} ${c === "pulse" ? withUnit(number(values[c]!, "/min"), "/min") : withUnit(number(convert(values[c]!, unit, to), to), to)}`).join(" · ");
  return { value, unit: unitName(to), suffix: suffix(unitName(to)), sent: to === unit && !cut ? "" : withUnit(raw, unit), also };
}

export function shownReading(r: Reading): Shown { return shown(r.indicator, r.values, r.unit); }

/** The text of a reading, "142/91 mmHg". */
export function valueText(indicator: string, values: Values, unit: string): string {
  const s = shown(indicator, values, unit);
  return s.value + s.suffix;
}

export function withUnit(number: string, unit: string): string { return number + suffix(unitName(unit)); }

function suffix(unit: string): string { return unit === "" || unit === "%" ? unit : " " + unit; }

function mainComponents(indicator: string, values: Values): string[] {
  if (indicator === "blood_pressure") return ["systolic", "diastolic"].filter((c) => c in values);
  if ("value" in values) return ["value"];
  if ("total" in values) return ["total"];
  return Object.keys(values).sort();
}

/** One component of a reading in its unit, for charts. */
export function component(r: Reading, c: string, unit: string): number | null {
  const v = r.values[c];
  if (v === undefined) return null;
  return c === "pulse" ? v : convert(v, r.unit, unit);
}

const indicatorKeys: Readonly<Record<string, Key>> = {
  blood_pressure: "indicator.blood_pressure", glucose: "indicator.glucose", heart_rate: "indicator.heart_rate",
  spo2: "indicator.spo2", temperature: "indicator.temperature", weight: "indicator.weight",
  respiration: "indicator.respiration", steps: "indicator.steps", sleep: "indicator.sleep", hrv: "indicator.hrv",
  rhythm: "indicator.rhythm", height: "indicator.height", body_fat: "indicator.body_fat",
};

const componentKeys: Readonly<Record<string, Key>> = {
  systolic: "component.systolic", diastolic: "component.diastolic", mean: "component.mean", pulse: "component.pulse",
  value: "component.value", total: "component.total", deep: "component.deep", light: "component.light",
  rem: "component.rem", awake: "component.awake",
};

const conditionKeys: Readonly<Record<string, Key>> = {
  general: "condition.general", hypertension: "condition.hypertension", type1_diabetes: "condition.type1_diabetes",
  type2_diabetes: "condition.type2_diabetes", heart_failure: "condition.heart_failure", copd: "condition.copd",
  hypercapnia_risk: "condition.hypercapnia_risk",
};

const severityKeys: Readonly<Record<Severity, Key>> = {
  info: "severity.info", warning: "severity.warning", critical: "severity.critical", emergency: "severity.emergency",
};

const opKeys: Readonly<Record<string, string>> = { "<": "<", "<=": "≤", ">": ">", ">=": "≥", "==": "=", "=": "=" };

export const indicatorName = (s: string): string => named(indicatorKeys, s);
export const componentName = (s: string): string => named(componentKeys, s);
export const conditionName = (s: string): string => named(conditionKeys, s);
export const severityName = (s: Severity): string => t(severityKeys[s]);
export const opName = (s: string): string => opKeys[s] ?? s;

/** The translation of a name from a table, else the name itself in words: a newer server may know more. */
export function named(keys: Readonly<Record<string, Key>>, name: string): string {
  const k = keys[name];
  return k ? t(k) : name.replaceAll("_", " ");
}

/** A point in time, with the day unless it is today. */
export function clock(ms: number, now: number): string {
  return intl(sameDay(ms, now) ? { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } : { month: "numeric", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(ms);
}

/** A point in time in full, with seconds and zone. */
export function stamp(ms: number): string {
  return intl({ year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" }).format(ms);
}

/** A label of a time axis that spans `range` ms. */
export function axisTime(ms: number, range: number): string {
  const d = new Date(ms);
  if (range <= 36 * 3600_000 || d.getHours() !== 0 || d.getMinutes() !== 0) return intl({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(ms);
  return intl({ month: "numeric", day: "numeric" }).format(ms);
}

function sameDay(a: number, b: number): boolean { return new Date(a).toDateString() === new Date(b).toDateString(); }

const intls = new Map<string, Intl.DateTimeFormat>();

function intl(o: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = lang() + JSON.stringify(o);
  let f = intls.get(key);
  if (!f) intls.set(key, f = new Intl.DateTimeFormat(lang(), o));
  return f;
}

/** How long ago, in one unit, rounded down. */
export function ago(ms: number, now: number): string {
  const s = Math.floor((now - ms) / 1000);
  if (s < -60) return t("time.ahead");
  if (s < 10) return t("time.now");
  if (s < 60) return t("time.seconds_ago", { n: s });
  if (s < 3600) return t("time.minutes_ago", { n: Math.floor(s / 60) });
  if (s < 48 * 3600) return t("time.hours_ago", { n: Math.floor(s / 3600) });
  return t("time.days_ago", { n: Math.floor(s / 86400) });
}
