import { useState } from "preact/hooks";
import { call, type Repo } from "../../api";
import { sendCommit, type Operation } from "../../commits";
import { apiOf, placeOf, type Thread } from "../../hub";
import { Section, Sure, Trouble } from "../../parts";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { Link } from "../../router";
import { WithGit } from "./newtalk";

/** Whether a pull request can be merged, and the button that does it. */
export function MergeBox({ repo, thread, me, reload }: { repo: Repo; thread: Thread; me: string; reload: () => Promise<void> }) {
  const place = placeOf(repo);
  const ref = `refs/pr/${thread.num}`;
  const conflicts = thread.filesWithConflicts ?? [];
  const alive = thread.status === "open" || thread.status === "draft";
  const writes = repo.may.includes("push");
  const mayCommit = alive && (writes || thread.author.name === me) && repo.may.includes("discuss");
  const merged = thread.changes?.mergeCommitId;
  return (
    <Section id="h-merge" title={t("merge.title")}>
      <div class="stack">
        {merged && <p>{t("merge.done")} <Link to={`${place}/commit/${merged}`}><code>{merged.slice(0, 8)}</code></Link></p>}
        {thread.status === "closed" && <p>{t("merge.closed")}</p>}
        {alive && conflicts.length > 0 && (
          <div class="note">
            <p>{t("merge.conflict", { n: conflicts.length })}</p>
            <ul class="files-list">{conflicts.slice(0, 20).map((file) => <li key={file}><code>{file}</code>{mayCommit && <TakeMain repo={repo} revision={ref} file={file} reload={reload} />}</li>)}</ul>
            <p>{t("merge.conflict.next")}</p>
          </div>
        )}
        {alive && conflicts.length === 0 && <p>{t("merge.clean")}</p>}
        {thread.status === "draft" && <p class="small quiet">{t("merge.draft")}</p>}
        {alive && writes && <MergeForm repo={repo} num={thread.num} able={conflicts.length === 0} reload={reload} />}
        {alive && !writes && <p class="small quiet">{t("merge.cannot")}</p>}
        {alive && (
          <p class="row">
            <Link class="b" to={`${place}?tab=files&revision=${encodeURIComponent(ref)}`}>{t("pull.files")}</Link>
            {mayCommit && <Link class="b" to={`${place}/upload/${encodeURIComponent(ref)}`}>{t("pull.upload")}</Link>}
          </p>
        )}
        {mayCommit && <WithGit url={repo.clone_url} num={thread.num} conflict={conflicts.length > 0} />}
      </div>
    </Section>
  );
}

/** Settles a conflict in favour of main: the request's file becomes what main has, or goes when main has none. */
function TakeMain({ repo, revision, file, reload }: { repo: Repo; revision: string; file: string; reload: () => Promise<void> }) {
  const act = useAct();
  const take = (): Promise<void> =>
    act.run(async () => {
      const here = await call<unknown[]>(`${apiOf(repo)}/paths-info/main`, { method: "POST", body: { paths: [file] } });
      const operation: Operation = here.length > 0 ? { key: "copyFile", value: { path: file, srcPath: file, srcRevision: "main" } } : { key: "deletedFile", value: { path: file } };
      await sendCommit(repo, { revision, propose: false }, { summary: t("merge.take.usual", { path: file }), description: "" }, [operation]);
      await reload();
    });
  return (
    <>
      {" "}<Sure bare label={t("merge.take")} ask={t("merge.take.sure", { path: file })} busy={act.busy} onSure={() => void take()} />
      {act.problem && <Trouble problem={act.problem} />}
    </>
  );
}

function MergeForm({ repo, num, able, reload }: { repo: Repo; num: number; able: boolean; reload: () => Promise<void> }) {
  const [comment, setComment] = useState("");
  const act = useAct();
  const merge = (): Promise<void> =>
    act.run(async () => {
      try {
        await call(`${apiOf(repo)}/discussions/${num}/merge`, { method: "POST", body: { comment: comment.trim() } });
      } finally {
        await reload(); // refused because of a conflict that is new: the box says which files
      }
    });
  return (
    <form class="form" onSubmit={(event) => { event.preventDefault(); void merge(); }}>
      <label><span>{t("merge.comment")}</span><input type="text" maxLength={1000} value={comment} onInput={(event) => setComment(event.currentTarget.value)} /></label>
      {act.problem && <Trouble problem={act.problem} />}
      <button class="b go" type="submit" disabled={!able || act.busy}>{t("merge.go")}</button>
    </form>
  );
}
