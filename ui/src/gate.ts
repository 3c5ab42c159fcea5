import { useEffect, useState } from "preact/hooks";
import { call, type Repo } from "./api";
import { apiOf, viewOf, type RepoName } from "./hub";
import { lang, t } from "./i18n";
import { useLoad, type Loaded } from "./load";
import { repoPath } from "./router";

export type Gated = "no" | "auto" | "manual";
export type Standing = "free" | "none" | "pending" | "accepted" | "rejected" | "expired" | "outdated";
export type RequestState = "pending" | "accepted" | "rejected" | "expired";

export interface GateField {
  name: string;
  type: "text" | "checkbox" | "date_picker" | "country" | "select";
  options: { value: string; label: string }[];
}
/** The gate of a repo, as its reader meets it. */
export interface Gate {
  gated: Gated;
  open: boolean;
  standing: Standing;
  heading: string;
  description: string;
  prompt: string;
  button: string;
  fields: GateField[];
  eu_disallowed: boolean;
  /** Hash of the terms. */
  terms: string;
  version: number | null;
  request: { asked_at: string; decided_at: string | null; decided_by: string; until: string | null; reason: string; version: number | null } | null;
  may_decide: boolean;
  may_change: boolean;
  asked_again_at: string | null;
  counts: Record<RequestState, number> | null;
}
/** A request as those see it who decide. */
export interface AccessRequest {
  requestId: string;
  user: { user: string; fullname: string };
  status: "pending" | "accepted" | "rejected";
  timestamp: string;
  fields: Record<string, string | boolean> | null;
  ended: boolean;
  until: string | null;
  decidedAt: string | null;
  decidedBy: string;
  rejectionReason: string;
  termsVersion: number | null;
}

export const useGate = (repo: Repo): Loaded<Gate> => useLoad<Gate>(`${viewOf(repo)}/gate`);

export function ask(repo: RepoName, terms: string, fields: Record<string, string | boolean>): Promise<AccessRequest> {
  const kind = repo.type === "model" ? "" : `${repo.type}s/`;
  return call(`${kind}${repoPath(repo.repo_id)}/ask-access`, { method: "POST", body: { terms, fields } });
}

interface Decision {
  user: string;
  status: AccessRequest["status"];
  rejectionReason?: string;
  until?: string;
}

export function decide(repo: RepoName, decision: Decision): Promise<AccessRequest> {
  return call(`${apiOf(repo)}/user-access-request/handle`, { method: "POST", body: decision });
}

export function grant(repo: RepoName, user: string, until: string): Promise<AccessRequest> {
  return call(`${apiOf(repo)}/user-access-request/grant`, { method: "POST", body: until === "" ? { user } : { user, until } });
}

export function change(repo: RepoName, body: { gated: "auto" | "manual" | false } | { askAgain: true }): Promise<unknown> {
  return call(`${apiOf(repo)}/settings`, { method: "PUT", body });
}

/** Who may have a repo's files, in a word. */
export function accessWord(repo: Pick<Repo, "private" | "gated">): string {
  return repo.private ? t("facet.private") : repo.gated === "no" ? t("facet.open") : t("facet.gated");
}

/** The choices of a field; countries by the name that the reader knows. */
export function choices(field: GateField): { value: string; label: string }[] {
  if (field.type !== "country") return field.options;
  const names = new Intl.DisplayNames([lang.get()], { type: "region" });
  const order = new Intl.Collator(lang.get());
  return field.options.map(({ value }) => ({ value, label: names.of(value) ?? value })).sort((a, b) => order.compare(a.label, b.label));
}

/** The people whose names begin like what is typed. */
export function useOffers(typed: string): { name: string; full_name: string }[] {
  const [offers, setOffers] = useState<{ name: string; full_name: string }[]>([]);
  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(() => {
      call<{ items: { name: string; full_name: string }[] }>(`fust/v1/people?limit=10&search=${encodeURIComponent(typed.trim())}`, { signal: stop.signal })
        .then((found) => setOffers(found.items))
        .catch(() => setOffers([])); // a help only: sending says what is wrong
    }, 200);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [typed]);
  return offers;
}
