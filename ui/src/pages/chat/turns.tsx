import { Fragment } from "preact";
import { memo } from "preact/compat";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { Problem, type Deployment } from "../../api";
import { answerAgain, say, type Said } from "../../chats/answer";
import { isImage } from "../../chats/images";
import { growing, open, showVersion } from "../../chats/store";
import { shownPath, versionsOf } from "../../chats/tree";
import type { Conversation, TextFile, Turn } from "../../chats/types";
import { Answer } from "../../parts/markdown";
import { CopyButton, Trouble, Waiting } from "../../parts";
import { decimal, integer, size, span } from "../../format";
import { t } from "../../i18n";
import { useStore } from "../../store";
import { Compose } from "./compose";

const called = (it: Deployment): string => it.alias ?? it.name;
const SHOWN = 40;

interface Props {
  conversation: Conversation;
  model: Deployment | undefined;
  busy: boolean;
}

export function Messages({ conversation, model, busy }: Props) {
  const path = useMemo(() => shownPath(conversation), [conversation.turns, conversation.leaf]);
  const versions = useMemo(() => versionsOf(conversation.turns), [conversation.turns]);
  const [most, setMost] = useState(SHOWN);
  const { end, said } = useFollow(conversation.id, path, busy);
  const stale = useElsewhere(conversation.id, path.at(-1), busy);
  useEffect(() => setMost(SHOWN), [conversation.id]);

  const hidden = Math.max(0, path.length - most);
  const shown = path.slice(hidden);
  const lastModel = path.at(-1)?.model;
  const talks = model !== undefined && model.has_chat_template !== false;
  return (
    <>
      <div class="messages" role="region" aria-label={t("chat.messages")}>
        {hidden > 0 && <Earlier hidden={hidden} onMore={() => setMost(most + SHOWN)} />}
        {shown.map((turn, index) => {
          const before = path[hidden + index - 1];
          const there = versions.get(turn.parent ?? "") ?? [turn];
          return (
            <Fragment key={turn.id}>
              {before && before.model !== turn.model && <Divider model={turn.model} />}
              <TurnView
                turn={turn}
                place={there.findIndex((it) => it.id === turn.id)}
                versions={there.length}
                live={turn.state === "growing" && !stale}
                chat={conversation.id}
                model={talks && !busy ? called(model) : null}
                sees={model?.capabilities.includes("vision") ?? false}
                onVersion={(step) => {
                  const other = there[there.findIndex((it) => it.id === turn.id) + step];
                  if (other) showVersion(conversation.id, other.id);
                }}
              />
            </Fragment>
          );
        })}
        {model && lastModel && !busy && called(model) !== lastModel && <Divider model={called(model)} />}
      </div>
      <div ref={end} class="end" />
      <p class="sr" role="status">{said}</p>
    </>
  );
}

/** Keeps the end in view while the reader is there, and says when an answer begins and ends. */
function useFollow(id: string, path: Turn[], busy: boolean) {
  const end = useRef<HTMLDivElement>(null);
  const near = useRef(true);
  const was = useRef(busy);
  const [said, setSaid] = useState("");
  useEffect(() => {
    const onScroll = (): void => {
      near.current = (end.current?.getBoundingClientRect().top ?? 0) < innerHeight + 120;
    };
    addEventListener("scroll", onScroll, { passive: true });
    return () => removeEventListener("scroll", onScroll);
  }, []);
  const grown = path.at(-1)?.text.length;
  useLayoutEffect(() => {
    if (near.current && (busy || was.current)) end.current?.scrollIntoView({ block: "nearest" });
  }, [grown, path.length, busy]);
  useEffect(() => {
    near.current = true;
    end.current?.scrollIntoView({ block: "nearest" });
  }, [id]);
  // A screen reader hears that the answer began and ended, not each word.
  useEffect(() => {
    if (busy) setSaid(t("chat.answering"));
    else if (was.current) setSaid(t("chat.answered"));
    was.current = busy;
  }, [busy]);
  return { end, said };
}

/**
 * Reads an answer on that another window writes; true once nothing more comes of it.
 * A window that was closed at once may leave an answer that seems to grow.
 */
function useElsewhere(id: string, last: Turn | undefined, busy: boolean): boolean {
  const own = useStore(growing).get(id)?.turn;
  const elsewhere = last?.state === "growing" && last.id !== own && !busy;
  const [quiet, setQuiet] = useState(0);
  const length = useRef(-1);
  useEffect(() => {
    if (!elsewhere) return undefined;
    let looks = 0;
    const timer = setInterval(() => {
      looks += 1;
      if (looks > 60) clearInterval(timer);
      void open(id).then((now) => {
        const grown = now.turns.get(last.id)?.text.length ?? 0;
        setQuiet((was) => (grown === length.current ? was + 1 : 0));
        length.current = grown;
      }).catch(() => setQuiet((was) => was + 1));
    }, 2000);
    return () => clearInterval(timer);
  }, [id, elsewhere, last?.id]);
  return elsewhere && quiet >= 3;
}

function Earlier({ hidden, onMore }: { hidden: number; onMore: () => void }) {
  return (
    <p class="earlier">
      <button class="b" type="button" onClick={() => {
        // What is read stays where it is while older messages come in above it.
        const below = document.documentElement.scrollHeight - scrollY;
        onMore();
        requestAnimationFrame(() => scrollTo(0, document.documentElement.scrollHeight - below));
      }}>{t("chat.earlier", { n: hidden })}</button>
    </p>
  );
}

