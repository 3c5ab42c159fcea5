import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { DeploymentState, Problem, RunState } from "../api";
import { bytes, fullTime, when } from "../format";
import { maybe, t } from "../i18n";

/** Sets the window's title and shows the page's one h1 with its context above and its actions beside. */
export function Head(props: { title: string; kick?: ComponentChildren; sum?: ComponentChildren; children?: ComponentChildren; small?: boolean }) {
  useEffect(() => {
    document.title = props.title === "Fust" ? "Fust" : `${props.title} · Fust`;
  }, [props.title]);
  return (
    <header class={props.small ? "head tight" : "head"}>
      {props.kick && <p class="kick">{props.kick}</p>}
      <h1>{props.title}</h1>
      {props.sum && <p class="sum">{props.sum}</p>}
      {props.children && <div class="row">{props.children}</div>}
    </header>
  );
}

const SHAPES: Record<DeploymentState | RunState, string> = {
  loading: "warn",
  ready: "run",
  idle: "idle",
  failed: "bad",
  stopped: "done",
  queued: "warn",
  running: "run",
  succeeded: "done",
  cancelled: "idle",
};

/** A state as a shape and a word. */
export function State({ of, text }: { of: DeploymentState | RunState; text?: string }) {
  return <span class={`st ${SHAPES[of] ?? "idle"}`}>{text ?? maybe(`state.${of}`) ?? of}</span>;
}

export function Size({ of }: { of: number }) {
  const { figure, unit } = bytes(of);
  return (
    <span class="num">
      {figure} <span class="unit">{unit}</span>
    </span>
  );
}

export function Time({ at }: { at: string }) {
  return (
    <time class="num" dateTime={at} title={fullTime(at)}>
      {when(at)}
    </time>
  );
}

/** A filled part of a whole; the figures stand beside it in words. */
export function Bar({ share }: { share: number }) {
  return (
    <div class="bar" aria-hidden="true">
      <i style={{ width: `${Math.max(0, Math.min(1, share)) * 100}%` }} />
    </div>
  );
}

