import type { Conversation, Turn } from "./types";

/** The turns from the first to `leaf`. */
export function pathTo(turns: ReadonlyMap<string, Turn>, leaf: string | null): Turn[] {
  const path: Turn[] = [];
  let at = leaf === null ? undefined : turns.get(leaf);
  while (at !== undefined && path.length <= turns.size) {
    path.push(at);
    at = at.parent === null ? undefined : turns.get(at.parent);
  }
  return path.reverse();
}

/** The turns that are shown; a leaf that is missing is made up for by the newest turn. */
export function shownPath({ turns, leaf }: Conversation): Turn[] {
  return pathTo(turns, leaf !== null && turns.has(leaf) ? leaf : ([...turns.keys()].at(-1) ?? null));
}

/** All versions of each place, by the id of its parent ("" for the first). */
export function versionsOf(turns: ReadonlyMap<string, Turn>): Map<string, Turn[]> {
  const found = new Map<string, Turn[]>();
  for (const turn of turns.values()) {
    const key = turn.parent ?? "";
    const there = found.get(key);
    if (there === undefined) found.set(key, [turn]);
    else there.push(turn);
  }
  return found;
}

/** The end of the newest branch below a turn. */
export function newestLeaf(turns: ReadonlyMap<string, Turn>, from: string): string {
  const versions = versionsOf(turns);
  let at = from;
  for (let steps = 0; steps <= turns.size; steps += 1) {
    const next = versions.get(at)?.at(-1);
    if (next === undefined) break;
    at = next.id;
  }
  return at;
}
