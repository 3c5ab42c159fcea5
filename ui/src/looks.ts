import { call } from "./api";
import { setLang, type Lang } from "./i18n";
import { session } from "./session";
import { setTheme, type Theme } from "./theme";
import { confirm, remember, unkeptOf, type Choice } from "./unkept";

let last: Promise<unknown> = Promise.resolve();

/** Keeps a choice with the account, so that it holds in every browser; one after the other, the last one stays. */
function keep(choice: Choice): Promise<void> {
  const now = session.get();
  if (now.state !== "in") return Promise.resolve();
  const { user } = now;
  remember(user, choice);
  const path = `fust/v1/users/${encodeURIComponent(user.name)}`;
  const kept = last.then(() => call<void>(path, { method: "PATCH", body: choice })).then(() => confirm(user, choice));
  last = kept.catch(() => undefined);
  return kept;
}

/** Sends what a page that was left at once could not. */
export function keepWhatIsLeft(): void {
  const now = session.get();
  if (now.state !== "in") return;
  const left = unkeptOf(now.user);
  if (Object.keys(left).length > 0) void keep(left).catch(() => undefined);
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
