// Run-time checks of everything that comes from the server, and the types that the rest of the console works
// with. Nothing else in the console looks at unchecked JSON.

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type Obj = { readonly [key: string]: Json };

export const severities = ["info", "warning", "critical", "emergency"] as const;
export type Severity = (typeof severities)[number];

/** The severity of a name, null when there is no such one. */
export function asSeverity(s: string): Severity | null {
  return (severities as readonly string[]).includes(s) ? s as Severity : null;
}

export const states = ["open", "acknowledged", "resolved"] as const;
export type AlertState = (typeof states)[number];
export type Signal = "live" | "lost";

/** Text in the languages of the house, by language tag. */
export type Text = Readonly<Record<string, string>>;

/** Component name to number, in the unit that stands beside. */
export type Values = Readonly<Record<string, number>>;

/** A reading as the API shows it. Times are ms since the epoch. */
export interface Reading {
  readonly id: string;
  readonly deviceId: string;
  readonly indicator: string;
  readonly takenAt: number;
  readonly receivedAt: number;
  readonly values: Values;
  readonly unit: string;
  readonly context: Obj;
  readonly flags: readonly string[];
  /** live, late, backfill or doubtful; "" when the server did not say. */
  readonly freshness: string;
  /** good, suspect or invalid; "" when the server did not say. */
  readonly quality: string;
}

/** What a device says of a measurement that failed; code "" when it named none. */
export interface DeviceError {
  readonly class: string;
  readonly code: string;
}

/** What the catalogue says of a device error. */
export interface ErrorGuide {
  readonly code: string;
  readonly means: Text;
  readonly remedy: Text;
  readonly verified: boolean;
}

/** What an alert is about: a person's values, or a device that could not measure. */
export type AlertKind = "clinical" | "technical";

/** An alert. Times are ms since the epoch, 0 for not yet; names are "" for nobody. */
export interface Alert {
  readonly id: string;
  readonly patientId: string;
  readonly kind: AlertKind;
  /** Of a technical alert. */
  readonly error: DeviceError | null;
  readonly rule: string;
  readonly condition: string;
  readonly severity: Severity;
  /** The worst that it ever was; an alert that eased shows its worst reading. */
  readonly highest: Severity;
  readonly state: AlertState;
  readonly signal: Signal;
  readonly openedAt: number;
  readonly updatedAt: number;
  readonly acknowledgedBy: string;
  readonly acknowledgedAt: number;
  readonly resolvedAt: number;
  readonly resolvedBy: string;
  readonly outcome: string;
  readonly snoozedUntil: number;
  readonly signalLostAt: number;
  readonly acceptedBy: string;
  readonly title: Text;
  readonly trigger: Reading | null;
  readonly explanation: Obj;
  /** Sequence of its last transition. */
  readonly seq: number;
}

export interface Transition {
  readonly at: number;
  readonly transition: string;
  readonly severity: Severity | "";
  readonly actor: string;
  readonly note: string;
  readonly outcome: string;
  /** Of a snooze, 0 otherwise. */
  readonly until: number;
  /** The reading that caused it, null for acts. */
  readonly trigger: Reading | null;
}

export interface Coverage {
  readonly indicator: string;
  readonly watched: boolean;
  readonly since: number;
  readonly why: string;
}

export interface Patient {
  readonly id: string;
  readonly name: string;
  readonly conditions: readonly string[];
  readonly worst: Severity | "none";
  readonly openAlerts: number;
  readonly lastReading: Reading | null;
  readonly signal: Signal | "";
  readonly coverage: readonly Coverage[];
}

/** The line of one rule, in every unit it is defined in (exact pairs, not conversions). */
export interface Threshold {
  readonly rule: string;
  readonly condition: string;
  readonly indicator: string;
  readonly component: string;
  readonly severity: Severity;
  readonly op: string;
  readonly values: Values;
  /** What must come to one reading beyond it ("for", "repeat", "of", "within"); empty: nothing. */
  readonly asks: Obj;
  readonly source: string;
  readonly title: Text;
}

