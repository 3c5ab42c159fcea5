import type { ComponentChildren } from "preact";
import type { Deployment, Need, Page, Run, Status } from "../api";
import { Bar, Columns, Empty, Head, Section, Size, State, Time, Trouble, Waiting, coded } from "../parts";
import { amount, bytes, decimal, integer, sentence, span, todayLong, words } from "../format";
import { t } from "../i18n";
import { useLoad, type Loaded } from "../load";
import { ServedLink } from "../parts/served";
import { Link } from "../router";
import { status } from "../session";
import { useStore } from "../store";

const SERVES = new Set(["ready", "idle", "loading"]);
const ACTIVE = new Set(["queued", "running"]);

export function HomePage() {
  const now = useStore(status);
  const deployments = useLoad<Page<Deployment>>("fust/v1/deployments", 5000);
  const runs = useLoad<Page<Run>>("fust/v1/runs?limit=20", 5000);
  const serving = deployments.data?.items.filter((it) => SERVES.has(it.state)) ?? [];
  const active = runs.data?.items.filter((it) => ACTIVE.has(it.state)) ?? [];
  const ready = now !== null && deployments.data !== undefined && runs.data !== undefined;
  return (
    <div class="page wrap">
      <Head kick={todayLong()} title={ready ? headline(serving.length, active.length, now.needs.length) : t("place.home")} />
      <div class="split">
        <div class="stack-l">
          {now !== null && now.needs.length > 0 && <Needs needs={now.needs} />}
          <Running deployments={deployments} runs={runs} active={active} />
          {now !== null && <Steps now={now} first={serving[0]} />}
        </div>
        <aside class="aside" aria-label={t("machine.title")}>
          {now === null ? <Waiting what={t("waiting.status")} /> : <Machine now={now} />}
        </aside>
      </div>
    </div>
  );
}

function headline(serving: number, active: number, needs: number): string {
  const parts = [t("home.serve", { n: serving, words: words(serving) })];
  if (active > 0) parts.push(t("home.run", { n: active, words: words(active) }));
  parts.push(t("home.need", { n: needs, words: words(needs) }));
  return sentence(parts.join(t("list.comma"))) + t("list.stop");
}

function Needs({ needs }: { needs: Need[] }) {
  return (
    <Section id="h-need" title={t("home.needs")}>
      <ul class="need">
        {needs.map((need) => (
          <li key={need.code + need.subject}>
            <span class="m" aria-hidden="true" />
            <div>
              <p>{need.message}</p>
              {need.hint && <p>{coded(need.hint)}</p>}
            </div>
            {need.href && (
              <Link class="b" to={need.href} aria-label={t("home.look.at", { subject: need.subject })}>
                {t("home.look")}
              </Link>
            )}
          </li>
        ))}
      </ul>
    </Section>
  );
}

