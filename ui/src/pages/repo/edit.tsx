import { useEffect, useState } from "preact/hooks";
import { send, type Repo, type RepoFile, type RepoType } from "../../api";
import { sendCommit, type Message, type Operation } from "../../commits";
import { filesOf, isCommit, placeOf } from "../../hub";
import { Empty, Head, Size, Trouble, Waiting } from "../../parts";
import { CommitForm, requestOf } from "../../parts/commitform";
import { fileURL } from "../../parts/files";
import { filePage } from "../../parts/rows";
import { shortRevision } from "../../parts/versions";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { basePath, go, Link } from "../../router";
import { RepoKick, RepoMissing, useRepo } from "./load";

const MOST = 1_000_000; // bytes of a text that is edited in the page

/** Changes one small text file, or writes a new one (`file` empty), as a commit or a pull request. */
export function EditPage({ type, repoId, revision, file }: { type: RepoType; repoId: string; revision: string; file: string }) {
  const loaded = useRepo(type, repoId, { revision });
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  const line = repo.files.find((it) => it.path === file);
  const fresh = file === "";
  const title = fresh ? t("edit.new") : line ? t("edit.title", { path: file }) : t("file.gone", { path: file });
  const place = placeOf(repo);
  const fits = fresh || (line !== undefined && !line.lfs && line.size_bytes <= MOST);
  const onBranch = !isCommit(revision);
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={type} repoId={repoId}> / <Link to={filesOf(repo, revision)}>{t("tab.files")}</Link></RepoKick>} title={title} sum={line ? <><Size of={line.size_bytes} /> · <code>{shortRevision(revision)}</code></> : undefined} />
      {!onBranch && <Empty what={t("edit.notbranch")} next={t("edit.notbranch.next")} />}
      {onBranch && !repo.may.includes("discuss") && <Empty what={t("newtalk.cannot")} next={t("newtalk.cannot.next")} />}
      {onBranch && !fits && line && <Empty what={line.lfs ? t("edit.large") : t("edit.long")} next={t("edit.large.next")}><Link class="b" to={`${place}/upload/${encodeURIComponent(revision)}`}>{t("propose.upload.go")}</Link></Empty>}
      {onBranch && fits && repo.may.includes("discuss") && (fresh || line) && <Editor key={repo.revision + file} repo={repo} revision={revision} line={line} />}
    </div>
  );
}

function Editor({ repo, revision, line }: { repo: Repo; revision: string; line: RepoFile | undefined }) {
  const [first, setFirst] = useState<string | null>(line === undefined ? "" : null);
  const [text, setText] = useState("");
  const [path, setPath] = useState(line?.path ?? "");
  const reading = useAct();
  const act = useAct();
  const read = (): Promise<void> =>
    reading.run(async () => {
      if (line === undefined) return;
      const address = fileURL(repo, repo.revision ?? revision, line.path).slice(basePath.length);
      const bytes = await (await send(address)).arrayBuffer();
      const found = asText(bytes);
      setFirst(found ?? "\0");
      setText((found ?? "").replaceAll("\r\n", "\n")); // as a text field keeps them
    });
  useEffect(() => void read(), []);
  if (reading.problem) return <Trouble problem={reading.problem} retry={() => void read()} />;
  if (first === null) return <Waiting what={t("waiting.file")} />;
  if (first === "\0") return <Empty what={t("edit.binary")} next={t("edit.large.next")} />;
  const target = path.trim().replace(/^\/+/, "");
  const moved = line !== undefined && target !== line.path;
  const dos = first.includes("\r\n");
  const content = dos ? text.replaceAll("\n", "\r\n") : text;
  const changed = line === undefined ? target !== "" : content !== first || moved;
  const commit = (message: Message, propose: boolean): Promise<void> =>
    act.run(async () => {
      const operations: Operation[] = [{ key: "file", value: { path: target, content, encoding: "utf-8" } }];
      if (moved) operations.push({ key: "deletedFile", value: { path: line.path } });
      const done = await sendCommit(repo, { revision, propose, parent: repo.revision ?? undefined }, message, operations);
      const request = done.request ?? requestOf(revision);
      go(request !== null ? `${placeOf(repo)}/discussions/${request}` : filePage(repo, revision, target));
    });
  const usual = line === undefined ? t("edit.usual.new", { path: target || "…" }) : moved ? t("edit.usual.move", { from: line.path, to: target }) : t("edit.usual", { path: target });
  return (
    <div class="editor">
      <div class="form wide">
        <label><span>{t("edit.path")}</span><input type="text" required maxLength={500} spellcheck={false} autocapitalize="off" value={path} placeholder="notes/README.md" onInput={(event) => setPath(event.currentTarget.value)} /></label>
        <label><span>{t("edit.text")}</span><textarea class="mono" rows={22} spellcheck={false} value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
      </div>
      <CommitForm repo={repo} revision={revision} usual={usual} propose={false} busy={act.busy} problem={act.problem} ready={changed && target !== ""} onSend={(message, propose) => void commit(message, propose)}>
        <Link class="b bare" to={line === undefined ? `${placeOf(repo)}?tab=files` : filePage(repo, revision, line.path)}>{t("thread.cancel")}</Link>
      </CommitForm>
    </div>
  );
}

/** The text of UTF-8 bytes; null for anything else. */
function asText(bytes: ArrayBuffer): string | null {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}
