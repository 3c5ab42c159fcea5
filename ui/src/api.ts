import { absoluteURL } from "./router";
import { lang, type Lang } from "./i18n";
import type { Theme } from "./theme";

/** What the server said when it refused, or that it could not be reached (`code` "unreachable"). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly detail: string,
    readonly hint: string | null,
    readonly requestId: string | null,
  ) {
    super(detail);
  }
}

export interface User {
  name: string;
  full_name?: string;
  is_admin: boolean;
  has_password: boolean;
  /** As chosen in any of their browsers; null when nothing was. */
  language: Lang | null;
  theme: Theme | null;
}
export interface SessionAnswer {
  user: User | null;
  version: string;
}
export interface Need {
  code: string;
  subject: string;
  message: string;
  hint: string | null;
  href: string | null;
}
export interface Status {
  version: string;
  started_at: string;
  home: string;
  base_url: string;
  openai_base_url: string;
  machine: {
    memory_total_bytes: number;
    memory_available_bytes: number;
    disk_total_bytes: number;
    disk_free_bytes: number;
    cores: number;
    load_1m: number;
  };
  counts: { models: number; datasets: number; deployments: number; runs_active: number };
  chosen: { what: string; value: string; why: string }[];
  needs: Need[];
  steps: { pulled: boolean; chatted: boolean; keyed: boolean; pushed: boolean };
}
export type Fit = "yes" | "no" | "unknown";
export type DeploymentState = "loading" | "ready" | "idle" | "failed" | "stopped";
export type RepoType = "model" | "dataset" | "space";
export interface RepoSummary {
  repo_id: string;
  type: RepoType;
  private: boolean;
  gated: "no" | "auto" | "manual";
  revision: string | null;
  created_at: string;
  updated_at: string;
  size_bytes: number;
  downloads: number;
  likes: number;
  licence: string | null;
  languages: string[];
  task: string | null;
  library: string;
  tags: string[];
  formats: string[];
  sdk: string;
  description: string | null;
  fits: Fit;
  fits_reason: string | null;
  deployment: { id: string; name: string; state: DeploymentState } | null;
}
export interface RepoFile {
  path: string;
  size_bytes: number;
  oid: string;
  lfs: boolean;
  sha256: string | null;
  /** Of one that may be loaded as a pickle. */
  safety?: { level: "safe" | "caution" | "suspicious" | "unsafe" | "queued"; imports: string[]; doubts: string[] } | null;
}
export interface Commit {
  oid: string;
  title: string;
  author: string;
  date: string;
  /** Of a commit that changed the licence; null or absent in others. */
  licence_before?: string | null;
  licence_after?: string | null;
}
export interface Leak {
  id: string;
  commit_oid: string;
  path: string;
  kind: string;
  line: number;
  by: string;
}
export interface Repo extends RepoSummary {
  /** What the reader may do with it. */
  may: ("discuss" | "push" | "settings" | "delete")[];
  liked: boolean;
  protected: string[];
  discussions_open: number;
  /** Whether the reader may have its files. */
  open: boolean;
  access_pending: number;
  files: RepoFile[];
  card: string | null;
  commits: Commit[];
  clone_url: string;
  /** Secrets in its history; for who may write to it. */
  leaks: Leak[];
}
export interface Preview {
  path: string;
  revision: string;
  size_bytes: number;
  kind: "table" | "text" | "none";
  format: string;
  columns: { name: string; kind: string }[];
  rows: (string | null)[][];
  text: string;
  more: boolean;
  rows_total: number | null;
  reason: string;
}
export interface Ref {
  name: string;
  kind: "branch" | "tag";
  oid: string;
}
export interface ChangedFile {
  path: string;
  change: "added" | "changed" | "moved" | "removed";
  old_path: string;
  size_before: number | null;
  size_after: number | null;
  large: boolean;
  sha256_before: string;
  sha256_after: string;
  hunks: { old_start: number; new_start: number; lines: string[] }[];
  cut: boolean;
}
export interface CommitDetails extends Commit {
  message: string;
  parents: string[];
  files: ChangedFile[];
  files_total: number;
}
export interface Comparison {
  base_oid: string;
  head_oid: string;
  start_oid: string;
  commits: Commit[];
  files: ChangedFile[];
  files_total: number;
}
export interface Storage {
  files: number;
  files_bytes: number;
  referenced_bytes: number;
  whole_bytes: number;
  xet_bytes: number;
  xorb_bytes: number;
  cache_bytes: number;
  cache_room_bytes: number;
}
export interface Check {
  name: string;
  state: "ok" | "warn" | "fail";
  value: string;
  mend: string;
}
export interface Page<T> {
  items: T[];
  next?: string | null;
  total?: number;
}
export type Scope = "read" | "write" | "admin";
export interface Key {
  id: string;
  name: string;
  scope: Scope;
  created_at: string;
  last_used_at: string | null;
  prefix: string;
}
export interface NewKey {
  id: string;
  name: string;
  scope: Scope;
  token: string;
}
export interface Deployment {
  id: string;
  name: string;
  alias: string | null;
  repo_id: string;
  file: string | null;
  revision: string | null;
  state: DeploymentState;
  pinned: boolean;
  engine: string;
  context: number | null;
  slots: number | null;
  threads: number | null;
  size_bytes: number | null;
  memory_bytes: number | null;
  started_at: string | null;
  last_used_at: string | null;
  error: string | null;
  note: string | null;
  /** How vectors are pooled; every model has a word here, not only those made for embedding. */
  pooling: string;
  /** Null until the file was read. */
  has_chat_template: boolean | null;
  why: string[];
  tokens_per_s: number | null;
  /** Requests on it now; those beyond `slots` wait. */
  busy: number;
  adapters: Adapter[];
  /** What it can: chat, embeddings, vision and so on. */
  capabilities: string[];
}
/** A small model beside a deployment; it answers as `DEPLOYMENT:name`. */
export interface Adapter {
  name: string;
  repo_id: string;
  file: string;
  revision: string;
  size_bytes: number;
  state: DeploymentState;
  error: string | null;
  /** Attached by a request that named it. */
  by_request: boolean;
}
export type RunState = "queued" | "running" | "succeeded" | "failed" | "cancelled";
export interface Progress {
  done: number | null;
  total: number | null;
  unit: string | null;
  message: string | null;
  rate: number | null;
  eta_s: number | null;
}
export interface Run {
  id: string;
  kind: string;
  title: string;
  owner: string;
  state: RunState;
  progress: Progress | null;
  params: Record<string, unknown>;
  result: Record<string, unknown> | null;
  error: { code: string; message: string; hint: string | null } | null;
  memory_bytes: number | null;
  cores: number | null;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
  waits_for: string | null;
}

