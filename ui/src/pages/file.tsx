import type { Repo, RepoType } from "../api";
import { Head, Size, Trouble, Waiting } from "../parts";
import { Download } from "../parts/files";
import { Beginning } from "../parts/rows";
import { OldRevision } from "../parts/versions";
import { t } from "../i18n";
import { useLoad } from "../load";
import { Link, repoPath, usePlace } from "../router";

/** One file at a revision: its beginning as rows or text, its size, and the way to the whole of it. */
export function FilePage({ type, repoId, revision, file }: { type: RepoType; repoId: string; revision: string; file: string }) {
  const { path } = usePlace();
  const folder = `${type}s/${repoPath(repoId)}`;
  const repo = useLoad<Repo>(`fust/v1/repos/${type}/${repoPath(repoId)}?revision=${encodeURIComponent(revision)}`);
  const line = repo.data?.files.find((it) => it.path === file);
  const query = revision === "main" ? "?tab=files" : `?tab=files&revision=${encodeURIComponent(revision)}`;
  const kick = <><Link to={folder}>{repoId}</Link> / <Link to={folder + query}>{t("tab.files")}</Link></>;
  const gone = repo.data !== undefined && line === undefined;
  return (
    <div class="page wrap">
      <Head kick={kick} title={gone ? t("file.gone", { path: file }) : file} sum={line ? <><Size of={line.size_bytes} /> · <code class="quiet">{(line.sha256 ?? line.oid).slice(0, 12)}</code></> : gone ? t("file.gone.next") : undefined}>
        {line && !/^[0-9a-f]{40}$/.test(revision) && <Link class="b" to={path.replace("/blob/", "/edit/")}>{t("file.edit")}</Link>}
        {line && <Download repo={{ type, repo_id: repoId }} revision={revision} path={file} />}
      </Head>
      <OldRevision revision={revision} path={path.replace(/\/blob\/[^/]+\//, "/blob/main/")} />
      {repo.problem && <Trouble problem={repo.problem} retry={() => void repo.reload()} />}
      {repo.waiting && <Waiting what={t("waiting.file")} />}
      {line && <Beginning repo={{ type, repo_id: repoId }} revision={revision} path={file} />}
    </div>
  );
}
