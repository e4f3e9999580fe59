// What the console knows, and the one pure function that changes it. No clock, no network, no DOM here: the time
// of an event comes with the event.

import type { Alert, Patient, Reading, Session, Severity, Unassigned } from "./decode";
import { severities } from "./decode";
import { close, type Frame, type Position } from "./frames";

/**
 * Whether the open alerts we hold are all there are: "missing" before the first snapshot and after a gap,
 * "resuming" while the server may still be telling what happened since our position, "complete" otherwise.
 */
export type Sync = "missing" | "resuming" | "complete";

/** How the connection to the feed stands. "login" and "forbidden" wait for a human. */
export type Link = "connecting" | "up" | "down" | "login" | "forbidden";

export interface State {
  readonly startedAt: number;
  readonly session: Session | null;
  readonly link: Link;
  /** When the last frame came, 0 for never. Client clock. */
  readonly heardAt: number;
  readonly heartbeatS: number;
  /** Where to resume; null asks for a snapshot. */
  readonly position: Position | null;
  readonly sync: Sync;
  /** The epoch that the seqs of the held alerts belong to, "" before the first snapshot. */
  readonly alertsEpoch: string;
  /** Frames that could not be read: alerts may have been among them. */
  readonly unreadable: number;
  /** Server clock minus client clock in ms. */
  readonly skew: number;
  readonly alerts: ReadonlyMap<string, Alert>;
  readonly patients: ReadonlyMap<string, Patient>;
  /** False until the list of patients was loaded once. */
  readonly patientsLoaded: boolean;
  /** What waits for an owner; null while that is not known, or where the server knows no devices. */
  readonly waiting: readonly Unassigned[] | null;
}

export type Event =
  | Frame
  | { readonly type: "link"; readonly link: Link }
  | { readonly type: "unreadable" }
  | { readonly type: "session"; readonly session: Session | null }
  /** Alerts from the API: each as true as its seq. */
  | { readonly type: "alerts"; readonly alerts: readonly Alert[] }
  | { readonly type: "patients"; readonly patients: readonly Patient[]; readonly complete: boolean }
  | { readonly type: "waiting"; readonly waiting: readonly Unassigned[] | null };

export function initial(at: number): State {
  return {
    startedAt: at, session: null, link: "connecting", heardAt: 0, heartbeatS: 15, position: null, sync: "missing", alertsEpoch: "",
    unreadable: 0, skew: 0, alerts: new Map(), patients: new Map(), patientsLoaded: false, waiting: null,
  };
}

/** The state after one event that happened at `at` (ms, client clock). */
export function apply(state: State, event: Event, at: number): State {
  return applyAll(state, [event], at);
}

/** Like apply for each event in turn, copying each map at most once. */
export function applyAll(state: State, events: readonly Event[], at: number): State {
  const d = new Draft(state);
  for (const e of events) step(d, e, at);
  return d.done();
}

/** Alerts kept in memory before resolved ones are forgotten. */
const maxAlerts = 2000;

class Draft {
  s: State;
  private alertsCopied = false;
  private patientsCopied = false;
  constructor(s: State) { this.s = s; }

  set(change: Partial<State>): void { this.s = { ...this.s, ...change }; }

  alerts(): Map<string, Alert> {
    if (!this.alertsCopied) {
      this.alertsCopied = true;
      this.set({ alerts: new Map(this.s.alerts) });
    }
    return this.s.alerts as Map<string, Alert>;
  }

  patients(): Map<string, Patient> {
    if (!this.patientsCopied) {
      this.patientsCopied = true;
      this.set({ patients: new Map(this.s.patients) });
    }
    return this.s.patients as Map<string, Patient>;
  }

  done(): State {
    if (this.alertsCopied && this.s.alerts.size > maxAlerts) this.forget();
    return this.s;
  }

  /** Drops the oldest resolved alerts beyond the bound; open ones stay whatever their number. */
  private forget(): void {
    const m = this.alerts();
    const done = [...m.values()].filter((a) => a.state === "resolved").sort((a, b) => a.updatedAt - b.updatedAt);
    for (const a of done.slice(0, m.size - maxAlerts)) m.delete(a.id);
  }
}

