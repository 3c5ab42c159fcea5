import type { Page } from "../api";
import type { Organisation } from "../accounts";
import { useLoad } from "../load";
import { session } from "../session";
import { useStore } from "../store";

/** The names under which the reader may make things: their own, then the organisations whose settings they may change. */
export function useOwners(): string[] {
  const now = useStore(session);
  const found = useLoad<Page<Organisation>>("fust/v1/organisations");
  if (now.state !== "in") return [];
  const theirs = found.data?.items.filter((it) => it.may.includes("settings")).map((it) => it.name) ?? [];
  return [now.user.name, ...theirs.filter((name) => name !== now.user.name)];
}
