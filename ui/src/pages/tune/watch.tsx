import { useState } from "preact/hooks";
import type { Page, Run } from "../../api";
import { Section, Trouble } from "../../parts";
import { LineChart, type Line } from "../../parts/chart";
import { decimal, integer, size } from "../../format";
import { maybe, t } from "../../i18n";
import { useLoad } from "../../load";
import { url } from "../../router";
import { curves, heldOutOf, lossOf, useCourse, type Course, type Sampled, type SampleView, type TunedRows, type Tuning } from "../../tuning";
import { Extend } from "./extend";

const pathOf = (id: string): string => `fust/v1/tune/runs/${encodeURIComponent(id)}`;

/** A tuning run: its curves beside another's, what it writes, what was decided and why, and its rows. */
export function TuningView({ run, over }: { run: Run; over: boolean }) {
  const loaded = useLoad<Tuning>(pathOf(run.id), over ? undefined : 5000);
  const course = useCourse(run.id, over);
  const [other, setOther] = useState<Run | null>(null);
  const tuning = loaded.data;
  return (
    <div class="stack-l tuning">
      {loaded.problem && <Trouble problem={loaded.problem} retry={() => void loaded.reload()} />}
      {course.points.length > 0 && <Curves run={run} course={course} other={other} pick={setOther} />}
      {other && tuning && <Differences mine={tuning} run={run} other={other} />}
      {course.samples.length > 0 && <Samples samples={course.samples} />}
      {tuning && <PlanView tuning={tuning} />}
      {run.state === "succeeded" && !!run.result?.["repo_id"] && <Extend run={run} />}
    </div>
  );
}

/** What was decided, what became of the rows, and what is learned of them. */
export function PlanView({ tuning }: { tuning: Tuning }) {
  return (
    <>
      {tuning.rows && <RowsView rows={tuning.rows} />}
      {tuning.preview.length > 0 && <Preview samples={tuning.preview} />}
      {tuning.chosen.length > 0 && <Chosen tuning={tuning} />}
    </>
  );
}

function Curves({ run, course, other, pick }: { run: Run; course: Course; other: Run | null; pick: (run: Run | null) => void }) {
  const runs = useLoad<Page<Run>>("fust/v1/runs?limit=200");
  const others = runs.data?.items.filter((it) => it.kind === "tune" && it.id !== run.id && !it.params["dry_run"]) ?? [];
  const past = useCourse(other?.id ?? null, true);
  const held = heldOutOf(course.points);
  const pastHeld = heldOutOf(past.points);
  const lines: Line[] = [{ name: t("tune.loss"), points: lossOf(course.points), as: held.length > 0 ? "reference" : "subject" }];
  if (held.length > 0) lines.push({ name: t("tune.held"), points: held, as: "subject" });
  if (past.points.length > 0) lines.push({ name: t("tune.other"), points: pastHeld.length > 0 ? pastHeld : lossOf(past.points), as: "past" });
  const last = course.points.at(-1);
  return (
    <Section
      id="h-curves"
      title={t("tune.curves")}
      side={
        others.length > 0 && (
          <label class="small beside">
            <span>{t("tune.compare")}</span>
            <select value={other?.id ?? ""} onChange={(event) => pick(others.find((it) => it.id === event.currentTarget.value) ?? null)}>
              <option value="">{t("tune.compare.none")}</option>
              {others.map((it) => <option key={it.id} value={it.id}>{`${it.title} (${it.id.slice(-4)})`}</option>)}
            </select>
          </label>
        )
      }
    >
      <figure>
        <LineChart lines={lines} label={t("tune.loss.label", { first: decimal(course.points[0]?.loss ?? 0, 3), last: decimal(last?.loss ?? 0, 3), steps: last?.step ?? 0 })} />
        <figcaption class="small quiet">
          {t("tune.loss.note")} <a href={url(`${pathOf(run.id)}/points.csv`)}>{t("tune.csv")}</a>
        </figcaption>
      </figure>
      <div class="smalls">
        {[...curves(course.points)].map(([name, points]) => {
          const title = maybe(`point.${name}`) ?? name;
          return (
            <figure key={name}>
              <figcaption class="small">{title} <span class="num quiet">{shown(name, points.at(-1)?.[1] ?? 0)}</span></figcaption>
              <LineChart lines={[{ name: title, points, as: "subject" }]} label={title} height={120} write={name.endsWith("_bytes") ? size : undefined} />
            </figure>
          );
        })}
      </div>
    </Section>
  );
}

function shown(name: string, value: number): string {
  if (name.endsWith("_bytes")) return size(value);
  return Math.abs(value) < 0.01 && value !== 0 ? value.toExponential(1) : decimal(value, Math.abs(value) < 10 ? 3 : 0);
}

