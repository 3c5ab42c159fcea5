import type { Repo, RepoType } from "./api";
import { repoPath } from "./router";

export type RepoName = Pick<Repo, "type" | "repo_id">;

/** Where a repo's page is, below the root. */
export const placeOf = (repo: RepoName): string => `${repo.type}s/${repoPath(repo.repo_id)}`;

/** Where the hub's API of a repo begins. */
export const apiOf = (repo: RepoName): string => `api/${repo.type}s/${repoPath(repo.repo_id)}`;

/** Where Fust's own view of a repo begins. */
export const viewOf = (repo: RepoName): string => `fust/v1/repos/${repo.type}/${repoPath(repo.repo_id)}`;

export type TalkStatus = "open" | "draft" | "closed" | "merged";
export interface Author {
  name: string;
}
export interface Talk {
  num: number;
  title: string;
  status: TalkStatus;
  author: Author;
  isPullRequest: boolean;
  createdAt: string;
  numComments: number;
}
export interface TalkPage {
  discussions: Talk[];
  count: number;
  start: number;
}
export interface Version {
  raw: string;
  updatedAt: string;
  author: Author;
}
interface EventOf<Type extends string, Data> {
  id: string;
  type: Type;
  author: Author;
  createdAt: string;
  data: Data;
}
export type CommentEvent = EventOf<"comment", { edited: boolean; hidden: boolean; latest: Version; history: Version[] }>;
export type TalkEvent =
  | CommentEvent
  | EventOf<"status-change", { status: TalkStatus }>
  | EventOf<"title-change", { from: string; to: string }>
  | EventOf<"commit", { subject: string; oid: string }>;
export interface Thread extends Talk {
  events: TalkEvent[];
  changes?: { base: string; mergeCommitId?: string };
  filesWithConflicts?: string[];
}

/** "model", "dataset" or "space" of an address part in the plural; undefined for others. */
export function typeOf(plural: string | undefined): RepoType | undefined {
  return ({ models: "model", datasets: "dataset", spaces: "space" } as const)[plural ?? ""];
}

/** Whether a revision is a commit, which nothing can be added to. */
export const isCommit = (revision: string): boolean => /^[0-9a-f]{40}$/.test(revision);

/** Where a repository's files are listed at a revision. */
export const filesOf = (repo: RepoName, revision: string): string => `${placeOf(repo)}?tab=files${revision === "main" ? "" : `&revision=${encodeURIComponent(revision)}`}`;
