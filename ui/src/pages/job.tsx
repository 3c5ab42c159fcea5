import { useEffect, useRef, useState } from "preact/hooks";
import { call, type Progress, type Run, type RunState } from "../api";
import { Bar, Columns, Facts, Head, Section, Size, State, Sure, Time, Trouble, Waiting, coded } from "../parts";
import { amount, clock, decimal, fullTime, integer, span } from "../format";
import { maybe, t, useLang } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link, repoPath, url } from "../router";
import { follow } from "../stream";
import { kindName, took } from "./jobs";
import { TuningView } from "./tune/watch";

const ENDED = new Set<RunState>(["succeeded", "failed", "cancelled"]);
const MOST_LINES = 2000;

/** What the events say beyond the run first loaded. The server replays them from the start after a reload. */
interface Live {
  progress: Progress | null;
  state: RunState | null;
  log: string[];
  lost: boolean;
}

function useEvents(id: string, ended: boolean, onState: () => void): Live {
  const [live, setLive] = useState<Live>({ progress: null, state: null, log: [], lost: false });
  const over = useRef(ended);
  over.current ||= ended;
  const chosen = useLang(); // the server words progress and log in the language asked for
  useEffect(() => {
    let lines: string[] = [];
    let change: Partial<Live> = { log: [] };
    let timer: ReturnType<typeof setTimeout> | undefined;
    const flush = (): void => {
      timer = undefined;
      const [fresh, next] = [lines, change];
      lines = [];
      change = {};
      setLive((was) => ({ ...was, ...next, log: [...(next.log ?? was.log), ...fresh].slice(-MOST_LINES) }));
    };
    const soon = (next: Partial<Live>): void => {
      Object.assign(change, next);
      timer ??= setTimeout(flush, 150);
    };
    const stop = follow(`fust/v1/runs/${encodeURIComponent(id)}/events`, {
      ended: () => over.current,
      onLost: (lost) => soon({ lost }),
      onEvent: ({ name, data }) => {
        if (name === "progress") soon({ progress: JSON.parse(data) as Progress });
        else if (name === "log") {
          const { at, message } = JSON.parse(data) as { at: string; message: string };
          lines.push((at === "" ? "" : `${clock(at)}  `) + message.trimEnd());
          soon({});
        } else if (name === "state") {
          const { state } = JSON.parse(data) as Run;
          over.current = ENDED.has(state);
          soon({ state });
          onState();
        }
      },
    });
    return () => {
      clearTimeout(timer);
      stop();
    };
  }, [id, chosen]);
  return live;
}

export function JobPage({ id }: { id: string }) {
  const path = `fust/v1/runs/${encodeURIComponent(id)}`;
  const loaded = useLoad<Run>(path, 5000);
  const [round, setRound] = useState(0); // a run that goes on after its end is followed anew
  const run = loaded.data;
  const kick = <><Link to="jobs">{t("place.jobs")}</Link> / {id}</>;
  if (run === undefined) {
    const gone = loaded.problem?.status === 404;
    return (
      <div class="page wrap">
        <Head kick={kick} title={gone ? t("job.gone") : t("job.title")} sum={gone ? t("job.gone.next") : undefined} />
        {loaded.problem && <Trouble problem={loaded.problem} retry={gone ? undefined : () => void loaded.reload()} />}
        {loaded.waiting && <Waiting what={t("waiting.job")} />}
      </div>
    );
  }
  return <Loaded key={round} run={run} kick={kick} reload={loaded.reload} again={() => setRound(round + 1)} />;
}

