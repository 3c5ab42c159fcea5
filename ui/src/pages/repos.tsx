import { useEffect, useMemo, useState } from "preact/hooks";
import { Problem, type RepoSummary, type RepoType } from "../api";
import { Empty, Head, Size, State, Trouble, Waiting } from "../parts";
import { ago, endonym, integer } from "../format";
import { maybe, t, useLang } from "../i18n";
import { placeOf } from "../hub";
import { readAll, usePaged } from "../paged";
import { More } from "../parts/more";
import { HubNav } from "../parts/subnav";
import { go, Link, usePlace } from "../router";

const PAGE = 500; // rows asked for at a time: the filters are of those that are here
const SORTS = ["updated", "created", "trending", "likes", "downloads", "name", "size"] as const;
type Sort = (typeof SORTS)[number];
/** Ranges of a model's parameters, as the hub's API writes them. */
const SPANS = ["", "max:1B", "min:1B,max:4B", "min:4B,max:14B", "min:14B"] as const;

/** What differs in words between the lists. */
function wordsOf(type: RepoType) {
  const to = { model: "jobs?pull", dataset: "jobs?pull=dataset", space: undefined }[type];
  return { title: t(`place.${type}s`), path: `${type}s`, pull: to && t(type === "dataset" ? "datasets.pull" : "models.pull"), to, waiting: t(`waiting.${type}s`), none: t(`${type}s.none`), next: t(`${type}s.none.next`), search: t(`${type}s.search`), nomatch: t(`${type}s.nomatch`) };
}

function sumOf(type: RepoType, total: number, fits: number, search: string): string {
  if (type !== "model") return search === "" ? t(`${type}s.sum`, { n: total }) : t(`${type}s.found`, { n: total, search });
  return search === "" ? t("models.sum", { n: total, fits }) : t("models.found", { n: total, search });
}

/** What the reader changes of the list. */
interface Wish {
  search?: string;
  sort?: Sort;
  span?: string;
  f?: string[];
}

interface Facet {
  id: string;
  title: string;
  of: (repo: RepoSummary) => string[];
  say: (value: string) => string;
}

function facets(type: RepoType): Facet[] {
  const all: Facet[] = [
    {
      id: "here",
      title: t("facet.here"),
      of: (repo) => [...(repo.fits === "yes" ? ["fits"] : []), ...(repo.deployment ? ["served"] : [])],
      say: (value) => (value === "fits" ? t("facet.fits") : t("facet.served")),
    },
    { id: "task", title: t("facet.task"), of: (repo) => (repo.task ? [repo.task] : []), say: (value) => maybe(`task.${value}`) ?? value },
    { id: "licence", title: t("facet.licence"), of: (repo) => [repo.licence ?? ""], say: (value) => value || t("facet.unstated") },
    { id: "language", title: t("facet.language"), of: (repo) => repo.languages, say: endonym },
    { id: "format", title: t("facet.format"), of: (repo) => repo.formats, say: (value) => value },
    { id: "library", title: t("facet.library"), of: (repo) => (repo.library ? [repo.library] : []), say: (value) => value },
    { id: "sdk", title: t("facts.sdk"), of: (repo) => (repo.sdk ? [repo.sdk] : []), say: (value) => value },
    { id: "tag", title: t("facet.tag"), of: (repo) => repo.tags, say: (value) => value },
    { id: "owner", title: t("reposet.owner"), of: (repo) => [repo.repo_id.split("/")[0] ?? ""], say: (value) => value },
    { id: "access", title: t("facet.access"), of: (repo) => [repo.private ? "private" : repo.gated === "no" ? "open" : "gated"], say: (value) => t(`facet.${value as "private" | "gated" | "open"}`) },
  ];
  return type === "model" ? all : all.filter((facet) => facet.id !== "here");
}

/** The models with so many parameters: the hub's API reads that from the weights, the rows do not say it. Null: any. */
function useWithin(span: string, search: string): { ids: Set<string> | null | undefined; problem: Problem | null } {
  const [found, setFound] = useState<{ of: string; ids: Set<string> } | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  const asked = `api/models?${new URLSearchParams({ search, num_parameters: span, limit: "1000" })}`;
  useEffect(() => {
    setProblem(null);
    if (span === "") return undefined;
    const stop = new AbortController();
    readAll<{ id: string }>(asked, stop.signal)
      .then((all) => setFound({ of: asked, ids: new Set(all.map((it) => it.id)) }))
      .catch((error: unknown) => { if (error instanceof Problem) setProblem(error); });
    return () => stop.abort();
  }, [asked, span]);
  if (span === "") return { ids: null, problem };
  return { ids: found?.of === asked ? found.ids : undefined, problem };
}

