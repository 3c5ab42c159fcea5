import { Problem, problemFrom, send } from "../api";
import { t } from "../i18n";
import { eventsOf } from "../stream";
import { requestFor } from "./request";
import { saveLast } from "./saving";
import { begin, find, growing, newId, pathOf, putTurn, titleOf, type Growing } from "./store";
import type { Settings, Stats, TextFile, Turn } from "./types";

const DRAW_MS = 60;
const SAVE_MS = 1000;
/** Of an answer that came within less, its speed is not known here: its pieces may have waited and come at once. */
const MEASURED_S = 0.2;

export interface Said {
  text: string;
  files: TextFile[];
}

/** Says something (in a new conversation when `id` is null) after `parent`, and starts the answer. Returns the conversation's id. */
export async function say(id: string | null, parent: string | null, model: string, said: Said, settings: Settings = {}): Promise<string> {
  const chat = id ?? (await begin(titleOf(said.text) || (said.files[0]?.name ?? "?"), settings)).id;
  const turn: Turn = { id: newId(), parent, role: "user", text: said.text, model, state: "done", ...(said.files.length > 0 ? { files: said.files } : {}) };
  putTurn(chat, turn);
  void answer(chat, turn.id, model);
  return chat;
}

/** Answers a message once more: a version beside those there are. */
export function answerAgain(chat: string, message: string, model: string): void {
  void answer(chat, message, model);
}

export function stopAnswer(chat: string): void {
  growing.get().get(chat)?.stop.abort();
}

function setGrowing(chat: string, own: Growing | null): void {
  const next = new Map(growing.get());
  if (own === null) next.delete(chat);
  else next.set(chat, own);
  growing.set(next);
}

interface Chunk {
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null } }[];
  usage?: { completion_tokens?: number; prompt_tokens?: number } | null;
  /** Of llama.cpp, with the last chunk. */
  timings?: { predicted_per_second?: number };
  error?: unknown;
}

async function answer(chat: string, parent: string, model: string): Promise<void> {
  const stop = new AbortController();
  let turn: Turn = { id: newId(), parent, role: "assistant", text: "", model, state: "growing" };
  setGrowing(chat, { stop, turn: turn.id });
  const started = performance.now();
  let first: number | null = null;
  let last = started;
  let drawn = 0;
  let saved = started;
  let counted = 0;
  let whole = false;

  const measure = (usage: Chunk["usage"], told?: number): Stats => {
    const tokens = usage?.completion_tokens ?? counted;
    const writing = first === null ? 0 : (last - first) / 1000;
    return {
      tokens,
      tokens_per_s: tokens < 2 ? null : (told ?? (writing > MEASURED_S ? (tokens - 1) / writing : null)),
      ttft_s: first === null ? null : (first - started) / 1000,
      prompt_tokens: usage?.prompt_tokens ?? turn.stats?.prompt_tokens ?? null,
    };
  };
  const leave = (): void => {
    if (find(chat)?.kept) saveLast(chat, turn);
  };
  addEventListener("pagehide", leave);
  putTurn(chat, turn);
  try {
    const body = requestFor(model, find(chat)?.settings ?? {}, pathOf(chat, parent));
    const reply = await send("v1/chat/completions", {
      method: "POST",
      body: { ...body, stream: true, stream_options: { include_usage: true } },
      signal: stop.signal,
    });
    for await (const { data } of eventsOf(reply)) {
      if (data === "[DONE]") {
        whole = true;
        break;
      }
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error !== undefined) throw problemFrom(chunk as Record<string, unknown>, 200, reply.headers.get("x-request-id"));
      const delta = chunk.choices?.[0]?.delta;
      if (delta?.content || delta?.reasoning_content) {
        last = performance.now();
        first ??= last;
        counted += 1;
        turn = { ...turn, text: turn.text + (delta.content ?? "") };
        if (delta.reasoning_content) turn.thinking = (turn.thinking ?? "") + delta.reasoning_content;
      }
      const final = chunk.usage ?? undefined;
      if (final !== undefined || last - drawn > DRAW_MS) {
        drawn = last;
        turn = { ...turn, stats: measure(final, chunk.timings?.predicted_per_second) };
        const keep = last - saved > SAVE_MS;
        if (keep) saved = last;
        putTurn(chat, turn, keep ? "keep" : "show");
      }
    }
    turn = { ...turn, state: whole ? "done" : "stopped" };
  } catch (error) {
    turn = { ...turn, stats: measure(undefined), ...ended(error, stop.signal.aborted, first !== null) };
  } finally {
    removeEventListener("pagehide", leave);
    putTurn(chat, turn);
    setGrowing(chat, null);
  }
}

/** How an answer ended that did not come to its end. */
function ended(error: unknown, stopped: boolean, begun: boolean): Partial<Turn> {
  if (stopped) return { state: "stopped" };
  const cut = new Problem(0, "cut", t("chat.cut"), t("chat.cut.hint"), null);
  const problem = error instanceof Problem ? error : begun ? cut : new Problem(0, "unreachable", "", null, null);
  const { status, code, detail, hint, requestId } = problem;
  return { state: "failed", trouble: { status, code, detail: detail.slice(0, 2000), hint, request_id: requestId } };
}