/** Reads the problem out of an answer; knows our problem JSON and the OpenAI envelope. */
export async function problemOf(answer: Response): Promise<Problem> {
  const requestId = answer.headers.get("x-request-id");
  let body: Record<string, unknown> = {};
  try {
    body = (await answer.json()) as Record<string, unknown>;
  } catch {
    // Not JSON: a proxy answered, or nothing did.
  }
  return problemFrom(body, answer.status, requestId, answer.statusText);
}

export function problemFrom(
  body: Record<string, unknown>,
  status: number,
  requestId: string | null,
  fallback = "",
): Problem {
  const inner = typeof body["error"] === "object" && body["error"] !== null ? (body["error"] as Record<string, unknown>) : body;
  const text = (key: string): string | null => {
    const value = inner[key] ?? body[key];
    return typeof value === "string" && value !== "" ? value : typeof value === "number" ? String(value) : null;
  };
  return new Problem(
    status,
    text("code") ?? text("type") ?? String(status),
    text("detail") ?? text("message") ?? text("error") ?? text("title") ?? (fallback || `HTTP ${status}`),
    text("hint"),
    text("request_id") ?? requestId,
  );
}

interface CallOptions {
  method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  body?: unknown;
  /** A body as it is, with its media type; in place of `body`. */
  raw?: { type: string; data: BodyInit };
  signal?: AbortSignal;
  headers?: Record<string, string>;
}

/** Sends a request below the page's root; throws `Problem`. The answer's body is not read yet. */
export async function send(path: string, options: CallOptions = {}): Promise<Response> {
  const headers: Record<string, string> = { ...options.headers, "Accept-Language": lang.get() };
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  if (options.raw !== undefined) headers["Content-Type"] = options.raw.type;
  let answer: Response;
  try {
    answer = await fetch(absoluteURL(path), {
      method: options.method ?? "GET",
      headers,
      credentials: "same-origin",
      body: options.raw?.data ?? (options.body === undefined ? undefined : JSON.stringify(options.body)),
      signal: options.signal,
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "", null, null);
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

/** Sends a request and reads its JSON; undefined for an empty answer. */
export async function call<T>(path: string, options: CallOptions = {}): Promise<T> {
  const answer = await send(path, options);
  const text = await answer.text();
  return (text === "" ? undefined : JSON.parse(text)) as T;
}
