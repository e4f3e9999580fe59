// Shows why an alert is what it is: the engine's explanation (alerting/explain.go). What is known here gets a
// proper name and place, everything else is shown as it came, because a newer engine may say more.

import { asSeverity, reading, type Json, type Obj } from "./decode";
import { h, type Child } from "./dom";
import { clock, componentName, conditionName, convert, displayUnit, indicatorName, named, number, opName, severityName, shownReading, stamp, withUnit } from "./format";
import { lang, t, type Key } from "./i18n";
import { flagName, remarkText } from "./parts";

const keys: Readonly<Record<string, Key>> = {
  rule: "explain.rule", pack: "explain.pack", version: "explain.version", source: "explain.source", severity: "explain.severity",
  threshold: "explain.threshold", confirmed: "explain.confirmed", suppressed: "explain.suppressed", readings: "explain.readings",
  indicator: "explain.indicator", component: "explain.component", flags: "explain.flags", since: "explain.since", name: "explain.name",
  guideline: "explain.guideline", change: "explain.change", filter: "explain.filter", decided: "explain.decided",
};

const reasonKeys: Readonly<Record<string, Key>> = {
  single_reading: "reason.single_reading", sustained: "reason.sustained", repeat_within: "reason.repeat_within", change: "reason.change",
  suspect_confirmed: "reason.suspect_confirmed", suspect_not_awaited: "reason.suspect_not_awaited", snooze_broken: "reason.snooze_broken",
  cleared: "reason.cleared", no_longer_held: "reason.no_longer_held", person_threshold: "reason.person_threshold",
  acknowledgement_off: "reason.acknowledgement_off", device_error: "reason.device_error", measured_again: "reason.measured_again",
};

const suspectKeys: Readonly<Record<string, Key>> = { confirm: "explain.suspect_confirm", alert: "explain.suspect_alert" };

/** Shown in their own place, or said elsewhere on the page. */
const placed = new Set(["text", "advice", "readings", "level", "clear", "clear_text", "reasons", "source", "pack", "rule", "suspect_policy", "person_threshold", "decided", "severity"]);

/** Readings an explanation may list before the rest is folded. */
const readingsShown = 10;

export function explanation(x: Obj, now: number): HTMLElement {
  const box = h("div", { class: "explanation" });
  const said = words(x["text"]);
  if (said !== "") box.append(h("p", { class: "said" }, said));
  const advice = words(x["advice"]);
  if (advice !== "") box.append(h("p", { class: "advice" }, h("b", {}, t("explain.advice")), " ", advice));

  const readings = list(x["readings"]);
  if (readings.length > 0) box.append(h("h4", {}, t("explain.readings")), readingList(readings, now));

  const facts = h("dl", { class: "facts" });
  const fact = (key: Key, ...v: Child[]): void => {
    if (v.some((c) => c !== "" && c !== null)) facts.append(h("div", {}, h("dt", {}, t(key)), h("dd", {}, ...v)));
  };
  const level = object(x["level"]);
  if (level) fact("explain.lines", levelLines(level, x));
  const reasons = list(x["reasons"]).filter((r) => typeof r === "string");
  if (reasons.length > 0) fact("explain.reasons", reasons.map((r) => named(reasonKeys, r)).join(t("list.separator")));
  const clear = words(x["clear_text"]);
  if (clear !== "") fact("explain.clear", clear);
  else if (object(x["clear"])) fact("explain.clear", value("clear", x["clear"]!, now, 1));
  fact("explain.source", source(x["source"]));
  if (x["person_threshold"] === true) fact("explain.person_threshold", t("explain.yes"));
  if (box.childElementCount + facts.childElementCount === 0 && Object.keys(x).length === 0) box.append(h("p", { class: "muted" }, t("explain.none")));
  if (facts.childElementCount > 0) box.append(facts);

  const rest = h("dl", { class: "facts" });
  const detail = (label: string, v: Child): void => { rest.append(h("div", {}, h("dt", {}, label), h("dd", {}, v))); };
  const pack = object(x["pack"]);
  if (pack) detail(t("explain.pack"), [conditionName(String(pack["name"] ?? "")), pack["version"], pack["guideline"]].filter((s) => s).join(" · "));
  else if (x["pack"] !== undefined) detail(t("explain.pack"), value("pack", x["pack"], now, 0));
  if (x["rule"] !== undefined) detail(t("explain.rule"), value("rule", x["rule"], now, 0));
  const suspect = x["suspect_policy"];
  if (typeof suspect === "string") detail(t("explain.suspect_policy"), named(suspectKeys, suspect));
  for (const [k, v] of Object.entries(x)) if (!placed.has(k) && !empty(v)) detail(label(k), value(k, v, now, 0));
  if (rest.childElementCount > 0) box.append(h("details", {}, h("summary", {}, t("explain.details")), rest));
  return box;
}

