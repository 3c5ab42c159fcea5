import { useState } from "preact/hooks";
import { call, type Deployment, type Page, type Repo, type RepoFile } from "../api";
import { Card } from "../parts/markdown";
import { Files, fileURL } from "../parts/files";
import { Snippet, talkOf } from "../parts/snippet";
import { OldRevision, Versions } from "../parts/versions";
import { CopyButton, Empty, Facts, Head, Section, Size, State, Tabs, Time, Trouble, Waiting } from "../parts";
import { decimal, endonym, integer } from "../format";
import { maybe, t } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link, repoPath, usePlace } from "../router";

const TABS = ["card", "files", "versions", "use"] as const;
type TabId = (typeof TABS)[number];

export function ModelPage({ repoId }: { repoId: string }) {
  const { query, path } = usePlace();
  const revision = query.get("revision") ?? "main";
  const tab = TABS.find((it) => it === query.get("tab")) ?? "card";
  const repo = useLoad<Repo>(`fust/v1/repos/model/${repoPath(repoId)}?revision=${encodeURIComponent(revision)}`);
  const deployments = useLoad<Page<Deployment>>("fust/v1/deployments", 3000);
  const mine = deployments.data?.items.filter((it) => it.repo_id === repoId && it.state !== "stopped") ?? [];
  const [owner, name] = repoId.split("/");
  const kick = (
    <>
      <Link to="models">{t("place.models")}</Link> / {owner}
    </>
  );
  if (repo.data === undefined) {
    const gone = repo.problem?.status === 404;
    return (
      <div class="page wrap">
        <Head kick={kick} title={gone ? t("model.gone", { name: repoId }) : (name ?? repoId)} sum={gone ? t("model.gone.next") : undefined} />
        {repo.problem && <Trouble problem={repo.problem} retry={gone ? undefined : () => void repo.reload()} />}
        {repo.waiting && <Waiting what={t("waiting.model")} />}
      </div>
    );
  }
  const pick = (next: TabId): void => {
    const fresh = new URLSearchParams(query);
    fresh.set("tab", next);
    go(`${path}?${fresh}`, "replace");
  };
  const it = repo.data;
  const best = mine.find((one) => one.state === "ready") ?? mine[0];
  return (
    <div class="page wrap">
      <Head kick={kick} title={name ?? repoId} sum={<>{it.description} {best && <State of={best.state} />}</>}>
        <Buttons repo={it} deployed={best} reload={deployments.reload} />
      </Head>
      <Deployed repo={it} deployments={mine} />
      {mine.length === 0 && it.files.some((file) => /\.(safetensors|bin|pt)$/i.test(file.path)) && !it.formats.includes("gguf") && (
        <div class="note calm"><p>{t("use.cannot")}</p></div>
      )}
      <OldRevision revision={revision} path={path} />
      <Tabs<TabId>
        now={tab}
        label={t("model.about")}
        onPick={pick}
        tabs={[
          { id: "card", label: t("tab.card") },
          { id: "files", label: t("tab.files"), count: integer(it.files.length) },
          { id: "versions", label: t("tab.versions") },
          { id: "use", label: t("tab.use") },
        ]}
      />
      <div class="split">
        <div role="tabpanel" id={`p-${tab}`} aria-labelledby={`t-${tab}`} tabIndex={0}>
          {tab === "card" && (it.card ? <Card text={it.card} files={fileURL(it, revision, "")} /> : <Empty what={t("card.none")} next={t("card.none.next")} />)}
          {tab === "files" && <Files repo={it} revision={revision} act={revision === "main" && it.files.some(isGGUF) ? (file) => <ServeFile repo={it} file={file} deployments={mine} reload={deployments.reload} /> : undefined} />}
          {tab === "versions" && <Versions repo={it} page={path} revision={revision} />}
          {tab === "use" && (
            <>
              {best === undefined && <div class="note calm"><p>{it.formats.includes("gguf") ? t("use.notserved") : t("use.cannot")}</p></div>}
              <Snippet model={best?.alias ?? best?.name ?? it.repo_id} talk={talkOf(it, best?.has_chat_template ?? null)} keyName={it.repo_id} />
            </>
          )}
        </div>
        <aside class="aside" aria-label={t("facts.title")}>
          <ModelFacts repo={it} />
          {best && <DeploymentFacts of={best} embeds={talkOf(it, best.has_chat_template) === "embedding"} />}
        </aside>
      </div>
    </div>
  );
}

const isGGUF = (file: RepoFile): boolean => /\.gguf$/i.test(file.path);

async function serve(repo: Repo, file: string | null, reload: () => Promise<void>): Promise<void> {
  await call("fust/v1/deployments", { method: "POST", body: file === null ? { repo_id: repo.repo_id } : { repo_id: repo.repo_id, file } });
  await reload();
}

async function stop(deployment: Deployment, reload: () => Promise<void>): Promise<void> {
  await call(`fust/v1/deployments/${encodeURIComponent(deployment.id)}`, { method: "DELETE" });
  await reload();
}

