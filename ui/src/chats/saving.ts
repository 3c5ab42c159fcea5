import { call, Problem } from "../api";
import { absoluteURL } from "../router";
import type { Turn } from "./types";

// Turns on their way to the server: in order, the newest state of each, tried again until it is there.

interface Queue {
  turns: Map<string, Turn>;
  running: boolean;
}

const queues = new Map<string, Queue>();
let tell: (chat: string, problem: Problem | null) => void = () => undefined;

/** Calls `listener` when the last change of a conversation is saved (null) or could not be. */
export function onProblem(listener: typeof tell): void {
  tell = listener;
}

/** The turns of a conversation that the server does not have yet. */
export function pendingOf(chat: string): ReadonlyMap<string, Turn> {
  return queues.get(chat)?.turns ?? new Map<string, Turn>();
}

function bodyOf({ parent, role, text, model, state, thinking, files, stats, trouble }: Turn): object {
  return { parent, role, text, model, state, thinking, files, stats, trouble };
}

const place = (chat: string, turn: string): string => `fust/v1/chats/${encodeURIComponent(chat)}/turns/${turn}`;

/** Keeps a turn on the server, soon and surely. */
export function keep(chat: string, turn: Turn): void {
  const queue = queues.get(chat) ?? { turns: new Map<string, Turn>(), running: false };
  queues.set(chat, queue);
  queue.turns.set(turn.id, turn);
  if (!queue.running) void pump(chat, queue);
}

async function pump(chat: string, queue: Queue): Promise<void> {
  queue.running = true;
  let pause_ms = 1000;
  for (let turn = first(queue); turn !== undefined; turn = first(queue)) {
    try {
      await call(place(chat, turn.id), { method: "PUT", body: bodyOf(turn) });
      if (queue.turns.get(turn.id) === turn) queue.turns.delete(turn.id);
      pause_ms = 1000;
      if (queue.turns.size === 0 && turn.state !== "growing") tell(chat, null);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      tell(chat, error);
      // Refused for good: the conversation is gone, or its history is off. Else the server is away or full for now.
      if (error.status >= 400 && error.status < 500 && error.status !== 429 && error.status !== 401) {
        queue.turns.clear();
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, pause_ms));
      pause_ms = Math.min(pause_ms * 2, 20_000);
    }
  }
  queue.running = false;
}

function first(queue: Queue): Turn | undefined {
  return queue.turns.values().next().value;
}

/** Saves what is not saved while the page goes away; an answer ends here, for nobody reads it on. */
export function saveLast(chat: string, turn: Turn): void {
  const body = JSON.stringify(bodyOf(turn.state === "growing" ? { ...turn, state: "stopped" } : turn));
  // A request that outlives its page may hold 64 KiB; what is longer was saved a second ago.
  if (new Blob([body]).size > 60_000) return;
  void fetch(absoluteURL(place(chat, turn.id)), {
    method: "PUT",
    keepalive: true,
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body,
  }).catch(() => undefined);
}
