import { call, Problem } from "../api";
import { createStore } from "../store";
import { newestLeaf, pathTo } from "./tree";
import { keep as keepTurn, onProblem, pendingOf } from "./saving";
import type { ChatAnswer, ChatLine, Conversation, Settings, Turn } from "./types";

/** The conversations that this window has opened, by id. */
export const conversations = createStore<ReadonlyMap<string, Conversation>>(new Map());
export interface Growing {
  stop: AbortController;
  turn: string;
}
/** Conversations in which this window writes an answer: which, and how to stop it. */
export const growing = createStore<ReadonlyMap<string, Growing>>(new Map());
/** Whether the history is kept; null until the server has said. */
export const history = createStore<boolean | null>(null);
/** Grows when the list of conversations may have changed. */
export const changes = createStore(0);

/** How the ids of conversations begin that only this window has. */
export const HERE = "here-";

let owner = "";
const others = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("fust.chats");

/** Holds the conversations of `user`; those of whoever was signed in before are dropped. */
export function openFor(user: string): void {
  if (user === owner) return;
  owner = user;
  for (const { stop } of growing.get().values()) stop.abort();
  conversations.set(new Map());
  history.set(null);
}

export function noteChange(chat: string | null): void {
  changes.set(changes.get() + 1);
  others?.postMessage({ owner, chat });
}

if (others) {
  others.onmessage = ({ data }: MessageEvent<{ owner?: string; chat?: string | null }>) => {
    if (data.owner !== owner) return;
    changes.set(changes.get() + 1);
    if (data.chat === null) askHistory().catch(() => undefined);
    if (data.chat && conversations.get().get(data.chat)?.kept) void open(data.chat);
  };
}

export const find = (id: string): Conversation | undefined => conversations.get().get(id);

/** Replaces a conversation by a changed copy; nothing when it is gone. */
export function change(id: string, how: (was: Conversation) => Partial<Conversation>): Conversation | undefined {
  const was = find(id);
  if (was === undefined) return undefined;
  const next = { ...was, ...how(was) };
  conversations.set(new Map(conversations.get()).set(id, next));
  return next;
}

export function drop(id: string): void {
  growing.get().get(id)?.stop.abort();
  const left = new Map(conversations.get());
  left.delete(id);
  conversations.set(left);
}

export function putTurn(id: string, turn: Turn, how: "show" | "keep" = "keep"): void {
  const next = change(id, ({ turns, leaf }) => ({ turns: new Map(turns).set(turn.id, turn), leaf: turns.has(turn.id) ? leaf : turn.id }));
  if (how === "keep" && next?.kept) keepTurn(id, turn);
}

onProblem((id, problem) => {
  const gone = problem?.status === 404 || problem?.code === "history_off";
  change(id, ({ kept }) => ({ unsaved: problem, kept: kept && !gone }));
  if (problem === null || gone) noteChange(id);
});

/** Reads a conversation, or reads it again; what this window has not yet saved stays as it is here. */
export async function open(id: string): Promise<Conversation> {
  const answer = await call<ChatAnswer>(`fust/v1/chats/${encodeURIComponent(id)}`);
  const was = find(id);
  const turns = new Map<string, Turn>(answer.turns.map((turn) => [turn.id, turn]));
  if (was !== undefined) {
    const live = growing.get().get(id)?.turn;
    for (const [key, turn] of was.turns) if (key === live || pendingOf(id).has(key) || !turns.has(key)) turns.set(key, turn);
  }
  const next: Conversation = {
    id,
    title: answer.title,
    settings: answer.settings,
    leaf: was?.leaf ?? answer.leaf,
    turns,
    kept: history.get() !== false,
    unsaved: was?.unsaved ?? null,
  };
  conversations.set(new Map(conversations.get()).set(id, next));
  return next;
}

export function newId(): string {
  // randomUUID is missing on plain http away from localhost.
  return Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) => byte.toString(36).padStart(2, "0")).join("");
}

/** The beginning of what was said, as a title. */
export function titleOf(text: string): string {
  const line = text.trim().split("\n")[0] ?? "";
  if (line.length <= 60) return line;
  const cut = line.slice(0, 60);
  const space = cut.lastIndexOf(" ");
  return `${(space > 30 ? cut.slice(0, space) : cut).trimEnd()}…`;
}

