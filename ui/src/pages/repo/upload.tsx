import { useRef, useState } from "preact/hooks";
import { call, type Repo, type RepoType } from "../../api";
import { sendCommit, type Message, type Operation } from "../../commits";
import { apiOf, filesOf, placeOf } from "../../hub";
import { Bar, Empty, Head, Size } from "../../parts";
import { CommitForm, requestOf } from "../../parts/commitform";
import { bring, modesOf, type Stage, type Wanted } from "../../uploads";
import { integer } from "../../format";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { go, Link, usePlace } from "../../router";
import { RepoKick, RepoMissing, useRepo } from "./load";

/** Files from this computer, as one commit or a pull request; large ones go in parts. */
export function UploadPage({ type, repoId, revision }: { type: RepoType; repoId: string; revision: string }) {
  const { query } = usePlace();
  const loaded = useRepo(type, repoId, { revision, files: false });
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={type} repoId={repoId}> / <Link to={`${placeOf(repo)}?tab=files`}>{t("tab.files")}</Link></RepoKick>} title={t("upload.title")} sum={t("upload.sum")} />
      {repo.may.includes("discuss") ? <Uploader repo={repo} revision={revision} propose={query.has("propose")} /> : <Empty what={t("newtalk.cannot")} next={t("newtalk.cannot.next")} />}
    </div>
  );
}

interface Progress {
  stage: Stage;
  share: number;
}

function Uploader({ repo, revision, propose }: { repo: Repo; revision: string; propose: boolean }) {
  const [files, setFiles] = useState<Wanted[]>([]);
  const [folder, setFolder] = useState("");
  const [progress, setProgress] = useState<Record<string, Progress>>({});
  const [skipped, setSkipped] = useState<string[]>([]);
  const draft = useRef<number | null>(null);
  const stop = useRef<AbortController | null>(null);
  const act = useAct();
  const base = folder.trim().replace(/^\/+|\/+$/g, "");
  const full = (path: string): string => (base === "" ? path : `${base}/${path}`);
  const add = (list: Iterable<File>): void => {
    const found = [...list].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
    setFiles((was) => [...was.filter((it) => !found.some((one) => one.path === it.path)), ...found]);
  };
  const upload = (message: Message, opens: boolean): Promise<void> =>
    act.run(async () => {
      const stopper = (stop.current = new AbortController());
      setProgress({});
      try {
        await work(message, opens, stopper.signal);
      } catch (error) {
        if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
      } finally {
        stop.current = null;
      }
    });
  const work = async (message: Message, opens: boolean, signal: AbortSignal): Promise<void> => {
    const wanted = files.map((it) => ({ ...it, path: full(it.path) }));
    const modes = await modesOf(repo, revision, opens, wanted);
    const kept = wanted.filter((_, at) => !modes[at]?.shouldIgnore);
    setSkipped(wanted.filter((_, at) => modes[at]?.shouldIgnore).map((it) => it.path));
    const large = modes.some((mode) => mode.uploadMode === "lfs" && !mode.shouldIgnore);
    // Large files need a pull request that they can be sent to before there is a commit: a draft.
    if (opens && large && draft.current === null) {
      const body = { title: message.summary, description: message.description || t("upload.opened"), pullRequest: true };
      draft.current = (await call<{ num: number }>(`${apiOf(repo)}/discussions`, { method: "POST", body })).num;
    }
    const operations: Operation[] = [];
    for (const it of kept) {
      const mode = modes.find((one) => one.path === it.path);
      if (mode) operations.push(await bring(repo, it, mode, (path, stage, share) => setProgress((was) => ({ ...was, [path]: { stage, share } })), signal));
    }
    signal.throwIfAborted();
    if (operations.length === 0) return;
    const num = draft.current;
    const aim = num !== null ? { revision: `refs/pr/${num}`, propose: false } : { revision, propose: opens };
    const done = await sendCommit(repo, aim, message, operations);
    if (num !== null) await call(`${apiOf(repo)}/discussions/${num}/status`, { method: "POST", body: { status: "open" } });
    const request = num ?? done.request ?? requestOf(revision);
    go(request !== null ? `${placeOf(repo)}/discussions/${request}` : filesOf(repo, revision));
  };
  const usual = files.length === 1 ? t("upload.usual.one", { path: full(files[0]?.path ?? "") }) : t("upload.usual", { n: files.length });
  return (
    <div class="editor">
      <div class="form wide">
        <div class="drop" onDragOver={(event) => event.preventDefault()} onDrop={(event) => { event.preventDefault(); add(event.dataTransfer?.files ?? []); }}>
          <p class="row">
            <label class="b attach">{t("upload.choose")}<input class="sr" type="file" multiple disabled={act.busy} onChange={(event) => { add(event.currentTarget.files ?? []); event.currentTarget.value = ""; }} /></label>
            <label class="b attach">{t("upload.folder")}<input class="sr" type="file" multiple disabled={act.busy} {...{ webkitdirectory: true }} onChange={(event) => { add(event.currentTarget.files ?? []); event.currentTarget.value = ""; }} /></label>
            <span class="small quiet">{t("upload.drop")}</span>
          </p>
        </div>
        <label><span>{t("upload.into")}</span><input type="text" maxLength={300} spellcheck={false} autocapitalize="off" placeholder="data/train" value={folder} disabled={act.busy} onInput={(event) => setFolder(event.currentTarget.value)} /></label>
      </div>
      {files.length > 0 && (
        <table class="files">
          <caption class="sr">{t("upload.caption")}</caption>
          <thead><tr><th scope="col">{t("files.file")}</th><th scope="col" class="r">{t("files.size")}</th><th scope="col">{t("upload.progress")}</th><th scope="col" class="r"><span class="sr">{t("files.act")}</span></th></tr></thead>
          <tbody>
            {files.map((it) => {
              const now = progress[full(it.path)];
              return (
                <tr key={it.path}>
                  <th scope="row" class="mono">{full(it.path)}</th>
                  <td class="r"><Size of={it.file.size} /></td>
                  <td class="going">{now && <><Bar share={now.share} /><span class="small quiet num">{t(`upload.${now.stage}`, { share: integer(Math.floor(now.share * 100)) })}</span></>}</td>
                  <td class="r"><button class="b bare" type="button" disabled={act.busy} aria-label={t("upload.remove.of", { path: it.path })} onClick={() => setFiles(files.filter((one) => one !== it))}>{t("upload.remove")}</button></td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
      {skipped.length > 0 && <p class="note calm">{t("upload.skipped", { list: skipped.join(t("list.comma")) })}</p>}
      <CommitForm repo={repo} revision={revision} usual={usual} propose={propose} busy={act.busy} problem={act.problem} ready={files.length > 0} onSend={(message, opens) => void upload(message, opens)}>
        {act.busy && <button class="b" type="button" onClick={() => stop.current?.abort()}>{t("upload.stop")}</button>}
      </CommitForm>
    </div>
  );
}
