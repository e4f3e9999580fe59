// One patient: the last days in charts, the lines they are judged by, the readings, trends, alerts and findings.

import * as api from "./api";
import { patientLabel, type App, type View } from "./app";
import { select } from "./alertlist";
import { Chart, lineLabel } from "./chart";
import type { Alert, Device, Finding, Obj, Patient, Reading, Sitting, Text, Threshold } from "./decode";
import { deviceTable } from "./devicelist";
import { button, h, replace, setText } from "./dom";
import { asked } from "./explanation";
import { conditionName, glucoseUnit, indicatorName, named, number, setGlucoseUnit, shown, shownReading, stamp, type GlucoseUnit, withUnit, convert } from "./format";
import { icon } from "./icons";
import { lang, pick, store, t, type Key } from "./i18n";
import { compareAlerts } from "./order";
import { agoEl, badge, chip, clockEl, lostBadge, problem, remarkText, stateBadges, table } from "./parts";
import { to } from "./route";
import { allLines, lines, series } from "./series";

const hour = 3600_000, day = 24 * hour;
const ranges: readonly (readonly [string, number, Key])[] = [
  ["24h", day, "range.24h"], ["3d", 3 * day, "range.3d"], ["7d", 7 * day, "range.7d"], ["14d", 14 * day, "range.14d"],
];
const rangeKey = "vitalwatch.range";

/** Readings kept on the page; a person whose watch sends more is shown the newest. */
const maxReadings = 25_000;
const tableStep = 15;
const redrawMs = 1000;
/** Sittings with the cuff: the last of so many days. */
const sittingDays = 14, sittingsShown = 8;

const order = ["blood_pressure", "glucose", "spo2", "heart_rate", "respiration", "temperature", "weight"];

/** The metrics of package trends that a coach reads, in this order; the API has more, which nobody here has words for. */
const metrics: readonly (readonly [string, Key])[] = [
  ["mean", "metric.mean"], ["systolic_mean", "metric.systolic_mean"], ["diastolic_mean", "metric.diastolic_mean"],
  ["protocol_systolic_mean", "metric.protocol_systolic"], ["protocol_diastolic_mean", "metric.protocol_diastolic"],
  ["time_in_range", "metric.tir"], ["below_70", "metric.below_70"], ["below_54", "metric.below_54"], ["above_180", "metric.above_180"], ["above_250", "metric.above_250"],
  ["gmi", "metric.gmi"], ["sd", "metric.sd"], ["cv", "metric.cv"], ["systolic_sd", "metric.systolic_sd"], ["diastolic_sd", "metric.diastolic_sd"],
  ["load", "metric.load"], ["pulse_pressure_mean", "metric.pulse_pressure"], ["pulse_mean", "metric.pulse_mean"],
  ["morning_systolic_mean", "metric.morning_systolic"], ["morning_diastolic_mean", "metric.morning_diastolic"],
  ["evening_systolic_mean", "metric.evening_systolic"], ["evening_diastolic_mean", "metric.evening_diastolic"],
  ["min", "metric.min"], ["max", "metric.max"], ["median", "metric.median"], ["slope_per_day", "metric.slope"],
  ["mage", "metric.mage"], ["gri", "metric.gri"], ["lbgi", "metric.lbgi"], ["hbgi", "metric.hbgi"], ["days", "metric.days"],
];
const trendReasons: Readonly<Record<string, Key>> = { no_readings: "trend.no_readings", few_readings: "trend.few_readings", few_days: "trend.few_days" };
/** Metrics in the unit of the indicator, by the last word of their name; others are per cent or plain numbers. */
const inUnit = /(^|_)(mean|sd|min|max|median|mage|arv|slope_per_day|q1|q3|iqr|mad|first|last|peak|trough|line|average|difference|pulse_pressure_mean)$/;
const inPercent = /^(cv|gmi|time_in_(tight_)?range|(below|above)_\d+|from_\d+_to_\d+|(systolic_|diastolic_)?load|active_percent)$|_cv$/;
/** Metrics shown before the rest is folded. */
const metricsShown = 8;

const whyKeys: Readonly<Record<string, Key>> = {
  no_recent_reading: "why.no_recent_reading", device: "why.device", gateway: "why.gateway", clock: "why.clock", binding: "why.binding", us: "why.us",
};

