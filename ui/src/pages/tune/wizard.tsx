import { useEffect, useState } from "preact/hooks";
import { call, type Page, type Repo, type RepoSummary, type Run, type User } from "../../api";
import { Bar, Empty, Head, Section, Size, Sure, Trouble, Waiting } from "../../parts";
import { Beginning, dataFiles } from "../../parts/rows";
import { decimal, size, span } from "../../format";
import { t } from "../../i18n";
import { useAct, useLoad } from "../../load";
import { go, Link, repoPath, usePlace } from "../../router";
import { session } from "../../session";
import { useStore } from "../../store";
import type { TunableBase, Tuning } from "../../tuning";
import { PlanView } from "./watch";

const METHODS = ["lora", "full", "dpo", "continue", "pretrain"] as const;
type Method = (typeof METHODS)[number];
/** What a run may spend, as `--budget` has it: time, or tokens. */
export const BUDGETS = ["", "10m", "30m", "2h", "8h", "1Mtok", "10Mtok"] as const;
const ENDED = new Set(["succeeded", "failed", "cancelled"]);

interface Wish {
  base: string;
  data: string;
  method: Method;
  budget: string;
  to: string;
}

/** From a model and rows to a plan and a run, in four steps on one page. */
export function TunePage() {
  const { query } = usePlace();
  const user = useStore(session);
  const name = user.state === "in" ? (user.user as User).name : "";
  const [wish, setWish] = useState<Wish>({ base: query.get("base") ?? "", data: query.get("data") ?? "", method: "lora", budget: "", to: "" });
  const set = (change: Partial<Wish>): void => setWish((was) => ({ ...was, ...change }));
  const to = wish.to || nameFor(wish, name);
  return (
    <div class="page wrap">
      <Head title={t("tune.title")} sum={t("tune.sum")} />
      <div class="steps-form stack-l">
        <Bases wish={wish} set={set} />
        <Data wish={wish} set={set} />
        <Goal wish={wish} set={set} to={to} />
        <Plan key={JSON.stringify({ ...wish, to })} wish={{ ...wish, to }} />
      </div>
    </div>
  );
}

/** The repo that is offered for the result: named after the base, or of what begins from nothing after its data. */
function nameFor({ base, data, method }: Wish, owner: string): string {
  const [from, ending] = method === "pretrain" ? [data, "model"] : [base, "tuned"];
  return from ? `${owner}/${from.split("/")[1] ?? "model"}-${ending}` : "";
}

interface Step {
  wish: Wish;
  set: (change: Partial<Wish>) => void;
}

/** Models that fit, the largest first; below them the others with the reason. */
function Bases({ wish, set }: Step) {
  const fresh = wish.method === "pretrain";
  const loaded = useLoad<{ items: TunableBase[]; memory_bytes: number }>(fresh ? null : `fust/v1/tune/bases?method=${wish.method}`);
  const [all, setAll] = useState(false);
  const items = loaded.data?.items;
  const fitting = items?.filter((it) => it.fits) ?? [];
  const shown = all ? (items ?? []) : fitting;
  if (fresh) return <Section id="h-base" title={t("tune.step.base")}><p class="soft">{t("tune.base.nothing")}</p></Section>;
  return (
    <Section id="h-base" title={t("tune.step.base")}>
      <p class="soft">{t("tune.step.base.note")}</p>
      {loaded.problem && <Trouble problem={loaded.problem} retry={() => void loaded.reload()} />}
      {loaded.waiting && <Waiting what={t("waiting.bases")} />}
      {items !== undefined && fitting.length === 0 && (
        <Empty what={t("tune.base.none")} next={t("tune.base.none.next")}>
          <Link class="b" to="jobs?pull">{t("pull.title")}</Link>
        </Empty>
      )}
      {shown.length > 0 && (
        <div class="picks" role="radiogroup" aria-labelledby="h-base">
          {shown.map((it) => (
            <label key={it.repo_id}>
              <input type="radio" name="base" checked={wish.base === it.repo_id} disabled={!it.fits} onChange={() => set({ base: it.repo_id })} />
              <span>
                <b>{it.repo_id}</b> {it.family && <span class="quiet">{it.family}</span>}
                <small class="block quiet">{it.reason}</small>
              </span>
              <span class="num">{it.parameters > 0 ? t("tune.parameters", { n: millions(it.parameters) }) : ""}</span>
            </label>
          ))}
        </div>
      )}
      {items !== undefined && items.length > fitting.length && (
        <button class="b bare" type="button" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? t("tune.base.fewer") : t("tune.base.others", { n: items.length - fitting.length })}
        </button>
      )}
    </Section>
  );
}

