import { useState } from "preact/hooks";
import { call, type RepoType } from "../../api";
import { apiOf, placeOf, type RepoName } from "../../hub";
import { Code, Empty, Head, Section, Trouble } from "../../parts";
import { Writing } from "../../parts/talk";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { go, Link } from "../../router";
import { RepoKick, RepoMissing, useRepo } from "./load";

/** A new discussion, or the ways to propose a change. */
export function NewTalkPage({ type, repoId, request }: { type: RepoType; repoId: string; request: boolean }) {
  const loaded = useRepo(type, repoId, { files: false });
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  const place = placeOf(repo);
  const may = repo.may.includes("discuss");
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={type} repoId={repoId}> / <Link to={`${place}?tab=community`}>{t("tab.community")}</Link></RepoKick>} title={request ? t("talks.propose") : t("talks.new")} sum={request ? t("propose.sum") : t("newtalk.sum")} />
      {!may && <Empty what={t("newtalk.cannot")} next={t("newtalk.cannot.next")} />}
      {may && !request && <div class="narrow"><TalkForm repo={repo} request={false} /></div>}
      {may && request && (
        <div class="ways">
          <Section id="h-edit" title={t("propose.edit")}>
            <p>{t("propose.edit.how")}</p>
            <p><Link class="b go" to={`${place}?tab=files`}>{t("propose.edit.go")}</Link></p>
          </Section>
          <Section id="h-upload" title={t("propose.upload")}>
            <p>{t("propose.upload.how")}</p>
            <p><Link class="b go" to={`${place}/upload/main?propose`}>{t("propose.upload.go")}</Link></p>
          </Section>
          <Section id="h-draft" title={t("propose.draft")}>
            <p>{t("propose.draft.how")}</p>
            <TalkForm repo={repo} request />
          </Section>
        </div>
      )}
    </div>
  );
}

function TalkForm({ repo, request }: { repo: RepoName; request: boolean }) {
  const [title, setTitle] = useState("");
  const [text, setText] = useState("");
  const act = useAct();
  const make = (): Promise<void> =>
    act.run(async () => {
      const body = { title: title.trim(), description: text.trim(), pullRequest: request };
      const made = await call<{ num: number }>(`${apiOf(repo)}/discussions`, { method: "POST", body });
      go(`${placeOf(repo)}/discussions/${made.num}`);
    });
  return (
    <form class="form wide" onSubmit={(event) => { event.preventDefault(); void make(); }}>
      <label><span>{t("newtalk.title")}</span><input type="text" required minLength={3} maxLength={200} value={title} onInput={(event) => setTitle(event.currentTarget.value)} /></label>
      <Writing label={t("newtalk.text")} required value={text} setValue={setText} rows={request ? 4 : 8} />
      {act.problem && <Trouble problem={act.problem} />}
      <button class="b go" type="submit" disabled={act.busy || text.trim() === ""}>{request ? t("propose.draft.go") : t("newtalk.go")}</button>
    </form>
  );
}

/** How one works on a pull request with git. */
export function WithGit({ url, num, conflict }: { url: string; num: number; conflict: boolean }) {
  const lines = [`git clone ${url} && cd ${url.split("/").at(-1) ?? ""}`, `git fetch origin refs/pr/${num}:pr/${num} && git checkout pr/${num}`, ...(conflict ? ["git merge origin/main"] : []), `git push origin pr/${num}:refs/pr/${num}`];
  return (
    <details open={conflict}>
      <summary>{t("pull.git")}</summary>
      <Code text={lines.join("\n")} label={t("signin.command")} />
    </details>
  );
}
