import type { User } from "./api";
import type { Lang } from "./i18n";
import { memory } from "./store";
import type { Theme } from "./theme";

export interface Choice {
  language?: Lang;
  theme?: Theme;
}

/** `early.js` reads it too. */
const KEY = "fust.unkept";

/** What was chosen last and the server has not confirmed: a page that is left at once cuts its request off. */
export function unkeptOf(user: User): Choice {
  try {
    const { name, ...choice } = JSON.parse(memory.get(KEY) ?? "{}") as Choice & { name?: string };
    return name === user.name ? choice : {};
  } catch {
    return {};
  }
}

/** Remembers a choice until `confirm`. */
export function remember(user: User, choice: Choice): void {
  memory.set(KEY, JSON.stringify({ ...unkeptOf(user), ...choice, name: user.name }));
}

/** Forgets a choice that the server has, unless another one followed it. */
export function confirm(user: User, choice: Choice): void {
  const left = unkeptOf(user);
  if (left.language === choice.language) delete left.language;
  if (left.theme === choice.theme) delete left.theme;
  memory.set(KEY, Object.keys(left).length === 0 ? null : JSON.stringify({ ...left, name: user.name }));
}
