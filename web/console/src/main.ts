// Wiring: the session, the feed, the state, the page around the views, the keyboard.

import { actDialog, helpDialog, loginDialog, loginForm } from "./acts";
import { AlertList } from "./alertlist";
import { AlertPage } from "./alertpage";
import * as api from "./api";
import { patientLabel, type App, type View } from "./app";
import { rank, serverNow, staleSince, applyAll, initial, type Event, type State } from "./state";
import type { Alert } from "./decode";
import { DeviceList } from "./devicelist";
import { DevicePage } from "./devicepage";
import { button, h, replace, setText } from "./dom";
import { browserSocket, Feed } from "./feed";
import { ago, clock, severityName, stamp, valueText } from "./format";
import { icon } from "./icons";
import { chooseLang, lang, pick, setLang, store, t } from "./i18n";
import { snoozeMinutes } from "./order";
import { PatientList } from "./patientlist";
import { PatientPage } from "./patientpage";
import { QuarantinePage } from "./quarantinepage";
import { UnassignedPage } from "./unassignedpage";
import { parseRoute, to, type Route } from "./route";
import { problem } from "./parts";

/** Events wait this long for company, so that a burst of frames is drawn once; readings alone can wait longer. */
const batchMs = 40, readingsMs = 250;
/** How often the patients' summaries are read again: coverage and signal do not come by the feed. */
const patientsEveryMs = 60_000;
/** Without a touch or a key for so long nothing is polled, so that a page left open does not keep a session alive. */
const activeMs = 30 * 60_000;
/** When the server refuses the feed to a session that is otherwise good. */
const retryLoginMs = 5000;
const soundKey = "vitalwatch.sound";

class Console implements App {
  private s: State = initial(Date.now());
  private place: Route = parseRoute(location.hash);
  private queue: Event[] = [];
  private flushAt = 0;
  private flushTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly feed: Feed;
  private shell: Shell | null = null;
  private wantPatients = false;
  private patientsAt = 0;
  private activeAt = Date.now();
  private audio: AudioContext | null = null;

