import type { Repo } from "../api";
import { CopyButton, Empty, Facts, Section, Size, Time } from "../parts";
import { integer } from "../format";
import { t } from "../i18n";
import type { Panel } from "./repo/tabs";

export function AppPanel({ repo }: Panel) {
  return <Empty what={t("space.none")} next={t("space.none.next", { sdk: repo.sdk || "static" })} />;
}

export function SpaceFacts({ repo }: { repo: Repo }) {
  return (
    <Section id="h-facts" title={t("facts.title")}>
      <Facts
        rows={[
          [t("facts.sdk"), repo.sdk || t("facts.unstated")],
          [t("facts.size"), <Size of={repo.size_bytes} />],
          [t("facts.licence"), repo.licence || t("facts.unstated")],
          [t("facts.access"), repo.private ? t("facet.private") : t("facet.open")],
          [t("facts.updated"), <Time at={repo.updated_at} />],
          [t("facts.likes"), integer(repo.likes)],
          [t("facts.revision"), <code>{repo.revision?.slice(0, 8) ?? "–"}</code>],
        ]}
      />
      <div class="clone">
        <p class="small quiet">{t("facts.clone")}</p>
        <code class="small">git clone {repo.clone_url}</code>
        <CopyButton bare text={`git clone ${repo.clone_url}`} />
      </div>
    </Section>
  );
}
