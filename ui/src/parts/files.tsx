import type { ComponentChildren } from "preact";
import type { Repo, RepoFile } from "../api";
import { Size } from "./index";
import { FileLink } from "./rows";
import { SafetyBadge } from "./safety";
import { t } from "../i18n";
import { repoPath, url } from "../router";

/** Address of one file of a repository, as the hub's clients ask for it. */
export function fileURL(repo: Pick<Repo, "repo_id" | "type">, revision: string, path: string): string {
  const kind = repo.type === "model" ? "" : `${repo.type}s/`;
  return url(`${kind}${repoPath(repo.repo_id)}/resolve/${encodeURIComponent(revision)}/${path.split("/").map(encodeURIComponent).join("/")}`);
}

export function Download({ repo, revision, path, bare }: { repo: Pick<Repo, "repo_id" | "type">; revision: string; path: string; bare?: boolean }) {
  return (
    <a class={bare ? "b bare icon" : "b"} href={fileURL(repo, revision, path)} download={path.split("/").at(-1)} aria-label={t("files.download", { path })} title={bare ? t("files.download", { path }) : undefined}>
      <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M8 2.500v7.500M4.500 7 8 10.500 11.500 7M2.500 13.500h11" /></svg>
      {!bare && t("files.get")}
    </a>
  );
}

export function Files({ repo, revision, act }: { repo: Repo; revision: string; act?: (file: RepoFile) => ComponentChildren }) {
  const total = repo.files.reduce((sum, file) => sum + file.size_bytes, 0);
  return (
    <table class="files">
      <caption class="sr">{t("files.caption")}</caption>
      <thead>
        <tr>
          <th scope="col">{t("files.file")}</th>
          <th scope="col" class="hide-s">{t("files.hash")}</th>
          {act && <th scope="col" class="r"><span class="sr">{t("files.act")}</span></th>}
          <th scope="col" class="r">{t("files.size")}</th>
          <th scope="col" class="r"><span class="sr">{t("files.get")}</span></th>
        </tr>
      </thead>
      <tbody>
        {repo.files.map((file) => (
          <tr key={file.path}>
            <th scope="row" class="mono">{repo.open ? <FileLink repo={repo} revision={revision} path={file.path} /> : file.path}<SafetyBadge file={file} /></th>
            <td class="hide-s mono quiet" title={file.sha256 ?? file.oid}>{(file.sha256 ?? file.oid).slice(0, 12)}</td>
            {act && <td class="r">{act(file)}</td>}
            <td class="r"><Size of={file.size_bytes} /></td>
            <td class="r">{repo.open && <Download bare repo={repo} revision={revision} path={file.path} />}</td>
          </tr>
        ))}
      </tbody>
      <tfoot>
        <tr>
          <th scope="row">{t("files.count", { n: repo.files.length })}</th>
          <td class="hide-s" />
          {act && <td />}
          <td class="r"><Size of={total} /></td>
          <td />
        </tr>
      </tfoot>
    </table>
  );
}
