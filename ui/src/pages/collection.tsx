import { useState } from "preact/hooks";
import { call } from "../api";
import { collectionApi, collectionPlace, type Collection, type CollectionItem } from "../collections";
import { placeOf } from "../hub";
import { Empty, Head, Section, Sure, Time, Trouble, Waiting } from "../parts";
import { useOwners } from "../parts/owners";
import { useIsAdmin } from "../parts/subnav";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link } from "../router";

/** One collection: what is in it and why; its owner orders, notes and removes. */
export function CollectionPage({ slug }: { slug: string }) {
  const loaded = useLoad<Collection>(collectionApi(slug));
  const owners = useOwners();
  const admin = useIsAdmin();
  const it = loaded.data;
  const gone = loaded.problem?.status === 404;
  const mine = it !== undefined && (admin || owners.some((name) => name.toLowerCase() === it.owner.name.toLowerCase()));
  return (
    <div class="page wrap">
      <Head
        kick={<><Link to="collections">{t("place.collections")}</Link>{it && <> / <Link to={encodeURIComponent(it.owner.name)}>{it.owner.name}</Link></>}</>}
        title={gone ? t("collection.gone") : (it?.title ?? slug)}
        sum={gone ? t("collection.gone.next") : it && <>{it.description} {it.private && <span class="tag">{t("facet.private")}</span>} <span class="quiet small">{t("facts.updated")} <Time at={it.lastUpdated} /></span></>}
      />
      {loaded.problem && <Trouble problem={loaded.problem} retry={gone ? undefined : () => void loaded.reload()} />}
      {loaded.waiting && <Waiting what={t("waiting.collections")} />}
      {it && (
        <div class={mine ? "split" : "narrow"}>
          <div>
            {it.items.length === 0 ? <Empty what={t("collection.empty")} next={mine ? t("collection.empty.next") : undefined} /> : (
              <ol class="talks items">{it.items.map((item, at) => <Item key={item._id} slug={it.slug} item={item} at={at} last={at === it.items.length - 1} mine={mine} reload={loaded.reload} />)}</ol>
            )}
          </div>
          {mine && (
            <aside class="aside" aria-label={t("collection.change")}>
              <Change key={it.slug} collection={it} reload={loaded.reload} />
            </aside>
          )}
        </div>
      )}
    </div>
  );
}

function Item({ slug, item, at, last, mine, reload }: { slug: string; item: CollectionItem; at: number; last: boolean; mine: boolean; reload: () => Promise<void> }) {
  const [note, setNote] = useState<string | null>(null);
  const act = useAct();
  const path = `${collectionApi(slug)}/items/${encodeURIComponent(item._id)}`;
  const change = (body: { note?: string; position?: number }): Promise<void> =>
    act.run(async () => {
      await call(path, { method: "PATCH", body });
      await reload();
      setNote(null);
    });
  const remove = (): Promise<void> =>
    act.run(async () => {
      await call(path, { method: "DELETE" });
      await reload();
    });
  const place = item.type === "collection" ? collectionPlace(item.id) : placeOf({ type: item.type, repo_id: item.id });
  return (
    <li>
      <div>
        <h2><Link to={place}>{item.id}</Link></h2>
        <p class="bits"><span>{t(`kind.of.${item.type}`)}</span></p>
        {note === null ? item.note && <p class="small soft plain">{item.note.text}</p> : (
          <form class="form wide" onSubmit={(event) => { event.preventDefault(); void change({ note: note.trim() }); }}>
            <label><span>{t("collection.note")}</span><textarea rows={2} maxLength={500} value={note} onInput={(event) => setNote(event.currentTarget.value)} /></label>
            <p class="row"><button class="b" type="submit" disabled={act.busy}>{t("settings.save")}</button><button class="b bare" type="button" onClick={() => setNote(null)}>{t("thread.cancel")}</button></p>
          </form>
        )}
        {act.problem && <Trouble problem={act.problem} />}
      </div>
      {mine && note === null && (
        <div class="row">
          <button class="b icon bare" type="button" disabled={act.busy || at === 0} aria-label={t("collection.up", { name: item.id })} onClick={() => void change({ position: at - 1 })}><svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M8 13V3.500M4 7.500l4-4 4 4" /></svg></button>
          <button class="b icon bare" type="button" disabled={act.busy || last} aria-label={t("collection.down", { name: item.id })} onClick={() => void change({ position: at + 1 })}><svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M8 3v9.500M4 8.500l4 4 4-4" /></svg></button>
          <button class="b bare" type="button" aria-label={t("collection.note.of", { name: item.id })} onClick={() => setNote(item.note?.text ?? "")}>{t("collection.note")}</button>
          <Sure bare label={t("collection.remove")} ask={t("collection.remove.sure", { name: item.id })} busy={act.busy} onSure={() => void remove()} />
        </div>
      )}
    </li>
  );
}

function Change({ collection, reload }: { collection: Collection; reload: () => Promise<void> }) {
  const [title, setTitle] = useState(collection.title);
  const [description, setDescription] = useState(collection.description);
  const [hidden, setHidden] = useState(collection.private);
  const act = useAct();
  const save = (): Promise<void> =>
    act.run(async () => {
      const body = { title: title.trim(), description: description.trim(), private: hidden };
      const answer = await call<{ data: Collection }>(collectionApi(collection.slug), { method: "PATCH", body });
      if (answer.data.slug !== collection.slug) go(collectionPlace(answer.data.slug), "replace");
      else await reload();
    });
  const remove = (): Promise<void> =>
    act.run(async () => {
      await call(collectionApi(collection.slug), { method: "DELETE" });
      go("collections");
    });
  return (
    <Section id="h-change" title={t("collection.change")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void save(); }}>
        <label><span>{t("newtalk.title")}</span><input type="text" required maxLength={60} value={title} onInput={(event) => setTitle(event.currentTarget.value)} /></label>
        <label><span>{t("collection.description")}</span><input type="text" maxLength={150} value={description} onInput={(event) => setDescription(event.currentTarget.value)} /></label>
        <label class="tick"><input type="checkbox" checked={hidden} onChange={(event) => setHidden(event.currentTarget.checked)} /><span>{t("collection.private")}</span></label>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b" type="submit" disabled={act.busy}>{t("settings.save")}</button>
      </form>
      <p class="more"><Sure label={t("collection.delete")} ask={t("collection.delete.sure", { name: collection.title })} busy={act.busy} onSure={() => void remove()} /></p>
    </Section>
  );
}
