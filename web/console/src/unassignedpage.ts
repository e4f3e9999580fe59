// Readings that nobody owns, or that cannot be the owner's: whose they are is for a person to say.

import { field, form } from "./acts";
import * as api from "./api";
import { patientLabel, type App, type View } from "./app";
import type { Patient, Unassigned } from "./decode";
import { button, h, replace, setText } from "./dom";
import { conditionName, indicatorName, named, shownReading } from "./format";
import { t, type Key } from "./i18n";
import { agoEl, badge, clockEl, outcomeText, pageHead, problem, redraw, remarkText, slotName } from "./parts";
import { to } from "./route";

const reasonKeys: Readonly<Record<string, Key>> = {
  device_unknown: "unassigned.device_unknown", patient_unknown: "unassigned.patient_unknown", owner_doubtful: "unassigned.owner_doubtful", replayable: "unassigned.replayable",
};
const reasonHints: Readonly<Record<string, Key>> = {
  device_unknown: "unassigned.hint_device_unknown", patient_unknown: "unassigned.hint_patient_unknown", owner_doubtful: "unassigned.hint_owner_doubtful", replayable: "unassigned.hint_replayable",
};

/** Patients offered at once; more by searching. */
const offered = 50;

export class UnassignedPage implements View {
  readonly el = h("section", { class: "pane detail", tabindex: "-1", "aria-label": t("unassigned.title") });
  private readonly status = h("p", { class: "muted", role: "status" }, t("unassigned.loading"));
  private readonly groups = h("div", {});
  private shown = "";

  constructor(private readonly app: App) {
    this.el.append(h("div", { class: "scroll page" }, ...pageHead(t("unassigned.title"), t("unassigned.hint")), this.status, this.groups));
    void this.load();
  }

  /** The same devices stay in their places; only a change draws anew, so that nobody loses the place. */
  update(): void {
    const { waiting, patients, session } = this.app.state();
    if (waiting === null) return;
    const version = JSON.stringify([waiting, patients.size, session?.role, session?.anonymous]);
    if (version === this.shown) return;
    this.shown = version;
    setText(this.status, waiting.length === 0 ? t("unassigned.none") : this.app.mayNotAct() === "" ? "" : t("act.read_only"));
    const byDevice = new Map<string, Unassigned[]>();
    for (const w of waiting) byDevice.set(w.deviceId, [...byDevice.get(w.deviceId) ?? [], w]);
    redraw(this.el, this.groups, ...[...byDevice].map(([id, items]) => h("section", { class: "group", "aria-label": id },
      h("header", {}, h("h3", {}, items.some((w) => w.problem === "device_unknown") ? id : h("a", { href: to.device(id) }, id)), h("span", { class: "muted" }, t("unassigned.readings", { n: items.reduce((n, w) => n + w.readings, 0) }))),
      h("ul", { class: "box" }, ...items.map((w) => this.item(w))))));
  }

  private async load(): Promise<void> {
    try {
      const waiting = await api.unassigned();
      if (waiting === null) setText(this.status, t("unassigned.none"));
      this.app.emit({ type: "waiting", waiting });
    } catch (e) {
      setText(this.status, problem(e));
    }
  }

  private item(w: Unassigned): HTMLElement {
    const now = this.app.now();
    const r = w.newest, v = r ? shownReading(r) : null;
    const owner = w.patientId === "" ? null : this.app.state().patients.get(w.patientId);
    const name = patientLabel(owner ?? undefined, w.patientId);
    const off = this.app.mayNotAct() !== "";
    const notes = r ? remarkText(r) : "";
    return h("li", { class: "row item" },
      h("div", { class: "lead" },
        r && v ? h("span", { class: "value" }, h("span", { class: "label" }, indicatorName(r.indicator)), " ", h("b", {}, v.value), v.suffix, v.also ? h("span", { class: "muted" }, ` · ${v.also}`) : null)
          : h("span", {}, w.indicators.map(indicatorName).join(t("list.separator")) || t("unassigned.no_value")),
        r ? clockEl(r.takenAt, now) : w.lastAt ? agoEl(w.lastAt, now) : null,
        notes ? h("span", { class: "remark" }, notes) : null),
      h("div", { class: "badges" },
        badge("reason", null, named(reasonKeys, w.problem)), badge("slot", null, slotName(w.userSlot)),
        h("span", { class: "muted" }, t("unassigned.counts", { n: w.readings, messages: w.messages })),
        w.firstTaken && r && w.firstTaken < r.takenAt ? h("span", { class: "muted" }, t("unassigned.since"), " ", clockEl(w.firstTaken, now)) : null,
        w.indicators.length > 1 ? h("span", { class: "muted" }, w.indicators.map(indicatorName).join(t("list.separator"))) : null),
      w.patientId === "" ? null : h("p", {}, t(w.problem === "owner_doubtful" ? "unassigned.doubtful_owner" : "unassigned.owner"), " ", h("a", { href: to.patient(w.patientId) }, name)),
      reasonHints[w.problem] ? h("p", { class: "muted" }, t(reasonHints[w.problem]!)) : null,
      h("div", { class: "actions" },
        w.problem === "replayable" ? button(t("quarantine.replay"), { class: "primary", disabled: off, "data-act": "replay" }, (e) => void this.replay(w, e.currentTarget as HTMLButtonElement))
          : button(t("unassigned.assign"), { class: "primary", disabled: off, "data-act": "assign" }, () => this.assign(w, "")),
        w.problem === "owner_doubtful" ? button(t("unassigned.own", { name }), { disabled: off, "data-act": "own" }, () => this.assign(w, w.patientId)) : null,
        w.problem === "replayable" ? null : button(t("unassigned.dismiss"), { disabled: off, "data-act": "dismiss" }, () => this.dismiss(w))));
  }

