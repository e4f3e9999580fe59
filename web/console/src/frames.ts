// The frames of the coaches' feed, subprotocol vitalwatch.v1.json. parseFrame is the one place where they enter.

import { alert, items, num, obj, optNum, optStr, reading, str, time, type Alert, type Reading } from "./decode";

export const subprotocol = "vitalwatch.v1.json";

/** Close codes of the feed. */
export const close = { auth: 4401, forbidden: 4403, tooSlow: 4408, rate: 4429 } as const;

/** A place in the feed. Positions of different epochs cannot be compared. */
export interface Position {
  readonly epoch: string;
  readonly seq: number;
}

export type Frame =
  | { readonly type: "hello"; readonly epoch: string; readonly seq: number; readonly heartbeatS: number }
  | { readonly type: "snapshot"; readonly epoch: string; readonly seq: number; readonly alerts: readonly Alert[]; readonly readings: readonly PatientReading[] }
  | { readonly type: "alert"; readonly seq: number; readonly transition: string; readonly alert: Alert }
  | ({ readonly type: "reading" } & PatientReading)
  | { readonly type: "gap"; readonly from: number; readonly to: number }
  /** seq is there when the server has told us everything up to it; null while it is still catching up. */
  | { readonly type: "heartbeat"; readonly at: number; readonly seq: number | null }
  /** The answer to something we sent; only a refusal matters. */
  | { readonly type: "result"; readonly id: number; readonly ok: boolean }
  | { readonly type: "bye"; readonly code: number; readonly retryMs: number }
  /** A type that a newer server may send: it shows that the connection lives, and says nothing else. */
  | { readonly type: "other"; readonly name: string };

export interface PatientReading {
  readonly patientId: string;
  readonly reading: Reading;
}

/** Reads one frame; throws DecodeError or SyntaxError. */
export function parseFrame(data: string): Frame {
  const o = obj(JSON.parse(data), "frame");
  const type = str(o, "type", "frame");
  switch (type) {
    case "hello":
      // A server that sends no heartbeat interval is watched as if it were 15 s.
      return { type, epoch: str(o, "epoch"), seq: num(o, "seq"), heartbeatS: optNum(o, "heartbeat_s") || 15 };
    case "snapshot":
      return {
        type, epoch: str(o, "epoch"), seq: num(o, "seq"),
        alerts: items(o["alerts"] ?? [], "alerts", alert),
        readings: items(o["readings"] ?? [], "readings", patientReading),
      };
    case "alert":
      return { type, seq: num(o, "seq"), transition: str(o, "transition"), alert: alert(o["alert"]) };
    case "reading":
      return { type, ...patientReading(o, "reading frame") };
    case "gap":
      return { type, from: optNum(o, "from"), to: optNum(o, "to") };
    case "heartbeat":
      return { type, at: time(o, "at"), seq: o["seq"] === undefined ? null : num(o, "seq") };
    case "result":
      return { type, id: optNum(o, "id"), ok: o["ok"] === true };
    case "bye":
      return { type, code: optNum(o, "code"), retryMs: Math.max(0, optNum(o, "retry_ms")) };
    default:
      return { type: "other", name: optStr(o, "type") };
  }
}

function patientReading(v: unknown, path: string): PatientReading {
  const o = obj(v, path);
  return { patientId: str(o, "patient_id", path), reading: reading(o["reading"], path + ".reading") };
}

/** What the console sends. */
export const say = {
  auth: (ticket: string): string => JSON.stringify({ op: "auth", ticket }),
  subscribe: (id: number, channels: readonly string[], from: Position | null): string =>
    JSON.stringify(from === null ? { op: "subscribe", id, channels } : { op: "subscribe", id, channels, from }),
  ping: (): string => JSON.stringify({ op: "ping" }),
};
