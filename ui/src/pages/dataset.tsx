import type { Repo } from "../api";
import { CopyButton, Facts, Section, Size, Time } from "../parts";
import { endonym, integer } from "../format";
import { accessWord } from "../gate";
import { t } from "../i18n";

export function DatasetFacts({ repo }: { repo: Repo }) {
  return (
    <Section id="h-facts" title={t("facts.title")}>
      <Facts
        rows={[
          [t("facts.size"), <Size of={repo.size_bytes} />],
          [t("facts.languages"), repo.languages.length > 0 ? repo.languages.map(endonym).join(", ") : t("facts.unstated")],
          [t("facts.licence"), repo.licence || t("facts.unstated")],
          [t("facts.access"), accessWord(repo)],
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
