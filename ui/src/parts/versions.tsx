import { useEffect, useState } from "preact/hooks";
import { call, type Commit, type Page, type Ref, type Repo } from "../api";
import { Empty, Time, Trouble, Waiting } from "./index";
import { requestOf } from "./commitform";
import { filePage } from "./rows";
import { isCommit, placeOf, viewOf, type RepoName } from "../hub";
import { LicenceChange } from "./safety";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link, usePlace } from "../router";
import type { Panel } from "../pages/repo/tabs";

const PAGE = 30;

/** Says that not the newest version is shown, and leads there. */
export function OldRevision({ revision, path }: { revision: string; path: string }) {
  if (revision === "main") return null;
  return (
    <div class="note calm">
      <p>{t("model.old", { revision: shortRevision(revision) })} <Link to={path}>{t("model.newest")}</Link></p>
    </div>
  );
}

/** Where a panel is shown at another revision: its address with `revision` changed, `main` being left out. */
export function atRevision(page: string, query: URLSearchParams, revision: string): string {
  const fresh = new URLSearchParams(query);
  if (revision === "main") fresh.delete("revision");
  else fresh.set("revision", revision);
  return fresh.size > 0 ? `${page}?${fresh}` : page;
}

interface RefPickerProps {
  repo: RepoName;
  revision: string;
  label: string;
  onPick: (revision: string) => void;
  /** The branches and tags, where they are known already. */
  refs?: Ref[];
}

/** Chooses among the branches and tags; a commit or a request that is shown now is among them. */
export function RefPicker({ repo, revision, label, onPick, refs }: RefPickerProps) {
  const found = useLoad<Page<Ref>>(refs === undefined ? `${viewOf(repo)}/refs` : null);
  const known = refs ?? found.data?.items ?? [];
  const other = !known.some((ref) => ref.name === revision);
  return (
    <label>
      <span>{label}</span>
      <select value={revision} onChange={(event) => onPick(event.currentTarget.value)}>
        {other && <option value={revision}>{shortRevision(revision)}</option>}
        {known.map((ref) => <option key={ref.kind + ref.name} value={ref.name}>{ref.kind === "tag" ? t("versions.tag", { name: ref.name }) : ref.name}</option>)}
      </select>
    </label>
  );
}

/** A revision as people read it: a commit by its first letters, a pull request by its number. */
export function shortRevision(revision: string): string {
  const request = requestOf(revision);
  if (request !== null) return t("edit.request", { num: request });
  return isCommit(revision) ? revision.slice(0, 8) : revision;
}

/** The versions tab: the commits of a branch or tag. */
export function Versions({ repo, page, revision }: Panel) {
  const { query } = usePlace();
  const place = placeOf(repo);
  return (
    <>
      <form class="filters" onSubmit={(event) => event.preventDefault()}>
        <RefPicker repo={repo} revision={revision} label={t("versions.of")} onPick={(ref) => go(atRevision(page, query, ref), "replace")} />
        <Link class="b" to={`${place}/refs`}>{t("refs.title")}</Link>
        <Link class="b" to={`${place}/compare/main...${encodeURIComponent(revision)}`}>{t("compare.go")}</Link>
      </form>
      <History repo={repo} revision={revision} />
    </>
  );
}

/** The commits of a revision, newest first, of one file when `path` is given; each opens what it changed. */
export function History({ repo, revision, path }: { repo: Repo; revision: string; path?: string }) {
  const [commits, setCommits] = useState<Commit[]>([]);
  const [next, setNext] = useState<string | null>("0");
  const act = useAct();
  const place = placeOf(repo);
  const asked = `${viewOf(repo)}/commits?${new URLSearchParams({ revision, limit: String(PAGE), ...(path === undefined ? {} : { path }) })}`;
  const load = (cursor: string, before: Commit[]): Promise<void> =>
    act.run(async () => {
      const found = await call<Page<Commit>>(`${asked}&cursor=${cursor}`);
      setCommits([...before, ...found.items]);
      setNext(found.next ?? null);
    });
  useEffect(() => {
    setCommits([]);
    void load("0", []);
  }, [asked]);
  const look = (oid: string): string => (path === undefined ? `${place}?tab=files&revision=${oid}` : filePage(repo, oid, path));
  return (
    <>
      {act.problem && <Trouble problem={act.problem} retry={() => void load(next ?? "0", commits)} />}
      {commits.length === 0 && act.busy && <Waiting what={t("waiting.versions")} />}
      {commits.length === 0 && !act.busy && !act.problem && <Empty what={t("history.none")} />}
      {commits.length > 0 && <CommitTable repo={repo} commits={commits} look={look} />}
      {next !== null && commits.length > 0 && (
        <p class="more"><button class="b" type="button" disabled={act.busy} onClick={() => void load(next, commits)}>{t("versions.older")}</button></p>
      )}
    </>
  );
}

/** Commits as a table; `look` leads to the files as they were then. */
export function CommitTable({ repo, commits, look }: { repo: Repo; commits: Commit[]; look?: (oid: string) => string }) {
  return (
    <table class="cards-s">
      <caption class="sr">{t("versions.caption")}</caption>
      <thead>
        <tr>
          <th scope="col">{t("versions.what")}</th>
          <th scope="col">{t("versions.version")}</th>
          <th scope="col">{t("versions.who")}</th>
          <th scope="col" class="r">{t("versions.when")}</th>
          {look && <th scope="col" class="r"><span class="sr">{t("files.act")}</span></th>}
        </tr>
      </thead>
      <tbody>
        {commits.map((commit) => (
          <tr key={commit.oid}>
            <th scope="row"><Link to={`${placeOf(repo)}/commit/${commit.oid}`}>{commit.title || t("commit.untitled")}</Link><LicenceChange commit={commit} /></th>
            <td class="mono" data-l={t("versions.version")}>{commit.oid.slice(0, 8)}</td>
            <td class="soft" data-l={t("versions.who")}>{commit.author}</td>
            <td class="r" data-l={t("versions.when")}><Time at={commit.date} /></td>
            {look && (
              <td class="r">
                {commit.oid === repo.revision ? (
                  <span class="quiet">{t("versions.shown")}</span>
                ) : (
                  <Link to={look(commit.oid)} aria-label={t("versions.look.at", { version: commit.oid.slice(0, 8) })}>{t("versions.look")}</Link>
                )}
              </td>
            )}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
