import type { Repo } from "../api";
import { Card } from "../parts/markdown";
import { Files, fileURL } from "../parts/files";
import { Empty, Facts, Head, Section, Size, Time, Trouble, Waiting } from "../parts";
import { endonym, integer } from "../format";
import { t } from "../i18n";
import { useLoad } from "../load";
import { repoPath } from "../router";

export function DatasetPage({ repoId }: { repoId: string }) {
  const repo = useLoad<Repo>(`fust/v1/repos/dataset/${repoPath(repoId)}?revision=main`);
  const [owner, name] = repoId.split("/");
  const it = repo.data;
  const gone = repo.problem?.status === 404;
  return (
    <div class="page wrap">
      <Head kick={<>{t("dataset.kick")} / {owner}</>} title={gone ? t("dataset.gone", { name: repoId }) : (name ?? repoId)} sum={it?.description ?? (gone ? t("model.gone.next") : undefined)} />
      {repo.problem && !it && <Trouble problem={repo.problem} retry={gone ? undefined : () => void repo.reload()} />}
      {repo.waiting && <Waiting what={t("waiting.dataset")} />}
      {it && (
        <div class="split">
          <div class="stack-l">
            <Section id="h-card" title={t("tab.card")}>
              {it.card ? <Card text={it.card} files={fileURL(it, "main", "")} floor={3} /> : <Empty what={t("card.none")} next={t("card.none.next")} />}
            </Section>
            <Section id="h-files" title={t("tab.files")}>
              <Files repo={it} revision="main" />
            </Section>
          </div>
          <aside class="aside" aria-label={t("facts.title")}>
            <Section id="h-facts" title={t("facts.title")}>
              <Facts
                rows={[
                  [t("facts.size"), <Size of={it.size_bytes} />],
                  [t("facts.languages"), it.languages.length > 0 ? it.languages.map(endonym).join(", ") : t("facts.unstated")],
                  [t("facts.licence"), it.licence || t("facts.unstated")],
                  [t("facts.access"), it.private ? t("facet.private") : t("facet.open")],
                  [t("facts.updated"), <Time at={it.updated_at} />],
                  [t("facts.downloads"), integer(it.downloads)],
                  [t("facts.revision"), <code>{it.revision?.slice(0, 8) ?? "–"}</code>],
                ]}
              />
            </Section>
          </aside>
        </div>
      )}
    </div>
  );
}
