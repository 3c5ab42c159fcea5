import { useEffect, useState } from "preact/hooks";
import type { Page, RepoSummary, RepoType } from "../api";
import type { Organisation } from "../accounts";
import type { Collection } from "../collections";
import { Empty, Head, Section, Trouble, Waiting } from "../parts";
import { t } from "../i18n";
import { useLoad } from "../load";
import { go, Link, usePlace } from "../router";
import { CollectionList } from "./collections";
import { RepoRow } from "./repos";

const MOST = 5; // of a kind; its list has the rest
const TYPES: RepoType[] = ["model", "dataset", "space"];

/** One field over everything: repositories of each type, collections, people and organisations. */
export function SearchPage() {
  const { query } = usePlace();
  const search = (query.get("q") ?? "").trim();
  const [text, setText] = useState(search);
  useEffect(() => setText(search), [search]);
  return (
    <div class="page wrap">
      <Head title={t("search.title")} sum={search === "" ? t("search.sum") : t("search.for", { search })} />
      <form class="filters" role="search" aria-label={t("find.label")} onSubmit={(event) => { event.preventDefault(); go(`search?q=${encodeURIComponent(text.trim())}`, "replace"); }}>
        <label class="grow"><span>{t("find.label")}</span><input type="search" id="search" value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
        <button class="b go" type="submit">{t("talks.find")}</button>
      </form>
      {search !== "" && <Found key={search} search={search} />}
    </div>
  );
}

function Found({ search }: { search: string }) {
  const asked = (type: RepoType): string => `fust/v1/repos?${new URLSearchParams({ type, search, sort: "trending", limit: String(MOST) })}`;
  const repos = { model: useLoad<Page<RepoSummary>>(asked("model")), dataset: useLoad<Page<RepoSummary>>(asked("dataset")), space: useLoad<Page<RepoSummary>>(asked("space")) };
  const collections = useLoad<Collection[]>(`api/collections?${new URLSearchParams({ q: search, limit: String(MOST) })}`);
  const people = useLoad<Page<{ name: string; full_name: string }>>(`fust/v1/people?${new URLSearchParams({ search, limit: "10" })}`);
  const organisations = useLoad<Page<Organisation>>("fust/v1/organisations");
  const wanted = search.toLowerCase();
  const orgs = organisations.data?.items.filter((it) => `${it.name} ${it.display_name}`.toLowerCase().includes(wanted)).slice(0, 10) ?? [];
  const all = [...TYPES.map((type) => repos[type]), collections, people, organisations];
  const problem = all.find((it) => it.problem)?.problem;
  const names = [...(people.data?.items.map((it) => ({ name: it.name, shown: it.full_name })) ?? []), ...orgs.map((it) => ({ name: it.name, shown: it.display_name }))];
  const total = TYPES.reduce((sum, type) => sum + (repos[type].data?.total ?? 0), 0) + (collections.data?.length ?? 0) + names.length;
  if (all.some((it) => it.waiting)) return <Waiting what={t("waiting.search")} />;
  return (
    <div class="stack-l">
      {problem && <Trouble problem={problem} retry={() => all.forEach((it) => void it.reload())} />}
      {!problem && total === 0 && <Empty what={t("search.none")} next={t("search.none.next")} />}
      {TYPES.map((type) => {
        const page = repos[type].data;
        if (page === undefined || page.items.length === 0) return null;
        const more = (page.total ?? 0) > page.items.length;
        return (
          <Section key={type} id={`h-${type}`} title={t(`place.${type}s`)} side={more && <Link class="small" to={`${type}s?search=${encodeURIComponent(search)}`}>{t("search.all", { n: page.total ?? 0 })}</Link>}>
            <ul class="repos">{page.items.map((repo) => <RepoRow key={repo.repo_id} repo={repo} level={3} />)}</ul>
          </Section>
        );
      })}
      {collections.data && collections.data.length > 0 && <Section id="h-collections" title={t("place.collections")}><CollectionList items={collections.data} level={3} /></Section>}
      {names.length > 0 && (
        <Section id="h-names" title={t("search.people")}>
          <ul class="talks two">{names.map((it) => <li key={it.name}><div><h3><Link to={encodeURIComponent(it.name)}>{it.shown || it.name}</Link></h3>{it.shown && it.shown !== it.name && <p class="bits"><span>{it.name}</span></p>}</div></li>)}</ul>
        </Section>
      )}
    </div>
  );
}