/** What one can do with the model now: talk to it, serve it, stop it. */
function Buttons({ repo, deployed, reload }: { repo: Repo; deployed: Deployment | undefined; reload: () => Promise<void> }) {
  const act = useAct();
  const chattable = deployed !== undefined && deployed.state !== "failed" && talkOf(repo, deployed.has_chat_template) === "chat";
  return (
    <>
      {deployed === undefined ? (
        repo.formats.includes("gguf") && (
          <button class="b go" type="button" disabled={act.busy} onClick={() => void act.run(() => serve(repo, null, reload))}>
            {act.busy ? t("serve.starting") : t("serve")}
          </button>
        )
      ) : (
        <button class="b" type="button" disabled={act.busy} onClick={() => void act.run(() => stop(deployed, reload))}>
          {t("serve.stop")}
        </button>
      )}
      {chattable && <Link class="b go" to={`chat?model=${encodeURIComponent(deployed.name)}`}>{t("place.chat")}</Link>}
      {act.problem && <div class="wide"><Trouble problem={act.problem} /></div>}
    </>
  );
}

/** One line for each thing worth knowing about how the model is served: a failure, a note, a missing template. */
function Deployed({ repo, deployments }: { repo: Repo; deployments: Deployment[] }) {
  const mute = (it: Deployment): boolean => talkOf(repo, it.has_chat_template) === "text";
  const told = deployments.filter((it) => it.error || it.note || mute(it) || it.state === "loading");
  if (told.length === 0) return null;
  return (
    <div class="tellings">
      {told.map((it) => (
        <div class={it.state === "failed" ? "note" : "note calm"} key={it.id} role={it.state === "failed" ? "alert" : "status"}>
          {it.state === "loading" && <p>{t("serve.loading")}</p>}
          {it.error && <p>{it.error}</p>}
          {it.note && <p>{it.note}</p>}
          {mute(it) && <p>{t("serve.notemplate")}</p>}
        </div>
      ))}
    </div>
  );
}

function ServeFile({ repo, file, deployments, reload }: { repo: Repo; file: RepoFile; deployments: Deployment[]; reload: () => Promise<void> }) {
  const [open, setOpen] = useState(false);
  const act = useAct();
  if (!isGGUF(file)) return null;
  const served = deployments.find((it) => it.file === file.path);
  if (served) {
    return (
      <span class="row">
        <State of={served.state} />
        <button class="b bare" type="button" disabled={act.busy} aria-label={t("serve.stop.file", { path: file.path })} onClick={() => void act.run(() => stop(served, reload))}>
          {t("serve.stop.short")}
        </button>
      </span>
    );
  }
  return (
    <>
      <button class="b bare" type="button" disabled={act.busy} aria-label={t("serve.file", { path: file.path })} onClick={() => { setOpen(true); void act.run(() => serve(repo, file.path, reload)); }}>
        {t("serve.short")}
      </button>
      {open && act.problem && <Trouble problem={act.problem} />}
    </>
  );
}

function ModelFacts({ repo }: { repo: Repo }) {
  return (
    <Section id="h-facts" title={t("facts.title")}>
      <Facts
        rows={[
          [t("facts.size"), <Size of={repo.size_bytes} />],
          [t("facts.fits"), <>{t(`fits.${repo.fits}`)}{repo.fits_reason && <small class="block quiet">{repo.fits_reason}</small>}</>],
          [t("facts.task"), repo.task ? (maybe(`task.${repo.task}`) ?? repo.task) : t("facts.unstated")],
          [t("facts.languages"), repo.languages.length > 0 ? repo.languages.map(endonym).join(", ") : t("facts.unstated")],
          [t("facts.licence"), repo.licence || t("facts.unstated")],
          [t("facts.formats"), repo.formats.join(", ") || "–"],
          [t("facts.access"), repo.private ? t("facet.private") : t("facet.open")],
          [t("facts.updated"), <Time at={repo.updated_at} />],
          [t("facts.downloads"), integer(repo.downloads)],
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

function DeploymentFacts({ of, embeds }: { of: Deployment; embeds: boolean }) {
  const rows: [string, preact.ComponentChildren][] = [[t("facts.name"), <code>{of.alias ?? of.name}</code>]];
  if (of.file) rows.push([t("facts.file"), <code>{of.file}</code>]);
  rows.push([t("facts.engine"), of.engine]);
  if (of.context) rows.push([t("facts.context"), t("facts.tokens", { n: of.context })]);
  if (of.memory_bytes) rows.push([t("facts.memory"), <Size of={of.memory_bytes} />]);
  if (of.tokens_per_s) rows.push([t("facts.speed"), `${decimal(of.tokens_per_s)} ${t("unit.tps")}`]);
  if (embeds) rows.push([t("facts.pooling"), of.pooling]);
  return (
    <Section id="h-served" title={t("facts.served")}>
      <Facts rows={rows} />
      {of.why.length > 0 && <ul class="why small soft">{of.why.map((line) => <li key={line}>{line}</li>)}</ul>}
    </Section>
  );
}
