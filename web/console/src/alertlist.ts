// The feed of alerts: always beside what else is shown.

import * as api from "./api";
import { patientLabel, type App, type View } from "./app";
import { severities, type Alert, type AlertKind, type Severity } from "./decode";
import { button, h, Keyed, replace, setText } from "./dom";
import { severityName, shown } from "./format";
import { lang, pick, t, type Key } from "./i18n";
import { listAlerts, type AlertFilter, type StateFilter } from "./order";
import { agoEl, chip, problem, stateBadges } from "./parts";
import { to } from "./route";

const stateKeys: Readonly<Record<StateFilter, Key>> = {
  active: "filter.active", unacknowledged: "filter.unacknowledged", acknowledged: "filter.acknowledged",
  resolved: "filter.resolved", all: "filter.all",
};

/** Rows drawn at once; more on demand. */
const pageSize = 100;

export class AlertList implements View {
  readonly el: HTMLElement;
  private filter: AlertFilter = { severity: "", kind: "", state: "active", text: "" };
  private readonly list = h("ol", { class: "rows", "aria-label": t("alerts.title") });
  private readonly count = h("span", { class: "count" });
  private readonly empty = h("div", { class: "empty" });
  private readonly more: HTMLButtonElement;
  private readonly search: HTMLInputElement;
  private readonly rows: Keyed<Alert>;
  private shownAlerts: Alert[] = [];
  private selected = "";
  private opened = "";
  private limit = pageSize;
  private loading = "";

  constructor(private readonly app: App) {
    this.rows = new Keyed<Alert>(this.list, (a) => a.id,
      (a) => [a.seq, a.state, a.severity, a.signal, this.app.state().patients.get(a.patientId)?.name ?? "", a.snoozedUntil > this.app.now()].join("|"),
      (a) => this.row(a));
    this.search = h("input", { type: "search", class: "search", placeholder: t("filter.text"), "aria-label": t("filter.text"), "aria-keyshortcuts": "/" });
    this.search.addEventListener("input", () => this.setFilter({ text: this.search.value }));
    const severity = select(t("filter.severity"), [["", t("filter.any_severity")], ...[...severities].reverse().map((s): [string, string] => [s, severityName(s)])],
      (v) => this.setFilter({ severity: v as Severity | "" }));
    const kind = select(t("filter.kind"), [["", t("filter.any_kind")], ["clinical", t("filter.clinical")], ["technical", t("filter.technical")]],
      (v) => this.setFilter({ kind: v as AlertKind | "" }));
    const state = select(t("filter.state"), (Object.keys(stateKeys) as StateFilter[]).map((s) => [s, t(stateKeys[s])]),
      (v) => this.setFilter({ state: v as StateFilter }));
    this.more = button(t("list.more"), { class: "more", hidden: true }, () => { this.limit += pageSize; this.update(); });
    this.el = h("section", { class: "pane feed", id: "alerts", "aria-labelledby": "alerts-h" },
      h("header", { class: "pane-head" }, h("h2", { id: "alerts-h" }, t("alerts.title")), this.count),
      h("div", { class: "filters" }, severity, kind, state, this.search),
      h("div", { class: "scroll" }, this.list, this.empty, this.more));
    this.list.addEventListener("focusin", (e) => {
      const key = (e.target as HTMLElement).closest<HTMLElement>("[data-key]")?.dataset["key"];
      if (key) this.select(key);
    });
    this.list.addEventListener("keydown", (e) => {
      if (e.altKey || e.ctrlKey || e.metaKey) return;
      const step = e.key === "ArrowDown" ? 1 : e.key === "ArrowUp" ? -1 : 0;
      if (step !== 0) { e.preventDefault(); this.move(step); }
      if (e.key === "Home") { e.preventDefault(); this.move(-this.shownAlerts.length); }
      if (e.key === "End") { e.preventDefault(); this.move(this.shownAlerts.length); }
    });
  }

