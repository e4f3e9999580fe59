// A few lines between the console and the DOM. Text always goes in as text, never as markup.

export type Child = Node | string | null | undefined | false;

type Attrs = Readonly<Record<string, string | number | boolean | null | undefined>>;

/** An element. Attributes that are false, null or undefined are left out; "class" and "on…" work as expected. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, attrs: Attrs = {}, ...children: readonly Child[]): HTMLElementTagNameMap[K] {
  const e = document.createElement(tag);
  setAttrs(e, attrs);
  append(e, children);
  return e;
}

export function svg(tag: string, attrs: Attrs = {}, ...children: readonly Child[]): SVGElement {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttrs(e, attrs);
  append(e, children);
  return e;
}

function setAttrs(e: Element, attrs: Attrs): void {
  for (const [k, v] of Object.entries(attrs)) if (v !== false && v !== null && v !== undefined) e.setAttribute(k, v === true ? "" : String(v));
}

function append(e: Element, children: readonly Child[]): void {
  for (const c of children) if (c !== null && c !== undefined && c !== false) e.append(c);
}

export function replace(e: Element, ...children: readonly Child[]): void {
  e.replaceChildren(...children.filter((c): c is Node | string => c !== null && c !== undefined && c !== false));
}

/** A button that calls f. */
export function button(label: Child, attrs: Attrs, f: (e: MouseEvent) => void): HTMLButtonElement {
  const b = h("button", { type: "button", ...attrs }, label);
  b.addEventListener("click", f);
  return b;
}

/** Sets text only when it differs, so that a screen reader and a selection are not disturbed. */
export function setText(e: Element, s: string): void {
  if (e.textContent !== s) e.textContent = s;
}

/**
 * Makes the children of `list` match `items`, reusing elements by key. An element is rebuilt only when its
 * `version` changed. Focus stays on the item that had it, wherever that item moves.
 */
export class Keyed<T> {
  private readonly held = new Map<string, { el: HTMLElement; version: string }>();

  constructor(
    private readonly list: HTMLElement,
    private readonly key: (item: T) => string,
    private readonly version: (item: T) => string,
    private readonly make: (item: T) => HTMLElement,
  ) {}

  update(items: readonly T[]): void {
    const focused = document.activeElement;
    const focusKey = focused && this.list.contains(focused) ? this.keyOf(focused) : null;
    const wanted = new Set(items.map(this.key));
    for (const [k, h] of this.held) {
      if (wanted.has(k)) continue;
      h.el.remove();
      this.held.delete(k);
    }
    let at = this.list.firstElementChild;
    for (const item of items) {
      const k = this.key(item);
      const v = this.version(item);
      let h = this.held.get(k);
      if (!h || h.version !== v) {
        const el = this.make(item);
        el.dataset["key"] = k;
        if (h) {
          if (h.el === at) at = el;
          h.el.replaceWith(el);
        }
        this.held.set(k, h = { el, version: v });
      }
      if (h.el === at) at = at.nextElementSibling;
      else this.list.insertBefore(h.el, at);
    }
    if (focusKey !== null && !this.list.contains(document.activeElement)) this.focus(focusKey);
  }

  get(key: string): HTMLElement | undefined { return this.held.get(key)?.el; }

  focus(key: string): void {
    const el = this.held.get(key)?.el;
    (el?.querySelector<HTMLElement>("a,button") ?? el)?.focus({ preventScroll: true });
  }

  private keyOf(e: Element): string | null { return e.closest<HTMLElement>("[data-key]")?.dataset["key"] ?? null; }
}

/** A time that keeps ticking: main's clock rewrites all of them. */
export function since(ms: number, kind: "ago" | "clock", title: string): HTMLTimeElement {
  const e = h("time", { datetime: new Date(ms).toISOString(), "data-at": ms, "data-kind": kind, title });
  return e;
}