  constructor(private readonly root: HTMLElement) {
    this.feed = new Feed({
      ticket: api.ticket,
      open: browserSocket,
      now: () => Date.now(),
      after: (ms, f) => { const id = setTimeout(f, ms); return () => clearTimeout(id); },
      random: Math.random,
      position: () => this.s.position,
      heartbeatS: () => this.s.heartbeatS,
      emit: (e) => this.emit(e),
      isUnauthorised: (e) => e instanceof api.ApiError && e.status === 401,
      isForbidden: (e) => e instanceof api.ApiError && e.status === 403,
    });
    window.addEventListener("hashchange", () => this.routed());
    window.addEventListener("online", () => this.feed.hurry());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.feed.hurry();
      this.tick();
    });
    document.addEventListener("keydown", (e) => this.key(e));
    for (const type of ["pointerdown", "pointermove", "keydown", "wheel"]) document.addEventListener(type, () => { this.activeAt = Date.now(); }, { capture: true, passive: true });
    setInterval(() => this.tick(), 1000);
  }

  state(): State { return this.s; }
  now(): number { return serverNow(this.s, Date.now()); }
  route(): Route { return this.place; }
  go(hash: string): void { location.hash = hash; }

  async begin(): Promise<void> {
    try {
      const session = await api.session();
      setLang(chooseLang(session?.language ?? "", navigator.languages));
      this.emit({ type: "session", session });
      if (session === null) this.showLogin();
      else this.enter();
    } catch (e) {
      replace(this.root, h("main", { class: "gate" }, h("h1", {}, "vitalwatch"), h("p", { class: "error", role: "alert" }, problem(e)),
        button(t("gate.retry"), { class: "primary" }, () => void this.begin())));
    }
  }

  emit(e: Event): void {
    this.queue.push(e);
    const due = Date.now() + (e.type === "reading" ? readingsMs : batchMs);
    if (this.flushAt !== 0 && this.flushAt <= due) return;
    clearTimeout(this.flushTimer);
    this.flushAt = due;
    this.flushTimer = setTimeout(() => { this.flushAt = 0; this.flush(); }, due - Date.now());
  }

  mayNotAct(): string {
    const s = this.s.session;
    if (s === null || s.anonymous) return t("act.login_first");
    if (s.role !== "coach" && s.role !== "admin") return t("act.role", { role: s.role });
    return "";
  }

  act(a: Alert, what: api.Act): void {
    const why = a.state === "resolved" ? t("act.resolved_already") : this.mayNotAct();
    if (why !== "") return this.tell(why, true);
    if (what === "acknowledge" && a.state !== "open") return this.tell(t("act.acknowledged_already", { name: a.acknowledgedBy }));
    if (what === "snooze" && snoozeMinutes(a.severity).length === 0) return this.tell(t("act.no_snooze"), true);
    actDialog(this, a, what);
  }

  askLogin(): void {
    document.querySelector<HTMLDialogElement>("dialog[open]")?.close();
    loginDialog(() => void this.loggedIn());
  }

  tell(text: string, urgent = false): void { this.shell?.tell(text, urgent); }

  private enter(): void {
    this.rebuild();
    this.loadPatients();
    this.loadWaiting();
    this.loadAlerts();
    this.feed.start();
  }

  private async loggedIn(): Promise<void> {
    this.feed.stop();
    // Another person may see other patients: begin with nothing.
    this.s = initial(Date.now());
    await this.begin();
  }

  private async logout(): Promise<void> {
    try {
      await api.logout();
    } catch (e) {
      return this.tell(problem(e), true);
    }
    await this.loggedIn();
  }

  private showLogin(): void {
    this.feed.stop();
    this.shell?.dispose();
    this.shell = null;
    document.title = "vitalwatch";
    document.body.className = "";
    replace(this.root, h("main", { class: "gate" }, h("h1", {}, "vitalwatch"), h("p", { class: "muted" }, t("login.hint")), loginForm(() => void this.loggedIn()),
      button(lang() === "en" ? "中文" : "English", { class: "link" }, () => { setLang(lang() === "en" ? "zh-CN" : "en"); this.showLogin(); })));
    this.root.querySelector("input")?.focus();
  }

  private rebuild(): void {
    this.shell?.dispose();
    this.shell = new Shell(this, {
      language: () => { setLang(lang() === "en" ? "zh-CN" : "en"); this.rebuild(); document.getElementById("language")?.focus(); },
      logout: () => void this.logout(),
      sound: () => this.toggleSound(),
      soundOn: () => store.get(soundKey) === "on",
    });
    replace(this.root, this.shell.el);
    this.shell.route(this.place);
    this.shell.update();
  }

  private routed(): void {
    this.place = parseRoute(location.hash);
    this.shell?.route(this.place);
    this.shell?.update();
    this.shell?.focusPage();
  }

  private flush(): void {
    const events = this.queue;
    this.queue = [];
    const before = this.s;
    this.s = applyAll(before, events, Date.now());
    for (const e of events) this.after(e);
    if (before.sync !== "complete" && this.s.sync === "complete" && before.heardAt !== 0 && before.alertsEpoch !== "") this.resynced();
    this.shell?.update();
  }

  /** What an event asks for beside the state. */
  private after(e: Event): void {
    switch (e.type) {
      case "alert":
        if (!this.s.patients.has(e.alert.patientId)) this.loadPatientsSoon();
        if (e.transition === "opened" || e.transition === "worsened" || e.transition === "escalated") this.announce(e.alert, e.transition);
        return;
      case "reading":
        if (!this.s.patients.has(e.patientId)) this.loadPatientsSoon();
        this.shell?.page?.reading?.(e.patientId, e.reading);
        return;
      case "snapshot":
        for (const a of e.alerts) if (!this.s.patients.has(a.patientId)) this.loadPatientsSoon();
        return;
      case "unreadable":
        this.loadAlerts();
        return;
      case "link":
        if (e.link === "login") void this.recheck();
        return;
    }
  }

  /** The feed refused us: ask who we are, and either log in or try again later. */
  private async recheck(): Promise<void> {
    try {
      const session = await api.session();
      this.emit({ type: "session", session });
      if (session === null) return this.showLogin();
    } catch {
      // no answer: the feed's own back-off is as good as any
    }
    setTimeout(() => { if (this.s.link === "login" && this.shell) this.feed.start(); }, retryLoginMs);
  }

  private resynced(): void {
    this.loadPatients();
    this.loadWaiting();
    this.shell?.page?.resynced?.();
  }

  private announce(a: Alert, transition: string): void {
    const who = patientLabel(this.s.patients.get(a.patientId), a.patientId);
    const args = { severity: severityName(a.severity), who, title: pick(a.title, a.rule), value: a.trigger ? valueText(a.trigger.indicator, a.trigger.values, a.trigger.unit) : "" };
    const urgent = rank(a.severity) >= rank("critical");
    this.tell(t(transition === "opened" ? "announce.opened" : transition === "worsened" ? "announce.worsened" : "announce.escalated", args), urgent);
    if (urgent && store.get(soundKey) === "on") this.beep();
  }

  private loadPatientsSoon(): void {
    if (this.wantPatients) return;
    this.wantPatients = true;
    setTimeout(() => this.loadPatients(), 1000);
  }

  private loadPatients(): void {
    this.wantPatients = false;
    this.patientsAt = Date.now();
    api.patients().then((patients) => this.emit({ type: "patients", patients, complete: true }), (e: unknown) => this.failed(e));
  }

  private loadWaiting(): void {
    api.unassigned().then((waiting) => this.emit({ type: "waiting", waiting }), (e: unknown) => this.failed(e));
  }

  private loadAlerts(): void {
    api.openAlerts().then((alerts) => this.emit({ type: "alerts", alerts }), (e: unknown) => this.failed(e));
  }

  private failed(e: unknown): void {
    if (e instanceof api.ApiError && e.status === 401) void this.recheck();
    else this.tell(problem(e), true);
  }

  private tick(): void {
    if (!this.shell) return;
    const now = Date.now();
    if (this.s.link === "up" && now - this.patientsAt > patientsEveryMs && now - this.activeAt < activeMs) {
      this.loadPatients();
      this.loadWaiting();
    }
    this.shell.tick();
  }

  private toggleSound(): void {
    const on = store.get(soundKey) !== "on";
    store.set(soundKey, on ? "on" : "off");
    if (on) this.beep();
    this.tell(t(on ? "sound.on" : "sound.off"));
    this.shell?.update();
  }

  private beep(): void {
    try {
      this.audio ??= new AudioContext();
      const at = this.audio.currentTime;
      for (const i of [0, 1]) {
        const o = this.audio.createOscillator(), g = this.audio.createGain();
        o.frequency.value = i === 0 ? 660 : 880;
        g.gain.setValueAtTime(0.0001, at + i * 0.22);
        g.gain.exponentialRampToValueAtTime(0.2, at + i * 0.22 + 0.03);
        g.gain.exponentialRampToValueAtTime(0.0001, at + i * 0.22 + 0.2);
        o.connect(g).connect(this.audio.destination);
        o.start(at + i * 0.22);
        o.stop(at + i * 0.22 + 0.21);
      }
    } catch {
      // no sound here; nothing depends on it
    }
  }

  private key(e: KeyboardEvent): void {
    const shell = this.shell;
    if (!shell || e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    const target = e.target as HTMLElement;
    if (target.closest("input, textarea, select")) {
      if (e.key === "Escape") target.blur();
      return;
    }
    const acts: Record<string, api.Act> = { a: "acknowledge", s: "snooze", r: "resolve", n: "notes" };
    const act = acts[e.key];
    const current = shell.current();
    if (act) {
      if (current) this.act(current, act);
      else this.tell(t("act.none_selected"));
    } else if (e.key === "j") shell.alerts.move(1);
    else if (e.key === "k") shell.alerts.move(-1);
    else if (e.key === "p" && current) this.go(to.patient(current.patientId));
    else if (e.key === "h" || e.key === "Escape") this.go(to.home);
    else if (e.key === "/") shell.alerts.focusSearch();
    else if (e.key === "?") helpDialog();
    else return;
    e.preventDefault();
  }
}

