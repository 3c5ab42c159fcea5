import { Files } from "../../parts/files";
import { atRevision, RefPicker } from "../../parts/versions";
import { isCommit, placeOf } from "../../hub";
import { t } from "../../i18n";
import { go, Link, usePlace } from "../../router";
import { isGGUF, ServeFile } from "../model";
import type { Panel } from "./tabs";

/** The files of a revision, and what may be done with them. */
export function FilesPanel({ repo, revision, page, serving }: Panel) {
  const { query } = usePlace();
  const serves = serving !== undefined && revision === "main" && repo.files.some(isGGUF);
  const place = placeOf(repo);
  const ref = encodeURIComponent(revision);
  return (
    <>
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <RefPicker repo={repo} revision={revision} label={t("versions.of")} onPick={(next) => go(atRevision(page, query, next), "replace")} />
        <Link class="b" to={`${place}/refs`}>{t("refs.title")}</Link>
        {!isCommit(revision) && repo.may.includes("discuss") && (
          <>
            <Link class="b" to={`${place}/new/${ref}`}>{t("edit.new")}</Link>
            <Link class="b" to={`${place}/upload/${ref}`}>{t("propose.upload.go")}</Link>
          </>
        )}
      </form>
      <Files repo={repo} revision={revision} act={serves ? (file) => <ServeFile repo={repo} file={file} serving={serving} /> : undefined} />
    </>
  );
}
