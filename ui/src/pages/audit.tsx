import { useState } from "preact/hooks";
import { call, type Page } from "../api";
import { Columns, Empty, Head, Section, Trouble, Waiting } from "../parts";
import { OperateNav } from "../parts/subnav";
import { fullTime, integer } from "../format";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link, repoPath, url, usePlace } from "../router";

interface Entry {
  seq: number;
  at: string;
  actor: string;
  token_id: string | null;
  via: string;
  address: string;
  action: string;
  subject: string;
  detail: Record<string, string | number | boolean>;
  prev_hash: string;
  hash: string;
}
interface Verdict {
  ok: boolean;
  entries: number;
  head: { seq: number; hash: string } | null;
  broken: { seq: number; reason: string } | null;
}

const FIELDS = ["text", "actor", "action", "subject", "since", "until"] as const;
type Field = (typeof FIELDS)[number];

/** Who did what: searched, filtered, exported, and checked against its chain of hashes. */
export function AuditPage() {
  const { query } = usePlace();
  const filter = new URLSearchParams();
  for (const field of FIELDS) {
    const value = query.get(field);
    if (value) filter.set(field, value);
  }
  const actions = useLoad<Page<{ action: string; title: string }>>("fust/v1/audit/actions");
  const titles = new Map(actions.data?.items.map((it) => [it.action, it.title]));
  const asked = filter.toString();
  return (
    <div class="page wrap">
      <Head kick={t("place.operate")} title={t("place.audit")} sum={t("audit.sum")}>
        <a class="b" href={url(`fust/v1/audit/export?format=jsonl${asked && `&${asked}`}`)} download="audit.jsonl">{t("audit.export", { format: "JSONL" })}</a>
        <a class="b" href={url(`fust/v1/audit/export?format=csv${asked && `&${asked}`}`)} download="audit.csv">{t("audit.export", { format: "CSV" })}</a>
      </Head>
      <OperateNav />
      <Search key={asked} filter={filter} titles={titles} />
      <Verify />
      <Section id="h-audit" title={t("audit.entries")}>
        <Entries key={asked} asked={asked} titles={titles} />
      </Section>
    </div>
  );
}

function Search({ filter, titles }: { filter: URLSearchParams; titles: Map<string, string> }) {
  const [values, setValues] = useState<Record<Field, string>>(() => Object.fromEntries(FIELDS.map((it) => [it, filter.get(it) ?? ""])) as Record<Field, string>);
  const set = (field: Field, value: string): void => setValues({ ...values, [field]: value });
  const search = (next: Record<Field, string>): void => {
    const fresh = new URLSearchParams(Object.entries(next).filter(([, value]) => value.trim() !== "").map(([field, value]) => [field, value.trim()]));
    go(`audit${fresh.size > 0 ? `?${fresh}` : ""}`);
  };
  return (
    <form class="filters" role="search" aria-label={t("audit.search")} onSubmit={(event) => { event.preventDefault(); search(values); }}>
      <label class="grow"><span>{t("audit.text")}</span><input type="search" id="search" value={values.text} onInput={(event) => set("text", event.currentTarget.value)} /></label>
      <label>
        <span>{t("audit.action")}</span>
        <select value={values.action} onChange={(event) => { set("action", event.currentTarget.value); search({ ...values, action: event.currentTarget.value }); }}>
          <option value="">{t("audit.any")}</option>
          {values.action !== "" && !titles.has(values.action) && <option value={values.action}>{values.action}</option>}
          {[...titles].map(([action, title]) => <option key={action} value={action}>{title}</option>)}
        </select>
      </label>
      <label><span>{t("audit.actor")}</span><input type="text" class="short" autocapitalize="off" spellcheck={false} value={values.actor} onInput={(event) => set("actor", event.currentTarget.value)} /></label>
      <label><span>{t("audit.since")}</span><input type="date" value={values.since} onInput={(event) => set("since", event.currentTarget.value)} /></label>
      <label><span>{t("audit.until")}</span><input type="date" value={values.until} onInput={(event) => set("until", event.currentTarget.value)} /></label>
      <button class="b go" type="submit">{t("audit.find")}</button>
      {filter.size > 0 && <Link class="b bare" to="audit">{t("audit.clear")}</Link>}
    </form>
  );
}