interface Card {
  readonly el: HTMLElement;
  readonly chart: Chart;
  readonly latest: HTMLElement;
  readonly lines: HTMLElement;
  readonly metrics: HTMLElement;
}

export class PatientPage implements View {
  readonly el = h("section", { class: "pane detail", tabindex: "-1", "aria-label": t("patient.title") });
  private readonly head = h("header", { class: "patient-head" });
  private readonly alertsBox = h("div", { class: "box" });
  private readonly status = h("p", { class: "muted", role: "status" });
  private readonly cards = h("div", { class: "cards" });
  private readonly table = h("div", {});
  private readonly tableFilter = h("select", { class: "table-filter", "aria-label": t("readings.filter") });
  private readonly tableMore = button(t("list.more"), { class: "more", hidden: true }, () => { this.rows += 3 * tableStep; this.drawTable(this.app.now()); });
  private readonly findingsBox = h("div", {});
  private readonly coverageBox = h("div", {});
  private readonly sittingsBox = h("section", { "aria-label": t("sitting.title"), hidden: true });
  private readonly devicesBox = h("div", {});
  private readonly glucose: HTMLElement;
  private readonly held = new Map<string, Card>();
  /** By indicator, then id; arrival order. */
  private readings = new Map<string, Map<string, Reading>>();
  private thresholds: readonly Threshold[] = [];
  private findings: readonly Finding[] = [];
  private past: readonly Alert[] = [];
  private trends = new Map<string, Obj>();
  private readonly openMetrics = new Set<string>();
  private loaded: Patient | null = null;
  private range: (typeof ranges)[number];
  private from = 0;
  private rows = tableStep;
  private load = 0;
  private gone = false;
  private newSitting = false;
  private redrawAt: ReturnType<typeof setTimeout> | null = null;
  private headVersion = "";
  private alertsVersion = "";

  constructor(private readonly app: App, private readonly id: string) {
    this.range = ranges.find(([k]) => k === store.get(rangeKey)) ?? ranges[1]!;
    const switcher = h("div", { class: "segmented", role: "group", "aria-label": t("range.label") });
    for (const r of ranges) {
      switcher.append(button(t(r[2]), { "aria-pressed": String(r === this.range) }, (e) => {
        this.range = r;
        store.set(rangeKey, r[0]);
        for (const b of switcher.children) b.setAttribute("aria-pressed", String(b === e.currentTarget));
        this.fetch();
      }));
    }
    const units: [GlucoseUnit, Key][] = [["mmol/L", "unit.mmol"], ["mg/dL", "unit.mgdl"], ["sent", "glucose.sent"]];
    this.glucose = h("label", { class: "inline", hidden: true }, t("glucose.unit"), " ",
      select(t("glucose.unit"), units.map(([v, k]): [string, string] => [v, t(k)]), (v) => {
        setGlucoseUnit(v as GlucoseUnit);
        this.headVersion = this.alertsVersion = "";
        this.update();
        this.draw();
      }, glucoseUnit()));
    this.tableFilter.addEventListener("change", () => {
      this.rows = tableStep;
      this.drawTable(this.app.now());
    });
    this.el.append(h("div", { class: "scroll page" },
      h("a", { href: to.home, class: "back" }, icon("back"), t("nav.back")), this.head, this.alertsBox,
      h("div", { class: "toolbar" }, switcher, this.glucose), this.status, this.cards, this.sittingsBox,
      h("div", { class: "toolbar" }, h("h3", {}, t("readings.title")), this.tableFilter), this.table, this.tableMore, h("h3", {}, t("findings.title")), h("p", { class: "muted" }, t("findings.hint")), this.findingsBox,
      h("h3", {}, t("coverage.title")), this.coverageBox, h("h3", {}, t("patient.devices")), this.devicesBox));
    this.fetch();
  }

  private patient(): Patient | undefined { return this.app.state().patients.get(this.id) ?? this.loaded ?? undefined; }

  current(): Alert | null { return this.mine().find((a) => a.state !== "resolved") ?? null; }

