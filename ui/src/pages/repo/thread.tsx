import { useState } from "preact/hooks";
import { call } from "../../api";
import { apiOf, placeOf, type CommentEvent, type RepoName, type TalkEvent, type Thread } from "../../hub";
import { Sure, Time, Trouble } from "../../parts";
import { Comment } from "../../parts/markdown";
import { TalkState, Writing } from "../../parts/talk";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { Link } from "../../router";

interface ThreadProps {
  repo: RepoName;
  thread: Thread;
  /** The reader's name. */
  me: string;
  /** Whether the reader may write to the repository. */
  writes: boolean;
  /** Whether the reader may say something at all. */
  talks: boolean;
  reload: () => Promise<void>;
}

/** What was said and done, oldest first, and the place to say more. */
export function Events(props: ThreadProps) {
  return (
    <>
      <ol class="events">
        {props.thread.events.map((event) => (
          <li key={event.id}>{event.type === "comment" ? <Said {...props} event={event} /> : <Done repo={props.repo} event={event} />}</li>
        ))}
      </ol>
      {props.talks ? <Reply {...props} /> : <p class="note calm">{t("newtalk.cannot")} {t("newtalk.cannot.next")}</p>}
    </>
  );
}

const threadPath = (repo: RepoName, num: number): string => `${apiOf(repo)}/discussions/${num}`;

function Said({ repo, thread, me, writes, talks, reload, event }: ThreadProps & { event: CommentEvent }) {
  const [editing, setEditing] = useState<string | null>(null);
  const act = useAct();
  const mine = event.author.name === me;
  const path = `${threadPath(repo, thread.num)}/comment/${encodeURIComponent(event.id)}`;
  const save = (text: string): Promise<void> =>
    act.run(async () => {
      await call(`${path}/edit`, { method: "POST", body: { content: text } });
      await reload();
      setEditing(null);
    });
  const hide = (): Promise<void> =>
    act.run(async () => {
      await call(`${path}/hide`, { method: "POST", body: {} });
      await reload();
    });
  const open = talks && !event.data.hidden && editing === null;
  const earlier = event.data.history.slice(0, -1).reverse();
  return (
    <article class="said-by" aria-label={t("thread.comment.of", { name: event.author.name })}>
      <header class="hrow">
        <p class="small"><Link to={encodeURIComponent(event.author.name)}><b>{event.author.name}</b></Link> <span class="quiet"><Time at={event.createdAt} />{event.data.edited && !event.data.hidden && <> · {t("thread.edited")}</>}</span></p>
        {open && (
          <p class="row">
            {mine && <button class="b bare" type="button" onClick={() => setEditing(event.data.latest.raw)}>{t("thread.edit")}</button>}
            {(mine || writes) && <Sure bare label={t("thread.hide")} ask={t("thread.hide.sure")} busy={act.busy} onSure={() => void hide()} />}
          </p>
        )}
      </header>
      {act.problem && <Trouble problem={act.problem} />}
      {editing !== null ? (
        <form class="form wide" onSubmit={(it) => { it.preventDefault(); void save(editing); }}>
          <Writing label={t("thread.edit.label")} required value={editing} setValue={setEditing} />
          <p class="row">
            <button class="b go" type="submit" disabled={act.busy || editing.trim() === ""}>{t("settings.save")}</button>
            <button class="b bare" type="button" onClick={() => setEditing(null)}>{t("thread.cancel")}</button>
          </p>
        </form>
      ) : event.data.hidden ? (
        <p class="small quiet">{t("thread.hidden", { name: event.data.latest.author.name })}</p>
      ) : (
        <Comment text={event.data.latest.raw} />
      )}
      {editing === null && earlier.length > 0 && (
        <details>
          <summary>{t("thread.earlier", { n: earlier.length })}</summary>
          {earlier.map((version) => <div key={version.updatedAt} class="stack"><p class="small quiet"><Time at={version.updatedAt} /></p><pre class="code text" role="group" tabIndex={0} aria-label={t("thread.earlier.label")}>{version.raw}</pre></div>)}
        </details>
      )}
    </article>
  );
}

/** A line of what was done. */
function Done({ repo, event }: { repo: RepoName; event: Exclude<TalkEvent, CommentEvent> }) {
  const who = <Link to={encodeURIComponent(event.author.name)}>{event.author.name}</Link>;
  return (
    <p class="small soft did">
      {event.type === "status-change" && <>{who} {t("thread.did.status")} <TalkState of={event.data.status} /></>}
      {event.type === "title-change" && <>{who} {t("thread.did.title")} <del>{event.data.from}</del> → <b>{event.data.to}</b></>}
      {event.type === "commit" && <>{who} {t("thread.did.commit")} <Link to={`${placeOf(repo)}/commit/${event.data.oid}`}><code>{event.data.oid.slice(0, 8)}</code></Link> {event.data.subject}</>}
      {" "}<span class="quiet"><Time at={event.createdAt} /></span>
    </p>
  );
}

/** A comment, alone or with a change of how the discussion stands. */
function Reply({ repo, thread, me, writes, reload }: ThreadProps) {
  const [text, setText] = useState("");
  const act = useAct();
  const path = threadPath(repo, thread.num);
  const said = text.trim();
  const say = (): Promise<void> =>
    act.run(async () => {
      await call(`${path}/comment`, { method: "POST", body: { comment: said } });
      setText("");
      await reload();
    });
  const turn = (status: "open" | "closed"): Promise<void> =>
    act.run(async () => {
      await call(`${path}/status`, { method: "POST", body: { status, ...(said === "" ? {} : { comment: said }) } });
      setText("");
      await reload();
    });
  const mayTurn = (writes || thread.author.name === me) && thread.status !== "merged";
  return (
    <form class="form wide reply" aria-label={t("thread.reply")} onSubmit={(event) => { event.preventDefault(); void say(); }}>
      <Writing label={t("thread.reply")} value={text} setValue={setText} />
      {act.problem && <Trouble problem={act.problem} />}
      <p class="row">
        <button class="b go" type="submit" disabled={act.busy || said === ""}>{t("thread.say")}</button>
        {mayTurn && thread.status !== "closed" && <button class="b" type="button" disabled={act.busy} onClick={() => void turn("closed")}>{said === "" ? t("thread.close") : t("thread.close.say")}</button>}
        {mayTurn && thread.status === "closed" && <button class="b" type="button" disabled={act.busy} onClick={() => void turn("open")}>{said === "" ? t("thread.reopen") : t("thread.reopen.say")}</button>}
        {mayTurn && thread.status === "draft" && <button class="b" type="button" disabled={act.busy} onClick={() => void turn("open")}>{t("thread.ready")}</button>}
      </p>
    </form>
  );
}
