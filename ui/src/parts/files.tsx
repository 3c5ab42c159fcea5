import type { ComponentChildren } from "preact";
import type { Repo, RepoFile } from "../api";
import { Size } from "./index";
import { t } from "../i18n";
import { repoPath, url } from "../router";

/** Address of one file of a repository, as the hub's clients ask for it. */
export function fileURL(repo: Pick<Repo, "repo_id" | "type">, revision: string, path: string): string {
  const kind = repo.type === "model" ? "" : `${repo.type}s/`;
  return url(`${kind}${repoPath(repo.repo_id)}/resolve/${encodeURIComponent(revision)}/${path.split("/").map(encodeURIComponent).join("/")}`);
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
        </tr>
      </thead>
      <tbody>
        {repo.files.map((file) => (
          <tr key={file.path}>
            <th scope="row" class="mono">
              <a href={fileURL(repo, revision, file.path)} download={file.path.split("/").at(-1)} aria-label={t("files.download", { path: file.path })}>{file.path}</a>
            </th>
            <td class="hide-s mono quiet" title={file.sha256 ?? file.oid}>{(file.sha256 ?? file.oid).slice(0, 12)}</td>
            {act && <td class="r">{act(file)}</td>}
            <td class="r"><Size of={file.size_bytes} /></td>
          </tr>
        ))}
      </tbody>
      <tfoot>
        <tr>
          <th scope="row">{t("files.count", { n: repo.files.length })}</th>
          <td class="hide-s" />
          {act && <td />}
          <td class="r"><Size of={total} /></td>
        </tr>
      </tfoot>
    </table>
  );
}