function Running({ deployments, runs, active }: { deployments: Loaded<Page<Deployment>>; runs: Loaded<Page<Run>>; active: Run[] }) {
  const shown = deployments.data?.items.filter((it) => it.state !== "stopped") ?? [];
  const problem = deployments.problem ?? runs.problem;
  let body: ComponentChildren;
  if (deployments.waiting || runs.waiting) body = <Waiting what={t("waiting.running")} />;
  else if (shown.length + active.length === 0 && problem === null)
    body = (
      <Empty what={t("home.nothing")} next={t("home.nothing.next")}>
        <Link class="b go" to="models">
          {t("home.choose")}
        </Link>
      </Empty>
    );
  else
    body = (
      <table class="cards-s">
        <Columns of={[t("col.what"), t("col.state"), [t("col.speed"), "r"], [t("col.memory"), "r"], [t("col.since"), "r"]]} />
        <tbody>
          {shown.map((it) => (
            <tr key={it.id}>
              <th scope="row">
                <ServedLink of={it} />{" "}
                {it.alias && <span class="quiet">{it.alias}</span>}
                {(it.error ?? it.note) && <p class="under">{it.error ?? it.note}</p>}
              </th>
              <td>
                <State of={it.state} />
              </td>
              <td class={it.tokens_per_s ? "r num" : "r num none"} data-l={t("col.speed")}>
                {it.tokens_per_s ? <>{decimal(it.tokens_per_s)} <span class="unit">{t("unit.tps")}</span></> : "–"}
              </td>
              <td class={it.memory_bytes ? "r" : "r none"} data-l={t("col.memory")}>{it.memory_bytes ? <Size of={it.memory_bytes} /> : "–"}</td>
              <td class={it.started_at ? "r" : "r none"} data-l={t("col.since")}>{it.started_at ? <Time at={it.started_at} /> : "–"}</td>
            </tr>
          ))}
          {active.map((run) => (
            <tr key={run.id}>
              <th scope="row">
                <Link to={`jobs/${encodeURIComponent(run.id)}`}>{run.title}</Link>
              </th>
              <td>
                <State of={run.state} text={runWords(run)} />
              </td>
              <td class={rate(run) === null ? "r num none" : "r num"} data-l={t("col.speed")}>{rate(run) ?? "–"}</td>
              <td class={run.memory_bytes ? "r" : "r none"} data-l={t("col.memory")}>{run.memory_bytes ? <Size of={run.memory_bytes} /> : "–"}</td>
              <td class="r" data-l={t("col.since")}>
                <Time at={run.started_at ?? run.created_at} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    );
  return (
    <Section id="h-run" title={t("home.running")} side={<Link class="small" to="jobs">{t("home.all.jobs")}</Link>}>
      {problem && <Trouble problem={problem} retry={() => { void deployments.reload(); void runs.reload(); }} />}
      {body}
    </Section>
  );
}

/** "62 %, 14 min left", or what it waits for. */
export function runWords(run: Run): string | undefined {
  if (run.state === "queued") return run.waits_for ? t("run.waits", { what: run.waits_for }) : undefined;
  if (run.state !== "running" || !run.progress?.total) return undefined;
  const share = t("percent", { n: integer(Math.floor((100 * (run.progress.done ?? 0)) / run.progress.total)) });
  return run.progress.eta_s === null ? share : t("run.left", { share, left: span(run.progress.eta_s) });
}

/** The pace of a run with its unit; null when it has none. */
export function rate(run: Run): ComponentChildren {
  const pace = run.progress?.rate;
  if (!pace || run.state !== "running") return null;
  const [figure, unit] = amount(pace, run.progress?.unit ?? null);
  return <>{figure} <span class="unit">{t("per.s", { unit })}</span></>;
}

function Steps({ now, first }: { now: Status; first: Deployment | undefined }) {
  const done = [now.steps.pulled, now.steps.chatted, now.steps.keyed, now.steps.pushed];
  const count = done.filter(Boolean).length;
  if (count === done.length) return null;
  const next = done.indexOf(false);
  const steps: { title: string; text: string; to: string; act: string }[] = [
    { title: t("step.pull"), text: done[0] ? t("step.pull.done") : t("step.pull.text"), to: "jobs", act: t("step.pull") },
    { title: t("step.chat"), text: done[1] ? t("step.chat.done") : t("step.chat.text"), to: first ? `chat?model=${encodeURIComponent(first.name)}` : "chat", act: t("step.chat.act") },
    { title: t("step.key"), text: done[2] ? t("step.key.done") : t("step.key.text"), to: "keys", act: t("step.key.act") },
    { title: t("step.push"), text: done[3] ? t("step.push.done") : t("step.push.text"), to: "keys", act: t("step.push.act") },
  ];
  return (
    <Section id="h-start" title={t("home.steps")} side={<span class="small quiet">{t("home.steps.done", { n: integer(count) })}</span>}>
      <ol class="steps">
        {steps.map((step, index) => (
          <li key={step.title} class={index === next ? "now" : undefined}>
            <h3>{step.title}</h3>
            <p>{step.text}</p>
            {!done[index] && (
              <p class="do">
                <Link class={index === next ? "b go" : "b"} to={step.to}>{step.act}</Link>
              </p>
            )}
          </li>
        ))}
      </ol>
    </Section>
  );
}

function Machine({ now }: { now: Status }) {
  const machine = now.machine;
  const used = machine.memory_total_bytes - machine.memory_available_bytes;
  const filled = machine.disk_total_bytes - machine.disk_free_bytes;
  return (
    <>
      <section class="sec">
        <h2>{t("machine.title")}</h2>
        <ul class="res">
          <Resource name={t("machine.memory")} share={used / machine.memory_total_bytes} of={pair(used, machine.memory_total_bytes)} />
          <Resource name={t("machine.disk")} share={filled / machine.disk_total_bytes} of={pair(filled, machine.disk_total_bytes)} />
          <Resource
            name={t("machine.load")}
            share={machine.load_1m / machine.cores}
            of={[decimal(machine.load_1m), t("machine.busy", { n: machine.cores })]}
          />
        </ul>
      </section>
      <section class="sec">
        <h2>{t("machine.hub")}</h2>
        <dl class="facts">
          <div><dt>{t("place.models")}</dt><dd class="num"><Link to="models">{integer(now.counts.models)}</Link></dd></div>
          <div><dt>{t("machine.datasets")}</dt><dd class="num"><Link to="datasets">{integer(now.counts.datasets)}</Link></dd></div>
          <div><dt>{t("machine.api")}</dt><dd><code>{now.openai_base_url}</code></dd></div>
          <div><dt>{t("machine.home")}</dt><dd><code>{now.home}</code></dd></div>
        </dl>
      </section>
      {now.chosen.length > 0 && (
        <section class="sec">
          <h2>{t("machine.chosen")}</h2>
          <dl class="chosen">
            {now.chosen.map((it) => (
              <div key={it.what}>
                <dt>{it.what}: <b>{it.value}</b></dt>
                <dd>{it.why}</dd>
              </div>
            ))}
          </dl>
        </section>
      )}
    </>
  );
}

function pair(part: number, whole: number): [string, string] {
  const total = bytes(whole);
  return [bytes(part, total.unit).figure, t("machine.of", { total: total.figure, unit: total.unit })];
}

function Resource({ name, share, of }: { name: string; share: number; of: [string, string] }) {
  return (
    <li>
      <div class="hrow">
        <span>{name}</span>
        <span class="num">{of[0]} <span class="unit">{of[1]}</span></span>
      </div>
      <Bar share={share} />
    </li>
  );
}
