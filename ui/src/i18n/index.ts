import { createStore, memory, useStore } from "../store";
import { en } from "./en.ts";
import { format, type Values } from "./icu.ts";
import { zh } from "./zh.ts";

export type Lang = "en" | "zh-CN";
export type MessageKey = keyof typeof en;

// The names of a message's fields, read from its English text: "{n, plural, …}" and "{name}" both count.
// A branch of one bare word would be taken for a field: write "#" or a second word into it.
type Field<P extends string> = P extends `${infer N}, plural,${infer Rest}`
  ? N | (Rest extends `${string}{${infer Q}` ? Field<Q> : never)
  : P extends `${string}{${infer Q}`
    ? Field<Q>
    : P extends `${string}${" " | "#"}${string}`
      ? never
      : P extends Lowercase<P>
        ? P
        : never;
type Fields<S extends string> = S extends `${string}{${infer P}}${infer R}` ? Field<P> | Fields<R> : never;
type Args<K extends MessageKey> = [Fields<(typeof en)[K]>] extends [never]
  ? []
  : [values: Record<Fields<(typeof en)[K]>, string | number>];

const catalogues: Record<Lang, Record<MessageKey, string>> = { en, "zh-CN": zh };

/** `early.js` has put the choice of the account, of this browser or of its user on the document. */
export const lang = createStore<Lang>(document.documentElement.lang === "zh-CN" ? "zh-CN" : "en");

export function setLang(next: Lang): void {
  memory.set("fust.lang", next);
  document.documentElement.lang = next;
  lang.set(next);
}

/** The text of `key` in the language chosen. */
export function t<K extends MessageKey>(key: K, ...values: Args<K>): string {
  const chosen = lang.get();
  return format(catalogues[chosen][key], (values[0] ?? {}) as Values, chosen);
}

/** For keys put together at run time, such as the name of a state; undefined when there is none. */
export function maybe(key: string): string | undefined {
  return key in en ? format(catalogues[lang.get()][key as MessageKey], {}, lang.get()) : undefined;
}

/** Makes a component render again when the language changes. */
export const useLang = (): Lang => useStore(lang);