  update(): void {
    const p = this.patient();
    const now = this.app.now();
    const mine = this.mine();
    const lost = p?.signal === "lost" || mine.some((a) => a.state !== "resolved" && a.signal === "lost");
    const hv = [p?.name, p?.conditions.join(), lost, mine[0]?.severity, mine[0]?.state].join("|");
    if (hv !== this.headVersion) {
      this.headVersion = hv;
      const worst = mine.find((a) => a.state !== "resolved");
      replace(this.head, h("h2", {}, patientLabel(p, this.id), p && p.name ? h("span", { class: "id" }, p.id) : null),
        h("p", { class: "badges" }, worst ? chip(worst.severity) : h("span", { class: "chip calm" }, t("patients.calm")), lost ? lostBadge(0, now) : null,
          h("span", { class: "muted" }, (p?.conditions ?? []).map(conditionName).join(" · "))));
    }
    const av = mine.map((a) => a.id + String(a.seq) + String(a.snoozedUntil > now)).join();
    if (av !== this.alertsVersion) {
      this.alertsVersion = av;
      this.drawAlerts(mine, now);
    }
  }

  reading(patientId: string, r: Reading): void {
    if (patientId !== this.id || !this.put(r)) return;
    this.newSitting ||= r.indicator === "blood_pressure";
    // A watch may send every second; the charts follow at most once a second.
    this.redrawAt ??= setTimeout(() => {
      this.redrawAt = null;
      if (this.gone) return;
      this.draw();
      if (this.newSitting) void this.loadSittings();
    }, redrawMs);
  }

  resynced(): void { this.fetch(); }

  dispose(): void {
    this.gone = true;
    if (this.redrawAt !== null) clearTimeout(this.redrawAt);
    for (const c of this.held.values()) c.chart.dispose();
  }

  private mine(): Alert[] {
    const all = new Map(this.past.map((a) => [a.id, a]));
    for (const a of this.app.state().alerts.values()) if (a.patientId === this.id && (all.get(a.id)?.seq ?? -1) <= a.seq) all.set(a.id, a);
    return [...all.values()].sort(compareAlerts);
  }

  private async fetch(): Promise<void> {
    const load = ++this.load;
    const current = (): boolean => load === this.load && !this.gone;
    const to = this.app.now() + 5 * 60_000; // a device's clock may be a little ahead
    this.from = this.app.now() - this.range[1];
    setText(this.status, t("patient.loading"));
    try {
      const [p, thresholds, findings, past, devices, models] = await Promise.all([
        api.patient(this.id), api.thresholds(this.id), optional(api.findings(this.id), []), api.patientAlerts(this.id),
        optional(api.devices(this.id), []), optional(api.modelNames(), new Map<string, Text>()),
      ]);
      if (!current()) return;
      this.loaded = p;
      this.app.emit({ type: "patients", patients: [p], complete: false });
      [this.thresholds, this.findings, this.past] = [thresholds, findings, past];
      this.readings = new Map();
      this.trends = new Map();
      this.drawFindings();
      this.drawCoverage(p);
      this.drawDevices(devices, models);
      this.update();
      // Newest day first, so that what matters is there at once and a bound cuts the past, not the present.
      let n = 0, cut = 0;
      for (let end = to, start = 0; end > this.from; end = start) {
        start = Math.max(this.from, end === to ? this.app.now() - day : end - day);
        const got = await api.readings(this.id, start, end, maxReadings);
        if (!current()) return;
        for (const r of got) this.put(r);
        if (end === to) this.draw();
        n += got.length;
        if (n >= maxReadings && start > this.from) {
          cut = start;
          break;
        }
      }
      await this.loadSittings();
      setText(this.status, cut ? t("patient.cut", { time: stamp(cut) }) : n === 0 ? t("patient.no_readings") : "");
      this.draw();
      await Promise.all([...this.readings.keys()].map(async (i) => {
        const x = await optional(api.trends(this.id, i, this.from, to), {});
        if (current()) this.trends.set(i, x);
      }));
      if (current()) this.draw();
    } catch (e) {
      if (current()) setText(this.status, problem(e));
    }
  }

  private put(r: Reading): boolean {
    let of = this.readings.get(r.indicator);
    if (!of) this.readings.set(r.indicator, of = new Map());
    const key = r.id || `${r.deviceId} ${r.takenAt}`;
    const isNew = !of.has(key);
    of.set(key, r);
    return isNew;
  }

