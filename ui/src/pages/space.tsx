import type { Repo } from "../api";
import { CloneLine, Empty, Facts, Section, Size, Time, Trouble, Waiting } from "../parts";
import { filesOf, viewOf } from "../hub";
import { integer } from "../format";
import { accessWord } from "../gate";
import { t } from "../i18n";
import { useLoad } from "../load";
import { Link, url } from "../router";
import type { Panel } from "./repo/tabs";

/** Where the card says that the app runs: `app_url: https://…` in its front matter; null when it does not. */
function linkedApp(card: string | null): URL | null {
  const front = /^---\r?\n([\s\S]*?)\r?\n---/.exec(card ?? "")?.[1] ?? "";
  const found = /^app_url:[ \t]*["']?(https?:\/\/[^\s"']+)/m.exec(front)?.[1];
  return found !== undefined && URL.canParse(found) ? new URL(found) : null;
}

/** Whether a space has something to show, so that its page begins with it. */
export const hasApp = (repo: Repo): boolean => repo.type === "space" && repo.open && (repo.sdk === "static" || linkedApp(repo.card) !== null);

interface SpaceApp {
  path: string;
}

/** What a space's pages may do; no `allow-same-origin`, so that they are nobody here. The server says the same of each. */
const SANDBOX = "allow-scripts allow-forms allow-modals allow-popups allow-downloads allow-pointer-lock";

/** The pages of a static space, in an origin of their own. */
function StaticApp({ repo }: { repo: Repo }) {
  const found = useLoad<SpaceApp>(`${viewOf(repo)}/app`);
  if (found.problem?.status === 404) {
    return (
      <Empty what={t("space.nopage")} next={t("space.nopage.next")}>
        <Link class="b" to={filesOf(repo, "main")}>{t("pull.files")}</Link>
      </Empty>
    );
  }
  if (found.problem) return <Trouble problem={found.problem} retry={() => void found.reload()} />;
  if (found.data === undefined) return <Waiting what={t("waiting.space")} />;
  return (
    <div class="app">
      <iframe src={url(found.data.path)} sandbox={SANDBOX} referrerpolicy="no-referrer" title={t("space.frame", { name: repo.repo_id })} />
      <p class="small quiet">{t("space.frame.note", { owner: repo.repo_id.split("/")[0] ?? "" })} <a href={url(found.data.path)} target="_blank" rel="noopener noreferrer">{t("space.whole")}</a></p>
    </div>
  );
}

/** A space's app: its own pages when it is static, else a link to where it runs. */
export function AppPanel({ repo }: Panel) {
  if (!repo.open) return <Empty what={t("space.closed")} />;
  const app = linkedApp(repo.card);
  if (app === null && repo.sdk === "static") return <StaticApp repo={repo} />;
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
