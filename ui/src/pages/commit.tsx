import { useState } from "preact/hooks";
import type { ChangedFile, CommitDetails, RepoSummary } from "../api";
import { CopyButton, Facts, Head, Section, Size, Time, Trouble, Waiting } from "../parts";
import { filePage } from "../parts/rows";
import { integer } from "../format";
import { t } from "../i18n";
import { useLoad } from "../load";
import { Link, repoPath } from "../router";

const OPEN_AT_FIRST = 8;

/** What one commit changed. */
export function CommitPage({ type, repoId, oid }: { type: RepoSummary["type"]; repoId: string; oid: string }) {
  const folder = `${type}s/${repoPath(repoId)}`;
  const loaded = useLoad<CommitDetails>(`fust/v1/repos/${type}/${repoPath(repoId)}/commits/${encodeURIComponent(oid)}`);
  const it = loaded.data;
  const gone = loaded.problem?.status === 404;
  const kick = <><Link to={folder}>{repoId}</Link> / <Link to={`${folder}?tab=versions`}>{t("tab.versions")}</Link></>;
  return (
    <div class="page wrap">
      <Head kick={kick} title={it ? it.title || t("commit.untitled") : gone ? t("commit.gone") : oid.slice(0, 8)} sum={it?.message ? <span class="plain">{it.message}</span> : gone ? t("commit.gone.next") : undefined}>
        {it && <Link class="b" to={`${folder}?tab=files&revision=${it.oid}`}>{t("commit.look")}</Link>}
      </Head>
      {loaded.problem && <Trouble problem={loaded.problem} retry={gone ? undefined : () => void loaded.reload()} />}
      {loaded.waiting && <Waiting what={t("waiting.commit")} />}
      {it && (
        <div class="split">
          <Section id="h-changed" title={t("commit.changed", { n: it.files_total })}>
            {it.files.map((file, at) => <Changed key={file.path} file={file} page={filePage({ type, repo_id: repoId }, it.oid, file.path)} open={at < OPEN_AT_FIRST} />)}
            {it.files.length === 0 && <p class="small quiet logempty">{t("commit.nothing")}</p>}
            {it.files.length < it.files_total && <p class="small quiet more">{t("commit.more", { shown: integer(it.files.length), total: integer(it.files_total) })}</p>}
          </Section>
          <aside class="aside" aria-label={t("facts.title")}>
            <Section id="h-facts" title={t("facts.title")}>
              <Facts
                rows={[
                  [t("versions.version"), <><code>{it.oid.slice(0, 12)}</code> <CopyButton bare text={it.oid} label={t("commit.copy")} /></>],
                  [t("versions.who"), it.author],
                  [t("versions.when"), <Time at={it.date} />],
                  ...it.parents.map((parent): [string, preact.ComponentChildren] => [t("commit.before"), <Link to={`${folder}/commit/${parent}`}><code>{parent.slice(0, 12)}</code></Link>]),
                ]}
              />
            </Section>
          </aside>
        </div>
      )}
    </div>
  );
}

function Changed({ file, page, open }: { file: ChangedFile; page: string; open: boolean }) {
  const [shown, setShown] = useState(open);
  const added = file.hunks.reduce((sum, hunk) => sum + hunk.lines.filter((line) => line.startsWith("+")).length, 0);
  const removed = file.hunks.reduce((sum, hunk) => sum + hunk.lines.filter((line) => line.startsWith("-")).length, 0);
  return (
    <article class="changed">
      <h3 class="mono">{file.change === "removed" ? file.path : <Link to={page}>{file.path}</Link>}</h3>
      <p class="bits">
        <span>{t(`change.${file.change}`)}</span>
        {file.old_path && <span>{t("change.from", { path: file.old_path })}</span>}
        <Sizes file={file} />
        {file.hunks.length > 0 && <span class="num">+{integer(added)} −{integer(removed)}</span>}
        {file.hunks.length > 0 && (
          <button class="b bare" type="button" aria-expanded={shown} aria-label={t(shown ? "change.hide.of" : "change.show.of", { path: file.path })} onClick={() => setShown(!shown)}>{t(shown ? "change.hide" : "change.show")}</button>
        )}
      </p>
      {shown && file.hunks.length > 0 && <Diff file={file} />}
    </article>
  );
}

function Sizes({ file }: { file: ChangedFile }) {
  const { size_before: before, size_after: after } = file;
  if (before !== null && after !== null && before !== after) return <span><Size of={before} /> → <Size of={after} /></span>;
  const only = after ?? before;
  return only === null ? null : <span><Size of={only} /></span>;
}

const KINDS: Record<string, "del" | "ins"> = { "-": "del", "+": "ins" };

function Diff({ file }: { file: ChangedFile }) {
  return (
    <div class="diff code" role="group" tabIndex={0} aria-label={t("change.lines", { path: file.path })}>
      {file.hunks.map((hunk, at) => (
        <div key={at}>
          {at > 0 && <p class="gap" aria-hidden="true">⋯</p>}
          {hunk.lines.map((line, row) => {
            const Kind = KINDS[line.charAt(0)] ?? "span";
            return <Kind key={row}><i aria-hidden="true">{line.charAt(0)}</i>{line.slice(1) || " "}</Kind>;
          })}
        </div>
      ))}
      {file.cut && <p class="gap">{t("change.cut")}</p>}
    </div>
  );
}