function Loaded({ run, kick, reload, again }: { run: Run; kick: preact.ComponentChildren; reload: () => Promise<void>; again: () => void }) {
  const live = useEvents(run.id, ENDED.has(run.state), () => void reload());
  const act = useAct();
  const state = ENDED.has(run.state) ? run.state : (live.state ?? run.state);
  const over = ENDED.has(state);
  const progress = over ? (run.progress ?? live.progress) : (live.progress ?? run.progress);
  const tunes = run.kind === "tune";
  const ask = (what: "cancel" | "resume" | "end-early"): Promise<void> =>
    act.run(async () => {
      await call(`fust/v1/runs/${encodeURIComponent(run.id)}/${what}`, { method: "POST" });
      await reload();
      if (ENDED.has(run.state)) again();
    });
  const repo = resultRepo(run);
  return (
    <div class="page wrap">
      <Head kick={kick} title={run.title || kindName(run.kind)} sum={<><State of={state} /> {sentenceOf(run, state, progress)}</>}>
        {!over && (tunes ? <Sure label={t("tune.pause")} ask={t("tune.pause.sure")} busy={act.busy} onSure={() => void ask("cancel")} /> : <Sure label={t("job.cancel")} ask={t("job.cancel.sure")} busy={act.busy} onSure={() => void ask("cancel")} />)}
        {tunes && state !== "succeeded" && run.started_at && !run.params["dry_run"] && <Sure label={t("tune.end")} ask={t("tune.end.sure")} busy={act.busy} onSure={() => void ask("end-early")} />}
        {tunes && (state === "cancelled" || state === "failed") && <button class="b" type="button" disabled={act.busy} onClick={() => void ask("resume")}>{t("tune.resume")}</button>}
        {state === "succeeded" && repo && <Link class="b go" to={repo}>{t("job.open")}</Link>}
      </Head>
      {act.problem && <Trouble problem={act.problem} />}
      {run.error && (
        <div class="note told" role="alert">
          <p>{coded(run.error.message)}</p>
          {run.error.hint && <p>{coded(run.error.hint)}</p>}
          <p class="small quiet"><code>{run.error.code}</code></p>
        </div>
      )}
      <Figures run={run} progress={progress} over={over} />
      {live.lost && !over && <p class="note calm" role="status">{t("job.lost")}</p>}
      <Choices run={run} />
      {tunes && <TuningView run={run} over={over} />}
      <div class="split">
        <Section id="h-log" title={t("job.log")} side={<a class="small" href={url(`fust/v1/runs/${encodeURIComponent(run.id)}/log`)}>{t("job.log.whole")}</a>}>
          <Log lines={live.log} over={over} />
        </Section>
        <aside class="aside" aria-label={t("facts.title")}>
          <Section id="h-jobfacts" title={t("facts.title")}>
            <Facts rows={factsOf(run)} />
          </Section>
        </aside>
      </div>
    </div>
  );
}

interface Choice {
  file: string;
  size_bytes: number;
  fits: boolean;
  taken: boolean;
}