interface Controls {
  language(): void;
  logout(): void;
  sound(): void;
  soundOn(): boolean;
}

/** The page around the views. It is built anew when the language changes. */
class Shell {
  readonly el = h("div", { class: "shell" });
  readonly alerts: AlertList;
  page: View | null = null;
  private readonly banner = h("div", { class: "banner", role: "alert", hidden: true });
  private readonly linkState = h("span", { class: "link-state" });
  private readonly user = h("span", { class: "user" });
  private readonly waiting = h("span", { class: "nav-count", hidden: true });
  private readonly links = {
    unassigned: h("a", { href: to.unassigned }, t("unassigned.nav"), this.waiting),
    devices: h("a", { href: to.devices }, t("devices.nav")),
    quarantine: h("a", { href: to.quarantine }, t("quarantine.nav")),
  };
  private readonly soundButton: HTMLButtonElement;
  private readonly side = h("div", { class: "side" });
  private readonly polite = h("div", { class: "sr", role: "status", "aria-live": "polite" });
  private readonly urgent = h("div", { class: "sr", role: "alert", "aria-live": "assertive" });
  private readonly toast = h("div", { class: "toast", "aria-hidden": "true", hidden: true });
  private readonly main = h("main", { class: "main", id: "main" });
  private toastTimer: ReturnType<typeof setTimeout> | null = null;
  private userVersion = "";

