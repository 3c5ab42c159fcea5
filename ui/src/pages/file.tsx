import type { RepoType } from "../api";
import { Head, Size, Trouble, Waiting } from "../parts";
import { Download } from "../parts/files";
import { Beginning } from "../parts/rows";
import { OldRevision } from "../parts/versions";
import { filesOf, isCommit } from "../hub";
import { t } from "../i18n";
import { Link, repoPath, usePlace } from "../router";
import { useRepo } from "./repo/load";

/** One file at a revision: its beginning as rows or text, its size, and the way to the whole of it. */
export function FilePage({ type, repoId, revision, file }: { type: RepoType; repoId: string; revision: string; file: string }) {
  const { path } = usePlace();
  const folder = `${type}s/${repoPath(repoId)}`;
  const repo = useRepo(type, repoId, { revision });
  const line = repo.data?.files.find((it) => it.path === file);
  const kick = <><Link to={folder}>{repoId}</Link> / <Link to={filesOf({ type, repo_id: repoId }, revision)}>{t("tab.files")}</Link></>;
  const gone = repo.data !== undefined && line === undefined;
  return (
    <div class="page wrap">
      <Head kick={kick} title={gone ? t("file.gone", { path: file }) : file} sum={line ? <><Size of={line.size_bytes} /> · <code class="quiet">{(line.sha256 ?? line.oid).slice(0, 12)}</code></> : gone ? t("file.gone.next") : undefined}>
        {line && <Link class="b" to={path.replace("/blob/", "/history/")}>{t("file.history")}</Link>}
        {line && !isCommit(revision) && (
          <>
            <Link class="b" to={path.replace("/blob/", "/edit/")}>{t("file.edit")}</Link>
            <Link class="b" to={path.replace("/blob/", "/delete/")}>{t("file.delete")}</Link>
          </>
        )}
        {line && <Download repo={{ type, repo_id: repoId }} revision={revision} path={file} />}
      </Head>
      <OldRevision revision={revision} path={path.replace(/\/blob\/[^/]+\//, "/blob/main/")} />
      {repo.problem && <Trouble problem={repo.problem} retry={() => void repo.reload()} />}
      {repo.waiting && <Waiting what={t("waiting.file")} />}
      {line && <Beginning repo={{ type, repo_id: repoId }} revision={revision} path={file} />}
    </div>
  );
}
