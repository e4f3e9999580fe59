// What the views may ask of the application. Views never touch the network's feed or change the state.

import type { Act } from "./api";
import type { Alert, Patient, Reading } from "./decode";
import type { Route } from "./route";
import type { Event, State } from "./state";

export interface App {
  state(): State;
  /** The server's time in ms, as far as we can tell. */
  now(): number;
  route(): Route;
  go(hash: string): void;
  emit(e: Event): void;
  /** Why this person cannot act on alerts, "" when they can. */
  mayNotAct(): string;
  /** Opens the dialog of one act, or says why not. */
  act(a: Alert, what: Act): void;
  /** Tells a screen reader, and everybody in the corner of the page. */
  tell(text: string, urgent?: boolean): void;
  askLogin(): void;
}

/** A part of the page. */
export interface View {
  readonly el: HTMLElement;
  /** Shows the state as it is now; called after each batch of events. */
  update(): void;
  /** A reading came by the feed. */
  reading?(patientId: string, r: Reading): void;
  /** The feed was away and is complete again. */
  resynced?(): void;
  /** The alert that the keyboard acts on. */
  current?(): Alert | null;
  dispose?(): void;
}

export function patientLabel(p: Patient | undefined, id: string): string {
  return p && p.name !== "" ? p.name : id;
}
