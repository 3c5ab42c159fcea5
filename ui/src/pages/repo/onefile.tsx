import type { RepoType } from "../../api";
import { sendCommit, type Message } from "../../commits";
import { filesOf, isCommit, placeOf } from "../../hub";
import { Empty, Head } from "../../parts";
import { CommitForm, requestOf } from "../../parts/commitform";
import { filePage } from "../../parts/rows";
import { History, shortRevision } from "../../parts/versions";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { go, Link } from "../../router";
import { RepoKick, RepoMissing, useRepo } from "./load";

interface FileProps {
  type: RepoType;
  repoId: string;
  revision: string;
  file: string;
}

/** The commits that changed one file. */
export function FileHistoryPage({ type, repoId, revision, file }: FileProps) {
  const loaded = useRepo(type, repoId, { files: false });
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={type} repoId={repoId}> / <Link to={filePage(repo, revision, file)}>{file}</Link></RepoKick>} title={t("history.title", { path: file })} sum={t("history.sum", { revision: shortRevision(revision) })} />
      <History repo={repo} revision={revision} path={file} />
    </div>
  );
}

/** Deletes one file, as a commit or a pull request. */
export function DeleteFilePage({ type, repoId, revision, file }: FileProps) {
  const loaded = useRepo(type, repoId, { revision });
  const act = useAct();
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  const here = repo.files.some((it) => it.path === file);
  const remove = (message: Message, propose: boolean): Promise<void> =>
    act.run(async () => {
      const done = await sendCommit(repo, { revision, propose, parent: repo.revision ?? undefined }, message, [{ key: "deletedFile", value: { path: file } }]);
      const request = done.request ?? requestOf(revision);
      go(request !== null ? `${placeOf(repo)}/discussions/${request}` : filesOf(repo, revision));
    });
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={type} repoId={repoId}> / <Link to={filePage(repo, revision, file)}>{file}</Link></RepoKick>} title={here ? t("delete.title", { path: file }) : t("file.gone", { path: file })} sum={here ? t("delete.sum") : t("file.gone.next")} />
      {isCommit(revision) && <Empty what={t("edit.notbranch")} next={t("edit.notbranch.next")} />}
      {!isCommit(revision) && !repo.may.includes("discuss") && <Empty what={t("newtalk.cannot")} next={t("newtalk.cannot.next")} />}
      {!isCommit(revision) && repo.may.includes("discuss") && here && (
        <div class="editor">
          <CommitForm repo={repo} revision={revision} usual={t("delete.usual", { path: file })} propose={false} busy={act.busy} problem={act.problem} ready onSend={(message, propose) => void remove(message, propose)}>
            <Link class="b bare" to={filePage(repo, revision, file)}>{t("thread.cancel")}</Link>
          </CommitForm>
        </div>
      )}
    </div>
  );
}
