import { useEffect, useState } from "preact/hooks";
import { collectionPlace, type Collection } from "../collections";
import { CollectionForm } from "../parts/collectionform";
import { Empty, Head, Section, Time, Trouble, Waiting } from "../parts";
import { HubNav } from "../parts/subnav";
import { t } from "../i18n";
import { usePaged } from "../paged";
import { More } from "../parts/more";
import { go, Link, usePlace } from "../router";

/** All collections that the reader may see, and a new one. */
export function CollectionsPage() {
  const { query } = usePlace();
  const search = query.get("search") ?? "";
  const [text, setText] = useState(search);
  useEffect(() => setText(search), [search]);
  const found = usePaged<Collection>(`api/collections?${new URLSearchParams({ q: search, limit: "100" })}`);
  return (
    <div class="page wrap">
      <Head title={t("place.collections")} sum={t("collections.sum")} />
      <HubNav />
      <div class="split">
        <div>
          <form class="filters" role="search" aria-label={t("collections.search")} onSubmit={(event) => { event.preventDefault(); go(text.trim() === "" ? "collections" : `collections?search=${encodeURIComponent(text.trim())}`, "replace"); }}>
            <label class="grow"><span>{t("collections.search")}</span><input type="search" id="search" value={text} onInput={(event) => setText(event.currentTarget.value)} /></label>
            <button class="b" type="submit">{t("talks.find")}</button>
          </form>
          {found.problem && <Trouble problem={found.problem} retry={found.reload} />}
          {found.items === undefined && found.problem === null && <Waiting what={t("waiting.collections")} />}
          {found.items?.length === 0 && <Empty what={search === "" ? t("collections.none") : t("collections.nomatch")} next={t("collections.none.next")} />}
          {found.items && found.items.length > 0 && <CollectionList items={found.items} />}
          <More of={found} />
        </div>
        <aside class="aside" aria-label={t("collections.new")}>
          <Section id="h-new" title={t("collections.new")}>
            <CollectionForm go={t("collections.make")} onMade={(slug) => go(collectionPlace(slug))} />
          </Section>
        </aside>
      </div>
    </div>
  );
}

/** Collections with the first things in each. */
export function CollectionList({ items, level = 2 }: { items: Collection[]; level?: 2 | 3 }) {
  const Heading = `h${level}` as const;
  return (
    <ul class="talks two">
      {items.map((it) => (
        <li key={it.slug}>
          <div>
            <Heading><Link to={collectionPlace(it.slug)}>{it.title}</Link>{it.private && <> <span class="tag">{t("facet.private")}</span></>}</Heading>
            {it.description && <p class="small soft">{it.description}</p>}
            <p class="bits"><Link to={encodeURIComponent(it.owner.name)}>{it.owner.name}</Link>{it.items.map((item) => <span key={item._id}>{item.id}</span>)}</p>
          </div>
          <div class="cell r small quiet"><Time at={it.lastUpdated} /></div>
        </li>
      ))}
    </ul>
  );
}