  update(): void {
    const s = this.app.state();
    this.shownAlerts = listAlerts(s.alerts.values(), this.filter, (a) =>
      [a.id, a.patientId, s.patients.get(a.patientId)?.name ?? "", pick(a.title), a.rule, a.acknowledgedBy].join(" "));
    const drawn = this.shownAlerts.slice(0, this.limit);
    const route = this.app.route();
    const opened = route.name === "alert" ? route.id : "";
    // What is open on the right is selected on the left, once; after that the keyboard may go elsewhere.
    if (opened !== this.opened) this.selected = this.opened = opened;
    if (!drawn.some((a) => a.id === this.selected)) this.selected = drawn[0]?.id ?? "";
    this.rows.update(drawn);
    this.mark();
    this.more.hidden = this.shownAlerts.length <= this.limit;
    for (const a of drawn) {
      const link = this.link(a.id);
      if (a.id === opened) link?.setAttribute("aria-current", "true");
      else link?.removeAttribute("aria-current");
    }
    const waiting = this.shownAlerts.filter((a) => a.state === "open").length;
    setText(this.count, t("alerts.count", { n: this.shownAlerts.length, waiting }));
    this.empty.hidden = this.shownAlerts.length > 0;
    if (this.shownAlerts.length === 0) {
      const narrowed = this.filter.severity !== "" || this.filter.kind !== "" || this.filter.state !== "active" || this.filter.text !== "";
      setText(this.empty, this.loading || (s.sync === "missing" ? t("alerts.loading") : narrowed ? t("alerts.none_filtered") : t("alerts.none")));
    }
  }

  current(): Alert | null { return this.app.state().alerts.get(this.selected) ?? null; }

  /** Moves the selection and the focus by `step` rows. */
  move(step: number): void {
    const drawn = this.shownAlerts.slice(0, this.limit);
    if (drawn.length === 0) return;
    const i = drawn.findIndex((a) => a.id === this.selected);
    const inside = this.list.contains(document.activeElement);
    // The first press enters the list where it is selected; the next ones move.
    const next = inside ? Math.min(drawn.length - 1, Math.max(0, i + step)) : Math.max(0, i);
    this.select(drawn[next]!.id);
    const link = this.link(this.selected);
    link?.focus();
    link?.scrollIntoView({ block: "nearest" });
  }

  focusSearch(): void { this.search.focus(); this.search.select(); }

  private setFilter(f: Partial<AlertFilter>): void {
    this.filter = { ...this.filter, ...f };
    this.limit = pageSize;
    if (f.state === "resolved" || f.state === "all") this.loadResolved();
    this.update();
  }

  private loadResolved(): void {
    this.loading = t("alerts.loading");
    api.resolvedAlerts().then((alerts) => {
      this.loading = "";
      this.app.emit({ type: "alerts", alerts });
    }, (e: unknown) => {
      this.loading = problem(e);
      this.update();
    });
  }

  private select(id: string): void {
    this.selected = id;
    this.mark();
  }

  /** One row is in the tab order, the selected one: Tab passes the list, arrows move in it. */
  private mark(): void {
    for (const li of this.list.children) {
      const on = (li as HTMLElement).dataset["key"] === this.selected;
      li.classList.toggle("selected", on);
      li.querySelector("a")?.setAttribute("tabindex", on ? "0" : "-1");
    }
  }

  private link(id: string): HTMLAnchorElement | null { return this.rows.get(id)?.querySelector("a") ?? null; }

  private row(a: Alert): HTMLElement {
    const now = this.app.now();
    const p = this.app.state().patients.get(a.patientId);
    const v = a.trigger && !a.error ? shown(a.trigger.indicator, a.trigger.values, a.trigger.unit) : null;
    return h("li", { class: `row alert sev-${a.severity} is-${a.state}`, lang: lang() },
      h("a", { href: to.alert(a.id) },
        h("span", { class: "row-top" }, chip(a.severity), h("span", { class: "who" }, patientLabel(p, a.patientId)), agoEl(a.state === "resolved" ? a.resolvedAt : a.openedAt, now)),
        h("span", { class: "row-main" },
          h("span", { class: "title" }, pick(a.title, a.rule)),
          v ? h("span", { class: "value" }, h("b", {}, v.value), v.suffix, v.sent ? h("span", { class: "sent" }, ` (${v.sent})`) : null) : null,
          a.error && a.error.code !== "" ? h("span", { class: "value" }, t("guide.code"), " ", h("b", {}, a.error.code)) : null),
        // A notice that nobody has acknowledged needs no mark: it asks for nothing, and those that do stand out.
        h("span", { class: "badges" }, ...stateBadges(a, now).filter((b) => a.highest !== "info" || !b.classList.contains("unacknowledged")))));
  }
}

export function select(label: string, options: readonly (readonly [string, string])[], f: (v: string) => void, value = ""): HTMLSelectElement {
  const s = h("select", { "aria-label": label });
  replace(s, ...options.map(([v, text]) => h("option", { value: v, selected: v === value && value !== "" }, text)));
  s.addEventListener("change", () => f(s.value));
  return s;
}
