// The HTTP API, same origin. Every answer is checked before anybody sees it.

import * as d from "./decode";

const base = "/api/v1";

/** An answer that is not the wanted one, in the words of application/problem+json. status 0: no answer at all. */
export class ApiError extends Error {
  /** kind is the last word of the problem's type, "" when it has none of ours. */
  constructor(readonly status: number, readonly title: string, readonly detail: string, readonly kind = "") {
    super(detail || title);
    this.name = "ApiError";
  }
}

async function call(method: string, path: string, body?: d.Json, headers: Record<string, string> = {}): Promise<unknown> {
  let res: Response;
  const ctl = new AbortController();
  const timer = setTimeout(() => ctl.abort(), 20_000);
  try {
    res = await fetch(base + path, {
      method,
      credentials: "same-origin",
      cache: "no-store",
      signal: ctl.signal,
      headers: { Accept: "application/json", ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const type = res.headers.get("Content-Type") ?? "";
    const parsed: unknown = res.status !== 204 && type.includes("json") ? await res.json() : null;
    if (res.ok) return parsed;
    const p = parsed !== null && typeof parsed === "object" ? (parsed as d.Obj) : {};
    throw new ApiError(res.status, typeof p["title"] === "string" ? p["title"] : res.statusText, typeof p["detail"] === "string" ? p["detail"] : "",
      typeof p["type"] === "string" ? /^urn:vitalwatch:problem:(.+)$/.exec(p["type"])?.[1] ?? "" : "");
  } catch (e) {
    if (e instanceof ApiError) throw e;
    throw new ApiError(0, "", "");
  } finally {
    clearTimeout(timer);
  }
}

/** One page of a list. */
export interface Page<T> { readonly items: T[]; readonly next: string }

async function page<T>(path: string, query: Query, one: (v: unknown, path: string) => T): Promise<Page<T>> {
  const o = d.obj(await call("GET", path + search(query)), "answer");
  return { items: d.items(o["items"] ?? [], "items", one), next: d.optStr(o, "next_cursor") };
}

type Query = Readonly<Record<string, string | number>>;

function search(q: Query): string {
  const s = new URLSearchParams();
  for (const [k, v] of Object.entries(q)) if (v !== "") s.set(k, String(v));
  const text = s.toString();
  return text === "" ? "" : "?" + text;
}

/** All pages, at most `max` items. */
async function all<T>(path: string, query: Query, one: (v: unknown, path: string) => T, max: number): Promise<T[]> {
  const out: T[] = [];
  let cursor = "";
  do {
    const p = await page(path, { ...query, cursor }, one);
    out.push(...p.items);
    if (p.next === cursor) break;
    cursor = p.next;
  } while (cursor !== "" && out.length < max);
  return out;
}

const enc = encodeURIComponent;

export const login = (name: string, password: string) => call("POST", "/session", { name, password });
export const logout = () => call("DELETE", "/session");

/** The session, null when nobody is logged in and anonymous reading is off. */
export async function session(): Promise<d.Session | null> {
  try {
    return d.session(await call("GET", "/session"));
  } catch (e) {
    if (e instanceof ApiError && e.status === 401) return null;
    throw e;
  }
}

export const patients = () => all("/patients", { limit: 500 }, d.patient, 20_000);
export const patient = async (id: string) => d.patient(await call("GET", `/patients/${enc(id)}`));
export const openAlerts = () => all("/alerts", { state: "open", limit: 500 }, d.alert, 10_000);
export const resolvedAlerts = async () => (await page("/alerts", { state: "resolved", limit: 200 }, d.alert)).items;
export const patientAlerts = async (id: string) => (await page("/alerts", { state: "all", patient: id, limit: 100 }, d.alert)).items;

export async function alert(id: string): Promise<{ alert: d.Alert; history: d.Transition[]; guide: d.ErrorGuide | null }> {
  const v = d.obj(await call("GET", `/alerts/${enc(id)}`));
  return { alert: d.alert(v), history: d.items(v["history"] ?? [], "history", d.transition), guide: d.errorGuide(v["error_guide"]) };
}

/** All readings of [from, to), in ms. Oldest first. */
export const readings = (id: string, from: number, to: number, max: number) =>
  all(`/patients/${enc(id)}/readings`, { from: iso(from), to: iso(to), limit: 5000 }, d.reading, max);

export async function trends(id: string, indicator: string, from: number, to: number): Promise<d.Obj> {
  return d.obj(await call("GET", `/patients/${enc(id)}/trends` + search({ indicator, from: iso(from), to: iso(to) })));
}

/** Sittings with the cuff in [from, to), oldest first. */
export const sittings = async (id: string, from: number, to: number) => (await page(`/patients/${enc(id)}/sessions`, { from: iso(from), to: iso(to) }, d.sitting)).items;
export const thresholds = async (id: string) => (await page(`/patients/${enc(id)}/thresholds`, {}, d.threshold)).items;
export const findings = async (id: string) => (await page(`/patients/${enc(id)}/findings`, {}, d.finding)).items;

/** What waits for an owner; null where the server knows no devices. */
export async function unassigned(): Promise<d.Unassigned[] | null> {
  try {
    return await all("/unassigned", { limit: 1000 }, d.unassigned, 5000);
  } catch (e) {
    if (e instanceof ApiError && e.status === 404) return null;
    throw e;
  }
}

export const assign = async (id: string, patientId: string, scope: "this" | "device_slot") =>
  d.outcome(await call("POST", `/unassigned/${enc(id)}/assign`, { patient_id: patientId, for: scope }));
export const dismiss = (id: string) => call("POST", `/unassigned/${enc(id)}/dismiss`, {});

export interface QuarantineFilter { readonly device: string; readonly problem: string }

export const quarantine = (f: QuarantineFilter, cursor: string) => page("/quarantine", { limit: 100, device: f.device, problem: f.problem, cursor }, d.quarantined);
export const content = async (id: string) => d.content(await call("GET", `/quarantine/${enc(id)}`));
export const replay = async (id: string) => d.outcome(await call("POST", `/quarantine/${enc(id)}/replay`, {}, { "Idempotency-Key": newKey() }));

/** How many messages the server tries again in one request. */
const replayAtOnce = 500;

/** Tries messages again: these, or all of a device. */
export async function replayMany(what: { readonly ids: readonly string[] } | { readonly device_id: string }): Promise<d.Outcome> {
  const sum = { accepted: 0, duplicate: 0, refused: 0, next: "" };
  let ids = "ids" in what ? what.ids : [];
  do {
    const o = d.outcome(await call("POST", "/quarantine/replay", "ids" in what ? { ids: ids.slice(0, replayAtOnce) } : { ...what, ...(sum.next === "" ? {} : { cursor: sum.next }) }));
    sum.accepted += o.accepted;
    sum.duplicate += o.duplicate;
    sum.refused += o.refused;
    sum.next = o.next;
    ids = ids.slice(replayAtOnce);
  } while (ids.length > 0 || sum.next !== "");
  return sum;
}

/** All devices, or those that measure or measured for one patient; none where the server knows no devices. */
export const devices = (patient = "") => all("/devices", { limit: 1000, patient }, d.device, 20_000);
export const device = async (id: string) => d.device(await call("GET", `/devices/${enc(id)}`));
export const deviceStatus = async (id: string) => (await page(`/devices/${enc(id)}/status`, { limit: 50 }, d.deviceStatus)).items;
export const guide = async (id: string) => d.guide(await call("GET", `/devices/${enc(id)}/guide`));
export const commands = async (id: string) => (await page(`/devices/${enc(id)}/commands`, { limit: 20 }, d.command)).items;

/** What is known of models by name. */
export async function modelNames(): Promise<ReadonlyMap<string, d.Text>> {
  return new Map((await all("/models", {}, d.model, 10_000)).map((m) => [m.id, m.name]));
}

/** The same id with the same content is the same command. */
export interface NewCommand { readonly id: string; readonly cmd: "remeasure"; readonly text: d.Text; readonly expires_at: string }

export const command = (device: string, c: NewCommand) => call("POST", `/devices/${enc(device)}/commands`, { ...c });

export type Act = "acknowledge" | "snooze" | "resolve" | "notes";

/** Does one act; gives the alert after it when the server tells it, else null. */
export async function act(id: string, what: Act, body: d.Obj, key: string): Promise<d.Alert | null> {
  const v = await call("POST", `/alerts/${enc(id)}/${what}`, body, { "Idempotency-Key": key });
  try {
    return d.alert(v);
  } catch {
    return null; // the act is done; the feed or the next read tells the rest
  }
}

export async function ticket(): Promise<string> {
  return d.str(d.obj(await call("POST", "/feed/ticket", {})), "ticket");
}

function iso(ms: number): string { return new Date(ms).toISOString(); }

/** A fresh key for one human act; a retry of the same act uses it again. */
export function newKey(): string {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  // randomUUID wants a secure context; a console on plain http inside a clinic is not one.
  const b = crypto.getRandomValues(new Uint8Array(16));
  b[6] = (b[6]! & 0x0f) | 0x40;
  b[8] = (b[8]! & 0x3f) | 0x80;
  const x = [...b].map((n) => n.toString(16).padStart(2, "0")).join("");
  return `${x.slice(0, 8)}-${x.slice(8, 12)}-${x.slice(12, 16)}-${x.slice(16, 20)}-${x.slice(20)}`;
}