/** What differs between the recipes of two runs. */
function Differences({ mine, run, other }: { mine: Tuning; run: Run; other: Run }) {
  const theirs = useLoad<Tuning>(pathOf(other.id)).data;
  if (theirs === undefined) return null;
  const word = (value: unknown): string => (value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value));
  const names = [...new Set([...Object.keys(mine.recipe), ...Object.keys(theirs.recipe)])];
  const rows = names.map((name) => [name, word(mine.recipe[name]), word(theirs.recipe[name])]).filter(([, a, b]) => a !== b);
  return (
    <Section id="h-differences" title={t("tune.differences")}>
      {rows.length === 0 ? (
        <p class="small quiet">{t("tune.differences.none")}</p>
      ) : (
        <div class="scroll" tabIndex={0} role="group" aria-label={t("tune.differences")}>
          <table>
            <thead>
              <tr>
                <th scope="col">{t("tune.choice")}</th>
                <th scope="col">{t("tune.this")} <span class="quiet">{run.id.slice(-4)}</span></th>
                <th scope="col">{t("tune.other")} <span class="quiet">{other.id.slice(-4)}</span></th>
              </tr>
            </thead>
            <tbody>
              {rows.map(([name, a, b]) => (
                <tr key={name}>
                  <th scope="row">{name}</th>
                  <td><code>{a}</code></td>
                  <td><code>{b}</code></td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </Section>
  );
}

/** What the model wrote for the same prompts: at first, and at a step of one's choice. */
function Samples({ samples }: { samples: Sampled[] }) {
  const [step, setStep] = useState<number | null>(null);
  const before = samples[0];
  const after = samples.find((it) => it.step === step) ?? samples.at(-1);
  if (before === undefined || after === undefined) return null;
  return (
    <Section
      id="h-samples"
      title={t("tune.samples")}
      side={
        samples.length > 2 && (
          <label class="small beside">
            <span>{t("tune.samples.step")}</span>
            <select value={after.step} onChange={(event) => setStep(Number(event.currentTarget.value))}>
              {samples.slice(1).map((it) => <option key={it.step} value={it.step}>{integer(it.step)}</option>)}
            </select>
          </label>
        )
      }
    >
      {before.items.map((item, at) => (
        <article class="sample" key={at}>
          <p class="asked">{item.prompt}</p>
          <div class="two">
            <div>
              <h3 class="small quiet">{t("tune.before")}</h3>
              <p class="plain">{item.text || t("tune.samples.empty")}</p>
            </div>
            {after !== before && (
              <div>
                <h3 class="small quiet">{t("tune.after", { step: after.step })}</h3>
                <p class="plain">{after.items[at]?.text || t("tune.samples.empty")}</p>
              </div>
            )}
          </div>
        </article>
      ))}
    </Section>
  );
}

function RowsView({ rows }: { rows: TunedRows }) {
  const share = rows.tokens > 0 ? Math.round((100 * rows.learned_tokens) / rows.tokens) : 0;
  return (
    <Section id="h-rows" title={t("tune.rows")}>
      <p>{t("tune.rows.sum", { format: rows.format, rows: integer(rows.rows), kept: integer(rows.kept), held: integer(rows.held_out) })}</p>
      <p class="soft">{t("tune.rows.tokens", { tokens: integer(rows.tokens), share, longest: integer(rows.longest) })}</p>
      {rows.left_out.length + rows.notes.length > 0 && (
        <ul class="why small soft">
          {[...rows.left_out.map((it) => it.message), ...rows.notes].map((it) => <li key={it}>{it}</li>)}
        </ul>
      )}
    </Section>
  );
}

/** Samples token by token; what is learned is marked. */
function Preview({ samples }: { samples: SampleView[] }) {
  const [at, setAt] = useState(0);
  const sample = samples[at] ?? samples[0];
  if (sample === undefined) return null;
  return (
    <Section
      id="h-preview"
      title={t("tune.preview")}
      side={
        samples.length > 1 && (
          <span class="row pager">
            <button class="b bare" type="button" disabled={at === 0} onClick={() => setAt(at - 1)}>{t("tune.preview.before")}</button>
            <span class="small num">{t("tune.preview.of", { n: at + 1, of: samples.length })}</span>
            <button class="b bare" type="button" disabled={at === samples.length - 1} onClick={() => setAt(at + 1)}>{t("tune.preview.next")}</button>
          </span>
        )
      }
    >
      <p class="small quiet">{sample.side && <b>{t(`tune.side.${sample.side}`)}. </b>}{t("tune.preview.note")}</p>
      <pre class="code tokens" tabIndex={0} role="group" aria-label={t("tune.preview")}>
        {sample.tokens.map((token, i) => (sample.learned[i] ? <mark key={i}>{token || "·"}</mark> : <span key={i}>{token || "·"}</span>))}
        {sample.more && " …"}
      </pre>
    </Section>
  );
}

function Chosen({ tuning }: { tuning: Tuning }) {
  return (
    <Section id="h-chosen" title={t("tune.chosen")}>
      <table class="cards-s">
        <thead>
          <tr>
            <th scope="col">{t("tune.choice")}</th>
            <th scope="col">{t("tune.value")}</th>
            <th scope="col">{t("serving.why")}</th>
          </tr>
        </thead>
        <tbody>
          {tuning.chosen.map((it) => (
            <tr key={it.name}>
              <th scope="row">{it.name}</th>
              <td data-l={t("tune.value")}><code>{it.value}</code></td>
              <td class="soft" data-l={t("serving.why")}>{it.why}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Section>
  );
}
