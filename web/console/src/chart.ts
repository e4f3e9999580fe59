// One chart of one indicator with uPlot. What a colour says, a shape says too: a late reading is a ring, a suspect
// one a cross, a threshold's severity its dash pattern and its label.

import uPlot from "./vendor/uplot/uPlot.esm";
import type { Reading, Severity } from "./decode";
import { h, setText } from "./dom";
import { axisTime, component as value, componentName, indicatorName, number, opName, severityName, shownReading, stamp, withUnit } from "./format";
import { t } from "./i18n";
import { remarks } from "./parts";
import { mark, spread, type Line, type Mark, type Series, yRange } from "./series";

const dash: Readonly<Record<Severity, readonly number[]>> = { info: [1, 4], warning: [5, 5], critical: [11, 4], emergency: [] };

/** Above this many readings the good ones are a line without dots. */
const dotsUpTo = 400;

const height = 210;

/** Of the labels of threshold lines, in CSS px: the height of one, and the line that leads to it. */
const labelHeight = 13, leader = 9;

const labelFont = (font: string, px: number): string => font.replace("12px", `${11 * px}px`);

export class Chart {
  /** The labels of the lines leave out the severity. */
  private brief = false;
  readonly el = h("figure", { class: "chart" });
  private readonly plot = h("div", { class: "plot", role: "img" });
  private readonly readout = h("figcaption", { class: "readout", "aria-hidden": "true" });
  private u: uPlot | null = null;
  private readonly watch: ResizeObserver;
  private width = 0;
  private s: Series | null = null;
  private ls: readonly Line[] = [];
  private range: readonly [number, number] = [0, 1];
  private yRange: [number, number] = [0, 1];
  private look = "";

  constructor() {
    this.el.append(this.plot, this.readout);
    this.watch = new ResizeObserver(() => {
      const w = Math.floor(this.plot.clientWidth);
      if (w === this.width || w === 0) return;
      this.width = w;
      if (this.u) this.u.setSize({ width: w, height });
      else this.draw();
    });
    this.watch.observe(this.plot);
  }

  /** Shows a series from `from` to `to` in ms. */
  show(s: Series, ls: readonly Line[], from: number, to: number): void {
    this.s = s;
    this.ls = ls;
    this.range = [from / 1000, to / 1000];
    this.plot.setAttribute("aria-label", this.summary(s));
    this.yRange = yRange(s, ls);
    const look = [s.unit, s.components.join(), ...ls.filter((l) => l.at >= this.yRange[0] && l.at <= this.yRange[1]).map((l) => lineLabel(l, s))].join("|");
    if (this.u && look === this.look) {
      // New readings move through the chart that is there, so that a pointer on it keeps its place.
      this.u.setData(this.data(s));
      return;
    }
    this.look = look;
    this.draw();
  }

  private data(s: Series): uPlot.AlignedData { return [s.x as number[], ...s.y.map((c) => c as number[])]; }

  dispose(): void {
    this.watch.disconnect();
    this.u?.destroy();
    this.u = null;
  }

  private draw(): void {
    const s = this.s;
    if (!s || this.width === 0) return;
    this.u?.destroy();
    this.u = new uPlot(this.options(s), this.data(s), this.plot);
    this.point(null);
  }