  private about(w: Unassigned): HTMLElement {
    const v = w.newest ? shownReading(w.newest) : null;
    return h("p", { class: "about" }, h("b", {}, w.deviceId), " · ", slotName(w.userSlot), v && w.newest ? ` · ${indicatorName(w.newest.indicator)} ${v.value}${v.suffix} · ` : "", w.newest ? clockEl(w.newest.takenAt, this.app.now()) : null);
  }

  private assign(w: Unassigned, chosen: string): void {
    const search = h("input", { type: "search", id: "assign-search", autocomplete: "off", placeholder: t("filter.patient") });
    const who = h("select", { id: "assign-who", name: "patient", required: true, size: 6 });
    const fill = (): void => replace(who, ...this.matches(search.value, chosen).map((p) => h("option", { value: p.id, selected: p.id === chosen },
      [patientLabel(p, p.id), p.name ? p.id : "", p.conditions.map(conditionName).join(t("list.separator"))].filter((x) => x !== "").join(" · "))));
    fill();
    search.addEventListener("input", () => {
      const was = who.value;
      fill();
      who.value = was;
      if (who.value === "" && search.value !== "" && who.options.length === 1) who.selectedIndex = 0;
    });
    // A doubtful value says nothing about the next ones; an unbound device will send more.
    const later = w.problem !== "owner_doubtful";
    const scope = (value: "this" | "device_slot", label: string): HTMLElement => h("label", { class: "choice" },
      h("input", { type: "radio", name: "scope", value, checked: (value === "device_slot") === later }), h("span", {}, label));
    const scopes = h("fieldset", {}, h("legend", {}, t("unassigned.scope")),
      scope("this", w.messages > 1 ? t("unassigned.scope_newest", { n: w.messages - 1 }) : t("unassigned.scope_this")),
      scope("device_slot", t("unassigned.scope_slot", { slot: slotName(w.userSlot) })));
    form(t("unassigned.assign_title"), "assign", [
      this.about(w), field("assign-search", t("unassigned.search"), search), field("assign-who", t("unassigned.patient"), who), scopes,
      h("p", { class: "muted" }, t("unassigned.traced")),
    ], t("unassigned.confirm"), search, async () => {
      const value = scopes.querySelector<HTMLInputElement>("input:checked")?.value === "device_slot" ? "device_slot" : "this";
      const o = await api.assign(w.id, who.value, value);
      this.app.tell(t("unassigned.assigned", { who: patientLabel(this.app.state().patients.get(who.value), who.value) }) + outcomeText(o), o.accepted + o.duplicate === 0);
      void this.load();
    }, (e) => this.failed(e));
  }

  private matches(text: string, chosen: string): Patient[] {
    const needle = text.trim().toLocaleLowerCase();
    return [...this.app.state().patients.values()]
      .filter((p) => needle === "" || [p.id, p.name, ...p.conditions.map(conditionName)].join(" ").toLocaleLowerCase().includes(needle))
      .sort((a, b) => Number(b.id === chosen) - Number(a.id === chosen) || (a.id < b.id ? -1 : 1)).slice(0, offered);
  }

  private dismiss(w: Unassigned): void {
    form(t("unassigned.dismiss_title"), "dismiss", [
      this.about(w), h("p", {}, t("unassigned.dismiss_hint")), w.messages > 1 ? h("p", { class: "muted" }, t("unassigned.dismiss_rest", { n: w.messages - 1 })) : null,
    ], t("unassigned.dismiss_confirm"), null, async () => {
      await api.dismiss(w.id);
      this.app.tell(t("unassigned.dismissed"));
      void this.load();
    }, (e) => this.failed(e));
  }

  private async replay(w: Unassigned, b: HTMLButtonElement): Promise<void> {
    b.disabled = true;
    try {
      this.app.tell(outcomeText(await api.replayMany({ device_id: w.deviceId })));
      await this.load();
    } catch (e) {
      b.disabled = false;
      this.app.tell(problem(e), true);
    }
  }

  private failed(e: unknown): void {
    if (e instanceof api.ApiError && e.status === 401) this.app.askLogin();
    else if (e instanceof api.ApiError && (e.status === 404 || e.status === 409)) void this.load(); // somebody else was as quick
  }
}
