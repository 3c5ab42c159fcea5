import { call, Problem, type SessionAnswer, type Status, type User } from "./api";
import { setLang } from "./i18n";
import { createStore } from "./store";
import { setTheme } from "./theme";
import { unkeptOf } from "./unkept";

export type Session =
  | { state: "asking" }
  | { state: "in"; user: User; version: string }
  | { state: "out"; version: string }
  | { state: "lost"; problem: Problem };

export const session = createStore<Session>({ state: "asking" });

/** The machine's status, refreshed while someone is signed in and the page is visible. */
export const status = createStore<Status | null>(null);

export async function askSession(): Promise<void> {
  try {
    const answer = await call<SessionAnswer>("fust/v1/session");
    if (answer.user !== null && session.get().state !== "in") wear(answer.user);
    session.set(answer.user === null ? { state: "out", version: answer.version } : { state: "in", user: answer.user, version: answer.version });
    if (answer.user !== null) await refreshStatus();
  } catch (error) {
    if (error instanceof Problem) session.set({ state: "lost", problem: error });
  }
}

/** Puts on what the account has chosen, in this browser too. */
function wear(user: User): void {
  const { language = user.language, theme = user.theme } = unkeptOf(user);
  if (language) setLang(language);
  if (theme) setTheme(theme);
}

/** Signs in; throws `Problem` when the server refuses. */
export async function signIn(body: { token: string } | { name: string; password: string }): Promise<void> {
  await call("fust/v1/session", { method: "POST", body });
  await askSession();
}

export async function signOut(): Promise<void> {
  try {
    await call("fust/v1/session", { method: "DELETE" });
  } finally {
    status.set(null);
    await askSession();
  }
}

/** Called when any answer says that the session is over. */
export function sessionEnded(): void {
  const now = session.get();
  if (now.state === "in") session.set({ state: "out", version: now.version });
}

export async function refreshStatus(): Promise<void> {
  try {
    status.set(await call<Status>("fust/v1/status"));
  } catch (error) {
    if (error instanceof Problem && error.status === 401) sessionEnded();
  }
}

setInterval(() => {
  if (session.get().state === "in" && document.visibilityState === "visible") void refreshStatus();
}, 10_000);
