// Everybody this coach may see, whoever needs attention first.

import type { App, View } from "./app";
import { patientLabel } from "./app";
import { h, button, Keyed, setText } from "./dom";
import { conditionName, indicatorName, shownReading } from "./format";
import { lang, t } from "./i18n";
import { needs, needsAttention, type Need } from "./order";
import { agoEl, badge, chip, lostBadge } from "./parts";
import { to } from "./route";
import { staleSince } from "./state";

const pageSize = 100;

export class PatientList implements View {
  readonly el: HTMLElement;
  private readonly list = h("ol", { class: "rows patients", "aria-label": t("patients.title") });
  private readonly count = h("span", { class: "count" });
  private readonly empty = h("div", { class: "empty" });
  private readonly search: HTMLInputElement;
  private readonly more: HTMLButtonElement;
  private readonly rows: Keyed<Need>;
  private text = "";
  private limit = pageSize;

  constructor(private readonly app: App) {
    this.rows = new Keyed<Need>(this.list, (n) => n.patient.id, version, (n) => this.row(n));
    this.search = h("input", { type: "search", class: "search", placeholder: t("filter.patient"), "aria-label": t("filter.patient") });
    this.search.addEventListener("input", () => { this.text = this.search.value; this.limit = pageSize; this.update(); });
    this.more = button(t("list.more"), { class: "more", hidden: true }, () => { this.limit += pageSize; this.update(); });
    this.el = h("section", { class: "pane people", "aria-labelledby": "patients-h" },
      h("header", { class: "pane-head" }, h("h2", { id: "patients-h" }, t("patients.title")), this.count),
      h("div", { class: "filters" }, this.search),
      h("p", { class: "hint" }, t("patients.order")),
      h("div", { class: "scroll" }, this.list, this.empty, this.more));
  }

  update(): void {
    const s = this.app.state();
    const complete = s.sync === "complete" && staleSince(s, Date.now()) === null;
    const needle = this.text.trim().toLocaleLowerCase();
    let all = needs(s.patients.values(), s.alerts.values(), complete);
    if (needle !== "") all = all.filter((n) => [n.patient.id, n.patient.name, ...n.patient.conditions, ...n.patient.conditions.map(conditionName)].join(" ").toLocaleLowerCase().includes(needle));
    this.rows.update(all.slice(0, this.limit));
    this.more.hidden = all.length <= this.limit;
    const attention = all.filter(needsAttention).length;
    setText(this.count, t("patients.count", { n: all.length, attention }));
    this.empty.hidden = all.length > 0;
    setText(this.empty, !s.patientsLoaded ? t("patients.loading") : needle !== "" ? t("patients.none_filtered") : t("patients.none"));
  }

  private row(n: Need): HTMLElement {
    const p = n.patient;
    const now = this.app.now();
    const r = p.lastReading;
    const v = r ? shownReading(r) : null;
    const blind = p.coverage.filter((c) => !c.watched);
    return h("li", { class: `row patient sev-${n.worst}`, lang: lang() },
      h("a", { href: to.patient(p.id) },
        h("span", { class: "row-top" },
          n.worst === "none" ? h("span", { class: "chip calm" }, t("patients.calm")) : chip(n.worst),
          h("span", { class: "who" }, patientLabel(p, p.id), p.name ? h("span", { class: "id" }, p.id) : null),
          n.since ? h("span", { class: "wait" }, t("patients.waiting"), " ", agoEl(n.since, now)) : null),
        h("span", { class: "row-main" },
          h("span", { class: "conditions" }, p.conditions.map(conditionName).join(" · ")),
          r && v ? h("span", { class: "value" }, h("span", { class: "label" }, indicatorName(r.indicator)), " ", h("b", {}, v.value), v.suffix, h("span", { class: "sent" }, " · ", agoEl(r.takenAt, now))) : h("span", { class: "value muted" }, t("patients.no_reading"))),
        h("span", { class: "badges" },
          n.unacknowledged > 0 ? badge("unacknowledged", null, t("patients.unacknowledged", { n: n.unacknowledged })) : null,
          n.open > n.unacknowledged ? badge("acknowledged", "check", t("patients.acknowledged", { n: n.open - n.unacknowledged })) : null,
          n.lost ? lostBadge(0, now) : null,
          blind.length > 0 ? badge("blind", null, t("patients.unwatched", { what: blind.map((c) => indicatorName(c.indicator)).join(t("list.separator")) })) : null)));
  }
}

function version(n: Need): string {
  const p = n.patient;
  return [n.worst, n.open, n.unacknowledged, n.since, n.lost, p.name, p.conditions.join(), p.lastReading?.id, p.lastReading?.takenAt,
    p.coverage.map((c) => c.indicator + String(c.watched)).join()].join("|");
}
