import { useEffect, useState } from "preact/hooks";
import { call, type Commit, type Page, type Ref, type Repo } from "../api";
import { Time, Trouble, Waiting } from "./index";
import { LicenceChange } from "./safety";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link, repoPath, usePlace } from "../router";

const PAGE = 30;

/** Says that not the newest version is shown, and leads there. */
export function OldRevision({ revision, path }: { revision: string; path: string }) {
  if (revision === "main") return null;
  return (
    <div class="note calm">
      <p>{t("model.old", { revision: /^[0-9a-f]{40}$/.test(revision) ? revision.slice(0, 8) : revision })} <Link to={path}>{t("model.newest")}</Link></p>
    </div>
  );
}

/** The commits of a branch or tag, newest first; each opens what it changed, or the repository as it was then. */
export function Versions({ repo, page, revision }: { repo: Repo; page: string; revision: string }) {
  const { query } = usePlace();
  const base = `fust/v1/repos/${repo.type}/${repoPath(repo.repo_id)}`;
  const refs = useLoad<Page<Ref>>(`${base}/refs`);
  const [commits, setCommits] = useState<Commit[]>([]);
  const [next, setNext] = useState<string | null>("0");
  const act = useAct();
  const isOid = /^[0-9a-f]{40}$/.test(revision);
  const from = isOid ? "main" : revision;
  const load = (cursor: string, before: Commit[]): Promise<void> =>
    act.run(async () => {
      const found = await call<Page<Commit>>(`${base}/commits?revision=${encodeURIComponent(from)}&limit=${PAGE}&cursor=${cursor}`);
      setCommits([...before, ...found.items]);
      setNext(found.next ?? null);
    });
  useEffect(() => void load("0", []), [base, from]);
  const pick = (ref: string): void => {
    const fresh = new URLSearchParams(query);
    if (ref === "main") fresh.delete("revision");
    else fresh.set("revision", ref);
    go(`${page}?${fresh}`, "replace");
  };
  const branches = refs.data?.items ?? [];
  const folder = `${repo.type}s/${repoPath(repo.repo_id)}`;
  return (
    <>
      {branches.length > 1 && (
        <form class="filters" onSubmit={(event) => event.preventDefault()}>
          <label>
            <span>{t("versions.of")}</span>
            <select value={from} onChange={(event) => pick(event.currentTarget.value)}>
              {branches.map((ref) => <option key={ref.kind + ref.name} value={ref.name}>{ref.kind === "tag" ? t("versions.tag", { name: ref.name }) : ref.name}</option>)}
            </select>
          </label>
        </form>
      )}
      {act.problem && <Trouble problem={act.problem} retry={() => void load(next ?? "0", commits)} />}
      {commits.length === 0 && act.busy && <Waiting what={t("waiting.versions")} />}
      {commits.length > 0 && (
        <table class="cards-s">
          <caption class="sr">{t("versions.caption")}</caption>
          <thead>
            <tr>
              <th scope="col">{t("versions.what")}</th>
              <th scope="col">{t("versions.version")}</th>
              <th scope="col">{t("versions.who")}</th>
              <th scope="col" class="r">{t("versions.when")}</th>
              <th scope="col" class="r"><span class="sr">{t("files.act")}</span></th>
            </tr>
          </thead>
          <tbody>
            {commits.map((commit) => (
              <tr key={commit.oid}>
                <th scope="row"><Link to={`${folder}/commit/${commit.oid}`}>{commit.title || t("commit.untitled")}</Link><LicenceChange commit={commit} /></th>
                <td class="mono" data-l={t("versions.version")}>{commit.oid.slice(0, 8)}</td>
                <td class="soft" data-l={t("versions.who")}>{commit.author}</td>
                <td class="r" data-l={t("versions.when")}><Time at={commit.date} /></td>
                <td class="r">
                  {commit.oid === repo.revision ? (
                    <span class="quiet">{t("versions.shown")}</span>
                  ) : (
                    <Link to={`${page}?tab=files&revision=${commit.oid}`} aria-label={t("versions.look.at", { version: commit.oid.slice(0, 8) })}>{t("versions.look")}</Link>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {next !== null && commits.length > 0 && (
        <p class="more"><button class="b" type="button" disabled={act.busy} onClick={() => void load(next, commits)}>{t("versions.older")}</button></p>
      )}
    </>
  );
}

