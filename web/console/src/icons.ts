// Shapes that tell severities apart without colour: circle, triangle, diamond, octagon.

import type { Severity } from "./decode";
import { svg } from "./dom";

const shapes: Readonly<Record<Severity, readonly (readonly [string, Readonly<Record<string, string | number>>])[]>> = {
  info: [["circle", { cx: 12, cy: 12, r: 9.5, class: "line" }], ["path", { d: "M12 11v6M12 7.2v.3", class: "mark" }]],
  warning: [["path", { d: "M12 2.6 22.4 21H1.6Z", class: "line" }], ["path", { d: "M12 9v6M12 17.9v.3", class: "mark" }]],
  critical: [["path", { d: "M12 1.2 22.8 12 12 22.8 1.2 12Z", class: "solid" }], ["path", { d: "M12 7v6.4M12 16.6v.3", class: "mark over" }]],
  emergency: [["path", { d: "M7.4 1h9.2L23 7.4v9.2L16.6 23H7.4L1 16.6V7.4Z", class: "solid" }], ["path", { d: "M9 6.5v7M9 17.2v.3M15 6.5v7M15 17.2v.3", class: "mark over" }]],
};

export function severityIcon(s: Severity): SVGElement {
  return svg("svg", { viewBox: "0 0 24 24", class: `icon sev-${s}`, "aria-hidden": "true", focusable: "false" },
    ...shapes[s].map(([tag, a]) => svg(tag, a)));
}

const lines = {
  lost: "M2 2l20 20M5 12.5a10 10 0 0 1 4-2.4M2 8.8a15 15 0 0 1 4.2-2.7M19 12.5a10 10 0 0 0-3-2M22 8.8A15 15 0 0 0 11 5M8.5 16.4a5 5 0 0 1 7 0M12 20h.01",
  check: "M4 12.5l5 5L20 6.5",
  pause: "M8 5v14M16 5v14",
  up: "M12 20V5M5 12l7-7 7 7",
  person: "M12 12a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9ZM3.5 21a8.5 8.5 0 0 1 17 0",
  back: "M15 5l-7 7 7 7",
  calm: "M4 12.5l5 5L20 6.5",
  sound: "M4 9v6h4l5 4V5L8 9H4ZM16.5 8.5a5 5 0 0 1 0 7M19 6a9 9 0 0 1 0 12",
  mute: "M4 9v6h4l5 4V5L8 9H4ZM17 9l5 6M22 9l-5 6",
  note: "M4 4h16v12H9l-5 5Z",
} as const;

export function icon(name: keyof typeof lines): SVGElement {
  return svg("svg", { viewBox: "0 0 24 24", class: "icon line-icon", "aria-hidden": "true", focusable: "false" }, svg("path", { d: lines[name] }));
}
