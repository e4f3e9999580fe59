// Small pieces that several views show.

import { ApiError } from "./api";
import type { Alert, DeviceError, ErrorGuide, Outcome, Reading, Severity } from "./decode";
import { h, replace, since, type Child } from "./dom";
import { ago, clock, named, severityName, stamp } from "./format";
import { icon, severityIcon } from "./icons";
import { pick, t, type Key } from "./i18n";
import { to } from "./route";
import { rank } from "./state";

/** Severity as shape and word. */
export function chip(s: Severity): HTMLElement {
  return h("span", { class: `chip sev-${s}` }, severityIcon(s), severityName(s));
}

export function badge(kind: string, ic: Parameters<typeof icon>[0] | null, ...text: Child[]): HTMLElement {
  return h("span", { class: `badge ${kind}` }, ic ? icon(ic) : null, h("span", {}, ...text));
}

export function agoEl(ms: number, now: number): HTMLElement {
  const e = since(ms, "ago", stamp(ms));
  e.textContent = ago(ms, now);
  return e;
}

export function clockEl(ms: number, now: number): HTMLElement {
  const e = since(ms, "clock", stamp(ms));
  e.textContent = clock(ms, now);
  return e;
}

/** The state of an alert in words, with who and until when. */
export function stateBadges(a: Alert, now: number): HTMLElement[] {
  const out: HTMLElement[] = [];
  if (a.kind === "technical") out.push(badge("technical", null, t("alert.technical")));
  if (rank(a.highest) > rank(a.severity)) out.push(badge(`was sev-${a.highest}`, null, t("alert.was", { severity: severityName(a.highest) })));
  if (a.state === "open") out.push(badge("unacknowledged", null, t("state.open")));
  if (a.state === "acknowledged") out.push(badge("acknowledged", "check", t("alert.acknowledged_by", { name: a.acknowledgedBy || "—" })));
  if (a.state === "resolved") out.push(badge("resolved", "check", a.resolvedBy === "values" ? t("alert.resolved_by_values") : t("alert.resolved_by", { name: a.resolvedBy || "—" })));
  if (a.state !== "resolved" && a.snoozedUntil > now) out.push(badge("snoozed", "pause", t("alert.snoozed_until", { time: clock(a.snoozedUntil, now) })));
  if (a.state !== "resolved" && a.signal === "lost") out.push(lostBadge(a.signalLostAt, now));
  if (a.acceptedBy !== "") out.push(badge("accepted", "person", t("alert.accepted_by", { name: a.acceptedBy })));
  return out;
}

export function lostBadge(since: number, now: number): HTMLElement {
  return badge("lost", "lost", since ? t("signal.lost_since", { time: clock(since, now) }) : t("signal.lost"));
}

const faultKeys: Readonly<Record<string, Key>> = {
  cuff: "fault.cuff", motion: "fault.motion", battery: "fault.battery", sensor: "fault.sensor", sample: "fault.sample", strip: "fault.strip",
  temperature: "fault.temperature", range: "fault.range", clock: "fault.clock", memory: "fault.memory", signal: "fault.signal",
  hardware: "fault.hardware", unknown: "fault.unknown",
};

/** A device error in words, with the code that the device shows. */
export function faultText(e: DeviceError): string {
  return e.code === "" ? named(faultKeys, e.class) : t("fault.with_code", { fault: named(faultKeys, e.class), code: e.code });
}

/** What the catalogue says of an error. */
export function guideText(g: ErrorGuide): HTMLElement {
  return h("p", { class: "advice" }, h("b", {}, pick(g.means)), " ", pick(g.remedy), g.verified ? null : h("span", { class: "muted" }, ` · ${t("guide.unverified")}`));
}

