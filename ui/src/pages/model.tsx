import { useState } from "preact/hooks";
import { call, type Deployment, type Page, type Repo, type RepoFile } from "../api";
import { Snippet, talkOf } from "../parts/snippet";
import { CloneLine, Facts, Section, Size, State, Time, Trouble } from "../parts";
import { decimal, endonym, integer } from "../format";
import { accessWord } from "../gate";
import { maybe, t } from "../i18n";
import { useAct, useLoad } from "../load";
import { Link } from "../router";
import type { Panel } from "./repo/tabs";

/** How a model is served here. */
export interface Serving {
  deployments: Deployment[];
  best: Deployment | undefined;
  reload: () => Promise<void>;
}

/** The deployments of a model, asked for again and again; undefined for other things (null). */
export function useServing(repoId: string | null): Serving | undefined {
  const loaded = useLoad<Page<Deployment>>(repoId === null ? null : "fust/v1/deployments", 3000);
  if (repoId === null) return undefined;
  const deployments = loaded.data?.items.filter((it) => it.repo_id === repoId && it.state !== "stopped") ?? [];
  return { deployments, best: deployments.find((one) => one.state === "ready") ?? deployments[0], reload: loaded.reload };
}

/** What one should know before using the model: how it is served, or that it cannot be. */
export function ModelNotes({ repo, serving }: { repo: Repo; serving: Serving }) {
  const weightsOnly = repo.files.some((file) => /\.(safetensors|bin|pt)$/i.test(file.path)) && !isServable(repo);
  return (
    <>
      <Deployed repo={repo} deployments={serving.deployments} />
      {serving.best === undefined && weightsOnly && <div class="note calm"><p>{t("use.cannot")}</p></div>}
    </>
  );
}

export function UsePanel({ repo, serving }: Panel) {
  const best = serving?.best;
  return (
    <>
      {best === undefined && <div class="note calm"><p>{isServable(repo) ? t("use.notserved") : t("use.cannot")}</p></div>}
      <Snippet model={best?.alias ?? best?.name ?? repo.repo_id} talk={talkOf(repo.task, best)} keyName={repo.repo_id} />
    </>
  );
}

/** Whether a repo holds what some engine serves: a GGUF file, whole weights with their configuration, or an adapter. */
function isServable(repo: Repo): boolean {
  const has = (name: RegExp): boolean => repo.files.some((file) => name.test(file.path));
  return repo.formats.includes("gguf") || (has(/\.safetensors$/i) && has(/(^|\/)(adapter_)?config\.json$/));
}

export const isGGUF = (file: RepoFile): boolean => /\.gguf$/i.test(file.path);

/** What to serve of a repo; what is left out or null, the server chooses. */
interface Chosen {
  file?: string | null;
  engine?: string;
  revision?: string;
}

export async function serve(repo: Repo, chosen: Chosen, reload: () => Promise<void>): Promise<void> {
  await call("fust/v1/deployments", { method: "POST", body: { repo_id: repo.repo_id, ...chosen } });
  await reload();
}

export async function stop(deployment: Deployment, reload: () => Promise<void>): Promise<void> {
  await call(`fust/v1/deployments/${encodeURIComponent(deployment.id)}`, { method: "DELETE" });
  await reload();
}

/** What one can do with the model now: talk to it, serve it, stop it. */
export function ModelButtons({ repo, serving }: { repo: Repo; serving: Serving }) {
  const act = useAct();
  const { best: deployed, reload } = serving;
  const chattable = deployed !== undefined && deployed.state !== "failed" && talkOf(repo.task, deployed) === "chat";
  return (
    <>
      {deployed === undefined ? (
        isServable(repo) && (
          <button class="b go" type="button" disabled={act.busy} onClick={() => void act.run(() => serve(repo, {}, reload))}>
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
  const mute = (it: Deployment): boolean => talkOf(repo.task, it) === "text";
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

export function ServeFile({ repo, file, serving }: { repo: Repo; file: RepoFile; serving: Serving }) {
  const [open, setOpen] = useState(false);
  const act = useAct();
  if (!isGGUF(file)) return null;
  const { deployments, reload } = serving;
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
      <button class="b bare" type="button" disabled={act.busy} aria-label={t("serve.file", { path: file.path })} onClick={() => { setOpen(true); void act.run(() => serve(repo, { file: file.path }, reload)); }}>
        {t("serve.short")}
      </button>
      {open && act.problem && <Trouble problem={act.problem} />}
    </>
  );
}

export function ModelFacts({ repo }: { repo: Repo }) {
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
          [t("facts.access"), accessWord(repo)],
          [t("facts.updated"), <Time at={repo.updated_at} />],
          [t("facts.downloads"), integer(repo.downloads)],
          [t("facts.revision"), <code>{repo.revision?.slice(0, 8) ?? "–"}</code>],
        ]}
      />
      <CloneLine url={repo.clone_url} />
    </Section>
  );
}

export function DeploymentFacts({ repo, of }: { repo: Repo; of: Deployment }) {
  const rows: [string, preact.ComponentChildren][] = [[t("facts.name"), <code>{of.alias ?? of.name}</code>]];
  if (of.file) rows.push([t("facts.file"), <code>{of.file}</code>]);
  rows.push([t("facts.engine"), of.engine]);
  if (of.context) rows.push([t("facts.context"), t("facts.tokens", { n: of.context })]);
  if (of.memory_bytes) rows.push([t("facts.memory"), <Size of={of.memory_bytes} />]);
  if (of.tokens_per_s) rows.push([t("facts.speed"), `${decimal(of.tokens_per_s)} ${t("unit.tps")}`]);
  if (talkOf(repo.task, of) === "embedding") rows.push([t("facts.pooling"), of.pooling]);
  return (
    <Section id="h-served" title={t("facts.served")}>
      <Facts rows={rows} />
      {of.why.length > 0 && <ul class="why small soft">{of.why.map((line) => <li key={line}>{line}</li>)}</ul>}
    </Section>
  );
}
