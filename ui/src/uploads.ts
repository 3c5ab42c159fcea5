import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { call, Problem, problemFrom } from "./api";
import { base64Of, type Operation } from "./commits";
import { apiOf, type RepoName } from "./hub";
import { lang } from "./i18n";
import { basePath, repoPath, url } from "./router";

const READ = 4 * 2 ** 20; // bytes hashed between two looks at the clock
const AT_ONCE = 3; // parts under way
const TRIES = 3;
const SAMPLE = 512;

/** A file that is to be in the repository, and its path there. */
export interface Wanted {
  path: string;
  file: File;
}
export interface Mode {
  path: string;
  uploadMode: "lfs" | "regular";
  shouldIgnore: boolean;
}
export type Stage = "hash" | "send";
/** Told again and again: `share` of 1 of the stage is done. */
export type OnProgress = (path: string, stage: Stage, share: number) => void;

/** Asks which files go to git itself and which are large. */
export async function modesOf(repo: RepoName, revision: string, propose: boolean, wanted: Wanted[]): Promise<Mode[]> {
  const files = await Promise.all(wanted.map(async ({ path, file }) => ({ path, size: file.size, sample: await base64Of(file.slice(0, SAMPLE)) })));
  const asked = `${apiOf(repo)}/preupload/${encodeURIComponent(revision)}${propose ? "?create_pr=1" : ""}`;
  return (await call<{ files: Mode[] }>(asked, { method: "POST", body: { files } })).files;
}

/** Brings a file to the server and returns what a commit says of it. */
export async function bring(repo: RepoName, { path, file }: Wanted, mode: Mode, tell: OnProgress, signal: AbortSignal): Promise<Operation> {
  if (mode.uploadMode === "regular") {
    const content = await base64Of(file);
    tell(path, "send", 1);
    return { key: "file", value: { path, content, encoding: "base64" } };
  }
  const oid = await hashOf(file, (share) => tell(path, "hash", share), signal);
  await sendLarge(repo, oid, file, (share) => tell(path, "send", share), signal);
  return { key: "lfsFile", value: { path, algo: "sha256", oid, size: file.size } };
}

async function hashOf(file: Blob, tell: (share: number) => void, signal: AbortSignal): Promise<string> {
  const digest = sha256.create();
  for (let at = 0; at < file.size; at += READ) {
    signal.throwIfAborted();
    digest.update(new Uint8Array(await file.slice(at, at + READ).arrayBuffer()));
    tell(Math.min(1, (at + READ) / file.size));
    await new Promise((go) => setTimeout(go)); // lets the page draw and the reader cancel
  }
  return bytesToHex(digest.digest());
}

interface Action {
  href: string;
  header?: Record<string, string>;
}
interface Batch {
  objects: { actions?: { upload?: Action }; error?: { message: string } }[];
}

/** Sends a large file as git-lfs does: whole, or in parts that are sent again when a connection breaks. */
async function sendLarge(repo: RepoName, oid: string, file: Blob, tell: (share: number) => void, signal: AbortSignal): Promise<void> {
  const kind = repo.type === "model" ? "" : `${repo.type}s/`;
  const body = { operation: "upload", transfers: ["basic", "multipart"], objects: [{ oid, size: file.size }] };
  const batch = await call<Batch>(`${kind}${repoPath(repo.repo_id)}.git/info/lfs/objects/batch`, { method: "POST", body, signal });
  const upload = batch.objects[0]?.actions?.upload;
  if (upload === undefined) return tell(1); // the bytes are here already
  const size = Number(upload.header?.["chunk_size"] ?? 0);
  if (size === 0) {
    await put(upload.href, file, (sent) => tell(sent / file.size), signal);
    return;
  }
  const hrefs = Object.entries(upload.header ?? {}).filter(([name]) => /^\d+$/.test(name)).sort(([a], [b]) => Number(a) - Number(b)).map(([, href]) => href);
  const sent = hrefs.map(() => 0);
  const etags: string[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let at = next++; at < hrefs.length; at = next++) {
      etags[at] = await put(hrefs[at]!, file.slice(at * size, (at + 1) * size), (bytes) => {
        sent[at] = bytes;
        tell(sent.reduce((sum, it) => sum + it, 0) / file.size);
      }, signal);
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, hrefs.length) }, worker));
  await call(pathOf(upload.href), { method: "POST", body: { oid, parts: etags.map((etag, at) => ({ partNumber: at + 1, etag })) }, signal });
}

/** A path below the root of an address that the server made with its public name, which may not be ours. */
function pathOf(href: string): string {
  const { pathname, search } = new URL(href);
  return (pathname.startsWith(basePath) ? pathname.slice(basePath.length) : pathname) + search;
}

/** PUTs bytes and returns the answer's ETag; a broken connection is tried again. Only XMLHttpRequest tells what was sent. */
async function put(href: string, body: Blob, tell: (bytes: number) => void, signal: AbortSignal): Promise<string> {
  for (let turn = 1; ; turn += 1) {
    try {
      return await putOnce(url(pathOf(href)), body, tell, signal);
    } catch (error) {
      const again = error instanceof Problem && (error.status === 0 || error.status >= 500) && turn < TRIES;
      if (!again) throw error;
      await new Promise((go) => setTimeout(go, 500 * turn));
    }
  }
}

function putOnce(address: string, body: Blob, tell: (bytes: number) => void, signal: AbortSignal): Promise<string> {
  return new Promise((done, failed) => {
    signal.throwIfAborted();
    const request = new XMLHttpRequest();
    const stop = (): void => request.abort();
    signal.addEventListener("abort", stop, { once: true });
    request.open("PUT", address);
    request.setRequestHeader("Accept-Language", lang.get());
    request.upload.onprogress = (event) => tell(event.loaded);
    request.onloadend = () => signal.removeEventListener("abort", stop);
    request.onabort = () => failed(new DOMException("cancelled", "AbortError"));
    request.onerror = () => failed(new Problem(0, "unreachable", "", null, null));
    request.onload = () => {
      if (request.status < 300) return done(request.getResponseHeader("etag") ?? "");
      failed(problemFrom(parsed(request.responseText), request.status, request.getResponseHeader("x-request-id"), request.statusText));
    };
    request.send(body);
  });
}

function parsed(text: string): Record<string, unknown> {
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return {}; // a proxy's page
  }
}