  private options(s: Series): uPlot.Options {
    const css = getComputedStyle(this.el);
    const color = (name: string): string => css.getPropertyValue(name).trim();
    const ink = color("--muted"), grid = color("--grid"), line = color("--accent");
    const font = `12px ${css.fontFamily}`;
    const span = (this.range[1] - this.range[0]) * 1000;
    const bars = s.components.length > 1;
    const axis = { stroke: ink, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
    return {
      width: this.width, height,
      padding: [10, this.gutter(s, font), 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: { x: { time: true, range: () => [this.range[0], this.range[1]] }, y: { range: () => this.yRange } },
      axes: [
        { ...axis, size: 32, space: 64, values: (_u, ticks) => ticks.map((x) => axisTime(x * 1000, span)) },
        { ...axis, size: 48, values: (_u, ticks) => ticks.map((y) => tick(y)) },
      ],
      series: [{}, ...s.components.map((c): uPlot.Series => bars
        ? { label: componentName(c), paths: () => null, points: { show: false } }
        : { label: componentName(c), stroke: line, width: 1.75, spanGaps: false, points: { show: false } })],
      hooks: {
        drawAxes: [(u) => this.drawLines(u, color, font)],
        draw: [(u) => this.drawReadings(u, this.s!, line, color("--surface"), color("--ink"))],
        setCursor: [(u) => this.point(u.cursor.idx ?? null)],
      },
    };
  }

  private drawLines(u: uPlot, color: (name: string) => string, font: string): void {
    const c = u.ctx, px = devicePixelRatio || 1, { left, top, width, height: tall } = u.bbox;
    const shown = this.ls.map((l) => ({ l, y: u.valToPos(l.at, "y", true) })).filter(({ y }) => y >= top && y <= top + tall).sort((p, q) => p.y - q.y);
    // The labels stand beside the plot, where no reading is, moved apart where their lines are close.
    const places = spread(shown.map(({ y }) => y), labelHeight * px, top, top + tall);
    c.save();
    c.font = labelFont(font, px);
    c.textBaseline = "middle";
    c.textAlign = "left"; // the axes leave theirs behind
    shown.forEach(({ l, y }, i) => {
      const sev = l.threshold.severity;
      c.strokeStyle = c.fillStyle = color(`--sev-${sev}`);
      c.lineWidth = (sev === "emergency" ? 1.5 : 1.2) * px;
      c.setLineDash(dash[sev].map((n) => n * px));
      c.beginPath();
      c.moveTo(left, Math.round(y) + 0.5);
      c.lineTo(left + width, Math.round(y) + 0.5);
      c.stroke();
      c.setLineDash([]);
      c.lineWidth = px;
      c.beginPath();
      c.moveTo(left + width, Math.round(y) + 0.5);
      c.lineTo(left + width + leader * px, places[i]!);
      c.stroke();
      c.fillText(lineLabel(l, this.s!, this.brief), left + width + (leader + 4) * px, places[i]!);
    });
    c.restore();
  }

  /** The room that the labels of the lines need beside the plot, in CSS px. */
  private gutter(s: Series, font: string): number {
    const c = document.createElement("canvas").getContext("2d");
    const shown = this.ls.filter((l) => l.at >= this.yRange[0] && l.at <= this.yRange[1]);
    this.brief = false;
    if (!c || shown.length === 0) return 12;
    c.font = labelFont(font, 1);
    const room = (): number => Math.ceil(Math.max(...shown.map((l) => c.measureText(lineLabel(l, s, this.brief)).width))) + leader + 8;
    const most = Math.floor(this.width * 0.4);
    // On a narrow page the number stays whole; the severity is said by the dashes and the list below.
    this.brief = room() > most;
    return Math.min(room(), most);
  }

  private drawReadings(u: uPlot, s: Series, stroke: string, paper: string, ink: string): void {
    const c = u.ctx, px = devicePixelRatio || 1;
    const bars = s.components.length > 1;
    const dots = s.readings.length <= dotsUpTo;
    c.save();
    c.beginPath();
    c.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    c.clip();
    c.lineWidth = 1.6 * px;
    for (let i = 0; i < s.readings.length; i++) {
      const r = s.readings[i];
      if (!r) continue;
      const m = mark(r);
      const x = u.valToPos(s.x[i]!, "x", true);
      const ys = s.components.map((k) => value(r, k, s.unit)).filter((v) => v !== null).map((v) => u.valToPos(v, "y", true));
      c.strokeStyle = m === "suspect" || m === "invalid" ? ink : stroke;
      c.fillStyle = m === "good" ? stroke : paper;
      if (bars && ys.length === 2) {
        c.setLineDash(m === "good" ? [] : [3 * px, 3 * px]);
        c.lineWidth = (m === "good" ? 2.4 : 1.4) * px;
        c.beginPath();
        c.moveTo(x, ys[0]!);
        c.lineTo(x, ys[1]!);
        c.stroke();
        c.setLineDash([]);
        c.lineWidth = 1.6 * px;
      }
      if (m === "good" && !dots && !bars) continue;
      for (const y of ys) shape(c, m, x, y, (dots ? 3 : 2.4) * px);
    }
    c.restore();
  }

  private point(i: number | null): void {
    const r = i === null ? null : this.s?.readings[i] ?? null;
    setText(this.readout, r ? readingLine(r) : t("chart.hint"));
    this.readout.classList.toggle("muted", r === null);
  }

  private summary(s: Series): string {
    const rs = s.readings.filter((r): r is Reading => r !== null && mark(r) !== "invalid");
    if (rs.length === 0) return t("chart.summary_none", { indicator: indicatorName(s.indicator) });
    const parts = s.components.map((c) => {
      const vs = rs.map((r) => value(r, c, s.unit)).filter((v) => v !== null);
      const range = `${number(Math.min(...vs), s.unit)}–${number(Math.max(...vs), s.unit)}`;
      return (s.components.length > 1 ? componentName(c) + " " : "") + withUnit(range, s.unit);
    });
    return t("chart.summary", { indicator: indicatorName(s.indicator), n: rs.length, range: parts.join(t("list.separator")), last: readingLine(rs[rs.length - 1]!) });
  }
}

function readingLine(r: Reading): string {
  const v = shownReading(r);
  return [stamp(r.takenAt), v.value + v.suffix + (v.sent ? ` (${v.sent})` : ""), v.also, ...remarks(r)].filter((x) => x !== "").join(" · ");
}

export function lineLabel(l: Line, s: Series, brief = false): string {
  const c = s.components.length > 1 ? componentName(l.threshold.component) + " " : "";
  return `${c}${opName(l.threshold.op)} ${number(l.at, s.unit)}${brief ? "" : " " + severityName(l.threshold.severity)}`;
}

function tick(y: number): string { return String(Math.round(y * 100) / 100); }

function shape(c: CanvasRenderingContext2D, m: Mark, x: number, y: number, r: number): void {
  c.beginPath();
  if (m === "suspect" || m === "invalid") {
    const k = r * 1.25;
    c.moveTo(x - k, y - k);
    c.lineTo(x + k, y + k);
    c.moveTo(x - k, y + k);
    c.lineTo(x + k, y - k);
    if (m === "suspect") c.rect(x - k * 1.35, y - k * 1.35, k * 2.7, k * 2.7);
    c.stroke();
    return;
  }
  c.arc(x, y, m === "late" ? r * 1.15 : r, 0, 2 * Math.PI);
  c.fill();
  if (m === "late") c.stroke();
}