/** A sentence whose parts in backticks are something to type. */
export function coded(text: string): ComponentChildren {
  return text.split(/`([^`]+)`/).map((part, at) => (at % 2 ? <code key={at}>{part}</code> : part));
}

/** What went wrong, what to do next, and the number to quote. */
export function Trouble({ problem, retry }: { problem: Problem; retry?: () => void }) {
  const unreachable = problem.code === "unreachable";
  return (
    <div class="note" role="alert">
      <p>{unreachable ? t("trouble.unreachable") : coded(problem.detail)}</p>
      {(unreachable || problem.hint) && <p>{unreachable ? t("trouble.unreachable.hint") : coded(problem.hint ?? "")}</p>}
      {problem.requestId && (
        <p class="small quiet">
          {t("trouble.request")} <code>{problem.requestId}</code>
        </p>
      )}
      {retry && (
        <p>
          <button class="b" type="button" onClick={retry}>
            {t("trouble.retry")}
          </button>
        </p>
      )}
    </div>
  );
}

/** Stands where content will be; says what is awaited once a second has passed. */
export function Waiting({ what }: { what: string }) {
  const [said, setSaid] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setSaid(true), 1000);
    return () => clearTimeout(timer);
  }, []);
  return (
    <p class="waiting small quiet" role="status">
      {said ? what : ""}
    </p>
  );
}

export function Empty({ what, next, children }: { what: string; next?: ComponentChildren; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p>{what}</p>
      {next && <p>{typeof next === "string" ? coded(next) : next}</p>}
      {children && <div class="row">{children}</div>}
    </div>
  );
}

export function Section({ title, id, side, children, class: extra }: { title: string; id: string; side?: ComponentChildren; children: ComponentChildren; class?: string }) {
  return (
    <section class={`sec ${extra ?? ""}`} aria-labelledby={id}>
      {side ? (
        <div class="hrow">
          <h2 id={id}>{title}</h2>
          {side}
        </div>
      ) : (
        <h2 id={id}>{title}</h2>
      )}
      {children}
    </section>
  );
}

/** The command that clones a repo, to be copied. */
export function CloneLine({ url }: { url: string }) {
  const command = `git clone ${url}`;
  return (
    <div class="clone">
      <p class="small quiet">{t("facts.clone")}</p>
      <code class="small">{command}</code>
      <CopyButton bare text={command} />
    </div>
  );
}

/** The head of a table: a word for each column; numbers stand at the right, and the word over buttons is only read out. */
export function Columns({ of }: { of: (string | [string, "r" | "unseen"])[] }) {
  return (
    <thead>
      <tr>
        {of.map((it) => (typeof it === "string" ? <th scope="col" key={it}>{it}</th> : <th scope="col" class="r" key={it[0]}>{it[1] === "r" ? it[0] : <span class="sr">{it[0]}</span>}</th>))}
      </tr>
    </thead>
  );
}

export function Facts({ rows }: { rows: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {rows.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

async function toClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Plain http away from localhost has no clipboard interface: fall back to a selection.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "sr";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

export function CopyButton({ text, bare, label }: { text: string; bare?: boolean; label?: string }) {
  const [state, setState] = useState<"" | "done" | "failed">("");
  useEffect(() => {
    if (state === "") return undefined;
    const timer = setTimeout(() => setState(""), 2000);
    return () => clearTimeout(timer);
  }, [state]);
  const say = state === "done" ? t("copy.done") : state === "failed" ? t("copy.failed") : (label ?? t("copy"));
  return (
    <button class={bare ? "b bare" : "b"} type="button" onClick={() => void toClipboard(text).then((ok) => setState(ok ? "done" : "failed"))}>
      <svg class="i" viewBox="0 0 16 16" aria-hidden="true">
        {state === "done" ? <path d="M3 8.500l3.500 3.500L13 4.500" /> : <path d="M5.500 5.500h8v8h-8zM10.500 2.500h-8v8" />}
      </svg>
      <span aria-live="polite">{say}</span>
    </button>
  );
}

export function Code({ text, label }: { text: string; label: string }) {
  return (
    <div class="codewrap">
      <div class="codebar">
        <span class="small quiet">{label}</span>
        <CopyButton text={text} bare />
      </div>
      <pre class="code" role="group" tabIndex={0} aria-label={label}>
        {text}
      </pre>
    </div>
  );
}

export interface Tab<Id extends string> {
  id: Id;
  label: string;
  count?: string;
}

/** Tabs by the ARIA pattern: arrows move, Home and End jump. `of` keeps the ids of two lists on a page apart. */
export function Tabs<Id extends string>({ tabs, now, label, onPick, of = "" }: { tabs: Tab<Id>[]; now: Id; label: string; onPick: (id: Id) => void; of?: string }) {
  const list = useRef<HTMLDivElement>(null);
  const pick = (index: number): void => {
    const tab = tabs[(index + tabs.length) % tabs.length];
    if (tab === undefined) return;
    onPick(tab.id);
    list.current?.querySelector<HTMLElement>(`#t-${of}${tab.id}`)?.focus();
  };
  return (
    <div
      class="tabs"
      role="tablist"
      aria-label={label}
      ref={list}
      onKeyDown={(event) => {
        const at = tabs.findIndex((tab) => tab.id === now);
        if (event.key === "ArrowRight") pick(at + 1);
        else if (event.key === "ArrowLeft") pick(at - 1);
        else if (event.key === "Home") pick(0);
        else if (event.key === "End") pick(-1);
        else return;
        event.preventDefault();
      }}
    >
      {tabs.map((tab) => (
        <button
          key={tab.id}
          type="button"
          role="tab"
          id={`t-${of}${tab.id}`}
          aria-controls={`p-${of}${tab.id}`}
          aria-selected={tab.id === now}
          tabIndex={tab.id === now ? 0 : -1}
          onClick={() => onPick(tab.id)}
        >
          {tab.label}
          {tab.count !== undefined && <span class="quiet"> {tab.count}</span>}
        </button>
      ))}
    </div>
  );
}

/** A button that asks once more before it does something that cannot be undone. */
export function Sure({ label, ask, busy, onSure, bare }: { label: string; ask: string; busy?: boolean; onSure: () => void; bare?: boolean }) {
  const [asking, setAsking] = useState(false);
  const yes = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (asking) yes.current?.focus();
  }, [asking]);
  if (!asking) {
    return (
      <button class={bare ? "b bare" : "b"} type="button" disabled={busy} onClick={() => setAsking(true)}>
        {label}
      </button>
    );
  }
  return (
    <span class="row" role="group" aria-label={ask}>
      <button
        class="b warn"
        type="button"
        ref={yes}
        disabled={busy}
        onClick={() => {
          setAsking(false);
          onSure();
        }}
      >
        {ask}
      </button>
      <button class="b bare" type="button" onClick={() => setAsking(false)}>
        {t("sure.no")}
      </button>
    </span>
  );
}
