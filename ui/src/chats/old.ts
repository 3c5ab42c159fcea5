import { adopt, titleOf } from "./store";
import type { Turn } from "./types";

// Version 0.1.0 kept conversations in the browser's local storage, one entry each. They are offered for moving.

interface OldMessage {
  role: "user" | "assistant";
  text: string;
  model: string;
  state?: string;
  thinking?: string;
}
interface OldThread {
  title: string;
  messages: OldMessage[];
}

function keysOf(user: string): string[] {
  try {
    return Object.keys(localStorage).filter((key) => key.startsWith(`fust.chat.${user}.`));
  } catch {
    return [];
  }
}

export const countOld = (user: string): number => keysOf(user).length;

export function removeOld(user: string): void {
  for (const key of keysOf(user)) localStorage.removeItem(key);
}

/** Moves the conversations of 0.1.0 to the server; each leaves the browser once it is there. */
export async function moveOld(user: string): Promise<void> {
  for (const key of keysOf(user)) {
    const thread = read(localStorage.getItem(key));
    if (thread !== null) {
      const turns = turnsOf(thread.messages);
      const title = titleOf(thread.title) || titleOf(thread.messages[0]?.text ?? "") || "?";
      await adopt({ title, settings: {}, turns, leaf: [...turns.keys()].at(-1) ?? null });
    }
    localStorage.removeItem(key);
  }
}

function read(text: string | null): OldThread | null {
  try {
    const thread = JSON.parse(text ?? "") as OldThread;
    return Array.isArray(thread.messages) ? thread : null;
  } catch {
    return null;
  }
}

function turnsOf(messages: OldMessage[]): Map<string, Turn> {
  const turns = new Map<string, Turn>();
  let parent: string | null = null;
  for (const [index, { role, text, model, state, thinking }] of messages.entries()) {
    const id = `old${index}`;
    turns.set(id, { id, parent, role, text, model, state: role === "assistant" && state !== undefined ? "stopped" : "done", ...(thinking ? { thinking } : {}) });
    parent = id;
  }
  return turns;
}
