// One device: for whom it measures, how it was, what was sent to it, and how it is used.

import * as api from "./api";
import { patientLabel, type App, type View } from "./app";
import type { Command, Device, DeviceStatus, Guide, Text } from "./decode";
import { button, h, setText } from "./dom";
import { named, stamp } from "./format";
import { icon } from "./icons";
import { both, lang, pick, t, type Key } from "./i18n";
import { agoEl, badge, clockEl, faultText, guideText, problem, redraw, slotName, table } from "./parts";
import { batteryText, modelName, owners, stateBadge } from "./devicelist";
import { to } from "./route";

/** How long a request to measure again stands: later it would surprise more than help. */
const remeasureMs = 4 * 3600_000;
/** After sending, the state of the commands is read again this often and this many times. */
const followMs = 5000, followTimes = 12;

const topicKeys: Readonly<Record<string, Key>> = {
  preparation: "guide.preparation", positioning: "guide.positioning", rest: "guide.rest", measuring: "guide.measuring", repeats: "guide.repeats",
  reading: "guide.reading", cleaning: "guide.cleaning", battery: "guide.battery", storage: "guide.storage", upload: "guide.upload",
};
const cmdKeys: Readonly<Record<string, Key>> = { remeasure: "command.remeasure", remind: "command.remind", message: "command.message" };
const commandStates: Readonly<Record<string, Key>> = {
  waiting: "command.waiting", sent: "command.sent", delivered: "command.delivered", answered: "command.answered", expired: "command.expired", failed: "command.failed",
};
const resultKeys: Readonly<Record<string, Key>> = { done: "command.done", declined: "command.declined", failed: "command.result_failed" };

export class DevicePage implements View {
  readonly el = h("section", { class: "pane detail", tabindex: "-1", "aria-label": t("device.title") });
  private readonly head = h("header", { class: "patient-head" });
  private readonly facts = h("div", {});
  private readonly bindings = h("div", {});
  private readonly again = button(t("device.remeasure"), { class: "primary", "data-act": "remeasure" }, () => void this.remeasure());
  private readonly commandsBox = h("div", {});
  private readonly guideBox = h("div", {});
  private readonly history = h("div", {});
  private readonly status = h("p", { class: "muted", role: "status" }, t("devices.loading"));
  private readonly why = h("p", { class: "muted" });
  private device: Device | null = null;
  private models: ReadonlyMap<string, Text> = new Map();
  /** The request whose answer was lost: sent again it is the same one. */
  private unanswered: api.NewCommand | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private gone = false;
  private version = "";

  constructor(private readonly app: App, private readonly id: string) {
    setText(this.head.appendChild(h("h2", {})), id);
    this.el.append(h("div", { class: "scroll page" },
      h("a", { href: to.devices, class: "back" }, icon("back"), t("device.back")), this.head, this.status, this.facts,
      h("h3", {}, t("device.commands")), h("div", { class: "actions" }, this.again, this.why), h("p", { class: "muted" }, t("device.remeasure_hint")), this.commandsBox,
      h("h3", {}, t("device.bindings")), this.bindings,
      h("h3", {}, t("guide.title")), this.guideBox,
      h("h3", {}, t("device.history")), this.history));
    void this.load();
  }

  update(): void {
    const v = `${this.app.mayNotAct()}|${this.app.state().patients.size}`;
    if (v === this.version) return;
    this.version = v;
    this.draw();
  }

  dispose(): void {
    this.gone = true;
    clearTimeout(this.timer);
  }

  private async load(): Promise<void> {
    try {
      [this.device, this.models] = await Promise.all([api.device(this.id), api.modelNames()]);
      if (this.gone) return;
      setText(this.status, "");
      this.draw();
      await Promise.all([
        part(this.history, api.deviceStatus(this.id), (x) => this.historyOf(x)),
        part(this.guideBox, api.guide(this.id), guideOf),
        this.loadCommands(0),
      ]);
    } catch (e) {
      setText(this.status, problem(e));
    }
  }

  private draw(): void {
    const d = this.device;
    const off = this.app.mayNotAct();
    this.again.disabled = d === null || off !== "" || d.disabled;
    setText(this.why, off !== "" ? t("act.read_only") : d?.disabled ? t("device.disabled_hint") : "");
    if (d === null) return;
    const now = this.app.now();
    redraw(this.el, this.head, h("h2", {}, modelName(d, this.models) || d.id, modelName(d, this.models) ? h("span", { class: "id" }, d.id) : null),
      h("p", { class: "badges" }, stateBadge(d), d.stateAt ? h("span", { class: "muted" }, agoEl(d.stateAt, now)) : null, owners(this.app, d)));
    const fact = (label: string, ...text: Parameters<typeof redraw>[2][]): HTMLElement => h("div", {}, h("dt", {}, label), h("dd", {}, ...text));
    redraw(this.el, this.facts, h("dl", { class: "facts" },
      fact(t("devices.last_seen"), d.lastSeen ? agoEl(d.lastSeen, now) : t("device.never")),
      fact(t("devices.battery"), batteryText(d.battery)),
      d.lastError ? fact(t("device.last_error"), faultText(d.lastError), " · ", agoEl(d.lastError.at, now), d.lastError.guide ? guideText(d.lastError.guide) : null) : null,
      d.model ? fact(t("device.model"), d.model) : null, d.serial ? fact(t("device.serial"), d.serial) : null, d.firmware ? fact(t("device.firmware"), d.firmware) : null,
      d.tz ? fact(t("device.tz"), d.tz) : null, d.gateways.length > 0 ? fact(t("devices.gateway"), ...d.gateways.flatMap((g, i) => [i === 0 ? "" : t("list.separator"), h("a", { href: to.device(g) }, g)])) : null));
    const sorted = [...d.bindings].sort((a, b) => (b.to || Infinity) - (a.to || Infinity) || b.from - a.from);
    redraw(this.el, this.bindings, sorted.length === 0 ? h("p", { class: "muted" }, t("device.unbound")) : table(t("device.bindings"), [t("devices.patient"), t("device.slot"), t("device.from"), t("device.to")],
      sorted.map((b) => h("tr", {}, h("td", {}, h("a", { href: to.patient(b.patientId) }, patientLabel(this.app.state().patients.get(b.patientId), b.patientId))), h("td", {}, slotName(b.userSlot)),
        h("td", { class: "nowrap" }, b.from ? clockEl(b.from, now) : t("device.from_beginning")), h("td", { class: "nowrap" }, b.to ? clockEl(b.to, now) : t("device.until_now"))))));
  }

