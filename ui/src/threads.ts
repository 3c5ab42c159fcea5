import { Problem, problemFrom, send } from "./api";
import { createStore, memory } from "./store";
import { eventsOf } from "./stream";

/** Conversations: kept in this browser, one entry of local storage each, never on the server. */
export interface Message {
  role: "user" | "assistant";
  text: string;
  model: string;
  thinking?: string;
  state?: "growing" | "stopped" | "failed";
  stats?: Stats;
  trouble?: Trouble;
}
export interface Stats {
  tokens: number;
  tokens_per_s: number | null;
  ttft_s: number | null;
  prompt_tokens: number | null;
}
export interface Trouble {
  status: number;
  code: string;
  detail: string;
  hint: string | null;
  requestId: string | null;
}
export interface Thread {
  id: string;
  title: string;
  changed: number;
  messages: Message[];
}

const MOST_THREADS = 60;
let prefix = "";

export const threads = createStore<Thread[]>([]);
/** Ids of the threads in which an answer is being written. */
export const growing = createStore<ReadonlyMap<string, AbortController>>(new Map());

/** Loads the conversations of `user`; each user of a browser has their own. */
export function openThreads(user: string): void {
  const wanted = `fust.chat.${user}.`;
  if (wanted === prefix) return;
  prefix = wanted;
  const found: Thread[] = [];
  for (const key of storedKeys()) {
    try {
      const thread = JSON.parse(memory.get(key) ?? "") as Thread;
      if (!Array.isArray(thread.messages)) continue;
      // A reload ended the answer; what had arrived is kept.
      for (const message of thread.messages) if (message.state === "growing") message.state = "stopped";
      found.push(thread);
    } catch {
      memory.set(key, null);
    }
  }
  threads.set(found.sort((a, b) => b.changed - a.changed));
}

function storedKeys(): string[] {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(prefix));
  } catch {
    return [];
  }
}

function save(thread: Thread): void {
  if (memory.set(prefix + thread.id, JSON.stringify(thread))) return;
  // The browser's store is full: the oldest conversation makes room, once.
  const oldest = threads.get().at(-1);
  if (oldest === undefined || oldest.id === thread.id) return;
  removeThread(oldest.id);
  memory.set(prefix + thread.id, JSON.stringify(thread));
}

/** Puts a changed thread in its place, first; `keep` false leaves the stored copy for later. */
function put(thread: Thread, keep = true): void {
  const others = threads.get().filter((it) => it.id !== thread.id);
  for (const old of others.slice(MOST_THREADS - 1)) memory.set(prefix + old.id, null);
  threads.set([thread, ...others.slice(0, MOST_THREADS - 1)]);
  if (keep) save(thread);
}

export function removeThread(id: string): void {
  growing.get().get(id)?.abort();
  memory.set(prefix + id, null);
  threads.set(threads.get().filter((it) => it.id !== id));
}

export function stopAnswer(id: string): void {
  growing.get().get(id)?.abort();
}

/** Adds what the user said (a new thread when `id` is null) and starts the answer. Returns the thread's id. */
export function ask(id: string | null, model: string, text: string): string {
  const was = threads.get().find((it) => it.id === id);
  const thread: Thread = was ?? { id: newId(), title: text.slice(0, 80).split("\n")[0] ?? "", changed: 0, messages: [] };
  const next = { ...thread, changed: Date.now(), messages: [...thread.messages, { role: "user" as const, text, model }] };
  put(next);
  void answer(next.id, model);
  return next.id;
}

/** Drops the last answer and asks again, with the model chosen now. */
export function regenerate(id: string, model: string): void {
  const thread = threads.get().find((it) => it.id === id);
  if (thread === undefined) return;
  const messages = [...thread.messages];
  while (messages.at(-1)?.role === "assistant") messages.pop();
  put({ ...thread, messages });
  void answer(id, model);
}

function newId(): string {
  // randomUUID is missing on plain http away from localhost.
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}

function setGrowing(id: string, controller: AbortController | null): void {
  const next = new Map(growing.get());
  if (controller === null) next.delete(id);
  else next.set(id, controller);
  growing.set(next);
}

interface Chunk {
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null } }[];
  usage?: { completion_tokens?: number; prompt_tokens?: number } | null;
  error?: unknown;
}

async function answer(id: string, model: string): Promise<void> {
  const stop = new AbortController();
  setGrowing(id, stop);
  const message: Message = { role: "assistant", text: "", model, state: "growing" };
  const started = performance.now();
  let first: number | null = null;
  let last = started;
  let counted = 0;
  let saved = started;

  const show = (keep: boolean): void => {
    const thread = threads.get().find((it) => it.id === id);
    if (thread === undefined) return;
    const before = thread.messages.at(-1)?.state === "growing" ? thread.messages.slice(0, -1) : thread.messages;
    put({ ...thread, changed: Date.now(), messages: [...before, { ...message }] }, keep);
  };
  const measure = (usage: Chunk["usage"]): Stats => {
    const tokens = usage?.completion_tokens ?? counted;
    const writing = first === null ? 0 : (last - first) / 1000;
    return {
      tokens,
      tokens_per_s: tokens > 1 && writing > 0 ? (tokens - 1) / writing : null,
      ttft_s: first === null ? null : (first - started) / 1000,
      prompt_tokens: usage?.prompt_tokens ?? message.stats?.prompt_tokens ?? null,
    };
  };
  show(true);

  let drawn = 0;
  try {
    const thread = threads.get().find((it) => it.id === id);
    const messages = (thread?.messages ?? []).filter((it) => it.text !== "").map((it) => ({ role: it.role, content: it.text }));
    const reply = await send("v1/chat/completions", {
      method: "POST",
      body: { model, messages, stream: true, stream_options: { include_usage: true } },
      signal: stop.signal,
    });
    for await (const { data } of eventsOf(reply)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error !== undefined) throw problemFrom(chunk as Record<string, unknown>, 200, reply.headers.get("x-request-id"));
      const delta = chunk.choices?.[0]?.delta;
      if (delta?.content || delta?.reasoning_content) {
        last = performance.now();
        first ??= last;
        counted += 1;
        message.text += delta.content ?? "";
        if (delta.reasoning_content) message.thinking = (message.thinking ?? "") + delta.reasoning_content;
      }
      const final = chunk.usage ?? undefined;
      if (final !== undefined || last - drawn > 60) {
        drawn = last;
        message.stats = measure(final);
        const keep = last - saved > 1500;
        if (keep) saved = last;
        show(keep);
      }
    }
    const { state: _, ...done } = message;
    finish(id, done);
  } catch (error) {
    if (stop.signal.aborted) finish(id, { ...message, stats: measure(undefined), state: "stopped" });
    else {
      const problem = error instanceof Problem ? error : new Problem(0, "unreachable", "", null, null);
      const { status, code, detail, hint, requestId } = problem;
      finish(id, { ...message, state: "failed", trouble: { status, code, detail, hint, requestId } });
    }
  } finally {
    setGrowing(id, null);
  }
}

function finish(id: string, message: Message): void {
  const thread = threads.get().find((it) => it.id === id);
  if (thread === undefined) return;
  const before = thread.messages.at(-1)?.state === "growing" ? thread.messages.slice(0, -1) : thread.messages;
  put({ ...thread, changed: Date.now(), messages: [...before, message] });
}