  private draw(): void {
    const now = this.app.now();
    // What somebody has to act on stands first.
    const urgent = new Set(this.mine().filter((a) => a.state !== "resolved").map((a) => a.trigger?.indicator));
    const names = [...this.readings.keys()].sort((a, b) => Number(urgent.has(b)) - Number(urgent.has(a)) || place(a) - place(b) || (a < b ? -1 : 1));
    for (const [name, c] of this.held) {
      if (names.includes(name)) continue;
      c.chart.dispose();
      c.el.remove();
      this.held.delete(name);
    }
    this.glucose.hidden = !names.includes("glucose");
    for (const name of names) {
      let c = this.held.get(name);
      if (!c) {
        this.held.set(name, c = card(name));
      }
      if (this.cards.children[names.indexOf(name)] !== c.el) this.cards.insertBefore(c.el, this.cards.children[names.indexOf(name)] ?? null);
      const from = now - this.range[1];
      const rs = [...this.readings.get(name)!.values()].filter((r) => r.takenAt >= from);
      const s = series(name, rs);
      const ls = lines(this.thresholds, s);
      c.chart.show(s, ls, from, now + this.range[1] * 0.01);
      const last = s.readings[s.readings.length - 1];
      if (last) {
        const v = shownReading(last);
        const notes = remarkText(last);
        replace(c.latest, h("b", {}, v.value), v.suffix, v.sent ? h("span", { class: "sent" }, ` (${v.sent})`) : null, v.also ? h("span", { class: "muted" }, ` · ${v.also}`) : null,
          h("span", { class: "muted" }, " · ", agoEl(last.takenAt, now)), notes ? h("span", { class: "remark" }, ` · ${notes}`) : null);
      } else replace(c.latest, h("span", { class: "muted" }, t("chart.empty")));
      replace(c.lines, ...allLines(this.thresholds, s).map((l) => h("li", {}, h("span", { class: `dash sev-${l.threshold.severity}` }), [lineLabel(l, s), ...asked(l.threshold.asks), pick(l.threshold.title, l.threshold.rule)].join(" · "),
        l.threshold.source ? h("span", { class: "source" }, ` — ${l.threshold.source}`) : null, l.exact ? null : h("span", { class: "muted" }, ` (${t("threshold.converted")})`))));
      c.lines.parentElement!.hidden = ls.length === 0;
      this.drawMetrics(c.metrics, name, s.unit);
    }
    this.drawTable(now);
  }

  private drawMetrics(box: HTMLElement, indicator: string, unit: string): void {
    const x = this.trends.get(indicator) ?? {};
    const m = x["metrics"];
    box.hidden = typeof m !== "object" || m === null || Array.isArray(m);
    if (box.hidden) return;
    const held = m as Obj;
    const own = typeof x["unit"] === "string" ? x["unit"] : unit;
    const row = (label: string, text: string): HTMLElement => h("div", {}, h("dt", {}, label), h("dd", {}, text));
    const rows: HTMLElement[] = [];
    if (typeof x["n"] === "number") rows.push(row(t("metric.n"), plain(x["n"])));
    for (const [name, key] of metrics) {
      const v = held[name];
      if (typeof v === "number") rows.push(row(t(key), metric(name, v, own, unit)));
    }
    const why = typeof x["reason"] === "string" && x["reason"] !== "" ? named(trendReasons, x["reason"]) : "";
    replace(box,
      x["state"] === "insufficient" ? h("p", { class: "remark" }, t("trend.insufficient", { why })) : x["state"] === "provisional" ? h("p", { class: "remark" }, t("trend.provisional")) : null,
      h("dl", { class: "metrics" }, ...rows.slice(0, metricsShown)),
      rows.length > metricsShown ? h("details", { open: this.openMetrics.has(indicator) }, h("summary", {}, t("trend.more")), h("dl", { class: "metrics" }, ...rows.slice(metricsShown))) : null);
    box.querySelector("details")?.addEventListener("toggle", (e) => {
      if ((e.currentTarget as HTMLDetailsElement).open) this.openMetrics.add(indicator);
      else this.openMetrics.delete(indicator);
    });
  }

