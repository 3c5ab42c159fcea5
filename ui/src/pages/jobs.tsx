import { useEffect, useRef, useState } from "preact/hooks";
import { call, type Page, type Run } from "../api";
import { Columns, Empty, Head, Section, State, Time, Trouble, Waiting } from "../parts";
import { span } from "../format";
import { maybe, t } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link, usePlace } from "../router";
import { rate, runWords } from "./home";

export function kindName(kind: string): string {
  return maybe(`kind.${kind}`) ?? kind;
}

export function JobsPage() {
  const runs = useLoad<Page<Run>>("fust/v1/runs?limit=100", 3000);
  const items = runs.data?.items;
  const active = items?.filter((it) => it.state === "queued" || it.state === "running").length ?? 0;
  return (
    <div class="page wrap">
      <Head title={t("place.jobs")} sum={items && items.length > 0 && t("jobs.sum", { n: items.length, active })} />
      <div class="split">
        <Section id="h-jobs" title={t("jobs.all")}>
          {runs.problem && <Trouble problem={runs.problem} retry={() => void runs.reload()} />}
          {runs.waiting && <Waiting what={t("waiting.jobs")} />}
          {items?.length === 0 && <Empty what={t("jobs.none")} next={t("jobs.none.next")} />}
          {items !== undefined && items.length > 0 && <Table items={items} />}
        </Section>
        <aside class="aside" aria-label={t("pull.title")}>
          <PullForm />
        </aside>
      </div>
    </div>
  );
}

function Table({ items }: { items: Run[] }) {
  return (
    <table class="cards-s">
      <Columns of={[t("col.job"), t("col.state"), [t("col.speed"), "r"], t("col.owner"), [t("col.took"), "r"], [t("col.started"), "r"]]} />
      <tbody>
        {items.map((run) => (
          <tr key={run.id}>
            <th scope="row">
              <Link to={`jobs/${encodeURIComponent(run.id)}`}>{run.title || `${kindName(run.kind)} ${run.id}`}</Link>
              {run.error && <p class="under">{run.error.message}</p>}
            </th>
            <td><State of={run.state} text={runWords(run)} /></td>
            <td class={rate(run) === null ? "r num none" : "r num"} data-l={t("col.speed")}>{rate(run) ?? "–"}</td>
            <td class="soft" data-l={t("col.owner")}>{run.owner}</td>
            <td class={took(run) === null ? "r num none" : "r num"} data-l={t("col.took")}>{took(run) ?? "–"}</td>
            <td class="r" data-l={t("col.started")}><Time at={run.started_at ?? run.created_at} /></td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** How long a run has worked, up to now or its end. */
export function took(run: Run): string | null {
  if (run.started_at === null) return null;
  const end = run.ended_at === null ? Date.now() : new Date(run.ended_at).getTime();
  return span(Math.max(0, (end - new Date(run.started_at).getTime()) / 1000));
}

/** Patterns as people write them: with spaces or commas between. */
const patterns = (text: string): string[] => text.split(/[\s,]+/).filter((it) => it !== "");

/** Starts a pull and opens its page. */
function PullForm() {
  const { query } = usePlace();
  const [repo, setRepo] = useState("");
  const [type, setType] = useState<"model" | "dataset">(query.get("pull") === "dataset" ? "dataset" : "model");
  const [source, setSource] = useState("");
  const [file, setFile] = useState("");
  const [revision, setRevision] = useState("");
  const [include, setInclude] = useState("");
  const [exclude, setExclude] = useState("");
  const [limit, setLimit] = useState("");
  const act = useAct();
  const field = useRef<HTMLInputElement>(null);
  const wanted = query.has("pull");
  useEffect(() => {
    if (wanted) field.current?.focus();
  }, [wanted]);
  const start = (): Promise<void> =>
    act.run(async () => {
      const params: Record<string, unknown> = { repo_id: repo.trim(), type };
      if (source.trim() !== "") params["source"] = source.trim();
      if (file.trim() !== "") params["files"] = [file.trim()];
      if (revision.trim() !== "") params["revision"] = revision.trim();
      if (include.trim() !== "") params["include"] = patterns(include);
      if (exclude.trim() !== "") params["exclude"] = patterns(exclude);
      if (limit.trim() !== "") params["limit"] = limit.trim();
      const run = await call<Run>("fust/v1/runs", { method: "POST", body: { kind: "pull", params } });
      go(`jobs/${encodeURIComponent(run.id)}`);
    });
  return (
    <Section id="h-pull" title={t("pull.title")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void start(); }}>
        <label>
          <span>{t("pull.repo")}</span>
          <input type="text" ref={field} required pattern="[^\/\s]+\/[^\/\s]+" title={t("pull.repo.title")} placeholder="owner/name" autocapitalize="off" spellcheck={false} value={repo} onInput={(event) => setRepo(event.currentTarget.value)} />
        </label>
        <label>
          <span>{t("pull.type")}</span>
          <select value={type} onChange={(event) => setType(event.currentTarget.value as "model" | "dataset")}>
            <option value="model">{t("pull.model")}</option>
            <option value="dataset">{t("pull.dataset")}</option>
          </select>
        </label>
        <details>
          <summary>{t("pull.more")}</summary>
          <div class="form">
            <label>
              <span>{t("pull.file")}</span>
              <input type="text" spellcheck={false} placeholder="model-Q4_K_M.gguf" value={file} onInput={(event) => setFile(event.currentTarget.value)} />
            </label>
            <label>
              <span>{t("pull.include")}</span>
              <input type="text" spellcheck={false} autocapitalize="off" placeholder="*.json *.safetensors" value={include} onInput={(event) => setInclude(event.currentTarget.value)} />
            </label>
            <label>
              <span>{t("pull.exclude")}</span>
              <input type="text" spellcheck={false} autocapitalize="off" placeholder="*.bin onnx/*" value={exclude} onInput={(event) => setExclude(event.currentTarget.value)} />
            </label>
            <label>
              <span>{t("pull.revision")}</span>
              <input type="text" spellcheck={false} autocapitalize="off" placeholder="main" value={revision} onInput={(event) => setRevision(event.currentTarget.value)} />
            </label>
            <label>
              <span>{t("pull.limit")}</span>
              <input type="text" spellcheck={false} autocapitalize="off" placeholder="10MB/s" value={limit} onInput={(event) => setLimit(event.currentTarget.value)} />
            </label>
            <label>
              <span>{t("pull.source")}</span>
              <input type="url" placeholder="https://huggingface.co" value={source} onInput={(event) => setSource(event.currentTarget.value)} />
            </label>
          </div>
        </details>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b go" type="submit" disabled={act.busy}>{act.busy ? t("pull.starting") : t("pull.go")}</button>
        <p class="small quiet">{t("pull.note")}</p>
      </form>
    </Section>
  );
}