export interface Finding {
  readonly rule: string;
  readonly condition: string;
  readonly day: string;
  readonly severity: Severity;
  readonly title: Text;
  readonly first: number;
  readonly last: number;
  readonly readings: number;
}

export interface Quarantined {
  readonly id: string;
  readonly at: number;
  readonly deviceId: string;
  readonly source: string;
  readonly format: string;
  /** Of the first refused item. */
  readonly problem: string;
  readonly detail: string;
  /** How often the same bytes came, and when last. */
  readonly times: number;
  readonly lastAt: number;
  /** Of the content. */
  readonly bytes: number;
  /** How many items were refused. */
  readonly refused: number;
}

/** A refused message as it came. */
export interface Content {
  readonly about: Quarantined;
  readonly bytes: Uint8Array;
  /** The same, "" where it is not UTF-8. */
  readonly text: string;
}

/** What became of messages that were tried again or given to somebody. */
export interface Outcome {
  readonly accepted: number;
  readonly duplicate: number;
  readonly refused: number;
  /** Where to go on, "" at the end. */
  readonly next: string;
}

/** All that waits for an owner from one user slot of one device, for one reason. */
export interface Unassigned {
  /** Names the newest message and its slot; groups of one message share it. */
  readonly id: string;
  readonly deviceId: string;
  /** 0: the device names none; 255: it says unknown. */
  readonly userSlot: number;
  readonly problem: string;
  /** Whose they would be, "" for nobody. */
  readonly patientId: string;
  readonly readings: number;
  readonly messages: number;
  readonly indicators: readonly string[];
  readonly firstTaken: number;
  readonly lastAt: number;
  readonly newest: Reading | null;
}

/** For whom a device measures. from 0: as far back as it remembers; to 0: still. */
export interface Binding {
  readonly patientId: string;
  readonly userSlot: number;
  readonly from: number;
  readonly to: number;
}

export interface Device {
  readonly id: string;
  readonly model: string;
  /** In the catalogue of models, "" when it is not there. */
  readonly modelId: string;
  readonly serial: string;
  readonly tz: string;
  readonly disabled: boolean;
  /** online, sleeping or lost, as it said last; "" when it never said. */
  readonly state: string;
  readonly stateAt: number;
  /** Per cent, null when it never said. */
  readonly battery: number | null;
  readonly firmware: string;
  readonly lastSeen: number;
  /** The last measurement that the device said had failed. */
  readonly lastError: (DeviceError & { readonly at: number; readonly indicator: string; readonly guide: ErrorGuide | null }) | null;
  readonly bindings: readonly Binding[];
  /** Those that may speak for it now. */
  readonly gateways: readonly string[];
}

export interface DeviceStatus {
  readonly at: number;
  readonly state: string;
  readonly battery: number | null;
  readonly firmware: string;
}

export interface Command {
  readonly id: string;
  /** remeasure, remind, message; "" for what is none of these. */
  readonly cmd: string;
  readonly state: string;
  readonly text: Text;
  readonly createdAt: number;
  readonly expiresAt: number;
  /** Of the last thing that happened to it, 0 for nothing yet. */
  readonly doneAt: number;
  /** The device's own word of what it did. */
  readonly result: string;
}

export interface Model {
  readonly id: string;
  readonly name: Text;
}

/** How a device is used. verified false: not compared with the manual. */
export interface Guide {
  readonly modelId: string;
  readonly indicators: readonly string[];
  readonly sections: readonly { readonly topic: string; readonly steps: Readonly<Record<string, readonly string[]>> }[];
  readonly errors: readonly { readonly code: string; readonly means: Text; readonly remedy: Text; readonly verified: boolean }[];
  readonly faults: readonly { readonly text: Text; readonly verified: boolean }[];
}

/** One sitting with the cuff; means in mmHg and /min, pulse null when no reading has one. */
export interface Sitting {
  readonly from: number;
  readonly deviceId: string;
  readonly systolic: number;
  readonly diastolic: number;
  readonly pulse: number | null;
  /** Readings in the means. */
  readonly counted: number;
  readonly thirdWanted: boolean;
  readonly readings: readonly Reading[];
}

