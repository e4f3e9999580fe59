// The dialogs: acknowledge, snooze, resolve, note, log in, help. All are <dialog>: the browser keeps the focus
// inside, closes on Escape, and gives the focus back.

import * as api from "./api";
import { patientLabel, type App } from "./app";
import type { Alert, Json, Obj } from "./decode";
import { button, h, setText } from "./dom";
import { named, severityName, shownReading } from "./format";
import { snoozeMinutes } from "./order";
import { chip, problem } from "./parts";
import { pick, t, type Key } from "./i18n";

/** The outcomes a resolution may have; the code is what is recorded. */
export const outcomes = ["handled", "advised_care", "emergency_called", "measurement_error", "device_fault", "other"] as const;

const outcomeKeys: Readonly<Record<string, Key>> = {
  handled: "outcome.handled", advised_care: "outcome.advised_care", emergency_called: "outcome.emergency_called",
  measurement_error: "outcome.measurement_error", device_fault: "outcome.device_fault", other: "outcome.other", accepted: "outcome.accepted",
};

export const outcomeName = (s: string): string => named(outcomeKeys, s);

const titles: Readonly<Record<api.Act, Key>> = {
  acknowledge: "act.acknowledge", snooze: "act.snooze", resolve: "act.resolve", notes: "act.note",
};
const dones: Readonly<Record<api.Act, Key>> = {
  acknowledge: "act.done_acknowledge", snooze: "act.done_snooze", resolve: "act.done_resolve", notes: "act.done_note",
};
const hints: Readonly<Record<api.Act, Key>> = {
  acknowledge: "act.hint_acknowledge", snooze: "act.hint_snooze", resolve: "act.hint_resolve", notes: "act.hint_note",
};

export function actDialog(app: App, a: Alert, what: api.Act): void {
  const note = h("textarea", { rows: 3, maxlength: 2000, id: "act-note", name: "note", required: what === "notes" });
  const outcome = h("select", { id: "act-outcome", name: "outcome", required: true },
    h("option", { value: "" }, t("outcome.choose")), ...outcomes.map((o) => h("option", { value: o }, t(outcomeKeys[o]!))));
  const minutes = h("select", { id: "act-minutes", name: "minutes" },
    ...snoozeMinutes(a.severity).map((m) => h("option", { value: m, selected: m === (a.severity === "critical" ? 15 : 30) }, t("act.minutes", { n: m }))));

  const body = (): Obj => {
    const text = note.value.trim();
    switch (what) {
      case "acknowledge": return { note: text };
      case "snooze": return { minutes: Number(minutes.value), note: text };
      case "resolve": return { outcome: outcome.value, note: text };
      case "notes": return { note: text };
    }
  };
  // A retry of the same act carries the same key, so that it counts once; another text is another act.
  let key = "", sent = "";
  const p = app.state().patients.get(a.patientId);
  const v = a.trigger ? shownReading(a.trigger) : null;
  form(t(titles[what]), "act", [
    h("p", { class: "about" }, chip(a.severity), " ", h("b", {}, patientLabel(p, a.patientId)), " · ", pick(a.title, a.rule), v ? ` · ${v.value}${v.suffix}` : ""),
    h("p", { class: "muted" }, t(hints[what])),
    what === "resolve" ? field("act-outcome", t("outcome.label"), outcome) : null,
    what === "snooze" ? field("act-minutes", t("act.for"), minutes) : null,
    field("act-note", t(what === "notes" ? "act.note_text" : "act.note_optional"), note),
  ], t(titles[what]), what === "resolve" ? outcome : what === "snooze" ? minutes : note, async () => {
    const b = body();
    const text = JSON.stringify(b as Json);
    if (text !== sent || key === "") {
      key = api.newKey();
      sent = text;
    }
    const after = await api.act(a.id, what, b, key);
    if (after) app.emit({ type: "alerts", alerts: [after] });
    app.tell(t(dones[what], { severity: severityName(a.severity), who: patientLabel(p, a.patientId) }));
  }, (e) => {
    if (e instanceof api.ApiError && e.status === 401) app.askLogin();
  });
}

