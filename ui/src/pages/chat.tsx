import { useEffect, useRef, useState } from "preact/hooks";
import { Problem, type Deployment, type Page } from "../api";
import { say, stopAnswer, type Said } from "../chats/answer";
import { requestFor } from "../chats/request";
import { conversations, growing, HERE, open, openFor, rename, withSettings } from "../chats/store";
import { shownPath } from "../chats/tree";
import type { Conversation, Settings } from "../chats/types";
import { Empty, Trouble, Waiting } from "../parts";
import { Snippet } from "../parts/snippet";
import { t } from "../i18n";
import { useLoad } from "../load";
import { go, Link, repoPath, usePlace } from "../router";
import { session, sessionEnded } from "../session";
import { useStore } from "../store";
import { About } from "./chat/about";
import { Compose } from "./chat/compose";
import { Sidebar } from "./chat/sidebar";
import { Messages } from "./chat/turns";
import { Welcome } from "./chat/welcome";

/** Models that answer; those without a chat template last. */
function talkers(page: Page<Deployment> | undefined): Deployment[] {
  const answering = page?.items.filter((it) => it.state !== "stopped" && it.state !== "failed") ?? [];
  return answering.sort((a, b) => Number(a.has_chat_template === false) - Number(b.has_chat_template === false));
}

const called = (it: Deployment): string => it.alias ?? it.name;

/** The conversation of the address, read from the server when this window does not have it. */
function useConversation(id: string | null): { conversation: Conversation | undefined; waiting: boolean; problem: Problem | null } {
  const conversation = useStore(conversations).get(id ?? "");
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    setProblem(null);
    if (id === null) return undefined;
    const look = (): void => {
      // What only this window has, nobody else can have changed.
      const held = conversations.get().get(id);
      if (id.startsWith(HERE) ? held !== undefined : held?.kept === false) return;
      open(id).catch((error: unknown) => {
        if (!(error instanceof Problem)) throw error;
        if (error.status === 401) sessionEnded();
        setProblem(error);
      });
    };
    look();
    const again = (): void => {
      if (document.visibilityState === "visible") look();
    };
    document.addEventListener("visibilitychange", again);
    return () => document.removeEventListener("visibilitychange", again);
  }, [id]);
  return { conversation, waiting: id !== null && conversation === undefined && problem === null, problem };
}

export function ChatPage() {
  const { query } = usePlace();
  const now = useStore(session);
  const user = now.state === "in" ? now.user.name : "";
  openFor(user);
  const id = query.get("c");
  const { conversation, waiting, problem } = useConversation(id);
  const deployments = useLoad<Page<Deployment>>("fust/v1/deployments", 5000);
  const models = talkers(deployments.data);
  const [picked, setPicked] = useState<string | null>(null);
  const [draft, setDraft] = useState<Settings>({});
  // Read when a message is sent: a field may have been left in the same breath, before this page was drawn anew.
  const drafted = useRef<Settings>({});
  const keepDraft = (settings: Settings): void => {
    drafted.current = settings;
    setDraft(settings);
  };
  const [code, setCode] = useState(false);
  const lastModel = conversation && shownPath(conversation).at(-1)?.model;
  const asked = picked ?? query.get("model") ?? lastModel ?? null;
  const model = models.find((it) => called(it) === asked || it.name === asked || it.repo_id === asked) ?? models[0];
  const busy = useStore(growing).has(id ?? "");
  const title = conversation?.title ?? t("chat.new");
  const beginning = useRef(false);
  // What is being written stays when a new conversation gets its address, and goes with any other change of place.
  const desk = useRef({ id, made: "", key: 0 });
  if (desk.current.id !== id) {
    if (id === null || id !== desk.current.made) desk.current.key += 1;
    desk.current.id = id;
  }

  useEffect(() => {
    document.title = `${title} · Fust`;
  }, [title]);
  useEffect(() => {
    // What was picked while a new conversation got its address stays.
    if (id === null || id !== desk.current.made) setPicked(null);
    setCode(false);
  }, [id]);

  const send = (said: Said): void => {
    if (model === undefined || beginning.current) return;
    beginning.current = true;
    const leaf = conversation ? (shownPath(conversation).at(-1)?.id ?? null) : null;
    void say(conversation?.id ?? null, leaf, called(model), said, drafted.current)
      .then((made) => {
        if (conversation !== undefined) return;
        keepDraft({});
        desk.current.made = made;
        go(`chat?c=${encodeURIComponent(made)}`, "replace");
      })
      .finally(() => {
        beginning.current = false;
      });
  };
  const mute = model?.has_chat_template === false;
  const fresh = id === null || (conversation !== undefined && conversation.turns.size === 0);

  return (
    <div class="page wrap">
      <h1 class="sr">{t("place.chat")}</h1>
      <div class="chat">
        <Sidebar key={user} now={id} user={user} />
        <div class="talk">
          <div class="hrow talkhead">
            <Title conversation={conversation} />
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
          {(deployments.waiting || waiting) && <Waiting what={waiting ? t("chat.waiting") : t("waiting.running")} />}
          {problem && <Trouble problem={problem} />}
          {deployments.data && models.length === 0 && (
            <Empty what={t("chat.nomodel")} next={t("chat.nomodel.next")}>
              <Link class="b go" to="models">{t("home.choose")}</Link>
            </Empty>
          )}
          {conversation && code && <AsCode conversation={conversation} model={model ? called(model) : (lastModel ?? "")} />}
          {conversation && !code && <Messages conversation={conversation} model={model} busy={busy} />}
          {fresh && model && !mute && <Welcome model={model} name={called(model)} onPick={(text) => send({ text, files: [] })} />}
          {model && mute && (
            <div class="note" role="status">
              <p>{t("chat.notemplate", { model: called(model) })}</p>
              <p>
                <Link to={`models/${repoPath(model.repo_id)}?tab=use`}>{t("chat.notemplate.next")}</Link>
              </p>
            </div>
          )}
          {conversation?.unsaved && <Unsaved problem={conversation.unsaved} kept={conversation.kept} />}
          {(model !== undefined || conversation !== undefined) && !code && !waiting && !problem && (
            <Compose id="msg" label={t("chat.message")} key={desk.current.key} disabled={model === undefined || mute} sees={model?.capabilities.includes("vision") ?? false} busy={busy} onSend={send} onStop={() => id && stopAnswer(id)} />
          )}
        </div>
        <About conversation={conversation} model={model} draft={draft} onDraft={(change) => keepDraft(withSettings(drafted.current, change))} code={code} onCode={() => setCode(!code)} />
      </div>
    </div>
  );
}

