import { useState } from "preact/hooks";
import { call, type Page, type Ref, type Repo } from "../../api";
import { apiOf, viewOf } from "../../hub";
import { Columns, Section, Size, Sure, Time, Trouble, Waiting } from "../../parts";
import { integer } from "../../format";
import { t } from "../../i18n";
import { useAct, useLoad } from "../../load";

interface LargeFile {
  fileOid: string;
  filename: string;
  pushedAt: string;
  ref: string | null;
  size: number;
}

interface SectionProps {
  repo: Repo;
  reload: () => Promise<void>;
}

const SHOWN = 200;

/** What the repository takes, and its large files of every revision; who may change settings can remove some for good. */
export function LargeFiles({ repo, reload }: SectionProps) {
  const found = useLoad<LargeFile[]>(`${apiOf(repo)}/lfs-files`);
  const [picked, setPicked] = useState<Set<string>>(new Set());
  const act = useAct();
  const items = found.data ?? [];
  const removes = repo.may.includes("settings");
  const total = items.reduce((sum, it) => sum + it.size, 0);
  const toggle = (oid: string): void => {
    const next = new Set(picked);
    if (!next.delete(oid)) next.add(oid);
    setPicked(next);
  };
  const remove = (): Promise<void> =>
    act.run(async () => {
      await call(`${apiOf(repo)}/lfs-files/batch`, { method: "POST", body: { deletions: { sha: [...picked], rewriteHistory: true } } });
      setPicked(new Set());
      await Promise.all([found.reload(), reload()]);
    });
  return (
    <Section id="h-storage" title={t("reposet.storage")} class="wide" side={found.data && <span class="small quiet">{t("reposet.storage.sum", { n: items.length })} <Size of={total} /></span>}>
      {found.problem && <Trouble problem={found.problem} retry={() => void found.reload()} />}
      {found.waiting && <Waiting what={t("waiting.storage")} />}
      {found.data && items.length === 0 && <p class="small quiet logempty">{t("reposet.storage.none")}</p>}
      {items.length > 0 && (
        <>
          <table class="cards-s">
            <caption class="sr">{t("reposet.storage")}</caption>
            <Columns of={[t("files.file"), t("files.hash"), t("reposet.storage.ref"), [t("versions.when"), "r"], [t("files.size"), "r"]]} />
            <tbody>
              {items.slice(0, SHOWN).map((it) => (
                <tr key={it.fileOid}>
                  <th scope="row" class="mono">
                    {removes ? <label class="tick"><input type="checkbox" checked={picked.has(it.fileOid)} disabled={act.busy} onChange={() => toggle(it.fileOid)} /><span>{it.filename}</span></label> : it.filename}
                  </th>
                  <td class="mono quiet" data-l={t("files.hash")} title={it.fileOid}>{it.fileOid.slice(0, 12)}</td>
                  <td data-l={t("reposet.storage.ref")}>{it.ref?.replace(/^refs\/(?:heads|tags)\//, "") ?? <span class="quiet">{t("reposet.storage.old")}</span>}</td>
                  <td class="r" data-l={t("versions.when")}><Time at={it.pushedAt} /></td>
                  <td class="r" data-l={t("files.size")}><Size of={it.size} /></td>
                </tr>
              ))}
            </tbody>
          </table>
          {items.length > SHOWN && <p class="small quiet more">{t("commit.more", { shown: integer(SHOWN), total: integer(items.length) })}</p>}
          {removes && (
            <div class="form">
              <p class="small quiet">{t("reposet.storage.note")}</p>
              {act.problem && <Trouble problem={act.problem} />}
              {picked.size > 0 ? <Sure label={t("reposet.storage.delete", { n: picked.size })} ask={t("reposet.storage.sure", { n: picked.size })} busy={act.busy} onSure={() => void remove()} /> : <button class="b" type="button" disabled>{t("reposet.storage.delete", { n: 0 })}</button>}
            </div>
          )}
        </>
      )}
    </Section>
  );
}

/** Puts one commit in place of a branch's history. */
export function Squash({ repo, reload }: SectionProps) {
  const refs = useLoad<Page<Ref>>(`${viewOf(repo)}/refs`);
  const [branch, setBranch] = useState("main");
  const [message, setMessage] = useState("");
  const [done, setDone] = useState("");
  const act = useAct();
  const squash = (): Promise<void> =>
    act.run(async () => {
      const answer = await call<{ commitOid: string }>(`${apiOf(repo)}/super-squash/${encodeURIComponent(branch)}`, { method: "POST", body: { message: message.trim() || null } });
      setDone(answer.commitOid);
      await Promise.all([refs.reload(), reload()]);
    });
  const branches = refs.data?.items.filter((ref) => ref.kind === "branch") ?? [];
  return (
    <Section id="h-squash" title={t("reposet.squash")}>
      <div class="form">
        <p class="small">{t("reposet.squash.note")}</p>
        <label><span>{t("refs.branch")}</span><select value={branch} onChange={(event) => setBranch(event.currentTarget.value)}>{branches.map((ref) => <option key={ref.name} value={ref.name}>{ref.name}</option>)}</select></label>
        <label><span>{t("reposet.squash.message")}</span><input type="text" maxLength={1000} value={message} onInput={(event) => setMessage(event.currentTarget.value)} /></label>
        {act.problem && <Trouble problem={act.problem} />}
        <Sure label={t("reposet.squash.go")} ask={t("reposet.squash.sure", { branch })} busy={act.busy} onSure={() => void squash()} />
        <p class="small quiet" role="status">{done === "" ? "" : t("reposet.squash.done", { oid: done.slice(0, 8) })}</p>
      </div>
    </Section>
  );
}