const millions = (n: number): string => (n >= 1e9 ? `${decimal(n / 1e9, 1)}B` : `${decimal(n / 1e6, n < 1e7 ? 1 : 0)}M`);

/** A data set of the hub, with its first rows. */
function Data({ wish, set }: Step) {
  const sets = useLoad<Page<RepoSummary>>("fust/v1/repos?type=dataset&limit=200");
  const items = sets.data?.items ?? [];
  return (
    <Section id="h-data" title={t("tune.step.data")}>
      <p class="soft">{t("tune.step.data.note")}</p>
      {sets.problem && <Trouble problem={sets.problem} retry={() => void sets.reload()} />}
      {sets.data !== undefined && items.length === 0 && <Empty what={t("tune.data.none")} next={t("tune.data.none.next")} />}
      {items.length > 0 && (
        <label class="field">
          <span>{t("tune.data")}</span>
          <select value={wish.data} onChange={(event) => set({ data: event.currentTarget.value })}>
            <option value="">{t("tune.data.choose")}</option>
            {items.map((it) => <option key={it.repo_id} value={it.repo_id}>{`${it.repo_id}${it.size_bytes ? ` · ${size(it.size_bytes)}` : ""}`}</option>)}
          </select>
        </label>
      )}
      {wish.data && <DataPreview key={wish.data} repoId={wish.data} />}
    </Section>
  );
}

function DataPreview({ repoId }: { repoId: string }) {
  const loaded = useLoad<Repo>(`fust/v1/repos/dataset/${repoPath(repoId)}`);
  const repo = loaded.data;
  if (loaded.problem) return <Trouble problem={loaded.problem} />;
  if (repo === undefined) return <Waiting what={t("waiting.rows")} />;
  const file = dataFiles(repo.files)[0];
  if (file === undefined) return <Empty what={t("rows.none")} next={t("rows.none.next")} />;
  return <Beginning repo={repo} revision={repo.revision ?? "main"} path={file.path} />;
}

function Goal({ wish, set, to }: Step & { to: string }) {
  return (
    <Section id="h-goal" title={t("tune.step.goal")}>
      <fieldset class="picks">
        <legend class="sr">{t("tune.method")}</legend>
        {METHODS.map((method) => (
          <label key={method}>
            <input type="radio" name="method" checked={wish.method === method} onChange={() => set({ method })} />
            <span>
              <b>{t(`tune.method.${method}`)}</b>
              <small class="block quiet">{t(`tune.method.${method}.note`)}</small>
            </span>
          </label>
        ))}
      </fieldset>
      <div class="filters">
        <label>
          <span>{t("tune.budget")}</span>
          <select value={wish.budget} onChange={(event) => set({ budget: event.currentTarget.value })}>
            {BUDGETS.map((it) => <option key={it} value={it}>{it === "" ? t("tune.budget.data") : t("tune.budget.most", { much: much(it) })}</option>)}
          </select>
        </label>
        <label class="grow">
          <span>{t("tune.to")}</span>
          <input type="text" autocapitalize="off" spellcheck={false} pattern="[^\/\s]+\/[^\/\s]+" placeholder="owner/name" value={wish.to || to} onInput={(event) => set({ to: event.currentTarget.value.trim() })} />
        </label>
      </div>
    </Section>
  );
}

/** A budget in words. */
export const much = (budget: string): string =>
  budget.endsWith("tok") ? t("tune.tokens", { n: `${parseFloat(budget)}M` }) : span(parseFloat(budget) * (budget.endsWith("h") ? 3600 : 60));

