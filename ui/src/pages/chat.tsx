import { Fragment } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Problem, type Deployment, type Page } from "../api";
import { Answer } from "../parts/markdown";
import { CopyButton, Empty, Facts, Section, Sure, Trouble, Waiting } from "../parts";
import { ago, decimal, integer, span } from "../format";
import { t } from "../i18n";
import { useLoad } from "../load";
import { go, Link, repoPath, usePlace } from "../router";
import { session } from "../session";
import { useStore } from "../store";
import { ask, growing, openThreads, regenerate, removeThread, stopAnswer, threads, type Message, type Thread } from "../threads";

const EXAMPLES = ["chat.example.1", "chat.example.2", "chat.example.3"] as const;

/** Models that answer; those without a chat template last. */
function talkers(page: Page<Deployment> | undefined): Deployment[] {
  const answering = page?.items.filter((it) => it.state !== "stopped" && it.state !== "failed") ?? [];
  return answering.sort((a, b) => Number(a.has_chat_template === false) - Number(b.has_chat_template === false));
}

const called = (it: Deployment): string => it.alias ?? it.name;

export function ChatPage() {
  const { query } = usePlace();
  const now = useStore(session);
  const user = now.state === "in" ? now.user.name : "";
  openThreads(user);
  const all = useStore(threads);
  const thread = all.find((it) => it.id === query.get("c"));
  const deployments = useLoad<Page<Deployment>>("fust/v1/deployments", 5000);
  const models = talkers(deployments.data);
  const [picked, setPicked] = useState<string | null>(null);
  const asked = picked ?? query.get("model") ?? thread?.messages.at(-1)?.model ?? null;
  const model = models.find((it) => called(it) === asked || it.name === asked || it.repo_id === asked) ?? models[0];
  const busy = useStore(growing).has(thread?.id ?? "");
  const title = thread?.title ?? t("chat.new");

  useEffect(() => {
    document.title = `${title} · Fust`;
  }, [title]);
  useEffect(() => setPicked(null), [thread?.id]);

  const say = (text: string): void => {
    if (model === undefined) return;
    const id = ask(thread?.id ?? null, called(model), text);
    if (thread === undefined) {
      setPicked(called(model));
      go(`chat?c=${id}`, "replace");
    }
  };

  return (
    <div class="page wrap">
      <h1 class="sr">{t("place.chat")}</h1>
      <div class="chat">
        <ThreadList all={all} now={thread?.id ?? null} />
        <div class="talk">
          <div class="hrow talkhead">
            <h2>{title}</h2>
            {models.length > 0 && (
              <div class="pick">
                <select id="model" aria-label={t("chat.model")} value={model ? called(model) : ""} onChange={(event) => setPicked(event.currentTarget.value)}>
                  {models.map((it) => (
                    <option key={it.id} value={called(it)}>
                      {called(it)}
                      {it.has_chat_template === false ? ` (${t("chat.notemplate.short")})` : ""}
                    </option>
                  ))}
                </select>
              </div>
            )}
          </div>
          {deployments.problem && <Trouble problem={deployments.problem} retry={() => void deployments.reload()} />}
          {deployments.waiting && <Waiting what={t("waiting.running")} />}
          {deployments.data && models.length === 0 && (
            <Empty what={t("chat.nomodel")} next={t("chat.nomodel.next")}>
              <Link class="b go" to="models">{t("home.choose")}</Link>
            </Empty>
          )}
          {thread && <Messages thread={thread} model={model} busy={busy} />}
          {!thread && model && model.has_chat_template !== false && <Examples name={called(model)} onPick={say} />}
          {model?.has_chat_template === false && (
            <div class="note" role="status">
              <p>{t("chat.notemplate", { model: called(model) })}</p>
              <p>
                <Link to={`models/${repoPath(model.repo_id)}?tab=use`}>{t("chat.notemplate.next")}</Link>
              </p>
            </div>
          )}
          {(model !== undefined || thread !== undefined) && (
            <Compose key={thread?.id ?? "new"} disabled={model === undefined || model.has_chat_template === false} busy={busy} onSend={say} onStop={() => thread && stopAnswer(thread.id)} />
          )}
        </div>
        <About thread={thread} model={model} />
      </div>
    </div>
  );
}

