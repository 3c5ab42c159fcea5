import type { Repo } from "../api";
import { CloneLine, Empty, Facts, Section, Size, Time } from "../parts";
import { filesOf } from "../hub";
import { integer } from "../format";
import { accessWord } from "../gate";
import { t } from "../i18n";
import { Link } from "../router";
import type { Panel } from "./repo/tabs";

/** Where the card says that the app runs: `app_url: https://…` in its front matter; null when it does not. */
function linkedApp(card: string | null): URL | null {
  const front = /^---\r?\n([\s\S]*?)\r?\n---/.exec(card ?? "")?.[1] ?? "";
  const found = /^app_url:[ \t]*["']?(https?:\/\/[^\s"']+)/m.exec(front)?.[1];
  return found !== undefined && URL.canParse(found) ? new URL(found) : null;
}

/** A space's app: one that runs elsewhere is linked; a stranger's pages are not run here, where they would have the reader's rights. */
export function AppPanel({ repo }: Panel) {
  const app = linkedApp(repo.card);
  if (app === null) {
    return (
      <Empty what={t("space.none")} next={t("space.none.next")}>
        <Link class="b" to={filesOf(repo, "main")}>{t("pull.files")}</Link>
      </Empty>
    );
  }
  return (
    <Empty what={t("space.linked", { host: app.host })} next={t("space.linked.next")}>
      <a class="b go" href={app.href} target="_blank" rel="noopener noreferrer nofollow">{t("space.open")}</a>
    </Empty>
  );
}

export function SpaceFacts({ repo }: { repo: Repo }) {
  return (
    <Section id="h-facts" title={t("facts.title")}>
      <Facts
        rows={[
          [t("facts.sdk"), repo.sdk || t("facts.unstated")],
          [t("facts.size"), <Size of={repo.size_bytes} />],
          [t("facts.licence"), repo.licence || t("facts.unstated")],
          [t("facts.access"), accessWord(repo)],
          [t("facts.updated"), <Time at={repo.updated_at} />],
          [t("facts.likes"), integer(repo.likes)],
          [t("facts.revision"), <code>{repo.revision?.slice(0, 8) ?? "–"}</code>],
        ]}
      />
      <CloneLine url={repo.clone_url} />
    </Section>
  );
}
