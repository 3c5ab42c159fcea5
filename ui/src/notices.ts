import { call, Problem } from "./api";
import { lang } from "./i18n";
import { refreshStatus, session, status } from "./session";
import { createStore } from "./store";

export interface Notice {
  id: string;
  state: "needs" | "succeeded" | "failed";
  message: string;
  hint: string;
  href: string;
  at: string | null;
  unread: boolean;
}
export interface Notices {
  items: Notice[];
  unread: number;
}

/** What the bell tells; asked for with every fresh status, so that nothing polls twice. */
export const notices = createStore<Notices | null>(null);

async function refresh(): Promise<void> {
  if (session.get().state !== "in") return notices.set(null);
  try {
    notices.set(await call<Notices>("fust/v1/notices"));
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // the status says what is wrong
  }
}

status.subscribe(() => void refresh());
lang.subscribe(() => void refresh());

/** Notes on the server that the news were seen; what needs someone stays. Throws `Problem`. */
export async function markRead(): Promise<void> {
  notices.set(await call<Notices>("fust/v1/notices/read", { method: "POST" }));
  await refreshStatus();
}
