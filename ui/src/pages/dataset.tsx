import type { Repo } from "../api";
import { Card } from "../parts/markdown";
import { Files, fileURL } from "../parts/files";
import { Rows } from "../parts/rows";
import { OldRevision, Versions } from "../parts/versions";
import { CopyButton, Empty, Facts, Head, Section, Size, Tabs, Time, Trouble, Waiting } from "../parts";
import { endonym, integer } from "../format";
import { t } from "../i18n";
import { useLoad } from "../load";
import { go, Link, repoPath, usePlace } from "../router";

const TABS = ["card", "rows", "files", "versions"] as const;
type TabId = (typeof TABS)[number];

export function DatasetPage({ repoId }: { repoId: string }) {
  const { query, path } = usePlace();
  const revision = query.get("revision") ?? "main";
  const tab = TABS.find((it) => it === query.get("tab")) ?? "card";
  const repo = useLoad<Repo>(`fust/v1/repos/dataset/${repoPath(repoId)}?revision=${encodeURIComponent(revision)}`);
  const [owner, name] = repoId.split("/");
  const it = repo.data;
  const gone = repo.problem?.status === 404;
  const kick = <><Link to="datasets">{t("place.datasets")}</Link> / {owner}</>;
  if (it === undefined) {
    return (
      <div class="page wrap">
        <Head kick={kick} title={gone ? t("dataset.gone", { name: repoId }) : (name ?? repoId)} sum={gone ? t("dataset.gone.next") : undefined} />
        {repo.problem && <Trouble problem={repo.problem} retry={gone ? undefined : () => void repo.reload()} />}
        {repo.waiting && <Waiting what={t("waiting.dataset")} />}
      </div>
    );
  }
  const pick = (next: TabId): void => {
    const fresh = new URLSearchParams(query);
    fresh.set("tab", next);
    if (next !== "rows") fresh.delete("file");
    go(`${path}?${fresh}`, "replace");
  };
  const facts = (
    <aside class="aside" aria-label={t("facts.title")}>
      <DatasetFacts repo={it} />
    </aside>
  );
  return (
    <div class="page wrap">
      <Head kick={kick} title={name ?? repoId} sum={it.description || undefined} />
      <OldRevision revision={revision} path={path} />
      <Tabs<TabId>
        now={tab}
        label={t("dataset.about")}
        onPick={pick}
        tabs={[
          { id: "card", label: t("tab.card") },
          { id: "rows", label: t("tab.rows") },
          { id: "files", label: t("tab.files"), count: integer(it.files.length) },
          { id: "versions", label: t("tab.versions") },
        ]}
      />
      {tab === "rows" ? (
        <div role="tabpanel" id="p-rows" aria-labelledby="t-rows" tabIndex={0}>
          <Rows repo={it} revision={revision} />
        </div>
      ) : (
        <div class="split">
          <div role="tabpanel" id={`p-${tab}`} aria-labelledby={`t-${tab}`} tabIndex={0}>
            {tab === "card" && (it.card ? <Card text={it.card} files={fileURL(it, revision, "")} /> : <Empty what={t("card.none")} next={t("card.none.next")} />)}
            {tab === "files" && <Files repo={it} revision={revision} />}
            {tab === "versions" && <Versions repo={it} page={path} revision={revision} />}
          </div>
          {facts}
        </div>
      )}
    </div>
  );
}

function DatasetFacts({ repo }: { repo: Repo }) {
  return (
    <Section id="h-facts" title={t("facts.title")}>
      <Facts
        rows={[
          [t("facts.size"), <Size of={repo.size_bytes} />],
          [t("facts.languages"), repo.languages.length > 0 ? repo.languages.map(endonym).join(", ") : t("facts.unstated")],
          [t("facts.licence"), repo.licence || t("facts.unstated")],
          [t("facts.access"), repo.private ? t("facet.private") : t("facet.open")],
          [t("facts.updated"), <Time at={repo.updated_at} />],
          [t("facts.downloads"), integer(repo.downloads)],
          [t("facts.revision"), <code>{repo.revision?.slice(0, 8) ?? "–"}</code>],
        ]}
      />
      <div class="clone">
        <p class="small quiet">{t("facts.load")}</p>
        <code class="small">load_dataset("{repo.repo_id}")</code>
        <CopyButton bare text={`from datasets import load_dataset\n\ndata = load_dataset(${JSON.stringify(repo.repo_id)})`} />
      </div>
    </Section>
  );
}
