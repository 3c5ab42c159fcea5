import type { Settings, TextFile, Turn } from "./types";

/** A fence longer than any run of backticks in the text. */
function fenceFor(text: string): string {
  const longest = Math.max(0, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  return "`".repeat(Math.max(3, longest + 1));
}

function fileText({ name, text }: TextFile): string {
  const fence = fenceFor(text);
  return `${name}\n${fence}\n${text}\n${fence}`;
}

/** What the model reads of a turn: its files, then its words. */
export function contentOf(turn: Turn): string {
  return [...(turn.files ?? []).map(fileText), ...(turn.text === "" ? [] : [turn.text])].join("\n\n");
}

export interface ChatBody {
  model: string;
  messages: { role: string; content: string }[];
  [parameter: string]: unknown;
}

/** The request for the answer that follows `path`. */
export function requestFor(model: string, settings: Settings, path: Turn[]): ChatBody {
  const { system, stop, ...numbers } = settings;
  const messages = path.map((turn) => ({ role: turn.role as string, content: contentOf(turn) })).filter((it) => it.content !== "");
  if (system) messages.unshift({ role: "system", content: system });
  return { model, messages, ...numbers, ...(stop && stop.length > 0 ? { stop } : {}) };
}