  private drawTable(now: number): void {
    const names = [...this.readings.keys()].sort((a, b) => place(a) - place(b) || (a < b ? -1 : 1));
    const chosen = names.includes(this.tableFilter.value) ? this.tableFilter.value : "";
    if (this.tableFilter.options.length !== names.length + 1 || names.some((n, i) => this.tableFilter.options[i + 1]?.value !== n)) {
      replace(this.tableFilter, h("option", { value: "" }, t("readings.all")), ...names.map((n) => h("option", { value: n, selected: n === chosen }, indicatorName(n))));
    }
    this.tableFilter.hidden = names.length < 2;
    const all = [...this.readings].filter(([n]) => chosen === "" || n === chosen).flatMap(([, m]) => [...m.values()]).sort((a, b) => b.takenAt - a.takenAt);
    replace(this.table,
      all.length === 0 ? h("p", { class: "muted" }, t("chart.empty")) : h("div", { class: "table-wrap", tabindex: "0", role: "region", "aria-label": t("readings.title") }, h("table", {},
        h("thead", {}, h("tr", {}, ...[t("readings.time"), t("readings.indicator"), t("readings.value"), t("readings.sent"), t("readings.remarks"), t("readings.device")].map((x) => h("th", { scope: "col" }, x)))),
        h("tbody", {}, ...all.slice(0, this.rows).map((r) => {
          const v = shownReading(r);
          const notes = remarkText(r);
          return h("tr", {}, h("td", { class: "nowrap" }, clockEl(r.takenAt, now)), h("td", {}, indicatorName(r.indicator)),
            h("td", { class: "num" }, h("b", {}, v.value), v.suffix, v.also ? h("span", { class: "muted" }, ` · ${v.also}`) : null),
            h("td", { class: "num muted" }, v.sent || "—"), h("td", {}, notes ? h("span", { class: "remark" }, notes) : h("span", { class: "muted" }, t("freshness.live"))), h("td", { class: "muted" }, r.deviceId));
        })))));
    this.tableMore.hidden = all.length <= this.rows;
  }

  private drawAlerts(mine: readonly Alert[], now: number): void {
    const open = mine.filter((a) => a.state !== "resolved"), past = mine.filter((a) => a.state === "resolved");
    const one = (a: Alert): HTMLElement => {
      const v = a.trigger ? shown(a.trigger.indicator, a.trigger.values, a.trigger.unit) : null;
      return h("li", { class: `row mini sev-${a.severity} is-${a.state}` }, h("a", { href: to.alert(a.id) },
        h("span", { class: "row-top" }, chip(a.severity), h("span", { class: "title" }, pick(a.title, a.rule)), v ? h("span", { class: "value" }, h("b", {}, v.value), v.suffix) : null, clockEl(a.openedAt, now)),
        h("span", { class: "badges" }, ...stateBadges(a, now))));
    };
    replace(this.alertsBox,
      open.length === 0 ? h("p", { class: "muted" }, t("patient.no_alerts")) : h("ul", { class: "rows", "aria-label": t("patient.open_alerts") }, ...open.map(one)),
      past.length === 0 ? null : h("details", {}, h("summary", {}, t("patient.past_alerts", { n: past.length })), h("ul", { class: "rows" }, ...past.map(one))));
  }

  private drawFindings(): void {
    const now = this.app.now();
    replace(this.findingsBox, this.findings.length === 0 ? h("p", { class: "muted" }, t("findings.none")) : h("ul", { class: "rows" }, ...this.findings.map((f) =>
      h("li", { class: `row mini sev-${f.severity}` }, h("div", { class: "row-top" }, chip(f.severity), h("span", { class: "title" }, pick(f.title, f.rule)),
        h("span", { class: "muted" }, f.first ? clockEl(f.first, now) : f.day, f.last && f.last !== f.first ? " – " : "", f.last && f.last !== f.first ? clockEl(f.last, now) : null)),
      h("span", { class: "badges" }, badge("late", null, t("findings.readings", { n: f.readings })))))));
  }

  private async loadSittings(): Promise<void> {
    this.newSitting = false;
    const now = this.app.now();
    try {
      const got = await optional(api.sittings(this.id, now - sittingDays * day, now + 5 * 60_000), []);
      if (!this.gone) this.drawSittings(got);
    } catch (e) {
      if (!this.gone) setText(this.status, problem(e));
    }
  }