/** Begins a conversation: on the server when the history is kept there, else in this window. */
export async function begin(title: string, settings: Settings): Promise<Conversation> {
  let unsaved: Problem | null = null;
  if (history.get() !== false) {
    try {
      const { id } = await call<ChatAnswer>("fust/v1/chats", { method: "POST", body: { title, settings } });
      return hold({ id, title, settings, leaf: null, turns: new Map(), kept: true, unsaved: null });
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.code === "history_off") history.set(false);
      else unsaved = error;
    }
  }
  return hold({ id: HERE + newId(), title, settings, leaf: null, turns: new Map(), kept: false, unsaved });
}

function hold(next: Conversation): Conversation {
  conversations.set(new Map(conversations.get()).set(next.id, next));
  if (next.kept) noteChange(next.id);
  return next;
}

/** Brings a conversation of this window to the server; returns its id there. */
export async function adopt({ title, settings, turns, leaf }: Pick<Conversation, "title" | "settings" | "turns" | "leaf">): Promise<string> {
  const made = await call<ChatAnswer>("fust/v1/chats", { method: "POST", body: { title, settings } });
  const place = `fust/v1/chats/${made.id}`;
  for (const { id, parent, role, text, model, state, thinking, files, stats, trouble } of turns.values())
    await call(`${place}/turns/${id}`, { method: "PUT", body: { parent, role, text, model, state, thinking, files, stats, trouble } });
  if (leaf !== null) await call(place, { method: "PATCH", body: { leaf } });
  noteChange(made.id);
  return made.id;
}

async function patch(id: string, body: { title?: string; settings?: Settings; leaf?: string }): Promise<void> {
  if (!find(id)?.kept) return; // what the server does not have, it cannot change
  try {
    await call<ChatLine>(`fust/v1/chats/${encodeURIComponent(id)}`, { method: "PATCH", body });
    if (body.leaf === undefined) noteChange(id);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    change(id, () => ({ unsaved: error }));
  }
}

export function rename(id: string, title: string): void {
  change(id, () => ({ title }));
  void patch(id, { title });
}

/** Settings with some of them changed; what becomes undefined, the model decides. */
export function withSettings(was: Settings, change: Partial<Settings>): Settings {
  return Object.fromEntries(Object.entries({ ...was, ...change }).filter(([, value]) => value !== undefined));
}

export function changeSettings(id: string, what: Partial<Settings>): void {
  const next = change(id, ({ settings }) => ({ settings: withSettings(settings, what) }));
  if (next) void patch(id, { settings: next.settings });
}

/** Shows another version of a place, with the newest branch below it. */
export function showVersion(id: string, turn: string): void {
  const next = change(id, ({ turns }) => ({ leaf: newestLeaf(turns, turn) }));
  if (next?.leaf) void patch(id, { leaf: next.leaf });
}

/** What was said up to a turn, the turn included. */
export function pathOf(id: string, leaf: string | null): Turn[] {
  const conversation = find(id);
  return conversation === undefined ? [] : pathTo(conversation.turns, leaf);
}

export async function remove(id: string): Promise<void> {
  if (!id.startsWith(HERE)) await call(`fust/v1/chats/${encodeURIComponent(id)}`, { method: "DELETE" });
  drop(id);
  noteChange(id);
}

export async function removeAll(): Promise<void> {
  await call("fust/v1/chats", { method: "DELETE" });
  for (const id of conversations.get().keys()) if (!id.startsWith(HERE)) drop(id);
  noteChange(null);
}

export async function askHistory(): Promise<void> {
  know((await call<{ keep: boolean }>("fust/v1/chats/history")).keep);
}

function know(keep: boolean): void {
  history.set(keep);
  if (!keep) for (const { id } of conversations.get().values()) change(id, () => ({ kept: false, unsaved: null }));
}

export async function setHistory(keep: boolean): Promise<void> {
  await call("fust/v1/chats/history", { method: "PUT", body: { keep } });
  know(keep);
  noteChange(null);
}
