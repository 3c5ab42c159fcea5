import type { Problem } from "../api";

/** What is sent with every message; what is absent, the model decides. */
export interface Settings {
  system?: string;
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
  seed?: number;
  stop?: string[];
}
export interface TextFile {
  name: string;
  text: string;
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
  request_id: string | null;
}
/** One message. Turns form a tree: those with the same parent are versions of one place. */
export interface Turn {
  id: string;
  parent: string | null;
  role: "user" | "assistant";
  text: string;
  model: string;
  state: "growing" | "done" | "stopped" | "failed";
  thinking?: string;
  files?: TextFile[];
  stats?: Stats | null;
  trouble?: Trouble | null;
}
/** A conversation as the server gives it. */
export interface ChatAnswer {
  id: string;
  title: string;
  settings: Settings;
  leaf: string | null;
  turns: Turn[];
}
export interface ChatLine {
  id: string;
  title: string;
  created_at: string;
  updated_at: string;
  found: string;
}
/** A conversation as this window holds it. */
export interface Conversation {
  id: string;
  title: string;
  settings: Settings;
  /** The end of the branch that is shown. */
  leaf: string | null;
  /** In the order in which they were made: parents before children. */
  turns: ReadonlyMap<string, Turn>;
  /** Whether the server keeps it; else it ends with this window. */
  kept: boolean;
  /** Why the newest change is not on the server, if it is not. */
  unsaved: Problem | null;
}