const freshnessKeys: Readonly<Record<string, Key>> = {
  live: "freshness.live", late: "freshness.late", backfill: "freshness.backfill", doubtful: "freshness.doubtful",
};
const qualityKeys: Readonly<Record<string, Key>> = { good: "quality.good", suspect: "quality.suspect", invalid: "quality.invalid" };
const flagKeys: Readonly<Record<string, Key>> = {
  irregular_pulse: "flag.irregular_pulse", movement: "flag.movement", cuff_loose: "flag.cuff_loose",
  wrong_position: "flag.wrong_position", pulse_out_of_range: "flag.pulse_out_of_range", poor_contact: "flag.poor_contact",
  low_signal: "flag.low_signal", low_battery: "flag.low_battery", below_range: "flag.below_range",
  above_range: "flag.above_range", from_memory: "flag.from_memory", self_reported: "flag.self_reported",
  display_only: "flag.display_only", questionable: "flag.questionable", superseded: "flag.superseded", voided: "flag.voided",
  preliminary: "flag.preliminary", amended: "flag.amended", corrected: "flag.corrected", time_approximate: "flag.time_approximate",
  ambiguous_owner: "flag.ambiguous_owner", statistic_average: "flag.statistic_average", statistic_maximum: "flag.statistic_maximum", statistic_minimum: "flag.statistic_minimum",
};
const mealKeys: Readonly<Record<string, Key>> = {
  fasting: "meal.fasting", before_meal: "meal.before_meal", after_meal: "meal.after_meal", casual: "meal.casual", bedtime: "meal.bedtime",
};

export const flagName = (s: string): string => named(flagKeys, s);

/** What makes a reading other than a plain good live one, in words. */
export function remarks(r: Reading): string[] {
  const out: string[] = [];
  if (r.freshness !== "" && r.freshness !== "live") out.push(named(freshnessKeys, r.freshness));
  if (r.quality !== "" && r.quality !== "good") out.push(named(qualityKeys, r.quality));
  const meal = r.context["meal"];
  if (typeof meal === "string" && meal !== "") out.push(named(mealKeys, meal));
  for (const f of r.flags) out.push(named(flagKeys, f));
  return out;
}

/** The remarks on a reading as one text: a list in the middle of a sentence has no capitals. */
export function remarkText(r: Reading): string {
  return remarks(r).map((x, i) => i === 0 ? x : x.charAt(0).toLocaleLowerCase() + x.slice(1)).join(t("list.separator"));
}

const conflictKeys: Readonly<Record<string, Key>> = { "has-owner": "error.has_owner", "message-shared": "error.message_shared", "no-front-door": "error.no_front_door", "command-queue-full": "error.queue_full" };

/** A user slot of a device in words. */
export function slotName(slot: number): string {
  return slot === 0 ? t("slot.none") : slot === 255 ? t("slot.unknown") : t("slot.n", { n: slot });
}

/** What became of messages that were tried again. */
export function outcomeText(o: Outcome): string {
  return t("replay.outcome", { accepted: o.accepted, duplicate: o.duplicate, refused: o.refused });
}

/** Where a page begins. */
export function pageHead(title: string, hint: string): HTMLElement[] {
  return [h("a", { href: to.home, class: "back" }, icon("back"), t("nav.back")), h("h2", {}, title), h("p", { class: "muted" }, hint)];
}

/** A table that scrolls sideways by keyboard, too. */
export function table(label: string, columns: readonly string[], rows: readonly HTMLElement[]): HTMLElement {
  // On a phone each row becomes a card, in which each value needs its name beside it.
  for (const row of rows) Array.from(row.children).forEach((cell, i) => cell.setAttribute("data-column", columns[i] ?? ""));
  return h("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": label }, h("table", {},
    h("thead", {}, h("tr", {}, ...columns.map((x) => h("th", { scope: "col" }, x)))), h("tbody", {}, ...rows)));
}

/** Replaces what a page shows; the focus stays on the page when what had it is gone. */
export function redraw(pane: HTMLElement, body: HTMLElement, ...children: readonly Child[]): void {
  const had = body.contains(document.activeElement);
  replace(body, ...children);
  if (had) pane.focus({ preventScroll: true });
}

/** An error of the API as a sentence that says what to do. */
export function problem(e: unknown): string {
  if (!(e instanceof ApiError)) return t("error.unexpected");
  switch (e.status) {
    case 0: return t("error.offline");
    case 401: return t("error.login");
    case 403: return t("error.forbidden");
    case 404: return t("error.not_found");
    case 409: {
      const k = conflictKeys[e.kind];
      if (k) return t(k);
      if (e.kind === "" || e.kind.startsWith("alert-")) return t("error.conflict");
      break;
    }
    case 429: return t("error.rate");
  }
  const detail = e.detail || e.title;
  return detail ? t("error.server_detail", { detail }) : t("error.server");
}
