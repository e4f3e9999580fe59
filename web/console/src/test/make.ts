// Small values for tests.
import type { Alert, Patient, Reading } from "../decode";

export function makeAlert(id: string, over: Partial<Alert> = {}): Alert {
  return {
    id, patientId: "P-1", rule: "r", condition: "general", severity: "warning", highest: over.severity ?? "warning", state: "open", signal: "live", openedAt: 1000, updatedAt: 1000,
    acknowledgedBy: "", acknowledgedAt: 0, resolvedAt: 0, resolvedBy: "", outcome: "", snoozedUntil: 0, signalLostAt: 0, acceptedBy: "",
    title: { "zh-CN": "题", en: "title" }, kind: "clinical", error: null, trigger: null, explanation: {}, seq: 1, ...over,
  };
}

export function makeReading(over: Partial<Reading> = {}): Reading {
  return {
    id: "", deviceId: "d", indicator: "glucose", takenAt: 0, receivedAt: 0, values: { value: 7.8 }, unit: "mmol/L", context: {}, flags: [],
    freshness: "live", quality: "good", ...over,
  };
}

export function makePatient(id: string, over: Partial<Patient> = {}): Patient {
  return { id, name: "", conditions: [], worst: "none", openAlerts: 0, lastReading: null, signal: "live", coverage: [], ...over };
}

/** A small generator with a seed, so that a failure can be repeated (mulberry32). */
export function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
