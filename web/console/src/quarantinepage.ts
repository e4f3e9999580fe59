// For operators: what could not be taken in, and why.

import { open } from "./acts";
import * as api from "./api";
import type { App, View } from "./app";
import type { Content, Outcome, Quarantined } from "./decode";
import { button, h, replace, setText } from "./dom";
import { named, number, stamp } from "./format";
import { t, type Key } from "./i18n";
import { clockEl, outcomeText, pageHead, problem, redraw, table } from "./parts";

/** The codes of devices/payload. */
const problemKeys: Readonly<Record<string, Key>> = {
  json_invalid: "problem.json_invalid", cbor_invalid: "problem.cbor_invalid", type_wrong: "problem.type_wrong", field_missing: "problem.field_missing",
  indicator_unknown: "problem.indicator_unknown", component_unknown: "problem.component_unknown", unit_missing: "problem.unit_missing", unit_unknown: "problem.unit_unknown",
  value_invalid: "problem.value_invalid", value_impossible: "problem.value_impossible", taken_at_invalid: "problem.taken_at_invalid", clock_ahead: "problem.clock_ahead",
  too_large: "problem.too_large", too_many_readings: "problem.too_many_readings", format_unknown: "problem.format_unknown", topic_unknown: "problem.topic_unknown",
  answer_invalid: "problem.answer_invalid", command_unknown: "problem.command_unknown", device_unknown: "problem.device_unknown", device_disabled: "problem.device_disabled",
  patient_unknown: "problem.patient_unknown", owner_doubtful: "problem.owner_doubtful", id_conflict: "problem.id_conflict", not_a_reading: "problem.not_a_reading",
  characteristic_bad: "problem.characteristic_bad", status_invalid: "problem.status_invalid", data_absent: "problem.data_absent", entered_in_error: "problem.entered_in_error",
  enum_unknown: "problem.enum_unknown",
};

export class QuarantinePage implements View {
  readonly el = h("section", { class: "pane detail", tabindex: "-1", "aria-label": t("quarantine.title") });
  private readonly device = h("input", { type: "search", id: "quarantine-device", autocomplete: "off", maxlength: 64, placeholder: t("quarantine.any_device") });
  private readonly problem = h("select", { id: "quarantine-problem" }, h("option", { value: "" }, t("quarantine.any_problem")),
    ...Object.keys(problemKeys).map((k) => h("option", { value: k }, named(problemKeys, k))));
  private readonly all: HTMLButtonElement;
  private readonly more: HTMLButtonElement;
  private readonly status = h("p", { class: "muted", role: "status" });
  private readonly list = h("div", {});
  private items: Quarantined[] = [];
  private next = "";
  private turn = 0;
  private mayAct = false;

  constructor(private readonly app: App) {
    this.all = button("", { "data-act": "replay-all", hidden: true }, () => void this.replay(this.all, () => api.replayMany({ ids: this.items.map((q) => q.id) })));
    this.more = button(t("list.more"), { class: "more", hidden: true }, () => void this.load(this.next));
    for (const e of [this.device, this.problem]) e.addEventListener("change", () => void this.load());
    this.el.append(h("div", { class: "scroll page" }, ...pageHead(t("quarantine.title"), t("quarantine.hint")),
      h("div", { class: "toolbar" },
        h("label", { class: "inline" }, t("quarantine.device"), this.device), h("label", { class: "inline" }, t("quarantine.problem"), this.problem),
        button(t("quarantine.reload"), {}, () => void this.load()), this.all),
      h("p", { class: "muted" }, t("quarantine.recorded")), this.status, this.list, this.more));
    this.mayAct = this.app.mayNotAct() === "";
    void this.load();
  }

  /** Loaded on demand: nothing of it comes by the feed. Only who we are may change. */
  update(): void {
    if (this.mayAct === (this.app.mayNotAct() === "")) return;
    this.mayAct = !this.mayAct;
    this.draw();
  }

  private async load(cursor = ""): Promise<void> {
    const turn = ++this.turn;
    setText(this.status, t("quarantine.loading"));
    try {
      const p = await api.quarantine({ device: this.device.value.trim(), problem: this.problem.value }, cursor);
      if (turn !== this.turn) return;
      this.items = cursor === "" ? p.items : [...this.items, ...p.items];
      this.next = p.next;
      this.draw();
    } catch (e) {
      if (turn === this.turn) setText(this.status, problem(e));
    }
  }

