import { call } from "./api";
import { setLang, type Lang } from "./i18n";
import { session } from "./session";
import { setTheme, type Theme } from "./theme";

let last: Promise<unknown> = Promise.resolve();

/** Keeps a choice with the account, so that it holds in every browser; one after the other, the last one stays. */
function keep(choice: { language: Lang } | { theme: Theme }): Promise<void> {
  const now = session.get();
  if (now.state !== "in") return Promise.resolve();
  const path = `fust/v1/users/${encodeURIComponent(now.user.name)}`;
  const kept = last.then(() => call<void>(path, { method: "PATCH", body: choice }));
  last = kept.catch(() => undefined);
  return kept;
}

/** Shows the page in a language, and keeps that; throws `Problem` when only this browser will remember it. */
export function chooseLang(next: Lang): Promise<void> {
  setLang(next);
  return keep({ language: next });
}

/** As `chooseLang`, for the theme. */
export function chooseTheme(next: Theme): Promise<void> {
  setTheme(next);
  return keep({ theme: next });
}