  private drawSittings(all: readonly Sitting[]): void {
    const now = this.app.now();
    this.sittingsBox.hidden = all.length === 0;
    const mm = (v: number): string => number(v, "mm[Hg]");
    replace(this.sittingsBox, h("h3", {}, t("sitting.title")), h("p", { class: "muted" }, t("sitting.hint")),
      table(t("sitting.title"), [t("sitting.time"), t("sitting.mean"), t("sitting.pulse"), t("sitting.readings"), t("readings.remarks"), t("readings.device")], all.slice(-sittingsShown).reverse().map((s) => h("tr", {},
        h("td", { class: "nowrap" }, clockEl(s.from, now)),
        h("td", { class: "num" }, h("b", {}, `${mm(s.systolic)}/${mm(s.diastolic)}`), withUnit("", "mm[Hg]")),
        h("td", { class: "num" }, s.pulse === null ? h("span", { class: "muted" }, "—") : withUnit(number(s.pulse, "/min"), "/min")),
        h("td", {}, s.counted === s.readings.length ? t("sitting.of", { n: s.readings.length }) : t("sitting.counted", { n: s.readings.length, counted: s.counted }),
          h("div", { class: "muted" }, s.readings.map((r) => shownReading(r).value).join(t("list.separator")))),
        h("td", {}, s.thirdWanted ? h("span", { class: "remark" }, t("sitting.third"), h("span", { class: "muted" }, ` · ${t("sitting.third_hint")}`)) : h("span", { class: "muted" }, "—")),
        h("td", { class: "muted" }, s.deviceId)))));
  }

  /** Those in use before those of earlier times. */
  private drawDevices(devices: readonly Device[], models: ReadonlyMap<string, Text>): void {
    const inUse = (d: Device): number => Number(d.bindings.some((b) => b.patientId === this.id && b.to === 0));
    replace(this.devicesBox, devices.length === 0 ? h("p", { class: "muted" }, t("patient.no_devices"))
      : deviceTable(this.app, [...devices].sort((a, b) => inUse(b) - inUse(a) || (a.id < b.id ? -1 : 1)), models));
  }

  private drawCoverage(p: Patient): void {
    const now = this.app.now();
    replace(this.coverageBox, p.coverage.length === 0 ? h("p", { class: "muted" }, t("coverage.none")) : h("ul", { class: "coverage" }, ...p.coverage.map((c) =>
      h("li", {}, c.watched ? badge("watched", "check", t("coverage.watched")) : badge("blind", null, t("coverage.unwatched")), " ", indicatorName(c.indicator),
        c.since ? h("span", { class: "muted" }, ` · ${t("coverage.since")} `, clockEl(c.since, now)) : null, c.why ? h("span", { class: "muted" }, ` · ${named(whyKeys, c.why)}`) : null))));
  }
}

function card(indicator: string): Card {
  const chart = new Chart();
  const latest = h("p", { class: "latest" }), lines = h("ul", { class: "lines" }), metrics = h("div", { role: "group", "aria-label": t("trend.title"), hidden: true });
  const el = h("section", { class: "card", "aria-label": indicatorName(indicator) }, h("header", {}, h("h3", {}, indicatorName(indicator)), latest), chart.el,
    metrics, h("details", {}, h("summary", {}, t("threshold.title")), lines));
  return { el, chart, latest, lines, metrics };
}

function place(indicator: string): number {
  const i = order.indexOf(indicator);
  return i < 0 ? order.length : i;
}

/** A metric that was computed in `unit`, shown in the unit of its chart. */
function metric(name: string, v: number, unit: string, to: string): string {
  if (inPercent.test(name)) return plain(v) + "%";
  if (/^pulse_(mean|sd)$/.test(name)) return withUnit(number(v, "/min"), "/min");
  if (!inUnit.test(name)) return plain(v);
  return withUnit(plain(convert(v, unit, to)), to);
}

function plain(v: number): string {
  return new Intl.NumberFormat(lang(), { maximumFractionDigits: Math.abs(v) < 10 ? 2 : 1 }).format(v);
}

/** What may be missing on an older server or for this indicator is left out, not an error of the page. */
async function optional<T>(p: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await p;
  } catch (e) {
    if (e instanceof api.ApiError && (e.status === 404 || e.status === 422 || e.status === 400)) return otherwise;
    throw e;
  }
}