export function loginForm(done: () => void): HTMLFormElement {
  const name = h("input", { id: "login-name", name: "name", autocomplete: "username", required: true, maxlength: 200 });
  const password = h("input", { id: "login-password", name: "password", type: "password", autocomplete: "current-password", required: true, maxlength: 1000 });
  const error = h("p", { class: "error", role: "alert" });
  const submit = h("button", { type: "submit", class: "primary" }, t("login.submit"));
  const f = h("form", { class: "login" }, field("login-name", t("login.name"), name), field("login-password", t("login.password"), password), error, h("div", { class: "buttons" }, submit));
  f.addEventListener("submit", (e) => {
    e.preventDefault();
    if (submit.disabled) return;
    submit.disabled = true;
    setText(error, "");
    api.login(name.value, password.value).then(done, (e: unknown) => {
      setText(error, e instanceof api.ApiError && (e.status === 401 || e.status === 403) ? t("login.wrong") : problem(e));
      submit.disabled = false;
      password.select();
      password.focus();
    });
  });
  return f;
}

export function loginDialog(done: () => void): void {
  const d = open(t("login.title"), "login-dialog");
  const f = loginForm(() => { d.close(); done(); });
  f.querySelector(".buttons")?.append(button(t("dialog.cancel"), {}, () => d.close()));
  d.append(f);
  d.showModal();
  f.querySelector("input")?.focus();
}

export function helpDialog(): void {
  const d = open(t("help.title"), "help");
  const rows: [string, Key][] = [
    ["j  ↓", "help.next"], ["k  ↑", "help.previous"], ["Enter", "help.open"], ["a", "help.acknowledge"], ["s", "help.snooze"],
    ["r", "help.resolve"], ["n", "help.note"], ["p", "help.patient"], ["h  Esc", "help.home"], ["/", "help.search"], ["?", "help.help"],
  ];
  d.append(h("table", { class: "keys" }, h("tbody", {}, ...rows.map(([k, x]) =>
    h("tr", {}, h("th", { scope: "row" }, ...k.split("  ").map((one) => h("kbd", {}, one))), h("td", {}, t(x)))))),
    h("p", { class: "muted" }, t("help.shapes")), h("p", { class: "muted" }, t("help.delay")),
    h("div", { class: "buttons" }, button(t("dialog.close"), { class: "primary" }, () => d.close())));
  d.showModal();
}

export function field(id: string, label: string, input: HTMLElement): HTMLElement {
  return h("div", { class: "field" }, h("label", { for: id }, label), input);
}

export function open(title: string, kind: string): HTMLDialogElement {
  const d = h("dialog", { class: kind, "aria-labelledby": "dialog-title" }, h("h2", { id: "dialog-title" }, title));
  const opener = document.activeElement as HTMLElement | null;
  const act = opener?.dataset["act"];
  d.addEventListener("close", () => {
    d.remove();
    // The page may have been redrawn meanwhile: the opener, else what took its place.
    if (opener?.isConnected) opener.focus();
    else (act ? document.querySelector<HTMLElement>(`[data-act="${act}"]`) ?? document.querySelector<HTMLElement>(".detail") : null)?.focus();
  });
  document.body.append(d);
  return d;
}

export function form(title: string, kind: string, content: (HTMLElement | null)[], verb: string, first: HTMLElement | null, send: () => Promise<void>, failed: (e: unknown) => void = () => {}): void {
  const d = open(title, kind);
  const error = h("p", { class: "error", role: "alert" });
  const submit = h("button", { type: "submit", class: "primary" }, verb);
  const f = h("form", {}, ...content, error,
    h("div", { class: "buttons" }, submit, button(t("dialog.cancel"), {}, () => d.close()), h("span", { class: "keys-hint" }, t("dialog.keys"))));
  f.addEventListener("keydown", (e) => {
    // Enter sends, Shift+Enter breaks the line; the Enter that ends a Chinese input does neither.
    if (e.key !== "Enter" || e.shiftKey || e.isComposing || !(e.target instanceof HTMLTextAreaElement || e.target instanceof HTMLSelectElement)) return;
    e.preventDefault();
    f.requestSubmit(submit);
  });
  f.addEventListener("submit", (e) => {
    e.preventDefault();
    if (submit.disabled) return;
    submit.disabled = true;
    setText(error, "");
    send().then(() => d.close(), (e: unknown) => {
      submit.disabled = false;
      setText(submit, t("dialog.retry"));
      setText(error, problem(e));
      failed(e);
    });
  });
  d.append(f);
  d.showModal();
  (first ?? submit).focus();
}