export interface Session {
  readonly name: string;
  readonly role: string;
  readonly anonymous: boolean;
  readonly language: string;
}

/** What came is not what was agreed. The message names the place, never the value. */
export class DecodeError extends Error {
  constructor(readonly path: string, want: string) {
    super(`${path || "value"}: want ${want}`);
    this.name = "DecodeError";
  }
}

export function obj(v: unknown, path = ""): Obj {
  if (typeof v !== "object" || v === null || Array.isArray(v)) throw new DecodeError(path, "an object");
  return v as Obj;
}

export function arr(v: unknown, path = ""): readonly Json[] {
  if (!Array.isArray(v)) throw new DecodeError(path, "an array");
  return v as readonly Json[];
}

export function str(o: Obj, key: string, path = ""): string {
  const v = o[key];
  if (typeof v !== "string") throw new DecodeError(at(path, key), "a string");
  return v;
}

/** A missing or null string is "". */
export function optStr(o: Obj, key: string, path = ""): string {
  return o[key] === undefined || o[key] === null ? "" : str(o, key, path);
}

export function num(o: Obj, key: string, path = ""): number {
  const v = o[key];
  if (typeof v !== "number" || !Number.isFinite(v)) throw new DecodeError(at(path, key), "a number");
  return v;
}

export function optNum(o: Obj, key: string, path = ""): number {
  return o[key] === undefined || o[key] === null ? 0 : num(o, key, path);
}

/** How many; missing is 0. */
export function count(o: Obj, key: string, path = ""): number {
  const n = optNum(o, key, path);
  if (!Number.isInteger(n) || n < 0) throw new DecodeError(at(path, key), "a whole number from 0");
  return n;
}

/** An RFC 3339 time as ms since the epoch. */
export function time(o: Obj, key: string, path = ""): number {
  const ms = Date.parse(str(o, key, path));
  if (Number.isNaN(ms)) throw new DecodeError(at(path, key), "an RFC 3339 time");
  return ms;
}

/** A missing, null or empty time is 0. */
export function optTime(o: Obj, key: string, path = ""): number {
  const v = o[key];
  return v === undefined || v === null || v === "" ? 0 : time(o, key, path);
}

function at(path: string, key: string | number): string {
  return path === "" ? String(key) : `${path}.${key}`;
}

function oneOf<T extends string>(o: Obj, key: string, of: readonly T[], path: string): T {
  const v = str(o, key, path);
  if (!(of as readonly string[]).includes(v)) throw new DecodeError(at(path, key), of.join(", "));
  return v as T;
}

function strings(v: Json | undefined, path: string): readonly string[] {
  if (v === undefined || v === null) return [];
  return arr(v, path).map((s, i) => {
    if (typeof s !== "string") throw new DecodeError(at(path, i), "a string");
    return s;
  });
}

function values(v: Json | undefined, path: string): Values {
  const o = obj(v, path);
  for (const k of Object.keys(o)) num(o, k, path);
  return o as Values;
}

export function text(v: Json | undefined, path: string): Text {
  if (v === undefined || v === null) return {};
  const o = obj(v, path);
  for (const k of Object.keys(o)) str(o, k, path);
  return o as Text;
}

export function items<T>(v: unknown, path: string, one: (v: unknown, path: string) => T): T[] {
  return arr(v, path).map((x, i) => one(x, at(path, i)));
}

export function reading(v: unknown, path = "reading"): Reading {
  const o = obj(v, path);
  return {
    // An alert's trigger is a reading too; it names its id reading_id.
    id: optStr(o, "id", path) || optStr(o, "reading_id", path),
    deviceId: optStr(o, "device_id", path),
    indicator: str(o, "indicator", path),
    takenAt: time(o, "taken_at", path),
    receivedAt: optTime(o, "received_at", path),
    values: values(o["values"], at(path, "values")),
    unit: str(o, "unit", path),
    context: o["context"] ? obj(o["context"], at(path, "context")) : {},
    flags: strings(o["flags"], at(path, "flags")),
    freshness: optStr(o, "freshness", path),
    quality: optStr(o, "quality", path),
  };
}

