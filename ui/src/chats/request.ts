import { isImage } from "./images";
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

type Part = { type: "text"; text: string } | { type: "image_url"; image_url: { url: string } };

/** What the model reads of a turn: its files, then its words; its images before both. */
export function contentOf(turn: Turn): string | Part[] {
  const files = turn.files ?? [];
  const images = files.filter(isImage);
  const texts = files.filter((file) => !isImage(file)).map(fileText);
  const text = [...texts, ...(turn.text === "" ? [] : [turn.text])].join("\n\n");
  if (images.length === 0) return text;
  const shown = images.map((file): Part => ({ type: "image_url", image_url: { url: file.text } }));
  return text === "" ? shown : [...shown, { type: "text", text }];
}

export interface ChatBody {
  model: string;
  messages: { role: string; content: string | Part[] }[];
  [parameter: string]: unknown;
}

/** The request for the answer that follows `path`. */
export function requestFor(model: string, settings: Settings, path: Turn[]): ChatBody {
  const { system, stop, ...numbers } = settings;
  const messages = path.map((turn) => ({ role: turn.role as string, content: contentOf(turn) })).filter((it) => it.content !== "");
  if (system) messages.unshift({ role: "system", content: system });
  return { model, messages, ...numbers, ...(stop && stop.length > 0 ? { stop } : {}) };
}