/** What a level asks for beside one reading beyond its line, in words. */
export function asked(level: Obj): string[] {
  const how: string[] = [];
  const n = level["repeat"], of = level["of"], within = level["within"], held = level["for"];
  if (typeof held === "string") how.push(`${t("explain.for")} ${span(held)}`);
  if (typeof n === "number" && typeof of === "number") how.push(t("explain.repeat_of", { n, of }));
  else if (typeof n === "number" && typeof within === "string") how.push(t("explain.repeat", { n, within: span(within) }));
  return how;
}

/** The lines of the level that was reached, with what was required of them. */
function levelLines(level: Obj, x: Obj): HTMLElement {
  const ls = list(level["lines"]).map(object).filter((l) => l !== null);
  const how = asked(level);
  if (ls.length > 1) how.push(t(level["all"] === true ? "explain.all" : "explain.any"));
  const indicator = object(list(x["readings"])[0])?.["indicator"];
  return h("div", {}, h("ul", { class: "level" }, ...ls.map((l) => h("li", { class: l["beyond"] === true ? "beyond" : "" },
    line(l, typeof indicator === "string" ? indicator : ""), l["beyond"] === true ? h("span", { class: "remark" }, ` · ${t("explain.beyond")}`) : null))),
  how.length > 0 ? h("p", { class: "muted" }, how.join(t("list.separator"))) : null);
}

/** One line of a rule: component, operator, threshold with its unit, and the same in the other unit. */
function line(l: Obj, indicator: string): string {
  const flags = list(l["flags"]).filter((f) => typeof f === "string");
  if (flags.length > 0) return flags.map(flagName).join(t("list.separator"));
  const pairs = object(l["pairs"]) ?? {};
  const v = l["threshold"] ?? l["value"], unit = l["unit"];
  if (typeof v !== "number" || typeof unit !== "string") return "";
  const to = displayUnit(indicator || (unit === "mg/dL" || unit === "mmol/L" ? "glucose" : ""), unit);
  const shown = typeof pairs[to] === "number" ? pairs[to] : convert(v, unit, to);
  return [
    typeof l["component"] === "string" && l["component"] !== "value" ? componentName(l["component"]) : indicator ? indicatorName(indicator) : "",
    typeof l["op"] === "string" ? opName(l["op"]) : "",
    withUnit(number(shown, to), to),
    to === unit ? "" : `(${withUnit(plain(v), unit)})`,
  ].filter((p) => p !== "").join(" ");
}

function readingList(rs: readonly Json[], now: number): HTMLElement {
  const ul = h("ul", { class: "readings" });
  for (const v of rs.slice(-readingsShown)) ul.append(h("li", {}, oneReading(v, now) ?? value("", v, now, 1)));
  if (rs.length > readingsShown) ul.prepend(h("li", { class: "muted" }, t("explain.more_readings", { n: rs.length - readingsShown })));
  return ul;
}

