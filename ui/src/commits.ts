import { call } from "./api";
import { apiOf, type RepoName } from "./hub";

/** One change of a commit, as the hub's API takes it. */
export type Operation =
  | { key: "file"; value: { path: string; content: string; encoding: "base64" | "utf-8" } }
  | { key: "lfsFile"; value: { path: string; algo: "sha256"; oid: string; size: number } }
  | { key: "copyFile"; value: { path: string; srcPath: string; srcRevision: string } }
  | { key: "deletedFile"; value: { path: string } };

export interface Message {
  summary: string;
  description: string;
}

/** Where a commit goes: to a branch, or into a new pull request upon it. */
export interface Aim {
  revision: string;
  propose: boolean;
  /** The commit that was read: the server refuses when the branch has moved since. */
  parent?: string;
}

/** Sends a commit; returns where to look at it, below the root. */
export async function sendCommit(repo: RepoName, aim: Aim, message: Message, operations: Operation[]): Promise<{ oid: string; request: number | null }> {
  const header = { key: "header", value: { ...message, ...(aim.parent === undefined ? {} : { parentCommit: aim.parent }) } };
  const data = new Blob([header, ...operations].map((line) => `${JSON.stringify(line)}\n`));
  const answer = await call<{ commitOid: string; pullRequestUrl: string | null }>(
    `${apiOf(repo)}/commit/${encodeURIComponent(aim.revision)}${aim.propose ? "?create_pr=1" : ""}`,
    { method: "POST", raw: { type: "application/x-ndjson", data } },
  );
  const request = /\/discussions\/(\d+)$/.exec(answer.pullRequestUrl ?? "");
  return { oid: answer.commitOid, request: request ? Number(request[1]) : null };
}

/** The bytes of a file in base64. */
export function base64Of(data: Blob): Promise<string> {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(String(reader.result).replace(/^[^,]*,/, ""));
    reader.onerror = () => failed(reader.error ?? new Error("unreadable"));
    reader.readAsDataURL(data);
  });
}
