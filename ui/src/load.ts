import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { call, Problem } from "./api";
import { sessionEnded } from "./session";
import { useLang } from "./i18n";

export interface Loaded<T> {
  data: T | undefined;
  problem: Problem | null;
  /** True until the first answer. */
  waiting: boolean;
  reload: () => Promise<void>;
}

/**
 * Loads `path` (null: nothing) and keeps the last answer while it loads again.
 * With `everyMs` it asks again at that pace while the page is visible.
 */
export function useLoad<T>(path: string | null, everyMs?: number): Loaded<T> {
  const chosen = useLang(); // texts of the server come in the chosen language
  const [state, setState] = useState<{ path: string | null; data?: T; problem: Problem | null }>({ path, problem: null });
  const turn = useRef(0);

  const reload = useCallback(async () => {
    const mine = (turn.current += 1);
    if (path === null) return;
    try {
      const data = await call<T>(path);
      if (mine === turn.current) setState({ path, data, problem: null });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) sessionEnded();
      if (mine === turn.current) setState((was) => ({ path, data: was.path === path ? was.data : undefined, problem: error }));
    }
  }, [path, chosen]);

  useEffect(() => {
    void reload();
    const timer = everyMs === undefined ? undefined : setInterval(() => {
      if (document.visibilityState === "visible") void reload();
    }, everyMs);
    return () => {
      turn.current += 1;
      clearInterval(timer);
    };
  }, [reload, everyMs]);

  const fresh = state.path === path;
  return {
    data: fresh ? state.data : undefined,
    problem: fresh ? state.problem : null,
    waiting: path !== null && (!fresh || (state.data === undefined && state.problem === null)),
    reload,
  };
}

/** Runs something the user asked for: says when it is under way and what went wrong. */
export function useAct(): { busy: boolean; problem: Problem | null; run: (work: () => Promise<void>) => Promise<void>; clear: () => void } {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  const run = useCallback(async (work: () => Promise<void>) => {
    setBusy(true);
    setProblem(null);
    try {
      await work();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) sessionEnded();
      setProblem(error);
    } finally {
      setBusy(false);
    }
  }, []);
  return { busy, problem, run, clear: useCallback(() => setProblem(null), []) };
}
