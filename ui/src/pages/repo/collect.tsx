import { useState } from "preact/hooks";
import { call, type Repo, type RepoType } from "../../api";
import { collectionApi, collectionPlace, type Collection } from "../../collections";
import { placeOf } from "../../hub";
import { Empty, Head, Section, Trouble, Waiting } from "../../parts";
import { CollectionForm } from "../../parts/collectionform";
import { useOwners } from "../../parts/owners";
import { t } from "../../i18n";
import { useAct, useLoad } from "../../load";
import { go, Link } from "../../router";
import { RepoKick, RepoMissing, useRepo } from "./load";

/** Puts a repository into one of the reader's collections, or into a new one. */
export function CollectPage({ type, repoId }: { type: RepoType; repoId: string }) {
  const loaded = useRepo(type, repoId, { files: false });
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={type} repoId={repoId}>{" "}</RepoKick>} title={t("collect.title", { name: repoId })} sum={t("collect.sum")} />
      {repo.may.includes("discuss") ? <Collect repo={repo} /> : <Empty what={t("newtalk.cannot")} next={t("newtalk.cannot.next")} />}
    </div>
  );
}

function Collect({ repo }: { repo: Repo }) {
  const owners = useOwners();
  const [note, setNote] = useState("");
  const [asked, setAsked] = useState("");
  const act = useAct();
  const query = new URLSearchParams([["limit", "100"], ...owners.map((name) => ["owner", name])]);
  const mine = useLoad<Collection[]>(owners.length === 0 ? null : `api/collections?${query}`);
  const holding = useLoad<Collection[]>(owners.length === 0 ? null : `api/collections?${query}&item=${encodeURIComponent(placeOf(repo))}`);
  const add = async (slug: string): Promise<void> => {
    await call(`${collectionApi(slug)}/items`, { method: "POST", body: { item: { id: repo.repo_id, type: repo.type }, note: note.trim() || null } });
    go(collectionPlace(slug));
  };
  const has = (slug: string): boolean => holding.data?.some((it) => it.slug === slug) ?? false;
  return (
    <div class="split">
      <Section id="h-mine" title={t("collect.mine")}>
        <div class="form padded"><label><span>{t("collect.note")}</span><input type="text" maxLength={500} value={note} onInput={(event) => setNote(event.currentTarget.value)} /></label></div>
        {mine.problem && <Trouble problem={mine.problem} retry={() => void mine.reload()} />}
        {mine.waiting && <Waiting what={t("waiting.collections")} />}
        {mine.data?.length === 0 && <Empty what={t("collect.none")} next={t("collect.none.next")} />}
        {act.problem && <Trouble problem={act.problem} />}
        <ul class="talks two">
          {mine.data?.map((it) => (
            <li key={it.slug}>
              <div><h2><Link to={collectionPlace(it.slug)}>{it.title}</Link></h2><p class="bits"><span>{it.owner.name}</span></p></div>
              <div class="cell r">{has(it.slug) ? <span class="small quiet">{t("collect.here")}</span> : <button class="b" type="button" disabled={act.busy} aria-label={t("collect.add.to", { title: it.title })} onClick={() => { setAsked(it.slug); void act.run(() => add(it.slug)); }}>{act.busy && asked === it.slug ? t("collect.adding") : t("collect.add")}</button>}</div>
            </li>
          ))}
        </ul>
      </Section>
      <aside class="aside" aria-label={t("collections.new")}>
        <Section id="h-new" title={t("collections.new")}><CollectionForm go={t("collect.make")} onMade={add} /></Section>
      </aside>
    </div>
  );
}
