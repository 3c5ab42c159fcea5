import { useEffect, useRef, useState } from "preact/hooks";
import { call, Problem } from "../../api";
import { countOld, moveOld, removeOld } from "../../chats/old";
import { changes, conversations, HERE, history, removeAll } from "../../chats/store";
import type { ChatLine } from "../../chats/types";
import { Sure, Trouble } from "../../parts";
import { KeepHistory } from "../../parts/history";
import { ago, fullTime, integer } from "../../format";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { go, Link, url } from "../../router";
import { sessionEnded } from "../../session";
import { useStore } from "../../store";

interface List {
  items: ChatLine[];
  next: string | null;
  total: number;
}

const PAGE = 50;
const MOST_AT_ONCE = 200;

/** The list of kept conversations: searched, read on page by page, read again when something changed. */
function useList(search: string): { list: List | null; problem: Problem | null; more: () => Promise<void> } {
  const changed = useStore(changes);
  const [list, setList] = useState<List | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const shown = useRef(PAGE);
  const turn = useRef(0);
  const ask = async (limit: number, cursor: string | null): Promise<List | null> => {
    const mine = (turn.current += 1);
    const query = new URLSearchParams({ limit: String(limit), ...(search ? { search } : {}), ...(cursor ? { cursor } : {}) });
    try {
      const answer = await call<List>(`fust/v1/chats?${query.toString()}`);
      if (mine !== turn.current) return null;
      setProblem(null);
      return answer;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) sessionEnded();
      if (mine === turn.current) setProblem(error);
      return null;
    }
  };
  useEffect(() => {
    shown.current = PAGE;
  }, [search]);
  useEffect(() => {
    // Typing and several windows ask often; one answer a moment is enough.
    const timer = setTimeout(() => {
      void ask(Math.min(shown.current, MOST_AT_ONCE), null).then((answer) => answer && setList(answer));
    }, search ? 150 : 0);
    return () => clearTimeout(timer);
  }, [search, changed]);
  const more = async (): Promise<void> => {
    const answer = await ask(PAGE, list?.next ?? null);
    if (answer === null || list === null) return;
    const items = [...list.items, ...answer.items];
    shown.current = items.length;
    setList({ ...answer, items });
  };
  return { list, problem, more };
}

export function Sidebar({ now, user }: { now: string | null; user: string }) {
  const [search, setSearch] = useState("");
  const [opened, setOpened] = useState(false);
  const { list, problem, more } = useList(search.trim());
  const here = [...useStore(conversations).values()].filter((it) => it.id.startsWith(HERE)).reverse();
  const none = list !== null && list.total === 0 && search.trim() === "" && here.length === 0;
  return (
    <nav class={opened ? "threads open" : "threads"} aria-label={t("chat.threads")}>
      <div class="row">
        <Link class="b" to="chat" onGo={() => setOpened(false)}>{t("chat.new")}</Link>
        <button class="b narrow" type="button" aria-expanded={opened} onClick={() => setOpened(!opened)}>
          {t("chat.threads")} {list !== null && <span class="quiet num">{integer(list.total)}</span>}
        </button>
      </div>
      <div class="threadlist">
        {!none && (
          <label class="block">
            <span class="sr">{t("chat.search")}</span>
            <input type="search" value={search} placeholder={t("chat.search")} maxLength={200} onInput={(event) => setSearch(event.currentTarget.value)} />
          </label>
        )}
        {problem && <Trouble problem={problem} />}
        {here.length > 0 && search.trim() === "" && (
          <Group title={t("chat.here")}>
            {here.map((it) => <Line key={it.id} id={it.id} title={it.title} now={now} onGo={() => setOpened(false)} />)}
          </Group>
        )}
        {list && byDay(list.items).map(([day, items]) => (
          <Group key={day} title={day}>
            {items.map((it) => <Line key={it.id} id={it.id} title={it.title} at={it.updated_at} found={it.found} now={now} onGo={() => setOpened(false)} />)}
          </Group>
        ))}
        {list !== null && list.total === 0 && search.trim() !== "" && <p class="small quiet" role="status">{t("chat.search.none", { words: search.trim() })}</p>}
        {list?.next && <button class="b bare" type="button" onClick={() => void more()}>{t("chat.older")}</button>}
        <History user={user} some={list !== null && list.total > 0} now={now} />
      </div>
    </nav>
  );
}

function Group({ title, children }: { title: string; children: preact.ComponentChildren }) {
  return (
    <section aria-label={title}>
      <p class="small quiet day" aria-hidden="true">{title}</p>
      <ul>{children}</ul>
    </section>
  );
}

function Line({ id, title, at, found, now, onGo }: { id: string; title: string; at?: string; found?: string; now: string | null; onGo: () => void }) {
  return (
    <li>
      <Link to={`chat?c=${encodeURIComponent(id)}`} aria-current={id === now ? "page" : undefined} title={at ? `${title} · ${ago(at)} · ${fullTime(at)}` : title} onGo={onGo}>
        <span class="cut">{title}</span>
        {found && <span class="cut quiet found">{found}</span>}
      </Link>
    </li>
  );
}

/** Conversations under today, this week, and so on; the list is newest first. */
function byDay(items: ChatLine[]): [string, ChatLine[]][] {
  const groups = new Map<string, ChatLine[]>();
  const midnight = new Date().setHours(0, 0, 0, 0);
  for (const item of items) {
    const days = Math.ceil((midnight - new Date(item.updated_at).getTime()) / 86_400_000);
    const name = days <= 0 ? t("chat.day.today") : days === 1 ? t("chat.day.yesterday") : days <= 7 ? t("chat.day.week") : t("chat.day.before");
    const there = groups.get(name);
    if (there === undefined) groups.set(name, [item]);
    else there.push(item);
  }
  return [...groups];
}

/** The switch, the exports and the end of it all. */
function History({ user, some, now }: { user: string; some: boolean; now: string | null }) {
  const keep = useStore(history);
  const act = useAct();
  const [old, setOld] = useState(() => countOld(user));
  return (
    <details class="history">
      <summary>{keep === false ? t("chat.history.off") : t("chat.history")}</summary>
      <KeepHistory user={user} />
      {some && (
        <p class="small">
          {t("chat.export.all")}{" "}
          <a href={url("fust/v1/chats/export?format=json")} download>JSON</a>{" · "}
          <a href={url("fust/v1/chats/export?format=markdown")} download>Markdown</a>
        </p>
      )}
      {some && (
        <Sure bare label={t("chat.delete.all")} ask={t("chat.delete.all.sure")} busy={act.busy} onSure={() => void act.run(async () => {
          await removeAll();
          if (now !== null && !now.startsWith(HERE)) go("chat");
        })} />
      )}
      {old > 0 && (
        <div class="note calm">
          <p>{t("chat.old", { n: old })}</p>
          <div class="row">
            <button class="b" type="button" disabled={act.busy || keep !== true} onClick={() => void act.run(async () => { await moveOld(user); setOld(countOld(user)); })}>{t("chat.old.move")}</button>
            <Sure bare label={t("chat.old.delete")} ask={t("chat.delete.sure")} onSure={() => { removeOld(user); setOld(0); }} />
          </div>
        </div>
      )}
      {act.problem && <Trouble problem={act.problem} />}
    </details>
  );
}