/** Core hours as a figure; a little is little, and not nothing. */
const coreHours = (hours: number) => (hours > 0 && hours < 0.01 ? `< ${decimal(0.01, 2)}` : decimal(hours, 2));

/** A dry run and what it found; then the start. */
function Plan({ wish }: { wish: Wish }) {
  const [runId, setRunId] = useState<string | null>(null);
  const act = useAct();
  const loaded = useLoad<Run>(runId === null ? null : `fust/v1/runs/${encodeURIComponent(runId)}`, 1500);
  const run = loaded.data;
  const fresh = wish.method === "pretrain";
  const params = { ...(fresh ? {} : { base: wish.base }), data: wish.data, to: wish.to, method: wish.method, ...(wish.budget ? { budget: wish.budget } : {}) };
  const ask = (dry: boolean): Promise<Run> => call<Run>("fust/v1/runs", { method: "POST", body: { kind: "tune", params: { ...params, dry_run: dry } } });
  const ready = (fresh || wish.base !== "") && wish.data !== "" && wish.to !== "";
  return (
    <Section id="h-plan" title={t("tune.step.plan")}>
      <p class="soft">{t("tune.step.plan.note")}</p>
      {act.problem && <Trouble problem={act.problem} />}
      <div class="row">
        <button class="b" type="button" disabled={!ready || act.busy || (run !== undefined && !ENDED.has(run.state))} onClick={() => void act.run(async () => setRunId((await ask(true)).id))}>
          {t("tune.plan")}
        </button>
        <Sure label={t("tune.start")} ask={t("tune.start.sure", { to: wish.to || "–" })} busy={!ready || act.busy} onSure={() => void act.run(async () => go(`jobs/${encodeURIComponent((await ask(false)).id)}`))} />
      </div>
      {!ready && <p class="small quiet">{t(fresh ? "tune.plan.needs.data" : "tune.plan.needs")}</p>}
      {run && !ENDED.has(run.state) && (
        <div role="status">
          <p class="small">{run.progress?.message || run.waits_for || t("tune.planning")} <Link to={`jobs/${encodeURIComponent(run.id)}`}>{t("tune.job")}</Link></p>
          {!!run.progress?.total && <Bar share={(run.progress.done ?? 0) / run.progress.total} />}
        </div>
      )}
      {run?.error && <div class="note told" role="alert"><p>{run.error.message}</p>{run.error.hint && <p>{run.error.hint}</p>}</div>}
      {run?.state === "succeeded" && <Found id={run.id} />}
    </Section>
  );
}

function Found({ id }: { id: string }) {
  const loaded = useLoad<Tuning>(`fust/v1/tune/runs/${encodeURIComponent(id)}`);
  const found = loaded.data;
  useEffect(() => document.getElementById("h-found")?.scrollIntoView({ block: "nearest" }), [found]);
  if (loaded.problem) return <Trouble problem={loaded.problem} />;
  if (found === undefined) return <Waiting what={t("tune.planning")} />;
  const { forecast, recipe } = found;
  return (
    <div class="found stack-l" id="h-found">
      <dl class="figs">
        <div><dt>{t("tune.steps")}</dt><dd>{String(recipe["steps"] ?? "–")}</dd></div>
        <div><dt>{t("tune.time")}</dt><dd>{span(forecast["time_s"] ?? 0)}</dd></div>
        <div><dt>{t("facts.memory")}</dt><dd><Size of={forecast["memory_bytes"] ?? 0} /></dd></div>
        <div><dt>{t("tune.cost")}</dt><dd>{coreHours(forecast["core_hours"] ?? 0)} <small>{t("tune.core.hours")}</small></dd></div>
      </dl>
      <p class="small quiet">{recipe["model"] ? t("tune.fresh", { share: decimal(100 - 100 * (forecast["saving"] ?? 0), 0) }) : t("tune.saving", { share: decimal(100 * (forecast["saving"] ?? 0), 2) })}</p>
      <PlanView tuning={found} />
    </div>
  );
}