export function alert(v: unknown, path = "alert"): Alert {
  const o = obj(v, path);
  return {
    id: str(o, "id", path),
    patientId: str(o, "patient_id", path),
    kind: optStr(o, "kind", path) === "technical" ? "technical" : "clinical",
    error: o["trigger"] ? deviceError(obj(o["trigger"], at(path, "trigger"))["error"], at(path, "trigger.error")) : null,
    rule: str(o, "rule", path),
    condition: optStr(o, "condition", path),
    severity: oneOf(o, "severity", severities, path),
    highest: asSeverity(optStr(o, "highest_severity", path)) ?? oneOf(o, "severity", severities, path),
    state: oneOf(o, "state", states, path),
    signal: optStr(o, "signal", path) === "lost" ? "lost" : "live",
    openedAt: time(o, "opened_at", path),
    updatedAt: optTime(o, "updated_at", path),
    acknowledgedBy: optStr(o, "acknowledged_by", path),
    acknowledgedAt: optTime(o, "acknowledged_at", path),
    resolvedAt: optTime(o, "resolved_at", path),
    resolvedBy: optStr(o, "resolved_by", path),
    outcome: optStr(o, "outcome", path),
    snoozedUntil: optTime(o, "snoozed_until", path),
    signalLostAt: optTime(o, "signal_lost_since", path),
    acceptedBy: optStr(o, "accepted_by", path),
    title: text(o["title"], at(path, "title")),
    trigger: trigger(o["trigger"], at(path, "trigger")),
    explanation: o["explanation"] ? obj(o["explanation"], at(path, "explanation")) : {},
    seq: num(o, "seq", path),
  };
}

export function transition(v: unknown, path = "transition"): Transition {
  const o = obj(v, path);
  return {
    at: time(o, "at", path),
    transition: str(o, "transition", path),
    severity: asSeverity(optStr(o, "severity", path)) ?? "", // "none" where it says nothing
    actor: optStr(o, "actor", path),
    note: optStr(o, "note", path),
    outcome: optStr(o, "outcome", path),
    until: optTime(o, "until", path),
    trigger: trigger(o["trigger"], at(path, "trigger")),
  };
}

function deviceError(v: Json | undefined, path: string): DeviceError | null {
  if (v === undefined || v === null) return null;
  const o = obj(v, path);
  return { class: str(o, "class", path), code: optStr(o, "code", path) };
}

export function errorGuide(v: unknown, path = "error_guide"): ErrorGuide | null {
  if (v === undefined || v === null) return null;
  const o = obj(v, path);
  return { code: str(o, "code", path), means: text(o["means"], at(path, "means")), remedy: text(o["do"], at(path, "do")), verified: o["verified"] === true };
}

/** A rule about silence has no reading that triggered it: its trigger is absent or names no indicator. */
function trigger(v: Json | undefined, path: string): Reading | null {
  return v && optStr(obj(v, path), "indicator") ? reading(v, path) : null;
}

export function patient(v: unknown, path = "patient"): Patient {
  const o = obj(v, path);
  const signal = optStr(o, "signal", path);
  return {
    id: str(o, "id", path),
    name: optStr(o, "name", path),
    conditions: strings(o["conditions"], at(path, "conditions")),
    worst: optStr(o, "worst_severity", path) ? oneOf(o, "worst_severity", ["none", ...severities], path) : "none",
    openAlerts: optNum(o, "open_alerts", path),
    lastReading: o["last_reading"] ? reading(o["last_reading"], at(path, "last_reading")) : null,
    signal: signal === "lost" || signal === "live" ? signal : "",
    coverage: o["coverage"] ? items(o["coverage"], at(path, "coverage"), coverage) : [],
  };
}

function coverage(v: unknown, path: string): Coverage {
  const o = obj(v, path);
  return {
    indicator: str(o, "indicator", path),
    watched: o["watched"] === true,
    since: optTime(o, "since", path),
    why: optStr(o, "why", path),
  };
}