  private draw(): void {
    const filtered = this.device.value.trim() !== "" || this.problem.value !== "";
    setText(this.status, this.items.length === 0 ? t(filtered ? "quarantine.none_filtered" : "quarantine.none") : this.mayAct ? "" : t("act.read_only"));
    setText(this.all, t("quarantine.replay_all", { n: this.items.length }));
    this.all.hidden = this.items.length === 0;
    this.all.disabled = !this.mayAct;
    this.more.hidden = this.next === "";
    if (this.items.length === 0) return redraw(this.el, this.list);
    redraw(this.el, this.list, table(t("quarantine.title"), [t("quarantine.at"), t("quarantine.device"), t("quarantine.problem"), t("quarantine.detail"), t("quarantine.acts")],
      this.items.map((q) => this.row(q))));
  }

  private row(q: Quarantined): HTMLElement {
    const at = q.lastAt || q.at;
    return h("tr", {},
      h("td", { class: "nowrap" }, at ? clockEl(at, this.app.now()) : "—", q.times > 1 ? h("div", { class: "muted" }, t("quarantine.times", { n: q.times })) : null),
      h("td", {}, q.deviceId || "—", h("div", { class: "muted" }, [q.format, q.source].filter((x) => x !== "").join(" · "))),
      h("td", {}, named(problemKeys, q.problem), h("div", { class: "muted" }, h("code", {}, q.problem), q.refused > 1 ? ` · ${t("quarantine.refused", { n: q.refused })}` : "")),
      h("td", { class: "words", lang: "en" }, q.detail),
      h("td", {}, h("div", { class: "actions" },
        button(t("quarantine.look"), { disabled: !this.mayAct, "data-act": "look" }, () => this.look(q)),
        button(t("quarantine.replay"), { disabled: !this.mayAct, "data-act": "replay" }, (e) => void this.replay(e.currentTarget as HTMLButtonElement, () => api.replay(q.id))))));
  }

  private async replay(b: HTMLButtonElement, f: () => Promise<Outcome>): Promise<void> {
    b.disabled = true;
    try {
      const o = await f();
      this.app.tell(outcomeText(o), o.accepted + o.duplicate === 0);
      await this.load();
    } catch (e) {
      this.app.tell(problem(e), true);
      if (e instanceof api.ApiError && e.status === 404) await this.load(); // somebody else was as quick
    }
    b.disabled = !this.mayAct;
  }

  private look(q: Quarantined): void {
    const d = open(t("quarantine.content"), "wide");
    const body = h("div", {}, h("p", { role: "status" }, t("quarantine.loading")));
    d.append(h("p", { class: "muted" }, t("quarantine.recorded_now")), body, h("div", { class: "buttons" }, button(t("dialog.close"), { class: "primary" }, () => d.close())));
    d.showModal();
    d.querySelector("button")?.focus();
    api.content(q.id).then((c) => replace(body, ...contentOf(c)), (e: unknown) => replace(body, h("p", { class: "error", role: "alert" }, problem(e))));
  }
}

function contentOf(c: Content): HTMLElement[] {
  const a = c.about;
  return [
    h("p", { class: "about" }, h("b", {}, a.deviceId), ` · ${[a.format, a.source, a.at ? stamp(a.at) : "", t("quarantine.bytes", { n: number(a.bytes, "{steps}") })].filter((x) => x !== "").join(" · ")}`),
    h("pre", { class: "raw", tabindex: "0", role: "region", "aria-label": t("quarantine.content") }, c.text !== "" ? c.text : hex(c.bytes)),
  ];
}

/** Bytes as 16 to a line with their place and what of them is ASCII. */
export function hex(bytes: Uint8Array): string {
  const out: string[] = [];
  for (let i = 0; i < bytes.length; i += 16) {
    const line = [...bytes.subarray(i, i + 16)];
    out.push(`${i.toString(16).padStart(4, "0")}  ${line.map((b) => b.toString(16).padStart(2, "0")).join(" ").padEnd(47)}  ${line.map((b) => b >= 32 && b < 127 ? String.fromCharCode(b) : ".").join("")}`);
  }
  return out.join("\n");
}
