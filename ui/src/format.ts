import { lang, maybe, t } from "./i18n";

export function integer(n: number): string {
  return new Intl.NumberFormat(lang.get()).format(n);
}

/** At most `digits` after the point. */
export function decimal(n: number, digits = 1, least = 0): string {
  return new Intl.NumberFormat(lang.get(), { maximumFractionDigits: digits, minimumFractionDigits: least }).format(n);
}

/** A large number as two or three figures and a word or letter: 1.2M, 120万. */
export function compact(n: number): string {
  return new Intl.NumberFormat(lang.get(), { notation: "compact" }).format(n);
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"] as const;

/** A size as its figure and unit (decimal: 1 kB is 1000 bytes). */
export function bytes(n: number, unit?: (typeof UNITS)[number]): { figure: string; unit: (typeof UNITS)[number] } {
  let step = unit === undefined ? 0 : UNITS.indexOf(unit);
  if (unit === undefined) while (step < UNITS.length - 1 && n >= 999.5 * 1000 ** step) step += 1;
  const value = n / 1000 ** step;
  const digits = step === 0 ? 0 : value < 10 ? 1 : value < 100 && step >= 3 ? 1 : 0;
  return { figure: decimal(value, digits, digits), unit: UNITS[step] ?? "B" };
}

/** What a job counts, as its figure and unit; `unit` is the server's word for it. */
export function amount(n: number, unit: string | null): [figure: string, unit: string] {
  if (unit === "bytes") {
    const found = bytes(n);
    return [found.figure, found.unit];
  }
  return [decimal(n, n < 1 ? 3 : 1), (unit && maybe(`unit.${unit}`)) ?? unit ?? ""];
}

export function size(n: number): string {
  const { figure, unit } = bytes(n);
  return `${figure} ${unit}`;
}

function isToday(at: Date): boolean {
  return at.toDateString() === new Date().toDateString();
}

/** Clock time today, else the date. */
export function when(iso: string): string {
  const at = new Date(iso);
  const how: Intl.DateTimeFormatOptions = isToday(at)
    ? { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }
    : { day: "numeric", month: "short", ...(at.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" }) };
  return new Intl.DateTimeFormat(lang.get() === "en" ? "en-GB" : "zh-CN", how).format(at);
}

/** Hours, minutes and seconds of the reader's clock, for logs. */
export function clock(iso: string): string {
  return new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }).format(new Date(iso));
}

export function fullTime(iso: string): string {
  return new Intl.DateTimeFormat(lang.get() === "en" ? "en-GB" : "zh-CN", { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));
}

export function todayLong(): string {
  return new Intl.DateTimeFormat(lang.get() === "en" ? "en-GB" : "zh-CN", { dateStyle: "full", timeStyle: "short" }).format(new Date());
}

/** "3 minutes ago". */
export function ago(iso: string): string {
  const s = (new Date(iso).getTime() - Date.now()) / 1000;
  const rel = new Intl.RelativeTimeFormat(lang.get(), { numeric: "auto" });
  const size = Math.abs(s);
  if (size < 45) return t("time.now");
  if (size < 45 * 60) return rel.format(Math.round(s / 60), "minute");
  if (size < 22 * 3600) return rel.format(Math.round(s / 3600), "hour");
  if (size < 26 * 86400) return rel.format(Math.round(s / 86400), "day");
  return rel.format(Math.round(s / 2629800), "month");
}

/** A span of seconds in the largest two units that matter. */
export function span(s: number): string {
  if (s < 10) return t("time.s", { n: decimal(s, 1) });
  if (s < 90) return t("time.s", { n: integer(Math.round(s)) });
  if (s < 90 * 60) return t("time.min", { n: integer(Math.round(s / 60)) });
  return t("time.h", { n: decimal(s / 3600, 1) });
}

/** Small numbers as words of the language, larger ones as figures. */
export function words(n: number): string {
  const list = t("number.words").split(" ");
  return list[n] ?? (lang.get() === "en" ? integer(n) : `${integer(n)} `);
}

export function sentence(text: string): string {
  return text.charAt(0).toLocaleUpperCase(lang.get()) + text.slice(1);
}

/** The name of a language in itself ("zh" → 中文); the code when the browser does not know it. */
export function endonym(code: string): string {
  try {
    return new Intl.DisplayNames([code], { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}
