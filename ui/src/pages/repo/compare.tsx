import type { Comparison, Repo, RepoType } from "../../api";
import { placeOf } from "../../hub";
import { Head, Section, Trouble, Waiting } from "../../parts";
import { Changes, comparePath, type Span } from "../../parts/changes";
import { CommitTable, RefPicker, shortRevision } from "../../parts/versions";
import { t } from "../../i18n";
import { useLoad } from "../../load";
import { go, Link } from "../../router";
import { RepoKick, RepoMissing, useRepo } from "./load";

/** What lies between two revisions: `base..head` straight, `base...head` since they parted. */
export function ComparePage({ type, repoId, range }: { type: RepoType; repoId: string; range: string }) {
  const loaded = useRepo(type, repoId, { files: false });
  const repo = loaded.data;
  const since = range.includes("...");
  const [base = "", head = ""] = range.split(since ? "..." : "..");
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  return <Compared repo={repo} span={{ base: base || "main", head: head || "main", since }} />;
}

function Compared({ repo, span }: { repo: Repo; span: Span & { base: string } }) {
  const found = useLoad<Comparison>(comparePath(repo, span));
  const it = found.data;
  const move = (next: Partial<typeof span>): void => {
    const to = { ...span, ...next };
    go(`${placeOf(repo)}/compare/${encodeURIComponent(to.base)}${to.since ? "..." : ".."}${encodeURIComponent(to.head)}`, "replace");
  };
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={repo.type} repoId={repo.repo_id}> / <Link to={`${placeOf(repo)}?tab=versions`}>{t("tab.versions")}</Link></RepoKick>} title={t("compare.title", { base: shortRevision(span.base), head: shortRevision(span.head) })} sum={t(span.since ? "compare.since" : "compare.straight")} />
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <RefPicker repo={repo} revision={span.base} label={t("compare.base")} onPick={(base) => move({ base })} />
        <RefPicker repo={repo} revision={span.head} label={t("compare.head")} onPick={(head) => move({ head })} />
        <label>
          <span>{t("compare.how")}</span>
          <select value={String(span.since)} onChange={(event) => move({ since: event.currentTarget.value === "true" })}>
            <option value="true">{t("compare.how.since")}</option>
            <option value="false">{t("compare.how.straight")}</option>
          </select>
        </label>
        <button class="b" type="button" onClick={() => move({ base: span.head, head: span.base })}>{t("compare.swap")}</button>
      </form>
      {found.problem && <Trouble problem={found.problem} retry={() => void found.reload()} />}
      {found.waiting && <Waiting what={t("waiting.commit")} />}
      {it && (
        <div class="stack-l">
          <Section id="h-commits" title={t("compare.commits", { n: it.commits.length })}>
            {it.commits.length === 0 ? <p class="small quiet logempty">{t("compare.same")}</p> : <CommitTable repo={repo} commits={it.commits} />}
          </Section>
          <Section id="h-changed" title={t("commit.changed", { n: it.files_total })}>
            <Changes repo={repo} files={it.files} total={it.files_total} span={span} />
          </Section>
        </div>
      )}
    </div>
  );
}