/** The GGUF files that a pull chose between; another one is pulled from here. */
function Choices({ run }: { run: Run }) {
  const act = useAct();
  const choices = (run.result?.["choices"] ?? []) as Choice[];
  if (run.kind !== "pull" || choices.length < 2) return null;
  const pull = (file: string): Promise<void> =>
    act.run(async () => {
      const next = await call<Run>("fust/v1/runs", { method: "POST", body: { kind: "pull", params: { ...run.params, files: [file], all: false } } });
      go(`jobs/${encodeURIComponent(next.id)}`);
    });
  return (
    <Section id="h-choices" class="choices" title={t("choices.title")}>
      {act.problem && <Trouble problem={act.problem} />}
      <table>
        <Columns of={[t("files.file"), t("col.state"), [t("files.size"), "r"], [t("files.act"), "unseen"]]} />
        <tbody>
          {choices.map((it) => (
            <tr key={it.file}>
              <th scope="row" class="mono">{it.file}</th>
              <td>{it.taken ? <b>{t("choices.taken")}</b> : t(it.fits ? "fits.yes" : "fits.no")}</td>
              <td class="r"><Size of={it.size_bytes} /></td>
              <td class="r">
                {!it.taken && (
                  <button class="b bare" type="button" disabled={act.busy} aria-label={t("choices.pull.file", { file: it.file })} onClick={() => void pull(it.file)}>
                    {t("choices.pull")}
                  </button>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Section>
  );
}

function sentenceOf(run: Run, state: RunState, progress: Progress | null): string {
  if (state === "queued") return run.waits_for ? t("run.waits", { what: run.waits_for }) : t("job.queued");
  if (state === "running") return [progress?.message, t("job.closable")].filter(Boolean).join(t("job.join"));
  return "";
}

function resultRepo(run: Run): string | null {
  const named = run.params["to"] || (run.result?.["repo_id"] ?? run.params["repo_id"]);
  if (typeof named !== "string" || !named.includes("/")) return null;
  const type = run.result?.["type"] ?? run.params["type"];
  return `${type === "dataset" ? "datasets" : "models"}/${repoPath(named)}`;
}

/** The unit of what is done, and how much there is in all. */
function ofTotal(unit: string, total: [figure: string, unit: string] | null): string {
  if (total === null) return unit;
  return unit === total[1] ? `/ ${total.join(" ")}` : `${unit} / ${total.join(" ")}`;
}

function Figures({ run, progress, over }: { run: Run; progress: Progress | null; over: boolean }) {
  const [, tick] = useState(0);
  useEffect(() => {
    if (over) return undefined;
    const timer = setInterval(() => tick((n) => n + 1), 1000);
    return () => clearInterval(timer);
  }, [over]);
  const done = progress?.done ?? null;
  const total = progress?.total || null; // 0 while it is not known
  const figures: [string, string, string][] = [];
  if (done !== null && (done > 0 || total !== null)) {
    const [figure, unit] = amount(done, progress?.unit ?? null);
    figures.push([t("job.done"), figure, ofTotal(unit, total === null ? null : amount(total, progress?.unit ?? null))]);
  }
  if (!over && progress?.rate) {
    const [figure, unit] = amount(progress.rate, progress.unit);
    figures.push([t("col.speed"), figure, t("per.s", { unit })]);
  }
  if (!over && progress?.eta_s !== null && progress?.eta_s !== undefined) figures.push([t("job.left"), span(progress.eta_s), ""]);
  figures.push([over ? t("col.took") : t("job.since"), took(run) ?? "–", ""]);
  return (
    <div class="progress">
      <dl class="figs">
        {figures.map(([name, figure, unit]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{figure} <small>{unit}</small></dd>
          </div>
        ))}
      </dl>
      {!over && done !== null && total !== null && total > 0 && (
        <div role="progressbar" aria-label={run.title} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.floor((100 * done) / total)} aria-valuetext={t("percent", { n: integer(Math.floor((100 * done) / total)) })}>
          <Bar share={done / total} />
        </div>
      )}
    </div>
  );
}

function Log({ lines, over }: { lines: string[]; over: boolean }) {
  const box = useRef<HTMLPreElement>(null);
  const near = useRef(true);
  useEffect(() => {
    if (near.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines]);
  if (lines.length === 0) return <p class="small quiet logempty">{over ? t("job.log.none") : t("job.log.wait")}</p>;
  return (
    <pre class="code log" role="group" ref={box} tabIndex={0} aria-label={t("job.log")} onScroll={(event) => { const it = event.currentTarget; near.current = it.scrollTop + it.clientHeight > it.scrollHeight - 40; }}>
      {lines.join("\n")}
    </pre>
  );
}

function factsOf(run: Run): [string, preact.ComponentChildren][] {
  const rows: [string, preact.ComponentChildren][] = [
    [t("job.kind"), kindName(run.kind)],
    [t("col.owner"), run.owner],
    [t("job.created"), fullTime(run.created_at)],
  ];
  if (run.started_at) rows.push([t("col.started"), <Time at={run.started_at} />]);
  if (run.ended_at) rows.push([t("job.ended"), <Time at={run.ended_at} />]);
  if (run.memory_bytes) rows.push([t("col.memory"), <Size of={run.memory_bytes} />]);
  if (run.cores) rows.push([t("machine.cores"), decimal(run.cores)]);
  for (const [key, value] of Object.entries(run.params)) {
    if (key === "memory_bytes" || value === null || value === "" || value === false || (Array.isArray(value) && value.length === 0)) continue;
    rows.push([maybe(`param.${key}`) ?? key, <code>{typeof value === "string" ? value : JSON.stringify(value)}</code>]);
  }
  return rows;
}