/** Models, datasets or spaces: search, order and filters live in the address. */
export function ReposPage({ type }: { type: RepoType }) {
  const { query } = usePlace();
  const chosen = useLang();
  const search = query.get("search") ?? "";
  const sort = SORTS.find((it) => it === query.get("sort")) ?? "updated";
  const span = type === "model" ? (SPANS.find((it) => it === query.get("parameters")) ?? "") : "";
  const picked = query.getAll("f");
  const rows = usePaged<RepoSummary>(`fust/v1/repos?${new URLSearchParams({ type, sort, limit: String(PAGE), ...(search === "" ? {} : { search }) })}`);
  const within = useWithin(span, search);
  const problem = rows.problem ?? within.problem;
  const { ids } = within;
  const items = ids === null ? rows.items : ids && rows.items?.filter((it) => ids.has(it.repo_id));
  const found = items && { items, total: ids?.size ?? rows.total ?? items.length };

  const words = wordsOf(type);
  const narrowed = search !== "" || span !== "";
  const list = useMemo(() => facets(type), [type, chosen]);
  const matches = (repo: RepoSummary, except?: string): boolean =>
    list.every((facet) => {
      if (facet.id === except) return true;
      const wanted = picked.filter((it) => it.startsWith(`${facet.id}:`)).map((it) => it.slice(facet.id.length + 1));
      const has = facet.of(repo);
      // "On this machine" narrows with every tick; the others widen within their group.
      return wanted.length === 0 || (facet.id === "here" ? wanted.every((it) => has.includes(it)) : wanted.some((it) => has.includes(it)));
    });
  const shown = found?.items.filter((repo) => matches(repo)) ?? [];
  const fits = found?.items.filter((repo) => repo.fits === "yes").length ?? 0;

  const change = (next: Wish): void => {
    const fresh = new URLSearchParams();
    const text = next.search ?? search;
    const order = next.sort ?? sort;
    if (text !== "") fresh.set("search", text);
    if (order !== "updated") fresh.set("sort", order);
    const size = next.span ?? span;
    if (size !== "") fresh.set("parameters", size);
    for (const it of next.f ?? picked) fresh.append("f", it);
    go(`${words.path}${fresh.size > 0 ? `?${fresh}` : ""}`, "replace");
  };
  const toggle = (tick: string): void => change({ f: picked.includes(tick) ? picked.filter((it) => it !== tick) : [...picked, tick] });

  return (
    <div class="page wrap">
      <Head title={words.title} sum={found && (found.total > 0 || narrowed) && sumOf(type, found.total, fits, search)}>
        {words.to && found?.total !== 0 && <Link class="b go" to={words.to}>{words.pull}</Link>}
        <Link class="b" to={`new?type=${type}`}>{t(`newrepo.${type}s`)}</Link>
      </Head>
      <HubNav />
      {problem && <Trouble problem={problem} retry={rows.reload} />}
      {found === undefined && problem === null && <Waiting what={words.waiting} />}
      {found?.total === 0 && !narrowed && (
        <Empty what={words.none} next={words.next}>
          {words.to && <Link class="b go" to={words.to}>{words.pull}</Link>}
        </Empty>
      )}
      {found !== undefined && (found.total > 0 || narrowed) && (
        <div class="list">
          <Filters list={list} items={found.items} picked={picked} matches={matches} toggle={toggle} />
          <div>
            <Controls label={words.search} search={search} sort={sort} span={type === "model" ? span : null} change={change} />
            <Chips said={t(`${type}s.count`, { n: shown.length })} list={list} picked={picked} toggle={toggle} />
            {shown.length > 0 && (
              <ul class="repos">
                {shown.map((repo) => <RepoRow key={repo.repo_id} repo={repo} />)}
              </ul>
            )}
            {shown.length === 0 && (
              <Empty what={words.nomatch} next={t("models.nomatch.next")}>
                <button class="b" type="button" onClick={() => change({ search: "", span: "", f: [] })}>{t("models.clear")}</button>
              </Empty>
            )}
            <More of={rows} />
          </div>
        </div>
      )}
    </div>
  );
}