  constructor(private readonly app: Console, private readonly controls: Controls) {
    this.alerts = new AlertList(app);
    this.soundButton = button(icon("mute"), { class: "tool", id: "sound", "aria-pressed": "false" }, () => controls.sound());
    const tabs = h("div", { class: "tabs segmented", role: "group", "aria-label": t("nav.show") });
    for (const [tab, label] of [["alerts", t("alerts.title")], ["patients", t("patients.title")]] as const) {
      tabs.append(button(label, { "aria-pressed": String(tab === "alerts") }, (e) => {
        this.main.dataset["tab"] = tab;
        for (const b of tabs.children) b.setAttribute("aria-pressed", String(b === e.currentTarget));
      }));
    }
    this.main.dataset["tab"] = "alerts";
    this.main.append(tabs, this.alerts.el, this.side);
    this.el.append(
      h("a", { class: "skip", href: "#main" }, t("nav.skip")),
      h("header", { class: "top" },
        h("a", { class: "brand", href: to.home }, h("span", { class: "logo", "aria-hidden": "true" }), h("span", {}, "vitalwatch"), h("span", { class: "tag" }, t("app.tagline"))),
        this.linkState, h("span", { class: "grow" }),
        h("nav", { "aria-label": t("nav.label") }, ...Object.values(this.links)),
        this.soundButton,
        button("?", { class: "tool", id: "help", title: t("help.title"), "aria-label": t("help.title"), "aria-keyshortcuts": "?" }, () => helpDialog()),
        button(lang() === "en" ? "中文" : "English", { class: "tool", id: "language", lang: lang() === "en" ? "zh-CN" : "en" }, () => controls.language()),
        this.user),
      this.banner, this.main, this.toast, this.polite, this.urgent);
    this.el.querySelector(".skip")!.addEventListener("click", (e) => { e.preventDefault(); this.alerts.move(0); });
  }

  route(r: Route): void {
    this.page?.dispose?.();
    this.page = r.name === "patient" ? new PatientPage(this.app, r.id) : r.name === "alert" ? new AlertPage(this.app, r.id)
      : r.name === "devices" ? new DeviceList(this.app) : r.name === "device" ? new DevicePage(this.app, r.id)
      : r.name === "unassigned" ? new UnassignedPage(this.app) : r.name === "quarantine" ? new QuarantinePage(this.app) : new PatientList(this.app);
    this.el.dataset["route"] = r.name;
    for (const [name, a] of Object.entries(this.links)) {
      if (name === r.name || name === "devices" && r.name === "device") a.setAttribute("aria-current", "page");
      else a.removeAttribute("aria-current");
    }
    replace(this.side, this.page.el);
  }

  /** After the user went somewhere, Tab should go on from there. */
  focusPage(): void {
    if (this.el.dataset["route"] !== "home") this.page?.el.focus({ preventScroll: true });
  }

  current(): Alert | null {
    const inFeed = this.alerts.el.contains(document.activeElement);
    return inFeed || !this.page?.current ? this.alerts.current() : this.page.current();
  }

