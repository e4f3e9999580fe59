// One alert: what, why, what happened since, and what a human can do.

import * as api from "./api";
import { patientLabel, type App, type View } from "./app";
import type { Alert, ErrorGuide, Patient, Transition } from "./decode";
import { button, h, replace, type Child } from "./dom";
import { explanation } from "./explanation";
import { conditionName, indicatorName, named, severityName, shownReading, valueText, clock } from "./format";
import { icon } from "./icons";
import { pick, t, type Key } from "./i18n";
import { outcomeName } from "./acts";
import { snoozeMinutes } from "./order";
import { agoEl, chip, clockEl, faultText, guideText, problem, remarks, remarkText, stateBadges } from "./parts";
import { to } from "./route";

const transitionKeys: Readonly<Record<string, Key>> = {
  opened: "transition.opened", worsened: "transition.worsened", eased: "transition.eased", acknowledged: "transition.acknowledged",
  snoozed: "transition.snoozed", signal_lost: "transition.signal_lost", signal_back: "transition.signal_back",
  resolved: "transition.resolved", escalated: "transition.escalated", noted: "transition.noted",
};

export const transitionName = (s: string): string => named(transitionKeys, s);

/** A part of the page that is rebuilt only when what it shows has changed, so that no click falls between. */
class Part {
  private version = "";
  constructor(readonly el: HTMLElement) {}

  show(version: string, make: () => readonly Child[]): void {
    if (version === this.version) return;
    this.version = version;
    // An act that is no longer possible gives the focus to the next one, else to the page.
    const focus = this.el.contains(document.activeElement) ? document.activeElement as HTMLElement : null;
    replace(this.el, ...make());
    if (focus && !focus.isConnected) {
      const act = focus.dataset["act"];
      (this.el.querySelector<HTMLElement>(`[data-act="${act}"]`) ?? this.el.querySelector<HTMLElement>("[data-act], a, button") ?? this.el.closest<HTMLElement>(".detail"))?.focus({ preventScroll: true });
    }
  }
}

export class AlertPage implements View {
  readonly el = h("section", { class: "pane detail", tabindex: "-1", "aria-label": t("alert.title") });
  private readonly status = new Part(h("div", { role: "status" }));
  private readonly head = new Part(h("div", {}));
  private readonly acts = new Part(h("div", {}));
  private readonly why = new Part(h("div", {}));
  private readonly past = new Part(h("div", {}));
  private history: readonly Transition[] | null = null;
  private guide: ErrorGuide | null = null;
  private fetchedSeq = -1;
  private error = "";
  private gone = false;

  constructor(private readonly app: App, private readonly id: string) {
    this.el.append(h("div", { class: "scroll page" }, h("a", { href: to.home, class: "back" }, icon("back"), t("nav.back")),
      this.status.el, this.head.el, this.acts.el, this.why.el, this.past.el));
  }

  update(): void {
    const a = this.current();
    if (!a && this.fetchedSeq < 0 || a && a.seq > this.fetchedSeq) this.fetch(a?.seq ?? 0);
    const now = this.app.now();
    this.status.show(a ? "known" : "waiting" + this.error, () => a ? [] : [h("p", { class: this.error ? "error" : "muted" }, this.error || t("alert.loading"))]);
    if (!a) return;
    const p = this.app.state().patients.get(a.patientId);
    const why = a.state === "resolved" ? t("act.resolved_already") : this.app.mayNotAct();
    this.head.show([a.seq, a.state, p?.name, a.snoozedUntil > now, this.guide?.code].join("|"), () => this.headline(a, p, now));
    this.acts.show([a.state, a.severity, why].join("|"), () => [this.actions(a, why)]);
    this.why.show(String(a.seq), () => [h("h3", {}, t(a.state === "resolved" && a.resolvedBy === "values" ? "explain.title_ended" : "explain.title")), explanation(a.explanation, now)]);
    this.past.show([this.history === null, this.history?.length, this.error].join("|"), () => [h("h3", {}, t("history.title")), this.historyList(a, now),
      h("p", { class: "fine" }, t("alert.ids", { rule: a.rule, id: a.id }))]);
  }

  current(): Alert | null { return this.app.state().alerts.get(this.id) ?? null; }

  resynced(): void { this.fetchedSeq = -1; this.update(); }

  dispose(): void { this.gone = true; }

  private fetch(seq: number): void {
    this.fetchedSeq = seq;
    api.alert(this.id).then(({ alert, history, guide }) => {
      if (this.gone) return;
      this.guide = guide;
      this.history = history;
      this.error = "";
      this.fetchedSeq = Math.max(this.fetchedSeq, alert.seq);
      this.app.emit({ type: "alerts", alerts: [alert] });
    }, (e: unknown) => {
      if (this.gone) return;
      this.error = problem(e);
      this.update();
    });
  }

