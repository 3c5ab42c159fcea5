import { Files } from "../../parts/files";
import { placeOf } from "../../hub";
import { t } from "../../i18n";
import { Link } from "../../router";
import { isGGUF, ServeFile } from "../model";
import type { Panel } from "./tabs";

/** The files of a revision, and what may be done with them. */
export function FilesPanel({ repo, revision, serving }: Panel) {
  const serves = serving !== undefined && revision === "main" && repo.files.some(isGGUF);
  const place = placeOf(repo);
  const ref = encodeURIComponent(revision);
  const onBranch = !/^[0-9a-f]{40}$/.test(revision);
  return (
    <>
      {onBranch && repo.may.includes("discuss") && (
        <p class="row tools-line">
          <Link class="b" to={`${place}/new/${ref}`}>{t("edit.new")}</Link>
          <Link class="b" to={`${place}/upload/${ref}`}>{t("propose.upload.go")}</Link>
        </p>
      )}
      <Files repo={repo} revision={revision} act={serves ? (file) => <ServeFile repo={repo} file={file} serving={serving} /> : undefined} />
    </>
  );
}
