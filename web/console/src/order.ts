// Who needs a human first. Pure; the lists and the keyboard both follow it.

import type { Alert, AlertKind, AlertState, Patient, Severity } from "./decode";
import { rank } from "./state";

export type StateFilter = "active" | "unacknowledged" | "acknowledged" | "resolved" | "all";

export interface AlertFilter {
  readonly severity: Severity | "";
  readonly kind: AlertKind | "";
  readonly state: StateFilter;
  readonly text: string;
}

const wants: Record<StateFilter, (s: AlertState) => boolean> = {
  active: (s) => s !== "resolved",
  unacknowledged: (s) => s === "open",
  acknowledged: (s) => s === "acknowledged",
  resolved: (s) => s === "resolved",
  all: () => true,
};

const stateRank: Record<AlertState, number> = { open: 0, acknowledged: 1, resolved: 2 };

/**
 * Unresolved before resolved; then those about people before those about devices; then the more severe; then those nobody has acknowledged; then the one that waits
 * longest. Resolved ones newest first. The id makes the order total.
 */
export function compareAlerts(a: Alert, b: Alert): number {
  const ra = a.state === "resolved", rb = b.state === "resolved";
  if (ra !== rb) return ra ? 1 : -1;
  if (ra) return b.resolvedAt - a.resolvedAt || byId(a, b);
  return Number(a.kind === "technical") - Number(b.kind === "technical") || rank(b.severity) - rank(a.severity) || stateRank[a.state] - stateRank[b.state] || a.openedAt - b.openedAt || byId(a, b);
}

function byId(a: { id: string }, b: { id: string }): number { return a.id < b.id ? -1 : a.id > b.id ? 1 : 0; }

/** The alerts that pass the filter, in order. `words` gives the searchable text of one. */
export function listAlerts(all: Iterable<Alert>, f: AlertFilter, words: (a: Alert) => string): Alert[] {
  const needle = f.text.trim().toLocaleLowerCase();
  const out: Alert[] = [];
  for (const a of all) {
    if (!wants[f.state](a.state)) continue;
    if (f.kind !== "" && a.kind !== f.kind) continue;
    if (f.severity !== "" && a.severity !== f.severity) continue;
    if (needle !== "" && !words(a).toLocaleLowerCase().includes(needle)) continue;
    out.push(a);
  }
  return out.sort(compareAlerts);
}

/** A patient with what the live alerts say about them. */
export interface Need {
  readonly patient: Patient;
  readonly worst: Severity | "none";
  readonly open: number;
  readonly unacknowledged: number;
  /** When the longest waiting unresolved alert of the worst severity opened, 0 for none. */
  readonly since: number;
  readonly lost: boolean;
}

/**
 * Everybody, worst first. Alerts of the feed are the truth once it is complete; until then the server's own
 * summary stands, so that a page without feed does not show calm.
 */
export function needs(patients: Iterable<Patient>, alerts: Iterable<Alert>, complete: boolean): Need[] {
  const of = new Map<string, Alert[]>();
  for (const a of alerts) {
    if (a.state === "resolved" || a.kind === "technical") continue; // a device is no measure of how a person is
    const l = of.get(a.patientId);
    if (l) l.push(a); else of.set(a.patientId, [a]);
  }
  const out: Need[] = [];
  for (const p of patients) out.push(need(p, of.get(p.id) ?? [], complete));
  return out.sort(compareNeeds);
}

function need(patient: Patient, alerts: Alert[], complete: boolean): Need {
  const first = alerts.sort(compareAlerts)[0];
  let worst: Severity | "none" = first ? first.severity : "none";
  let open = alerts.length;
  if (!complete && rank(patient.worst) > rank(worst)) worst = patient.worst;
  if (!complete) open = Math.max(open, patient.openAlerts);
  let since = 0;
  for (const a of alerts) if (a.severity === worst && (since === 0 || a.openedAt < since)) since = a.openedAt;
  return {
    patient, worst, open, since,
    unacknowledged: alerts.filter((a) => a.state === "open").length + (complete ? 0 : open - alerts.length),
    lost: patient.signal === "lost" || alerts.some((a) => a.signal === "lost"),
  };
}

/** Whether somebody has to look at this person; a notice (info) alone does not ask for it. */
export function needsAttention(n: Need): boolean { return rank(n.worst) > rank("info") || n.lost; }

export function compareNeeds(a: Need, b: Need): number {
  return rank(b.worst) - rank(a.worst)
    || Number(b.unacknowledged > 0) - Number(a.unacknowledged > 0)
    || (a.since || Infinity) - (b.since || Infinity) || 0
    || Number(b.lost) - Number(a.lost)
    || byId(a.patient, b.patient);
}

/** For how many minutes an alert can be snoozed: the server allows no more (alerting.MaxSnooze), and an emergency not at all. */
export function snoozeMinutes(severity: Severity): readonly number[] {
  return severity === "emergency" ? [] : severity === "critical" ? [5, 10, 15] : [15, 30, 60, 120];
}