function ThreadList({ all, now }: { all: Thread[]; now: string | null }) {
  return (
    <nav class="threads" aria-label={t("chat.threads")}>
      <Link class="b" to="chat">{t("chat.new")}</Link>
      {all.length > 0 && (
        <ul>
          {all.map((it) => (
            <li key={it.id}>
              <Link to={`chat?c=${it.id}`} aria-current={it.id === now ? "page" : undefined} title={`${it.title} · ${ago(new Date(it.changed).toISOString())}`}>
                {it.title}
              </Link>
            </li>
          ))}
        </ul>
      )}
    </nav>
  );
}

function Examples({ name, onPick }: { name: string; onPick: (text: string) => void }) {
  return (
    <div class="examples">
      <p class="soft">{t("chat.empty", { model: name })}</p>
      <ul>
        {EXAMPLES.map((key) => (
          <li key={key}>
            <button class="b" type="button" onClick={() => onPick(t(key))}>{t(key)}</button>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Messages({ thread, model, busy }: { thread: Thread; model: Deployment | undefined; busy: boolean }) {
  const end = useRef<HTMLDivElement>(null);
  const near = useRef(true);
  const [said, setSaid] = useState("");
  const was = useRef(busy);
  useEffect(() => {
    const onScroll = (): void => {
      near.current = (end.current?.getBoundingClientRect().top ?? 0) < innerHeight + 120;
    };
    addEventListener("scroll", onScroll, { passive: true });
    return () => removeEventListener("scroll", onScroll);
  }, []);
  // Follows the answer only while the reader is at its end.
  const grown = thread.messages.at(-1)?.text.length;
  useLayoutEffect(() => {
    if (near.current && (busy || was.current)) end.current?.scrollIntoView({ block: "nearest" });
  }, [grown, thread.messages.length, busy]);
  useEffect(() => {
    near.current = true;
    end.current?.scrollIntoView({ block: "nearest" });
  }, [thread.id]);
  // A screen reader hears that the answer began and ended, not each word.
  useEffect(() => {
    if (busy) setSaid(t("chat.answering"));
    else if (was.current) setSaid(t("chat.answered"));
    was.current = busy;
  }, [busy]);

  const lastModel = thread.messages.at(-1)?.model;
  return (
    <>
      <div class="messages" role="region" aria-label={t("chat.messages")}>
        {thread.messages.map((message, index) => {
          const before = thread.messages[index - 1];
          return (
            <Fragment key={index}>
              {before && before.model !== message.model && <Divider model={message.model} />}
              <Turn message={message} last={index === thread.messages.length - 1} thread={thread} model={model} busy={busy} />
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

function Turn({ message, last, thread, model, busy }: { message: Message; last: boolean; thread: Thread; model: Deployment | undefined; busy: boolean }) {
  if (message.role === "user") {
    return (
      <article class="turn me">
        <div class="who">{t("chat.you")}</div>
        <div class="say"><p class="plain">{message.text}</p></div>
      </article>
    );
  }
  const live = message.state === "growing";
  const trouble = message.trouble;
  return (
    <article class="turn" aria-busy={live}>
      <div class="who" title={message.model}>{short(message.model)}</div>
      <div class={live ? "say growing" : "say"}>
        {message.thinking && (
          <details class="thinking">
            <summary>{t("chat.thinking")}</summary>
            <p class="plain">{message.thinking}</p>
          </details>
        )}
        {message.text !== "" && <Answer text={message.text} />}
        {live && message.text === "" && <First />}
        {message.state === "stopped" && <p class="small quiet">{t("chat.stopped")}</p>}
        {trouble && <Trouble problem={new Problem(trouble.status, trouble.code, trouble.detail, trouble.hint, trouble.requestId)} />}
        <div class="meter">
          {!live && message.text !== "" && <CopyButton text={message.text} bare />}
          {!live && last && !busy && model && model.has_chat_template !== false && (
            <button class="b bare" type="button" onClick={() => regenerate(thread.id, called(model))}>
              {trouble ? t("chat.again") : t("chat.regenerate")}
            </button>
          )}
          {message.stats && message.stats.tokens > 0 && <span class="num">{statsLine(message)}</span>}
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

function statsLine({ stats }: Message): string {
  if (stats === undefined) return "";
  const parts = [t("chat.tokens", { n: stats.tokens })];
  if (stats.tokens_per_s !== null) parts.push(`${decimal(stats.tokens_per_s)} ${t("unit.tps")}`);
  if (stats.ttft_s !== null) parts.push(t("chat.first", { after: stats.ttft_s < 1 ? t("time.ms", { n: integer(Math.round(stats.ttft_s * 1000)) }) : span(stats.ttft_s) }));
  return parts.join(" · ");
}

function Compose({ disabled, busy, onSend, onStop }: { disabled: boolean; busy: boolean; onSend: (text: string) => void; onStop: () => void }) {
  const [text, setText] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    // On a phone, focus would open the keyboard over the page.
    if (matchMedia("(pointer: fine)").matches) field.current?.focus({ preventScroll: true });
  }, []);
  useLayoutEffect(() => {
    const area = field.current;
    if (area === null) return;
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight + 2, 320)}px`;
  }, [text]);
  const submit = (): void => {
    if (busy || disabled || text.trim() === "") return;
    onSend(text.trim());
    setText("");
  };
  return (
    <form class="compose" onSubmit={(event) => { event.preventDefault(); submit(); }}>
      <label for="msg" class="sr">{t("chat.message")}</label>
      <textarea
        id="msg"
        rows={2}
        ref={field}
        value={text}
        placeholder={t("chat.placeholder")}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          // While an input method composes, Enter chooses a word; Safari reports that only as key code 229.
          if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
          event.preventDefault();
          submit();
        }}
      />
      <div class="hrow">
        <span class="small quiet keys"><kbd>Enter</kbd> {t("chat.enter")}<kbd>Shift</kbd> + <kbd>Enter</kbd> {t("chat.shift")}</span>
        {busy ? (
          <button class="b" type="button" onClick={onStop}>
            <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M4 4h8v8H4z" fill="currentColor" /></svg>
            {t("chat.stop")}
          </button>
        ) : (
          <button class="b go" type="submit" disabled={disabled || text.trim() === ""}>{t("chat.send")}</button>
        )}
      </div>
    </form>
  );
}

function About({ thread, model }: { thread: Thread | undefined; model: Deployment | undefined }) {
  const stats = thread?.messages.findLast((it) => it.stats?.prompt_tokens)?.stats;
  const used = stats ? (stats.prompt_tokens ?? 0) + stats.tokens : null;
  const rows: [string, preact.ComponentChildren][] = [];
  if (model) rows.push([t("chat.model"), <Link to={`models/${repoPath(model.repo_id)}`}>{called(model)}</Link>]);
  if (used !== null) rows.push([t("facts.context"), model?.context ? <>{integer(used)} <span class="unit">{t("chat.of", { n: integer(model.context) })}</span></> : integer(used)]);
  rows.push([t("chat.kept"), t("chat.kept.here")]);
  rows.push([t("chat.leaves"), t("chat.leaves.nothing")]);
  return (
    <aside class="aside" aria-label={t("chat.about")}>
      <Section id="h-about" title={t("chat.about")}>
        <Facts rows={rows} />
        {thread && (
          <p class="actions">
            <Sure bare label={t("chat.delete")} ask={t("chat.delete.sure")} onSure={() => { removeThread(thread.id); go("chat"); }} />
          </p>
        )}
      </Section>
    </aside>
  );
}