  update(): void {
    this.alerts.update();
    this.page?.update();
    const s = this.app.state().session;
    const v = `${s?.name}|${s?.anonymous}|${s?.role}`;
    if (v !== this.userVersion) {
      this.userVersion = v;
      if (s === null || s.anonymous) replace(this.user, h("span", { class: "muted" }, t("login.anonymous")), button(t("login.open"), { class: "tool primary", id: "login" }, () => this.app.askLogin()));
      else replace(this.user, h("span", { class: "name" }, icon("person"), s.name), button(t("login.logout"), { class: "tool", id: "logout" }, () => this.controls.logout()));
    }
    const n = this.app.state().waiting?.length ?? 0;
    this.waiting.hidden = n === 0;
    setText(this.waiting, String(n));
    this.links.unassigned.setAttribute("aria-label", n === 0 ? t("unassigned.nav") : t("unassigned.nav_count", { n }));
    const on = this.controls.soundOn();
    if (this.soundButton.getAttribute("aria-pressed") !== String(on) || !this.soundButton.title) {
      this.soundButton.setAttribute("aria-pressed", String(on));
      this.soundButton.title = t(on ? "sound.turn_off" : "sound.turn_on");
      this.soundButton.setAttribute("aria-label", this.soundButton.title);
      replace(this.soundButton, icon(on ? "sound" : "mute"));
    }
    this.tick();
  }

  /** What changes with time alone. */
  tick(): void {
    const s = this.app.state();
    const now = this.app.now();
    for (const e of this.el.querySelectorAll<HTMLElement>("time[data-at]")) {
      const at = Number(e.dataset["at"]);
      setText(e, e.dataset["kind"] === "ago" ? ago(at, now) : clock(at, now));
    }
    const stale = staleSince(s, Date.now());
    document.body.classList.toggle("stale", stale !== null);
    const waiting = [...s.alerts.values()].filter((a) => a.state === "open").length;
    document.title = (stale !== null ? `⚠ ${t("stale.title")} · ` : waiting > 0 ? `(${waiting}) ` : "") + "vitalwatch";
    setText(this.linkState, stale !== null ? t("link.stale") : s.sync === "missing" ? t("link.loading") : t("link.live"));
    this.linkState.className = `link-state ${stale !== null ? "is-stale" : s.sync === "missing" ? "is-loading" : "is-live"}`;
    this.showBanner(s, stale);
  }

  private showBanner(s: State, stale: number | null): void {
    let kind = "";
    let head = "", rest = "", age = "";
    if (stale !== null) {
      kind = "stale";
      head = s.heardAt === 0 ? t("stale.never") : t("stale.since", { time: stamp(stale) });
      age = ago(stale, Date.now());
      rest = s.link === "forbidden" ? t("stale.forbidden") : s.link === "login" ? t("stale.login") : t("stale.reconnecting");
    } else if (s.unreadable > 0) {
      kind = "unreadable";
      head = t("unreadable.head");
      rest = t("unreadable.rest");
    }
    this.banner.hidden = kind === "";
    if (kind === "") {
      if (this.banner.childElementCount > 0) replace(this.banner);
      this.banner.dataset["kind"] = "";
      return;
    }
    if (this.banner.dataset["kind"] !== kind) {
      this.banner.dataset["kind"] = kind;
      replace(this.banner, icon("lost"), h("strong", {}), h("span", { class: "age", "aria-live": "off" }), h("span", { class: "rest" }), button(t("banner.reload"), { class: "tool" }, () => location.reload()));
    }
    setText(this.banner.querySelector("strong")!, head);
    setText(this.banner.querySelector(".age")!, age); // ticks, so it is not read aloud
    setText(this.banner.querySelector(".rest")!, rest);
  }

  tell(text: string, urgent: boolean): void {
    const region = urgent ? this.urgent : this.polite;
    region.append(h("p", {}, text));
    while (region.childElementCount > 5) region.firstElementChild!.remove();
    setText(this.toast, text);
    this.toast.hidden = false;
    this.toast.classList.toggle("urgent", urgent);
    if (this.toastTimer !== null) clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => { this.toast.hidden = true; }, urgent ? 9000 : 5000);
  }

  dispose(): void { this.page?.dispose?.(); }
}

void new Console(document.getElementById("app")!).begin();
