import { createStore, memory } from "./store";

export type Theme = "system" | "light" | "dark";
const ORDER: readonly Theme[] = ["system", "light", "dark"];

function remembered(): Theme {
  const kept = memory.get("fust.theme");
  return kept === "light" || kept === "dark" ? kept : "system";
}

export const theme = createStore<Theme>(remembered());

export function setTheme(next: Theme): void {
  memory.set("fust.theme", next === "system" ? null : next);
  if (next === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = next;
  theme.set(next);
}

export function nextTheme(now: Theme): Theme {
  return ORDER[(ORDER.indexOf(now) + 1) % ORDER.length] ?? "system";
}
