import type { CommitDetails, RepoType } from "../api";
import { CopyButton, Facts, Head, Section, Time, Trouble, Waiting } from "../parts";
import { Changes } from "../parts/changes";
import { t } from "../i18n";
import { useLoad } from "../load";
import { Link, repoPath } from "../router";
import { useRepo } from "./repo/load";

/** What one commit changed. */
export function CommitPage({ type, repoId, oid }: { type: RepoType; repoId: string; oid: string }) {
  const folder = `${type}s/${repoPath(repoId)}`;
  useRepo(type, repoId, { files: false }); // an old name in the address becomes the one of today
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
            <Changes repo={{ type, repo_id: repoId }} files={it.files} total={it.files_total} span={{ base: it.parents[0] ?? null, head: it.oid, since: false }} />
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