function Filters({ list, items, picked, matches, toggle }: {
  list: Facet[];
  items: RepoSummary[];
  picked: string[];
  matches: (repo: RepoSummary, except?: string) => boolean;
  toggle: (tick: string) => void;
}) {
  const wide = useMemo(() => matchMedia("(min-width: 60rem)").matches, []);
  return (
    <details class="facets" open={wide}>
      <summary>{t("facet.title", { n: picked.length })}</summary>
      <form aria-label={t("facet.label")} onSubmit={(event) => event.preventDefault()}>
        <div class="cols">
          {list.map((facet) => {
            const counts = new Map<string, number>();
            for (const repo of items) {
              const in_ = matches(repo, facet.id) ? 1 : 0;
              for (const value of facet.of(repo)) counts.set(value, (counts.get(value) ?? 0) + in_);
            }
            if (counts.size === 0) return null;
            return (
              <fieldset key={facet.id}>
                <legend>{facet.title}</legend>
                {[...counts].sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0])).slice(0, 12).map(([value, n]) => {
                  const tick = `${facet.id}:${value}`;
                  return (
                    <label key={value}>
                      <input type="checkbox" checked={picked.includes(tick)} onChange={() => toggle(tick)} />
                      <span>{facet.say(value)}</span>
                      <span class="num">{integer(n)}</span>
                    </label>
                  );
                })}
              </fieldset>
            );
          })}
        </div>
      </form>
    </details>
  );
}

function Controls({ label, search, sort, span, change }: { label: string; search: string; sort: Sort; span: string | null; change: (next: Wish) => void }) {
  const [text, setText] = useState(search);
  useEffect(() => setText(search), [search]);
  useEffect(() => {
    if (text.trim() === search) return undefined;
    const timer = setTimeout(() => change({ search: text.trim() }), 300);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <form class="filters" role="search" aria-label={label} onSubmit={(event) => { event.preventDefault(); change({ search: text.trim() }); }}>
      <label class="grow">
        <span>{label}</span>
        <input type="search" id="search" value={text} onInput={(event) => setText(event.currentTarget.value)} />
      </label>
      {span !== null && (
        <label>
          <span>{t("models.parameters")}</span>
          <select value={span} onChange={(event) => change({ span: event.currentTarget.value })}>
            {SPANS.map((it, at) => <option key={it} value={it}>{t(`parameters.${at}` as "parameters.0")}</option>)}
          </select>
        </label>
      )}
      <label>
        <span>{t("models.sort")}</span>
        <select value={sort} onChange={(event) => change({ sort: event.currentTarget.value as Sort })}>
          {SORTS.map((it) => <option key={it} value={it}>{t(`sort.${it}`)}</option>)}
        </select>
      </label>
    </form>
  );
}

function Chips({ said, list, picked, toggle }: { said: string; list: Facet[]; picked: string[]; toggle: (tick: string) => void }) {
  return (
    <div class="chips small">
      <span role="status">{said}</span>
      {picked.map((tick) => {
        const at = tick.indexOf(":");
        const facet = list.find((it) => it.id === tick.slice(0, at));
        if (facet === undefined) return null;
        return (
          <button key={tick} class="b bare" type="button" onClick={() => toggle(tick)}>
            <span>{facet.say(tick.slice(at + 1))}</span> <span aria-hidden="true">×</span>
            <span class="sr">{t("facet.remove")}</span>
          </button>
        );
      })}
    </div>
  );
}

/** A repository in a list. */
export function RepoRow({ repo, level = 2 }: { repo: RepoSummary; level?: 2 | 3 }) {
  const [owner, name] = repo.repo_id.split("/");
  const Heading = `h${level}` as const;
  return (
    <li class="repo">
      <div>
        <Heading>
          <Link to={placeOf(repo)}><span class="own">{owner}/</span>{name}</Link>
        </Heading>
        {repo.description && <p>{repo.description}</p>}
        <div class="bits">
          {repo.task && <span>{maybe(`task.${repo.task}`) ?? repo.task}</span>}
          {repo.languages.length > 0 && <span>{repo.languages.length > 4 ? t("models.languages", { n: repo.languages.length }) : repo.languages.map(endonym).join(", ")}</span>}
          <span>{repo.licence || t("licence.unstated")}</span>
          {repo.formats.length > 0 && <span>{repo.formats.join(", ")}</span>}
          {repo.sdk && <span>{repo.sdk}</span>}
          {repo.likes > 0 && <span class="num">{t("models.likes", { n: repo.likes })}</span>}
          {repo.private && <span class="tag">{t("facet.private")}</span>}
          {repo.gated !== "no" && <span class="tag">{t("facet.gated")}</span>}
        </div>
      </div>
      {repo.type === "model" ? <div class="cell">
        {repo.deployment ? <State of={repo.deployment.state} /> : <span class="st done">{t("state.ondisk")}</span>}
        <small>{t("models.downloads", { n: repo.downloads })}</small>
      </div> : <div class="cell">{t("models.downloads", { n: repo.downloads })}</div>}
      <div class="cell">
        {ago(repo.updated_at)}
        <small>{t("models.updated")}</small>
      </div>
      <div class="cell num">
        <Size of={repo.size_bytes} />
        {repo.type === "model" && <small>{t(`fits.${repo.fits}`)}</small>}
      </div>
    </li>
  );
}