/** The title, and the field that changes it. */
function Title({ conversation }: { conversation: Conversation | undefined }) {
  const [typed, setTyped] = useState<string | null>(null);
  const editing = typed !== null;
  const field = useRef<HTMLInputElement>(null);
  const left = useRef(false); // the field loses focus as it goes, which must not count as done
  useEffect(() => setTyped(null), [conversation?.id]);
  useEffect(() => {
    if (editing) field.current?.select();
  }, [editing]);
  if (conversation === undefined) return <h2>{t("chat.new")}</h2>;
  if (!editing) {
    return (
      <div class="title">
        <h2>{conversation.title}</h2>
        <button class="b bare icon" type="button" aria-label={t("chat.rename")} title={t("chat.rename")} onClick={() => { left.current = false; setTyped(conversation.title); }}>
          <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M3 13l.500-2.500L11 3l2 2-7.500 7.500z" /></svg>
        </button>
      </div>
    );
  }
  const done = (): void => {
    const wanted = typed.trim();
    if (!left.current && wanted !== "" && wanted !== conversation.title) rename(conversation.id, wanted);
    setTyped(null);
  };
  return (
    <form class="title" onSubmit={(event) => { event.preventDefault(); done(); }}>
      <input type="text" ref={field} aria-label={t("chat.rename.label")} maxLength={200} value={typed} onInput={(event) => setTyped(event.currentTarget.value)} onBlur={done} onKeyDown={(event) => {
        if (event.key === "Escape" && !event.isComposing) {
          left.current = true;
          setTyped(null);
        } else if (event.key === "Enter" && (event.isComposing || event.keyCode === 229)) event.preventDefault();
      }} />
    </form>
  );
}

/** The conversation as a program would send it. */
function AsCode({ conversation, model }: { conversation: Conversation; model: string }) {
  const path = shownPath(conversation);
  // A program asks for an answer: what follows the last thing that was said is left to the model.
  const last = path.findLastIndex((it) => it.role === "user");
  return (
    <div class="ascode">
      <p class="soft">{t("chat.code.note")}</p>
      <Snippet model={model} talk="chat" keyName={conversation.title.slice(0, 40)} body={requestFor(model, conversation.settings, path.slice(0, last + 1))} />
    </div>
  );
}

/** What was said is here but not there. */
function Unsaved({ problem, kept }: { problem: Problem; kept: boolean }) {
  return (
    <div class="note" role="status">
      <p>{kept ? t("chat.unsaved.trying") : t("chat.unsaved.window")}</p>
      {problem.detail && <p>{problem.detail} {problem.hint}</p>}
    </div>
  );
}
