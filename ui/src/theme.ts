import { createStore, memory } from "./store";

export type Theme = "system" | "light" | "dark";
const ORDER: readonly Theme[] = ["system", "light", "dark"];

/** `early.js` has put the choice of the account, or of this browser, on the document. */
export const theme = createStore<Theme>((document.documentElement.dataset["theme"] as Theme | undefined) ?? "system");

export function setTheme(next: Theme): void {
  memory.set("fust.theme", next === "system" ? null : next);
  if (next === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = next;
  theme.set(next);
}

export function nextTheme(now: Theme): Theme {
  return ORDER[(ORDER.indexOf(now) + 1) % ORDER.length] ?? "system";
}