export function threshold(v: unknown, path = "threshold"): Threshold {
  const o = obj(v, path);
  return {
    rule: str(o, "rule", path),
    condition: optStr(o, "condition", path),
    indicator: str(o, "indicator", path),
    component: optStr(o, "component", path) || "value",
    severity: oneOf(o, "severity", severities, path),
    op: str(o, "op", path),
    values: values(o["thresholds"], at(path, "thresholds")),
    asks: Object.fromEntries(Object.entries(o).filter(([k]) => k === "for" || k === "repeat" || k === "of" || k === "within")),
    source: source(o["source"], at(path, "source")),
    title: text(o["title"], at(path, "title")),
  };
}

/** A source is a text, or a text with the mark of how well it is founded. */
function source(v: Json | undefined, path: string): string {
  if (v === undefined || v === null) return "";
  return typeof v === "string" ? v : optStr(obj(v, path), "text", path);
}

export function finding(v: unknown, path = "finding"): Finding {
  const o = obj(v, path);
  return {
    rule: str(o, "rule", path),
    condition: optStr(o, "condition", path),
    day: optStr(o, "day", path),
    severity: oneOf(o, "severity", severities, path),
    title: text(o["title"], at(path, "title")),
    first: optTime(o, "first", path),
    last: optTime(o, "last", path),
    readings: optNum(o, "readings", path),
  };
}

export function quarantined(v: unknown, path = "quarantined"): Quarantined {
  const o = obj(v, path);
  const id = o["id"];
  return {
    id: typeof id === "number" ? String(id) : str(o, "id", path),
    at: optTime(o, "at", path) || optTime(o, "received_at", path),
    deviceId: optStr(o, "device_id", path),
    source: optStr(o, "source", path),
    format: optStr(o, "format", path),
    problem: optStr(o, "problem", path) || optStr(o, "reason", path),
    detail: optStr(o, "detail", path),
    times: count(o, "times", path) || 1,
    lastAt: optTime(o, "last_at", path),
    bytes: count(o, "payload_bytes", path),
    refused: count(o, "refused", path),
  };
}

export function content(v: unknown, path = "content"): Content {
  const o = obj(v, path);
  let raw: string;
  try {
    raw = atob(str(o, "payload_base64", path));
  } catch (e) {
    throw e instanceof DecodeError ? e : new DecodeError(at(path, "payload_base64"), "base64");
  }
  return { about: quarantined(v, path), bytes: Uint8Array.from(raw, (c) => c.charCodeAt(0)), text: optStr(o, "payload_text", path) };
}

/** The answer to a replay or an assignment. */
export function outcome(v: unknown, path = "outcome"): Outcome {
  const o = obj(v, path);
  return {
    accepted: count(o, "accepted", path), duplicate: count(o, "duplicate", path),
    refused: count(o, "quarantined", path) || count(o, "refused", path), next: optStr(o, "next_cursor", path),
  };
}

export function unassigned(v: unknown, path = "unassigned"): Unassigned {
  const o = obj(v, path);
  return {
    id: str(o, "id", path),
    deviceId: str(o, "device_id", path),
    userSlot: count(o, "user_slot", path),
    problem: str(o, "problem", path),
    patientId: optStr(o, "patient_id", path),
    readings: count(o, "readings", path),
    messages: count(o, "messages", path),
    indicators: strings(o["indicators"], at(path, "indicators")),
    firstTaken: optTime(o, "first_taken_at", path),
    lastAt: optTime(o, "last_received_at", path),
    newest: o["newest"] ? reading(o["newest"], at(path, "newest")) : null,
  };
}

export function device(v: unknown, path = "device"): Device {
  const o = obj(v, path);
  return {
    id: str(o, "id", path),
    model: optStr(o, "model", path),
    modelId: optStr(o, "model_id", path),
    serial: optStr(o, "serial", path),
    tz: optStr(o, "tz", path),
    disabled: o["disabled"] === true,
    state: optStr(o, "state", path),
    stateAt: optTime(o, "state_at", path),
    battery: battery(o, path),
    firmware: optStr(o, "firmware", path),
    lastSeen: optTime(o, "last_seen", path),
    lastError: lastError(o["last_error"], at(path, "last_error")),
    bindings: items(o["bindings"] ?? [], at(path, "bindings"), binding),
    gateways: items(o["gateways"] ?? [], at(path, "gateways"), obj).filter((g) => !g["to"]).map((g) => str(g, "gateway_id", at(path, "gateways"))),
  };
}

