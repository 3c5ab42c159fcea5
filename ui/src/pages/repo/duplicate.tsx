import { useState } from "preact/hooks";
import { call, type Repo, type RepoType } from "../../api";
import { apiOf, placeOf } from "../../hub";
import { Empty, Head, Trouble } from "../../parts";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { go, Link } from "../../router";
import { session } from "../../session";
import { useStore } from "../../store";
import { RepoKick, RepoMissing, useRepo } from "./load";

/** A copy of a repository under another name, with its history. */
export function DuplicatePage({ type, repoId }: { type: RepoType; repoId: string }) {
  const loaded = useRepo(type, repoId, { files: false });
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={type} repoId={repoId}>{" "}</RepoKick>} title={t("copy.title", { name: repoId })} sum={t("reposet.copy.note")} />
      {repo.may.includes("discuss") ? <CopyForm repo={repo} /> : <Empty what={t("newtalk.cannot")} next={t("newtalk.cannot.next")} />}
    </div>
  );
}

function CopyForm({ repo }: { repo: Repo }) {
  const now = useStore(session);
  const [owner, setOwner] = useState(now.state === "in" ? now.user.name : "");
  const [name, setName] = useState(repo.repo_id.split("/")[1] ?? "");
  const [hidden, setHidden] = useState(repo.private);
  const act = useAct();
  const copy = (): Promise<void> =>
    act.run(async () => {
      const made = await call<{ id: string }>(`${apiOf(repo)}/duplicate`, { method: "POST", body: { repository: `${owner.trim()}/${name.trim()}`, private: hidden } });
      go(placeOf({ type: repo.type, repo_id: made.id }));
    });
  return (
    <form class="form" onSubmit={(event) => { event.preventDefault(); void copy(); }}>
      <label><span>{t("reposet.owner")}</span><input type="text" required maxLength={96} autocapitalize="off" spellcheck={false} value={owner} onInput={(event) => setOwner(event.currentTarget.value)} /></label>
      <label><span>{t("keys.name")}</span><input type="text" required maxLength={96} autocapitalize="off" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
      <label class="tick"><input type="checkbox" checked={hidden} onChange={(event) => setHidden(event.currentTarget.checked)} /><span>{t("copy.private")}</span></label>
      {act.problem && <Trouble problem={act.problem} />}
      <p class="row">
        <button class="b go" type="submit" disabled={act.busy}>{t("reposet.copy.go")}</button>
        <Link class="b bare" to={placeOf(repo)}>{t("thread.cancel")}</Link>
      </p>
    </form>
  );
}
