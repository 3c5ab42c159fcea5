import type { Repo, RepoType } from "../../api";
import { State, Tabs, Head } from "../../parts";
import { RepoButtons } from "../../parts/like";
import { Leaks } from "../../parts/safety";
import { OldRevision } from "../../parts/versions";
import { t } from "../../i18n";
import { go, usePlace } from "../../router";
import { DatasetFacts } from "../dataset";
import { DeploymentFacts, ModelButtons, ModelFacts, ModelNotes, useServing } from "../model";
import { hasApp, SpaceFacts } from "../space";
import { GateNote } from "./gate";
import { RepoKick, RepoMissing, useRepo } from "./load";
import { REPO_TABS } from "./tabs";

/** What `?tab=` leads along to another tab; the rest of a query belongs to one tab. */
const SHARED = ["revision"];

/** A model, a dataset or a space. */
export function RepoPage({ type, repoId, at }: { type: RepoType; repoId: string; at?: string }) {
  const { query, path } = usePlace();
  const revision = query.get("revision") ?? "main";
  const loaded = useRepo(type, repoId, { revision });
  const serving = useServing(type === "model" ? repoId : null);
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  const page = at === undefined ? path : path.split("/").slice(0, -1).join("/");
  const tabs = REPO_TABS.filter((tab) => (tab.types?.includes(type) ?? true) && (tab.shown?.(repo) ?? true));
  const asked = at ?? query.get("tab") ?? (hasApp(repo) ? "app" : null);
  const tab = tabs.find((it) => it.id === asked) ?? tabs[0]!;
  const pick = (next: string): void => {
    const fresh = new URLSearchParams([...query].filter(([key]) => SHARED.includes(key)));
    fresh.set("tab", next);
    go(`${page}?${fresh}`, "replace");
  };
  const panel = (
    <div role="tabpanel" id={`p-${tab.id}`} aria-labelledby={`t-${tab.id}`} tabIndex={0}>
      <tab.panel repo={repo} revision={revision} page={page} reload={loaded.reload} serving={serving} />
    </div>
  );
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={type} repoId={repoId} />} title={repoId.split("/")[1] ?? repoId} sum={<>{repo.description} {serving?.best && <State of={serving.best.state} />}</>}>
        <RepoButtons repo={repo} reload={loaded.reload} />
        {serving && repo.open && <ModelButtons repo={repo} serving={serving} />}
      </Head>
      {serving && <ModelNotes repo={repo} serving={serving} />}
      {repo.gated !== "no" && <GateNote repo={repo} reload={loaded.reload} />}
      <OldRevision revision={revision} path={page} />
      <Leaks repo={repo} changed={() => void loaded.reload()} />
      <Tabs now={tab.id} label={t(`${type}.about`)} onPick={pick} tabs={tabs.map((it) => ({ id: it.id, label: t(it.label as "tab.card"), count: it.count?.(repo) }))} />
      {tab.wide ? panel : (
        <div class="split">
          {panel}
          <aside class="aside" aria-label={t("facts.title")}>
            <Facts repo={repo} />
            {serving?.best && <DeploymentFacts repo={repo} of={serving.best} />}
          </aside>
        </div>
      )}
    </div>
  );
}

function Facts({ repo }: { repo: Repo }) {
  if (repo.type === "model") return <ModelFacts repo={repo} />;
  return repo.type === "dataset" ? <DatasetFacts repo={repo} /> : <SpaceFacts repo={repo} />;
}