function lastError(v: Json | undefined, path: string): Device["lastError"] {
  const e = deviceError(v, path);
  if (e === null) return null;
  const o = obj(v, path);
  return { ...e, at: time(o, "at", path), indicator: str(o, "indicator", path), guide: errorGuide(o["guide"], at(path, "guide")) };
}

function binding(v: unknown, path: string): Binding {
  const o = obj(v, path);
  return { patientId: str(o, "patient_id", path), userSlot: count(o, "user_slot", path), from: optTime(o, "from", path), to: optTime(o, "to", path) };
}

function battery(o: Obj, path: string): number | null {
  if (o["battery"] === undefined || o["battery"] === null) return null;
  const n = num(o, "battery", path);
  if (n < 0 || n > 100) throw new DecodeError(at(path, "battery"), "0 to 100");
  return n;
}

export function deviceStatus(v: unknown, path = "status"): DeviceStatus {
  const o = obj(v, path);
  return { at: time(o, "at", path), state: str(o, "state", path), battery: battery(o, path), firmware: optStr(o, "firmware", path) };
}

export function command(v: unknown, path = "command"): Command {
  const o = obj(v, path);
  const raw = o["body"];
  const body: Obj = typeof raw === "object" && raw !== null && !Array.isArray(raw) ? raw as Obj : {}; // it may be any JSON
  const cmd = body["cmd"], words = body["text"];
  return {
    id: str(o, "id", path),
    cmd: typeof cmd === "string" ? cmd : "",
    state: str(o, "state", path),
    text: typeof words === "object" ? text(words, at(path, "body.text")) : {},
    createdAt: time(o, "created_at", path),
    expiresAt: optTime(o, "expires_at", path),
    doneAt: optTime(o, "answered_at", path) || optTime(o, "delivered_at", path) || optTime(o, "sent_at", path),
    result: optStr(o, "result", path),
  };
}

export function model(v: unknown, path = "model"): Model {
  const o = obj(v, path);
  return { id: str(o, "id", path), name: text(o["name"], at(path, "name")) };
}

export function guide(v: unknown, path = "guide"): Guide {
  const o = obj(v, path);
  return {
    modelId: optStr(o, "model_id", path),
    indicators: strings(o["indicators"], at(path, "indicators")),
    sections: items(o["sections"] ?? [], at(path, "sections"), (v, p) => {
      const s = obj(v, p), steps = obj(s["steps"], at(p, "steps"));
      return { topic: str(s, "topic", p), steps: Object.fromEntries(Object.keys(steps).map((l) => [l, strings(steps[l], at(p, l))])) };
    }),
    errors: items(o["errors"] ?? [], at(path, "errors"), (v, p) => {
      const e = obj(v, p);
      return { code: str(e, "code", p), means: text(e["means"], at(p, "means")), remedy: text(e["do"], at(p, "do")), verified: e["verified"] === true };
    }),
    faults: items(o["faults"] ?? [], at(path, "faults"), (v, p) => {
      const f = obj(v, p);
      return { text: text(f["text"], at(p, "text")), verified: f["verified"] === true };
    }),
  };
}

export function sitting(v: unknown, path = "session"): Sitting {
  const o = obj(v, path);
  return {
    from: time(o, "from", path),
    deviceId: optStr(o, "device_id", path),
    systolic: num(o, "systolic", path),
    diastolic: num(o, "diastolic", path),
    pulse: o["pulse"] === undefined || o["pulse"] === null ? null : num(o, "pulse", path),
    counted: count(o, "counted", path),
    thirdWanted: o["third_wanted"] === true,
    readings: items(o["readings"] ?? [], at(path, "readings"), reading),
  };
}

export function session(v: unknown, path = "session"): Session {
  const o = obj(v, path);
  return {
    name: optStr(o, "name", path),
    role: optStr(o, "role", path),
    anonymous: o["anonymous"] === true,
    language: optStr(o, "language", path),
  };
}
