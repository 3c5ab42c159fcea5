import { useState } from "preact/hooks";
import { call, type Comparison, type Repo, type RepoType } from "../../api";
import { apiOf, placeOf, type Thread } from "../../hub";
import { Head, Section, Tabs, Time, Trouble, Waiting } from "../../parts";
import { Changes, comparePath, type Span } from "../../parts/changes";
import { CommitTable } from "../../parts/versions";
import { TalkState } from "../../parts/talk";
import { t } from "../../i18n";
import { useAct, useLoad } from "../../load";
import { go, Link, usePlace } from "../../router";
import { session } from "../../session";
import { useStore } from "../../store";
import { RepoKick, RepoMissing, useRepo } from "./load";
import { MergeBox } from "./merge";
import { Events } from "./thread";

const VIEWS = ["talk", "commits", "files"] as const;
type View = (typeof VIEWS)[number];

/** One discussion or pull request. */
export function TalkPage({ type, repoId, num }: { type: RepoType; repoId: string; num: number }) {
  const loaded = useRepo(type, repoId, { files: false });
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  return <Talk repo={repo} num={num} reloadRepo={loaded.reload} />;
}

function Talk({ repo, num, reloadRepo }: { repo: Repo; num: number; reloadRepo: () => Promise<void> }) {
  const { path, query } = usePlace();
  const now = useStore(session);
  const me = now.state === "in" ? now.user.name : "";
  const loaded = useLoad<Thread>(`${apiOf(repo)}/discussions/${num}`);
  const thread = loaded.data;
  const view = VIEWS.find((it) => it === query.get("view")) ?? "talk";
  const place = placeOf(repo);
  const kick = <RepoKick type={repo.type} repoId={repo.repo_id}> / <Link to={`${place}?tab=community`}>{t("tab.community")}</Link></RepoKick>;
  const reload = async (): Promise<void> => {
    await Promise.all([loaded.reload(), reloadRepo()]);
  };
  if (thread === undefined) {
    const gone = loaded.problem?.status === 404;
    return (
      <div class="page wrap">
        <Head kick={kick} title={gone ? t("talk.gone", { num }) : `#${num}`} sum={gone ? t("talk.gone.next") : undefined} />
        {loaded.problem && <Trouble problem={loaded.problem} retry={gone ? undefined : () => void loaded.reload()} />}
        {loaded.waiting && <Waiting what={t("waiting.talk")} />}
      </div>
    );
  }
  const writes = repo.may.includes("push");
  const talks = repo.may.includes("discuss");
  const sum = <><TalkState of={thread.status} /> <span>{t(thread.isPullRequest ? "talk.request.by" : "talk.by", { name: thread.author.name })} · <Time at={thread.createdAt} /></span></>;
  const pick = (next: View): void => go(next === "talk" ? path : `${path}?view=${next}`, "replace");
  const said = <Events repo={repo} thread={thread} me={me} writes={writes} talks={talks} reload={reload} />;
  return (
    <div class="page wrap">
      <Head kick={kick} title={thread.title} sum={<>#{thread.num} {sum}</>}>
        {talks && (writes || thread.author.name === me) && <Rename key={thread.title} repo={repo} thread={thread} reload={reload} />}
      </Head>
      {!thread.isPullRequest ? (
        <div class="thread">{said}</div>
      ) : (
        <>
          <Tabs<View> now={view} label={t("talk.views")} onPick={pick} tabs={VIEWS.map((id) => ({ id, label: t(`talk.view.${id}`) }))} />
          <div class="split">
            <div role="tabpanel" id={`p-${view}`} aria-labelledby={`t-${view}`} tabIndex={0}>
              {view === "talk" ? said : <Proposed repo={repo} num={num} view={view} />}
            </div>
            <aside class="aside" aria-label={t("merge.title")}>
              <MergeBox repo={repo} thread={thread} me={me} reload={reload} />
            </aside>
          </div>
        </>
      )}
    </div>
  );
}

/** What a pull request brings: its commits, or the files that they change. */
function Proposed({ repo, num, view }: { repo: Repo; num: number; view: "commits" | "files" }) {
  const span: Span = { base: "main", head: `refs/pr/${num}`, since: true };
  const found = useLoad<Comparison>(comparePath(repo, span));
  const it = found.data;
  if (found.problem) return <Trouble problem={found.problem} retry={() => void found.reload()} />;
  if (it === undefined) return <Waiting what={t("waiting.commit")} />;
  if (view === "files") {
    return (
      <Section id="h-changed" title={t("commit.changed", { n: it.files_total })}>
        <Changes repo={repo} files={it.files} total={it.files_total} span={span} />
      </Section>
    );
  }
  return (
    <Section id="h-commits" title={t("compare.commits", { n: it.commits.length })}>
      {it.commits.length === 0 ? <p class="small quiet logempty">{t("compare.none")}</p> : <CommitTable repo={repo} commits={it.commits} />}
    </Section>
  );
}

function Rename({ repo, thread, reload }: { repo: Repo; thread: Thread; reload: () => Promise<void> }) {
  const [title, setTitle] = useState<string | null>(null);
  const act = useAct();
  if (title === null) return <button class="b" type="button" onClick={() => setTitle(thread.title)}>{t("talk.rename")}</button>;
  const save = (): Promise<void> =>
    act.run(async () => {
      await call(`${apiOf(repo)}/discussions/${thread.num}/title`, { method: "POST", body: { title: title.trim() } });
      await reload();
      setTitle(null);
    });
  return (
    <form class="filters" onSubmit={(event) => { event.preventDefault(); void save(); }}>
      <label class="grow"><span>{t("newtalk.title")}</span><input type="text" required minLength={3} maxLength={200} value={title} onInput={(event) => setTitle(event.currentTarget.value)} /></label>
      <button class="b go" type="submit" disabled={act.busy}>{t("settings.save")}</button>
      <button class="b bare" type="button" onClick={() => setTitle(null)}>{t("thread.cancel")}</button>
      {act.problem && <Trouble problem={act.problem} />}
    </form>
  );
}