function Verify() {
  const act = useAct();
  const [verdict, setVerdict] = useState<Verdict | null>(null);
  return (
    <div class="row verify">
      <button class="b" type="button" disabled={act.busy} onClick={() => void act.run(async () => setVerdict(await call<Verdict>("fust/v1/audit/verify")))}>
        {act.busy ? t("audit.verifying") : t("audit.verify")}
      </button>
      <span role="status" class="small">
        {verdict?.ok && <><span class="st run">{t("audit.whole", { n: verdict.entries })}</span> {verdict.head && <code class="quiet" title={verdict.head.hash}>{verdict.head.hash.slice(0, 16)}</code>}</>}
        {verdict && !verdict.ok && <span class="st bad">{t("audit.broken", { seq: integer(verdict.broken?.seq ?? 0), reason: verdict.broken?.reason ?? "" })}</span>}
      </span>
      {act.problem && <Trouble problem={act.problem} />}
    </div>
  );
}

function Entries({ asked, titles }: { asked: string; titles: Map<string, string> }) {
  const first = useLoad<Page<Entry>>(`fust/v1/audit?limit=50${asked && `&${asked}`}`);
  const [older, setOlder] = useState<Page<Entry>[]>([]);
  const act = useAct();
  const pages = first.data ? [first.data, ...older] : [];
  const items = pages.flatMap((it) => it.items);
  const next = pages.at(-1)?.next ?? null;
  if (first.problem) return <Trouble problem={first.problem} retry={() => void first.reload()} />;
  if (first.waiting) return <Waiting what={t("waiting.audit")} />;
  if (items.length === 0) return <Empty what={asked === "" ? t("audit.none") : t("audit.nomatch")} next={asked === "" ? t("audit.none.next") : t("audit.nomatch.next")} />;
  return (
    <>
      <table class="cards-s audit">
        <Columns of={[t("audit.what"), t("audit.subject"), t("audit.who"), t("audit.from"), [t("versions.when"), "r"]]} />
        <tbody>
          {items.map((it) => <Row key={it.seq} entry={it} title={titles.get(it.action) ?? it.action} />)}
        </tbody>
      </table>
      {act.problem && <Trouble problem={act.problem} />}
      {next !== null && (
        <p class="more">
          <button class="b" type="button" disabled={act.busy} onClick={() => void act.run(async () => setOlder([...older, await call<Page<Entry>>(`fust/v1/audit?limit=50&cursor=${encodeURIComponent(next)}${asked && `&${asked}`}`)]))}>{t("versions.older")}</button>
        </p>
      )}
    </>
  );
}

function Row({ entry, title }: { entry: Entry; title: string }) {
  const details = Object.entries(entry.detail);
  return (
    <tr>
      <th scope="row">
        <span title={entry.action}>{title}</span>
        {details.length > 0 && <p class="under">{details.map(([key, value]) => `${key}: ${shortened(String(value))}`).join(" · ")}</p>}
      </th>
      <td data-l={t("audit.subject")}><Subject of={entry.subject} /></td>
      <td data-l={t("audit.who")}>{entry.actor || <span class="quiet">{t("audit.nobody")}</span>}</td>
      <td class="soft" data-l={t("audit.from")}><span class="num">{entry.address || "–"}</span> <span class="quiet" title={entry.token_id ?? undefined}>{viaName(entry.via)}</span></td>
      <td class="r num" data-l={t("versions.when")} title={`${entry.seq}  ${entry.hash}`}><time dateTime={entry.at}>{fullTime(entry.at)}</time></td>
    </tr>
  );
}

/** Hashes by their first digits. */
const shortened = (value: string): string => (/^[0-9a-f]{40,64}$/.test(value) ? value.slice(0, 12) : value);

const VIAS = new Set(["token", "session", "system", "anonymous"]);
const viaName = (via: string): string => (VIAS.has(via) ? t(`via.${via}` as "via.token") : via);

/** What it was done to, with the way there where one exists. */
function Subject({ of }: { of: string }) {
  const at = of.indexOf(":");
  const [kind, name] = [of.slice(0, at), of.slice(at + 1)];
  const to = kind === "model" || kind === "dataset" ? `${kind}s/${repoPath(name)}` : kind === "run" ? `jobs/${encodeURIComponent(name)}` : kind === "org" ? `organisations/${encodeURIComponent(name)}` : null;
  return <span class="mono">{to === null ? of : <Link to={to}>{of}</Link>}</span>;
}