  private historyOf(x: readonly DeviceStatus[]): HTMLElement {
    if (x.length === 0) return h("p", { class: "muted" }, t("device.no_history"));
    return table(t("device.history"), [t("quarantine.at"), t("devices.state"), t("devices.battery"), t("device.firmware")], x.map((s) => h("tr", {},
      h("td", { class: "nowrap" }, clockEl(s.at, this.app.now())), h("td", {}, stateBadge(s)), h("td", { class: "num" }, batteryText(s.battery)), h("td", {}, s.firmware || h("span", { class: "muted" }, "—")))));
  }

  private async loadCommands(follow: number): Promise<void> {
    clearTimeout(this.timer);
    let open = true;
    await part(this.commandsBox, api.commands(this.id), (x) => {
      open = x.some((c) => c.state === "waiting" || c.state === "sent" || c.state === "delivered");
      return this.commandsOf(x);
    });
    if (open && follow > 0 && !this.gone) this.timer = setTimeout(() => void this.loadCommands(follow - 1), followMs);
  }

  private commandsOf(x: readonly Command[]): HTMLElement {
    const now = this.app.now();
    if (x.length === 0) return h("p", { class: "muted" }, t("device.no_commands"));
    return table(t("device.commands"), [t("quarantine.at"), t("command.what"), t("devices.state"), t("command.result")], x.map((c) => h("tr", {},
      h("td", { class: "nowrap" }, clockEl(c.createdAt, now)),
      h("td", {}, c.cmd === "" ? c.id : named(cmdKeys, c.cmd), pick(c.text) ? h("div", { class: "muted" }, pick(c.text)) : null),
      h("td", {}, badge(c.state, c.state === "answered" || c.state === "delivered" ? "check" : null, named(commandStates, c.state)),
        c.state === "waiting" && c.expiresAt ? h("div", { class: "muted" }, t("command.until", { time: stamp(c.expiresAt) })) : null),
      h("td", {}, c.result ? named(resultKeys, c.result) : h("span", { class: "muted" }, "—"), c.doneAt ? h("div", { class: "muted" }, clockEl(c.doneAt, now)) : null))));
  }

  private async remeasure(): Promise<void> {
    this.again.disabled = true;
    const c = this.unanswered ??= { id: api.newKey(), cmd: "remeasure", text: both("device.remeasure_text"), expires_at: new Date(this.app.now() + remeasureMs).toISOString() };
    try {
      await api.command(this.id, c);
      this.unanswered = null;
      this.app.tell(t("device.remeasure_sent"));
      await this.loadCommands(followTimes);
    } catch (e) {
      if (!(e instanceof api.ApiError) || e.status !== 0) this.unanswered = null;
      this.app.tell(problem(e), true);
      if (e instanceof api.ApiError && e.status === 401) this.app.askLogin();
    }
    this.draw();
  }
}

/** Fills one part of the page; one that cannot be had says why and leaves the others. */
async function part<T>(box: HTMLElement, p: Promise<T>, f: (x: T) => HTMLElement): Promise<void> {
  try {
    box.replaceChildren(f(await p));
  } catch (e) {
    box.replaceChildren(h("p", { class: "muted" }, problem(e)));
  }
}

function guideOf(g: Guide): HTMLElement {
  const words = (steps: Readonly<Record<string, readonly string[]>>): readonly string[] => steps[lang()] ?? steps["zh-CN"] ?? steps["en"] ?? [];
  if (g.sections.length + g.errors.length + g.faults.length === 0) return h("p", { class: "muted" }, t("guide.none"));
  return h("div", { class: "guide" }, g.modelId === "" ? h("p", { class: "muted" }, t("guide.generic")) : null,
    ...g.sections.map((s) => h("section", {}, h("h4", {}, named(topicKeys, s.topic)), h("ul", {}, ...words(s.steps).map((x) => h("li", {}, x))))),
    g.errors.length === 0 ? null : h("section", {}, h("h4", {}, t("guide.errors")), table(t("guide.errors"), [t("guide.code"), t("guide.means"), t("guide.do")], g.errors.map((e) =>
      h("tr", {}, h("th", { scope: "row" }, e.code), h("td", {}, pick(e.means), e.verified ? null : h("div", { class: "muted" }, t("guide.unverified"))), h("td", {}, pick(e.remedy)))))),
    g.faults.length === 0 ? null : h("section", {}, h("h4", {}, t("guide.faults")), h("ul", {}, ...g.faults.map((f) => h("li", {}, pick(f.text), f.verified ? null : h("span", { class: "muted" }, ` · ${t("guide.unverified")}`))))));
}