function step(d: Draft, e: Event, at: number): void {
  const s = d.s;
  switch (e.type) {
    case "link":
      d.set({ link: e.link });
      return;
    case "session":
      d.set({ session: e.session });
      return;
    case "waiting":
      d.set({ waiting: e.waiting });
      return;
    case "unreadable":
      d.set({ unreadable: s.unreadable + 1, heardAt: at });
      return;
    case "alerts":
      for (const a of e.alerts) putAlert(d, a);
      return;
    case "patients": {
      const m = e.complete ? new Map<string, Patient>() : d.patients();
      for (const p of e.patients) {
        // The feed may have told of a newer reading while the list was on its way.
        const known = s.patients.get(p.id);
        m.set(p.id, known ? { ...p, lastReading: newer(known.lastReading, p.lastReading) } : p);
      }
      if (e.complete) {
        const mine = d.patients();
        mine.clear();
        for (const [k, v] of m) mine.set(k, v);
        d.set({ patientsLoaded: true });
      }
      return;
    }
    case "hello": {
      // Another epoch means that our position says nothing: whatever we hold may be out of date.
      const same = s.position !== null && s.position.epoch === e.epoch;
      d.set({
        link: "up", heardAt: at, heartbeatS: e.heartbeatS,
        position: same ? s.position : null,
        sync: !same ? "missing" : s.position.seq >= e.seq ? "complete" : "resuming",
      });
      return;
    }
    case "snapshot": {
      const held = s.alerts;
      const comparable = s.alertsEpoch === "" || s.alertsEpoch === e.epoch;
      const m = d.alerts();
      const listed = new Set<string>();
      for (const a of e.alerts) {
        listed.add(a.id);
        const h = held.get(a.id);
        m.set(a.id, h && comparable && h.seq > a.seq ? h : a);
      }
      // What we thought open and the snapshot does not list has been resolved while we did not look.
      // After another epoch not even resolved ones stay: their numbers would keep newer truths out.
      for (const [id, a] of held) {
        if (!listed.has(id) && !(comparable && (a.state === "resolved" || a.seq > e.seq))) m.delete(id);
      }
      for (const r of e.readings) putReading(d, r.patientId, r.reading);
      d.set({ heardAt: at, sync: "complete", alertsEpoch: e.epoch, position: { epoch: e.epoch, seq: e.seq }, unreadable: 0 });
      return;
    }
    case "alert":
      putAlert(d, e.alert);
      d.set({
        heardAt: at,
        position: d.s.position ? { epoch: d.s.position.epoch, seq: Math.max(d.s.position.seq, e.seq) } : null,
      });
      return;
    case "reading":
      putReading(d, e.patientId, e.reading);
      d.set({ heardAt: at });
      return;
    case "gap":
      // A snapshot follows. Should the connection break before it, resuming would skip the gap: forget the place.
      d.set({ heardAt: at, sync: "missing", position: null });
      return;
    case "heartbeat":
      d.set({ heardAt: at, skew: e.at - at });
      if (e.seq !== null && s.position !== null) {
        // All permitted events up to seq have been told; the holes between were not for us.
        d.set({ position: { epoch: s.position.epoch, seq: Math.max(s.position.seq, e.seq) }, sync: "complete" });
      }
      return;
    case "bye":
      d.set({
        link: e.code === close.auth ? "login" : e.code === close.forbidden ? "forbidden" : "down",
        // Too slow: frames were lost on the way to us, so do not resume but ask for everything.
        ...(e.code === close.tooSlow ? { position: null, sync: "missing" as const } : {}),
      });
      return;
    case "result":
    case "other":
      d.set({ heardAt: at });
      return;
  }
}

function putAlert(d: Draft, a: Alert): void {
  const held = d.s.alerts.get(a.id);
  if (held && held.seq > a.seq) return; // an older truth that came late
  d.alerts().set(a.id, a);
}

function putReading(d: Draft, patientId: string, r: Reading): void {
  const p = d.s.patients.get(patientId);
  if (!p) return; // the caller sees that the patient is unknown and loads it
  const last = newer(p.lastReading, r);
  if (last !== p.lastReading) d.patients().set(patientId, { ...p, lastReading: last });
}

function newer(a: Reading | null, b: Reading | null): Reading | null {
  if (a === null) return b;
  if (b === null) return a;
  return b.takenAt >= a.takenAt ? b : a;
}

/** Grace for the very first connection, so that a page that is loading does not cry. */
const firstConnectMs = 4000;

/** Since when the page is out of date, null while it is not. `now` is the client clock. */
export function staleSince(s: State, now: number): number | null {
  const heard = s.heardAt || s.startedAt;
  if (s.link === "up" && now - heard <= 2 * s.heartbeatS * 1000) return null;
  if (s.heardAt === 0 && s.link === "connecting" && now - s.startedAt <= firstConnectMs) return null;
  return heard;
}

/** The server's time as far as we can tell; small differences are ours, not the clock's. */
export function serverNow(s: State, now: number): number {
  return Math.abs(s.skew) < 2000 ? now : now + s.skew;
}

/** Order of severities; 0 for none. */
export function rank(sev: Severity | "none" | ""): number {
  return sev === "" || sev === "none" ? 0 : severities.indexOf(sev) + 1;
}
