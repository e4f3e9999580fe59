// Two languages, one switch. Code holds keys and arguments; the sentences are in configs/locales.

import en from "../../../configs/locales/en.json";
import zh from "../../../configs/locales/zh-CN.json";
import type { Text } from "./decode";

export type Lang = "zh-CN" | "en";
export type Key = keyof typeof en;
export type Args = Readonly<Record<string, string | number>>;

/** A sentence, or one per plural form of the language where it counts something ({n}). */
type Entry = string | Readonly<Record<string, string>>;

const catalogues: Record<Lang, Record<Key, Entry>> = { "zh-CN": zh, en };
const storageKey = "vitalwatch.language";

let current: Lang = "zh-CN";
let plural = new Intl.PluralRules(current);

export function lang(): Lang { return current; }

export function setLang(l: Lang): void {
  current = l;
  plural = new Intl.PluralRules(l);
  document.documentElement.lang = l;
  store.set(storageKey, l);
}

/** The language remembered, else that of the session, else the browser's first that we speak, else zh-CN. */
export function chooseLang(preferred: string, browser: readonly string[]): Lang {
  for (const l of [store.get(storageKey) ?? "", preferred, ...browser]) {
    if (/^zh\b/i.test(l)) return "zh-CN";
    if (/^en\b/i.test(l)) return "en";
  }
  return "zh-CN";
}

export function t(key: Key, args: Args = {}): string {
  return fill(catalogues[current][key], args, plural);
}

/** A sentence in both languages, for people who may read another than this page's. */
export function both(key: Key): Text {
  return Object.fromEntries(Object.entries(catalogues).map(([l, c]) => [l, fill(c[key], {}, plural)]));
}

export function fill(entry: Entry, args: Args, rules: Intl.PluralRules): string {
  const s = typeof entry === "string" ? entry : entry[rules.select(Number(args["n"] ?? 0))] ?? entry["other"] ?? "";
  return s.replace(/\{(\w+)\}/g, (m, name: string) => String(args[name] ?? m));
}

/** A text that the server sent in both languages; the other language rather than nothing. */
export function pick(x: Text, fallback = ""): string {
  return x[current] ?? x["zh-CN"] ?? x["en"] ?? fallback;
}

/** localStorage that may be forbidden. */
export const store = {
  get(key: string): string | null {
    try { return localStorage.getItem(key); } catch { return null; }
  },
  set(key: string, value: string): void {
    try { localStorage.setItem(key, value); } catch { /* the choice lasts as long as the page */ }
  },
};
