import { useCallback, useEffect, useState } from "preact/hooks";
import { Problem, send } from "./api";
import { useLang } from "./i18n";
import { useAct } from "./load";
import { sessionEnded } from "./session";

interface Slice<T> {
  items: T[];
  /** How many there are in all; null where the server does not say. */
  total: number | null;
  next: string | null;
}

export interface Paged<T> {
  /** Those that have come; undefined until the first answer. */
  items: T[] | undefined;
  total: number | null;
  problem: Problem | null;
  /** Whether there are more to ask for. */
  more: boolean;
  busy: boolean;
  load: () => void;
  reload: () => void;
}

/** Reads one page of a list: Fust's own names the next one in its body, the hub's API in `Link` (RFC 8288). */
async function readSlice<T>(path: string, cursor: string | null, signal?: AbortSignal): Promise<Slice<T>> {
  const asked = cursor === null ? path : `${path}${path.includes("?") ? "&" : "?"}cursor=${encodeURIComponent(cursor)}`;
  const answer = await send(asked, { signal });
  const body = (await answer.json()) as T[] | { items: T[]; total?: number; next?: string | null };
  if (!Array.isArray(body)) return { items: body.items, total: body.total ?? null, next: body.next ?? null };
  const next = /<([^>]+)>;\s*rel="next"/.exec(answer.headers.get("link") ?? "")?.[1];
  return { items: body, total: null, next: next === undefined ? null : new URL(next).searchParams.get("cursor") };
}

/** Reads a list to its end. */
export async function readAll<T>(path: string, signal: AbortSignal): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | null = null;
  do {
    const slice: Slice<T> = await readSlice<T>(path, cursor, signal);
    items.push(...slice.items);
    cursor = slice.next;
  } while (cursor !== null);
  return items;
}

/** A list that comes page by page; the last answer stays while another path is asked for. */
export function usePaged<T>(path: string): Paged<T> {
  const chosen = useLang(); // texts of the server come in the chosen language
  const [found, setFound] = useState<(Slice<T> & { path: string }) | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const [turn, setTurn] = useState(0);
  const act = useAct();

  useEffect(() => {
    const stop = new AbortController();
    readSlice<T>(path, null, stop.signal)
      .then((slice) => {
        setFound({ ...slice, path });
        setProblem(null);
      })
      .catch((error: unknown) => {
        if (!(error instanceof Problem)) return;
        if (error.status === 401) sessionEnded();
        setProblem(error);
      });
    return () => stop.abort();
  }, [path, chosen, turn]);

  const load = useCallback(() => {
    if (found?.next == null) return;
    void act.run(async () => {
      const slice = await readSlice<T>(found.path, found.next);
      setFound((was) => (was === found ? { ...slice, path: found.path, items: [...found.items, ...slice.items] } : was));
    });
  }, [found, act.run]);

  return {
    items: found?.items,
    total: found?.total ?? null,
    problem: problem ?? act.problem,
    more: found?.next != null,
    busy: act.busy,
    load,
    reload: () => setTurn(turn + 1),
  };
}