function Divider({ model }: { model: string }) {
  return (
    <div class="switch">
      <span>{t("chat.switched", { model })}</span>
    </div>
  );
}

/** The last part of a model's name: the margin is narrow. */
function short(model: string): string {
  return (model.split("/").at(-1) ?? model).replace(/:.*$/, "");
}

interface TurnProps {
  turn: Turn;
  place: number;
  versions: number;
  live: boolean;
  chat: string;
  /** The model that would answer now; null while none can. */
  model: string | null;
  /** Whether it reads images. */
  sees: boolean;
  onVersion: (step: number) => void;
}

const TurnView = memo(
  function TurnView(props: TurnProps) {
    return props.turn.role === "user" ? <Mine {...props} /> : <Theirs {...props} />;
  },
  (was, is) => was.turn === is.turn && was.place === is.place && was.versions === is.versions && was.live === is.live && was.model === is.model && was.sees === is.sees && was.chat === is.chat,
);

function Versions({ place, versions, onVersion }: TurnProps) {
  if (versions < 2) return null;
  return (
    <span class="versions" role="group" aria-label={t("chat.versions")}>
      <button class="b bare icon" type="button" aria-label={t("chat.version.earlier")} disabled={place === 0} onClick={() => onVersion(-1)}>
        <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M10 3L5 8l5 5" /></svg>
      </button>
      <span class="num">{integer(place + 1)} / {integer(versions)}</span>
      <button class="b bare icon" type="button" aria-label={t("chat.version.later")} disabled={place === versions - 1} onClick={() => onVersion(1)}>
        <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M6 3l5 5-5 5" /></svg>
      </button>
    </span>
  );
}

function Mine(props: TurnProps) {
  const { turn, chat, model, sees } = props;
  const [editing, setEditing] = useState(false);
  const send = (said: Said): void => {
    if (model === null) return;
    setEditing(false);
    void say(chat, turn.parent, model, said);
  };
  return (
    <article class="turn me">
      <div class="who">{t("chat.you")}</div>
      {editing ? (
        <div class="say wide">
          <Compose id={`edit-${turn.id}`} label={t("chat.edit.label")} start={{ text: turn.text, files: turn.files ?? [] }} disabled={model === null} sees={sees} busy={false} onSend={send} onCancel={() => setEditing(false)} />
        </div>
      ) : (
        <div class="said">
          <div class="say">
            {turn.files?.map((file) => <Attached key={file.name} file={file} />)}
            {turn.text !== "" && <p class="plain">{turn.text}</p>}
          </div>
          <div class="meter">
            {turn.text !== "" && <CopyButton text={turn.text} bare />}
            <button class="b bare" type="button" disabled={model === null} onClick={() => setEditing(true)}>{t("chat.edit")}</button>
            <Versions {...props} />
          </div>
        </div>
      )}
    </article>
  );
}

function Attached({ file }: { file: TextFile }) {
  if (isImage(file)) return <img class="shown" src={file.text} alt={file.name} />;
  return (
    <details class="attached">
      <summary><span class="cut">{file.name}</span> <span class="quiet num">{size(new Blob([file.text]).size)}</span></summary>
      <pre class="code" role="group" tabIndex={0} aria-label={file.name}>{file.text}</pre>
    </details>
  );
}

function Theirs(props: TurnProps) {
  const { turn, live, chat, model } = props;
  const trouble = turn.trouble;
  const parent = turn.parent;
  return (
    <article class="turn" aria-busy={live}>
      <div class="who" title={turn.model}>{short(turn.model)}</div>
      <div class={live ? "say growing" : "say"}>
        {turn.thinking && (
          <details class="thinking">
            <summary>{t("chat.thinking")}</summary>
            <p class="plain">{turn.thinking}</p>
          </details>
        )}
        {turn.text !== "" && <Answer text={turn.text} />}
        {live && turn.text === "" && <First />}
        {(turn.state === "stopped" || (turn.state === "growing" && !live)) && <p class="small quiet">{t("chat.stopped")}</p>}
        {trouble && <Trouble problem={new Problem(trouble.status, trouble.code, trouble.detail, trouble.hint, trouble.request_id)} />}
        <div class="meter">
          {!live && turn.text !== "" && <CopyButton text={turn.text} bare />}
          {!live && model !== null && parent !== null && (
            <button class="b bare" type="button" onClick={() => answerAgain(chat, parent, model)}>
              {trouble ? t("chat.again") : t("chat.regenerate")}
            </button>
          )}
          {!live && <Versions {...props} />}
          {turn.stats && turn.stats.tokens > 0 && <span class="num">{statsLine(turn)}</span>}
        </div>
      </div>
    </article>
  );
}

/** Nothing has come yet: after a second, say what is awaited. */
function First() {
  return (
    <>
      <span class="caret" aria-hidden="true" />
      <Waiting what={t("waiting.first")} />
    </>
  );
}

function statsLine({ stats }: Turn): string {
  if (!stats) return "";
  const parts = [t("chat.tokens", { n: stats.tokens })];
  if (stats.tokens_per_s !== null) parts.push(`${decimal(stats.tokens_per_s)} ${t("unit.tps")}`);
  if (stats.ttft_s !== null) parts.push(t("chat.first", { after: stats.ttft_s < 1 ? t("time.ms", { n: integer(Math.round(stats.ttft_s * 1000)) }) : span(stats.ttft_s) }));
  return parts.join(" · ");
}
