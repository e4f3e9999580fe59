// The connection to the feed: one-time ticket, authenticate, subscribe from where we were, watch for silence,
// come back with back-off. It decides nothing about alerts; it turns what the socket does into events.

import { close, parseFrame, say, subprotocol, type Position } from "./frames";
import type { Event } from "./state";

/** What the feed needs from outside; tests put fakes here. Times in ms. */
export interface FeedWorld {
  ticket(): Promise<string>;
  open(subprotocol: string): SocketLike;
  now(): number;
  /** Returns a function that cancels. */
  after(ms: number, f: () => void): () => void;
  /** In [0, 1). */
  random(): number;
  position(): Position | null;
  heartbeatS(): number;
  emit(e: Event): void;
  /** Whether an error of ticket() means that nobody is logged in. */
  isUnauthorised(e: unknown): boolean;
  isForbidden(e: unknown): boolean;
}

export interface SocketLike {
  send(data: string): void;
  close(code?: number): void;
  onopen: (() => void) | null;
  onmessage: ((data: unknown) => void) | null;
  onclose: ((code: number) => void) | null;
}

const firstWaitMs = 500;
const longestWaitMs = 30_000;
/** A connection that does not say hello within this time is given up. */
const openWithinMs = 10_000;

export const channels = ["alerts", "readings"] as const;

const subscribeId = 1;

export class Feed {
  private socket: SocketLike | null = null;
  private cancel: (() => void) | null = null;
  private failures = 0;
  private retryMs = 0;
  private heard = 0;
  private opened = 0;
  private greeted = false;
  /** Grows with each attempt, so that what belongs to an older one is ignored. */
  private attempt = 0;
  private running = false;

  constructor(private readonly w: FeedWorld) {}

  start(): void {
    this.running = true;
    this.connect();
  }

  stop(): void {
    this.running = false;
    this.drop();
  }

  /** Tries now instead of at the end of the back-off; does nothing while connected. */
  hurry(): void {
    if (!this.running || this.socket) return;
    this.connect();
  }

  private connect(): void {
    this.drop();
    const attempt = ++this.attempt;
    this.w.emit({ type: "link", link: "connecting" });
    this.w.ticket().then(
      (t) => { if (attempt === this.attempt && this.running) this.open(t, attempt); },
      (e: unknown) => {
        if (attempt !== this.attempt || !this.running) return;
        if (this.w.isUnauthorised(e)) this.halt("login");
        else if (this.w.isForbidden(e)) this.halt("forbidden");
        else this.again();
      },
    );
  }

  private open(ticket: string, attempt: number): void {
    const s = this.w.open(subprotocol);
    this.socket = s;
    this.heard = this.opened = this.w.now();
    this.greeted = false;
    const mine = (): boolean => attempt === this.attempt && this.socket === s;
    s.onopen = () => {
      if (!mine()) return;
      s.send(say.auth(ticket));
      s.send(say.subscribe(subscribeId, channels, this.w.position()));
    };
    s.onmessage = (data) => {
      if (!mine()) return;
      this.heard = this.w.now();
      try {
        const f = parseFrame(String(data));
        if (f.type === "hello") this.greeted = true;
        if (f.type === "bye") this.retryMs = f.retryMs;
        this.w.emit(f);
        if (f.type === "result" && !f.ok && f.id === subscribeId) {
          // Connected but told nothing is the worst of all states: begin again.
          this.drop();
          this.again();
        }
      } catch {
        // An alert may have been in it: say so, and let the app fetch the open alerts.
        this.w.emit({ type: "unreadable" });
      }
    };
    s.onclose = (code) => {
      if (!mine()) return;
      this.socket = null;
      if (code === close.auth) return this.halt("login");
      if (code === close.forbidden) return this.halt("forbidden");
      if (code === close.tooSlow) this.w.emit({ type: "bye", code, retryMs: this.retryMs });
      this.again();
    };
    this.watch();
  }

  /** Gives the connection up when it does not greet, or nothing was heard for twice the heartbeat. */
  private watch(): void {
    this.cancel?.();
    const limit = this.greeted ? this.heard + 2 * this.w.heartbeatS() * 1000 : this.opened + openWithinMs;
    const left = limit - this.w.now();
    if (left < 0) {
      this.drop();
      this.again();
      return;
    }
    // Looks again at least once a second: the heartbeat's length is known only after hello.
    this.cancel = this.w.after(Math.min(left + 1, 1000), () => this.watch());
  }

  private halt(link: "login" | "forbidden"): void {
    this.drop();
    this.w.emit({ type: "link", link });
  }

  private again(): void {
    this.cancel?.();
    this.w.emit({ type: "link", link: "down" });
    // A connection that held for a while starts the back-off anew; one that is closed at once does not.
    if (this.greeted && this.w.now() - this.opened > openWithinMs) this.failures = 0;
    this.greeted = false;
    // Half of the wait is random, so that all consoles do not come back at once after a restart.
    const wait = Math.min(longestWaitMs, firstWaitMs * 2 ** this.failures);
    const ms = this.retryMs + wait * (0.5 + 0.5 * this.w.random());
    this.failures = Math.min(this.failures + 1, 16);
    this.retryMs = 0;
    this.cancel = this.w.after(ms, () => { if (this.running) this.connect(); });
  }

  private drop(): void {
    this.cancel?.();
    this.cancel = null;
    this.attempt++;
    const s = this.socket;
    this.socket = null;
    if (s) {
      s.onopen = s.onmessage = s.onclose = null;
      s.close(1000);
    }
  }
}

/** The browser's WebSocket as a SocketLike. */
export function browserSocket(protocol: string): SocketLike {
  const url = new URL("/api/v1/feed", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const ws = new WebSocket(url, protocol);
  const s: SocketLike = {
    send: (d) => { if (ws.readyState === WebSocket.OPEN) ws.send(d); },
    close: (c) => ws.close(c),
    onopen: null, onmessage: null, onclose: null,
  };
  ws.onopen = () => s.onopen?.();
  ws.onmessage = (e) => s.onmessage?.(e.data);
  ws.onclose = (e) => s.onclose?.(e.code);
  return s;
}
