// The devices: for whom they measure, how they are, and when they were last heard.

import * as api from "./api";
import { patientLabel, type App, type View } from "./app";
import type { Device, Text } from "./decode";
import { button, h, setText, type Child } from "./dom";
import { named, number, withUnit } from "./format";
import { pick, t, type Key } from "./i18n";
import { agoEl, badge, pageHead, problem, redraw, slotName, table } from "./parts";
import { to } from "./route";

const pageSize = 100;
/** Per cent from which a battery is called low. */
const lowBattery = 15;

const stateKeys: Readonly<Record<string, Key>> = { online: "device.online", sleeping: "device.sleeping", lost: "device.lost" };

export function stateBadge(d: { readonly state: string; readonly disabled?: boolean }): HTMLElement | null {
  if (d.disabled) return badge("blind", null, t("device.disabled"));
  return d.state === "" ? null : badge(d.state === "lost" ? "lost" : d.state, d.state === "lost" ? "lost" : d.state === "online" ? "check" : "pause", named(stateKeys, d.state));
}

export function batteryText(n: number | null): Child {
  if (n === null) return h("span", { class: "muted" }, "—");
  const text = withUnit(number(n, "/min"), "%");
  return n <= lowBattery ? h("span", { class: "remark" }, text, " ", t("flag.low_battery")) : text;
}

/** For whom a device measures now, as links. */
export function owners(app: App, d: Device): HTMLElement {
  const now = app.now();
  const open = d.bindings.filter((b) => b.from <= now && (b.to === 0 || b.to > now));
  return open.length === 0 ? h("span", { class: "muted" }, t("device.unbound")) : h("span", {}, ...open.flatMap((b, i) => [i === 0 ? "" : t("list.separator"),
    h("a", { href: to.patient(b.patientId) }, patientLabel(app.state().patients.get(b.patientId), b.patientId)), b.userSlot === 0 ? "" : h("span", { class: "muted" }, ` · ${slotName(b.userSlot)}`)]));
}

/** The catalogue's name of a device's model, else what stands on it. */
export function modelName(d: Device, models: ReadonlyMap<string, Text>): string {
  const m = models.get(d.modelId);
  return m ? pick(m, d.model) : d.model;
}

export function deviceTable(app: App, devices: readonly Device[], models: ReadonlyMap<string, Text>): HTMLElement {
  const now = app.now();
  return table(t("devices.title"), [t("devices.device"), t("devices.patient"), t("devices.state"), t("devices.battery"), t("devices.last_seen"), t("devices.gateway")],
    devices.map((d) => h("tr", {},
      h("td", {}, h("a", { href: to.device(d.id) }, d.id), h("div", { class: "muted" }, modelName(d, models) || t("device.model_unknown"))),
      h("td", {}, owners(app, d)),
      h("td", {}, stateBadge(d) ?? h("span", { class: "muted" }, "—")),
      h("td", { class: "num" }, batteryText(d.battery)),
      h("td", { class: "nowrap" }, d.lastSeen ? agoEl(d.lastSeen, now) : h("span", { class: "muted" }, t("device.never"))),
      h("td", {}, d.gateways.join(t("list.separator")) || h("span", { class: "muted" }, "—")))));
}

export class DeviceList implements View {
  readonly el = h("section", { class: "pane detail", tabindex: "-1", "aria-label": t("devices.title") });
  private readonly search = h("input", { type: "search", placeholder: t("devices.search"), "aria-label": t("devices.search") });
  private readonly status = h("p", { class: "muted", role: "status" }, t("devices.loading"));
  private readonly list = h("div", {});
  private readonly more = button(t("list.more"), { class: "more", hidden: true }, () => { this.limit += pageSize; this.draw(); });
  private devices: readonly Device[] = [];
  private models: ReadonlyMap<string, Text> = new Map();
  private loaded = false;
  private limit = pageSize;
  private people: unknown = null;

  constructor(private readonly app: App) {
    this.search.addEventListener("input", () => { this.limit = pageSize; this.draw(); });
    this.el.append(h("div", { class: "scroll page" }, ...pageHead(t("devices.title"), t("devices.hint")),
      h("div", { class: "toolbar" }, this.search, button(t("quarantine.reload"), {}, () => void this.load())), this.status, this.list, this.more));
    void this.load();
  }

  /** The devices do not come by the feed; their people's names do. */
  update(): void {
    const n = this.app.state().patients.size;
    if (!this.loaded || n === this.people) return;
    this.people = n;
    this.draw();
  }

  private async load(): Promise<void> {
    try {
      [this.devices, this.models] = await Promise.all([api.devices(), api.modelNames()]);
      this.loaded = true;
      this.draw();
    } catch (e) {
      setText(this.status, problem(e));
    }
  }

  private draw(): void {
    if (!this.loaded) return;
    const needle = this.search.value.trim().toLocaleLowerCase();
    const patients = this.app.state().patients;
    const found = this.devices.filter((d) => needle === "" || [d.id, d.serial, d.model, modelName(d, this.models), ...d.gateways, ...d.bindings.flatMap((b) => [b.patientId, patients.get(b.patientId)?.name ?? ""])]
      .join(" ").toLocaleLowerCase().includes(needle));
    setText(this.status, found.length > 0 ? t("devices.count", { n: found.length }) : needle !== "" ? t("devices.none_filtered") : t("devices.none"));
    redraw(this.el, this.list, found.length === 0 ? null : deviceTable(this.app, found.slice(0, this.limit), this.models));
    this.more.hidden = found.length <= this.limit;
  }
}