  private headline(a: Alert, p: Patient | undefined, now: number): Child[] {
    const s = a.trigger && !a.error ? shownReading(a.trigger) : null;
    return [
      h("header", { class: `alert-head sev-${a.severity}` },
        h("div", { class: "row-top" }, chip(a.severity), h("span", { class: "badges" }, ...stateBadges(a, now))),
        h("h2", {}, pick(a.title, a.rule)),
        h("p", { class: "who" }, h("a", { href: to.patient(a.patientId) }, icon("person"), patientLabel(p, a.patientId)), p && p.name ? h("span", { class: "id" }, p.id) : null,
          a.kind === "technical" ? null : h("span", { class: "muted" }, conditionName(a.condition)), h("span", { class: "muted" }, clockEl(a.openedAt, now), " · ", agoEl(a.openedAt, now)))),
      a.trigger && s ? h("div", { class: "trigger" },
        h("span", { class: "label" }, indicatorName(a.trigger.indicator)),
        h("span", { class: "big" }, s.value), h("span", { class: "unit" }, s.unit),
        s.sent ? h("span", { class: "sent" }, t("value.sent", { value: s.sent })) : null,
        s.also ? h("span", { class: "also" }, s.also) : null,
        h("span", { class: "muted" }, t("reading.taken"), " ", clockEl(a.trigger.takenAt, now), " · ", agoEl(a.trigger.takenAt, now)),
        remarks(a.trigger).length ? h("span", { class: "remark" }, remarkText(a.trigger)) : null) : null,
      a.trigger && a.error ? h("div", { class: "trigger" },
        h("span", { class: "label" }, indicatorName(a.trigger.indicator)), h("span", { class: "big" }, faultText(a.error)),
        a.trigger.deviceId ? h("a", { href: to.device(a.trigger.deviceId) }, a.trigger.deviceId) : null,
        h("span", { class: "muted" }, t("reading.taken"), " ", clockEl(a.trigger.takenAt, now), " · ", agoEl(a.trigger.takenAt, now))) : null,
      this.guide ? guideText(this.guide) : null,
    ];
  }

  private actions(a: Alert, why: string): HTMLElement {
    const one = (what: api.Act, key: Key, shortcut: string, ok: boolean): HTMLElement | null => !ok ? null :
      button(t(key), {
        class: what === "acknowledge" ? "primary" : "", "data-act": what, "aria-disabled": String(why !== ""), "aria-keyshortcuts": shortcut,
        "aria-describedby": why ? "why-not" : null,
      }, () => this.app.act(this.current() ?? a, what));
    return h("div", { class: "actions", role: "group", "aria-label": t("act.group") },
      one("acknowledge", "act.acknowledge", "a", a.state === "open"),
      one("snooze", "act.snooze", "s", a.state !== "resolved" && snoozeMinutes(a.severity).length > 0),
      one("resolve", "act.resolve", "r", a.state !== "resolved"),
      one("notes", "act.note", "n", a.state !== "resolved"),
      why ? h("p", { id: "why-not", class: "why" }, why,
        a.state !== "resolved" ? button(t("login.open"), { class: "link" }, () => this.app.askLogin()) : null) : null);
  }

  private historyList(a: Alert, now: number): HTMLElement {
    if (this.history === null) return h("p", { class: this.error ? "error" : "muted" }, this.error || t("history.loading"));
    const ol = h("ol", { class: "history" });
    for (const x of [...this.history].reverse()) {
      const who = x.actor === "values" ? t("history.by_values") : x.actor;
      ol.append(h("li", { class: `t-${x.transition}` },
        clockEl(x.at, now), h("span", { class: "what" }, transitionName(x.transition), x.severity ? ` · ${severityName(x.severity)}` : "", who ? ` · ${who}` : ""),
        x.trigger && Object.keys(x.trigger.values).length > 0 ? h("span", { class: "outcome" }, `${indicatorName(x.trigger.indicator)} ${valueText(x.trigger.indicator, x.trigger.values, x.trigger.unit)}`) : null,
        x.until ? h("span", { class: "outcome" }, t("alert.snoozed_until", { time: clock(x.until, now) })) : null,
        x.outcome ? h("span", { class: "outcome" }, outcomeName(x.outcome)) : null,
        x.note ? h("span", { class: "note" }, x.note) : null));
    }
    if (this.history.length === 0) ol.append(h("li", {}, clockEl(a.openedAt, now), h("span", { class: "what" }, t("transition.opened"))));
    return ol;
  }
}