function oneReading(v: Json, now: number): HTMLElement | null {
  try {
    const r = reading(v);
    const s = shownReading(r);
    const notes = remarkText(r);
    return h("span", {}, h("time", { class: "muted", title: stamp(r.takenAt), datetime: new Date(r.takenAt).toISOString() }, clock(r.takenAt, now)), " ", indicatorName(r.indicator), " ",
      h("b", {}, s.value), s.suffix, s.sent ? ` (${s.sent})` : "", s.also ? ` · ${s.also}` : "", notes ? h("span", { class: "remark" }, " · " + notes) : null);
  } catch {
    return null;
  }
}

function value(key: string, v: Json, now: number, depth: number): Child {
  if (v === null) return "—";
  if (typeof v === "boolean") return t(v ? "explain.yes" : "explain.no");
  if (typeof v === "number") return plain(v);
  if (typeof v === "string") return word(key, v);
  if (Array.isArray(v)) {
    if (list(v).every((x) => typeof x !== "object" || x === null)) return list(v).map((x) => typeof x === "string" ? word(key, x) : String(x)).join(t("list.separator"));
    return h("ul", {}, ...list(v).map((x) => h("li", {}, value("", x, now, depth + 1))));
  }
  const o = v as Obj;
  if (isText(o)) return words(o);
  if (key === "source") return source(o);
  const one = line(o, "");
  if (one !== "") return one;
  const r = oneReading(o, now);
  if (r) return r;
  if (depth > 3) return JSON.stringify(o);
  return h("dl", { class: "facts inner" }, ...Object.entries(o).filter(([, x]) => !empty(x))
    .map(([k, x]) => h("div", {}, h("dt", {}, label(k)), h("dd", {}, value(k, x, now, depth + 1)))));
}

function word(key: string, v: string): string {
  if (/^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(v) && !Number.isNaN(Date.parse(v))) return stamp(Date.parse(v));
  switch (key) {
    case "indicator": return indicatorName(v);
    case "component": return componentName(v);
    case "condition": case "pack": return conditionName(v);
    case "op": return opName(v);
    case "severity": { const s = asSeverity(v); return s ? severityName(s) : v; }
    case "for": case "within": case "over": case "per": return span(v);
  }
  return v;
}

/** A duration as the engine writes it, "5m" or "1h30m", in the words of the language. */
function span(s: string): string {
  const units: Readonly<Record<string, string>> = { h: "h", m: "min", s: "s" };
  if (!/^(\d+(\.\d+)?[hms])+$/.test(s)) return s;
  return s.replace(/(\d+(?:\.\d+)?)([hms])/g, (_m, n: string, u: string) => u === "s" ? `${n} s ` : `${withUnit(n, units[u]!)} `).trim();
}

/** {"text": "…", "mark": "V1"} or a plain text. */
function source(v: Json | undefined): string {
  if (typeof v === "string") return v;
  const o = object(v);
  if (!o) return "";
  return typeof o["text"] === "string" ? o["text"] : words(v);
}

const label = (k: string): string => named(keys, k);
const plain = (v: number): string => new Intl.NumberFormat(lang(), { maximumFractionDigits: 6 }).format(v);

function list(v: Json | undefined): readonly Json[] { return Array.isArray(v) ? v as readonly Json[] : []; }

function object(v: Json | undefined): Obj | null {
  return typeof v === "object" && v !== null && !Array.isArray(v) ? v as Obj : null;
}

function empty(v: Json): boolean {
  return v === null || v === "" || typeof v === "object" && Object.keys(v).length === 0;
}

function isText(v: Json | undefined): boolean {
  const k = Object.keys(object(v) ?? {});
  return k.length > 0 && k.every((x) => x === "zh-CN" || x === "en");
}

function words(v: Json | undefined): string {
  if (typeof v === "string") return v;
  const o = object(v);
  return o && isText(o) ? String(o[lang()] ?? o["zh-CN"] ?? o["en"] ?? "") : "";
}
