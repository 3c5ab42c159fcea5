import { useEffect, useState } from "preact/hooks";
import type { Talk, TalkPage } from "../../hub";
import { apiOf, placeOf } from "../../hub";
import { Empty, Time, Trouble, Waiting } from "../../parts";
import { TalkState } from "../../parts/talk";
import { integer } from "../../format";
import { t } from "../../i18n";
import { useLoad } from "../../load";
import { go, Link, usePlace } from "../../router";
import type { Panel } from "./tabs";

const STATUSES = ["open", "closed", "merged", "all"] as const;
const KINDS = ["all", "discussion", "pull_request"] as const;
const PAGE = 30; // what the server gives at a time

/** The discussions and pull requests of a repository; search, filters and page live in the address. */
export function Community({ repo, page }: Panel) {
  const { query } = usePlace();
  const status = STATUSES.find((it) => it === query.get("status")) ?? "open";
  const kind = KINDS.find((it) => it === query.get("kind")) ?? "all";
  const search = query.get("search") ?? "";
  const at = Math.max(0, Number.parseInt(query.get("p") ?? "0", 10) || 0);
  const asked = new URLSearchParams({ status, type: kind, search, p: String(at) });
  const found = useLoad<TalkPage>(`${apiOf(repo)}/discussions?${asked}`);
  const change = (next: Record<string, string>): void => {
    const fresh = new URLSearchParams({ tab: "community", status, kind, search, ...next });
    for (const [key, usual] of [["status", "open"], ["kind", "all"], ["search", ""], ["p", "0"]] as const) if (fresh.get(key) === usual) fresh.delete(key);
    go(`${page}?${fresh}`, "replace");
  };
  const may = repo.may.includes("discuss");
  const items = found.data?.discussions;
  const total = found.data?.count ?? 0;
  const narrowed = search !== "" || kind !== "all" || status !== "open";
  return (
    <>
      <div class="hrow top">
        <Filters search={search} status={status} kind={kind} change={change} />
        {may && (
          <p class="row">
            <Link class="b" to={`${placeOf(repo)}/discussions/propose`}>{t("talks.propose")}</Link>
            <Link class="b go" to={`${placeOf(repo)}/discussions/new`}>{t("talks.new")}</Link>
          </p>
        )}
      </div>
      {found.problem && <Trouble problem={found.problem} retry={() => void found.reload()} />}
      {found.waiting && <Waiting what={t("waiting.talks")} />}
      {items?.length === 0 && (
        <Empty what={narrowed ? t("talks.nomatch") : t("talks.none")} next={narrowed ? t("talks.nomatch.next") : t("talks.none.next")}>
          {narrowed && <button class="b" type="button" onClick={() => change({ search: "", kind: "all", status: "open" })}>{t("models.clear")}</button>}
        </Empty>
      )}
      {items !== undefined && items.length > 0 && (
        <>
          <p class="small quiet" role="status">{t("talks.count", { n: total })}</p>
          <ul class="talks">{items.map((it) => <Line key={it.num} talk={it} to={`${placeOf(repo)}/discussions/${it.num}`} />)}</ul>
          {total > PAGE && (
            <nav class="row more" aria-label={t("pages.label")}>
              <button class="b" type="button" disabled={at === 0} onClick={() => change({ p: String(at - 1) })}>{t("pages.newer")}</button>
              <span class="small quiet num">{t("pages.at", { from: integer(at * PAGE + 1), to: integer(Math.min(total, (at + 1) * PAGE)), total: integer(total) })}</span>
              <button class="b" type="button" disabled={(at + 1) * PAGE >= total} onClick={() => change({ p: String(at + 1) })}>{t("pages.older")}</button>
            </nav>
          )}
        </>
      )}
    </>
  );
}

function Line({ talk, to }: { talk: Talk; to: string }) {
  return (
    <li>
      <div>
        <h2><Link to={to}>{talk.title}</Link></h2>
        <p class="bits">
          <span class="num">#{talk.num}</span>
          <span>{talk.isPullRequest ? t("talk.request") : t("talk.discussion")}</span>
          <span>{t("talk.by", { name: talk.author.name })}</span>
          <Time at={talk.createdAt} />
        </p>
      </div>
      <div class="cell"><TalkState of={talk.status} /></div>
      <div class="cell r num small quiet">{t("talks.comments", { n: talk.numComments })}</div>
    </li>
  );
}

function Filters({ search, status, kind, change }: { search: string; status: string; kind: string; change: (next: Record<string, string>) => void }) {
  const [text, setText] = useState(search);
  useEffect(() => setText(search), [search]);
  return (
    <form class="filters" role="search" aria-label={t("talks.search")} onSubmit={(event) => { event.preventDefault(); change({ search: text.trim(), p: "0" }); }}>
      <label class="grow">
        <span>{t("talks.search")}</span>
        <input type="search" id="search" value={text} onInput={(event) => setText(event.currentTarget.value)} />
      </label>
      <label>
        <span>{t("talks.status")}</span>
        <select value={status} onChange={(event) => change({ status: event.currentTarget.value, p: "0" })}>
          {STATUSES.map((it) => <option key={it} value={it}>{t(`talks.status.${it}`)}</option>)}
        </select>
      </label>
      <label>
        <span>{t("talks.kind")}</span>
        <select value={kind} onChange={(event) => change({ kind: event.currentTarget.value, p: "0" })}>
          {KINDS.map((it) => <option key={it} value={it}>{t(`talks.kind.${it}`)}</option>)}
        </select>
      </label>
      <button class="b" type="submit">{t("talks.find")}</button>
    </form>
  );
}
