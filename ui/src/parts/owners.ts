import type { Page } from "../api";
import type { Organisation } from "../accounts";
import { useLoad } from "../load";
import { session } from "../session";
import { useStore } from "../store";

/**
 * The names under which the reader may make things: their own, then organisations: those whose settings they may
 * change, or with "write" those that they may write to.
 */
export function useOwners(right: "settings" | "write" = "settings"): string[] {
  const now = useStore(session);
  const found = useLoad<Page<Organisation>>("fust/v1/organisations");
  if (now.state !== "in") return [];
  const theirs = found.data?.items.filter((it) => it.may.includes("settings") || (right === "write" && it.role === "write")).map((it) => it.name) ?? [];
  return [now.user.name, ...theirs.filter((name) => name !== now.user.name)];
}
