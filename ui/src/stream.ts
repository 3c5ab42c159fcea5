import { Problem, send } from "./api";

/** One event of a server-sent event stream. */
export interface StreamEvent {
  id: string | null;
  name: string;
  data: string;
}

/** The events of an answer, as they come. */
export async function* eventsOf(reply: Response): AsyncGenerator<StreamEvent> {
  if (reply.body === null) return;
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let id: string | null = null;
  let name = "message";
  let data: string[] = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield { id, name, data: data.join("\n") };
          name = "message";
          data = [];
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "data") data.push(text);
        else if (field === "event") name = text;
        else if (field === "id") id = text;
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

interface Follower {
  onEvent: (event: StreamEvent) => void;
  /** The connection broke (true) or stands again (false). */
  onLost: (lost: boolean) => void;
  /** True when nothing more will come, so that an ended stream is not asked for again. */
  ended: () => boolean;
}

/**
 * Follows a stream over broken connections, from the last event seen.
 * In place of EventSource, which cannot send the chosen language. Returns how to stop.
 */
export function follow(path: string, follower: Follower): () => void {
  const stop = new AbortController();
  void (async () => {
    let last: string | null = null;
    let pause_ms = 500;
    while (!stop.signal.aborted) {
      try {
        const reply = await send(path, { signal: stop.signal, headers: last === null ? {} : { "Last-Event-ID": last } });
        follower.onLost(false);
        for await (const event of eventsOf(reply)) {
          last = event.id ?? last;
          pause_ms = 500;
          follower.onEvent(event);
        }
      } catch (error) {
        if (stop.signal.aborted) return;
        if (error instanceof Problem && error.status >= 400 && error.status < 500) return; // refused: asking again is no use
      }
      if (stop.signal.aborted || follower.ended()) return;
      follower.onLost(true);
      await new Promise((resolve) => setTimeout(resolve, pause_ms));
      pause_ms = Math.min(pause_ms * 2, 8000);
    }
  })();
  return () => stop.abort();
}
