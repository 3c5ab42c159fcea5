import { Fragment } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Preview, Repo, RepoFile } from "../api";
import { Empty, Trouble, Waiting } from "./index";
import { integer } from "../format";
import { maybe, t } from "../i18n";
import { useLoad } from "../load";
import { go, Link, repoPath, usePlace } from "../router";
import type { Panel } from "../pages/repo/tabs";

const DATA = /\.(jsonl|ndjson|json|csv|tsv|parquet)(\.gz)?$/i;
const SHORT = 240; // characters of a cell in the table; the open row shows all that came

/** The files that hold rows, likely ones first: train before test before the rest, settings last. */
export function dataFiles(files: RepoFile[]): RepoFile[] {
  const weight = (path: string): number => (/\.json$/i.test(path) ? 3 : /train/i.test(path) ? 0 : /test|valid|dev/i.test(path) ? 1 : 2);
  return files.filter((it) => DATA.test(it.path)).sort((a, b) => weight(a.path) - weight(b.path));
}

/** The first rows of one of the repository's data files; which one lives in the address. */
export function Rows({ repo, revision }: Panel) {
  const { query, path } = usePlace();
  const files = dataFiles(repo.files);
  const file = files.find((it) => it.path === query.get("file")) ?? files[0];
  if (file === undefined) return <Empty what={t("rows.none")} next={t("rows.none.next")} />;
  const pick = (next: string): void => {
    const fresh = new URLSearchParams(query);
    fresh.set("file", next);
    go(`${path}?${fresh}`, "replace");
  };
  return (
    <>
      {files.length > 1 && (
        <form class="filters" onSubmit={(event) => event.preventDefault()}>
          <label>
            <span>{t("rows.file")}</span>
            <select value={file.path} onChange={(event) => pick(event.currentTarget.value)}>
              {files.map((it) => <option key={it.path} value={it.path}>{it.path}</option>)}
            </select>
          </label>
        </form>
      )}
      <Beginning repo={repo} revision={revision} path={file.path} />
    </>
  );
}

/** The beginning of one file: its rows, its text, or why nothing is shown. */
export function Beginning({ repo, revision, path }: { repo: Pick<Repo, "type" | "repo_id">; revision: string; path: string }) {
  const query = new URLSearchParams({ path, revision });
  const loaded = useLoad<Preview>(`fust/v1/repos/${repo.type}/${repoPath(repo.repo_id)}/preview?${query}`);
  const seen = loaded.data;
  if (loaded.problem) return <Trouble problem={loaded.problem} retry={() => void loaded.reload()} />;
  if (seen === undefined) return <Waiting what={t("waiting.rows")} />;
  if (seen.kind === "none") return <Empty what={t("rows.cannot")} next={seen.reason} />;
  return (
    <>
      {seen.reason && <p class="note calm">{seen.reason}</p>}
      {seen.kind === "table" ? <RowTable key={path + revision} seen={seen} /> : <TextView text={seen.text} label={path} />}
      {seen.more && <p class="small quiet more">{moreWords(seen)}</p>}
    </>
  );
}

function moreWords(seen: Preview): string {
  if (seen.kind === "text") return t("rows.more.text");
  if (seen.rows_total !== null) return t("rows.more.of", { shown: integer(seen.rows.length), total: integer(seen.rows_total) });
  return t("rows.more", { shown: integer(seen.rows.length) });
}

function RowTable({ seen }: { seen: Preview }) {
  const [open, setOpen] = useState<number | null>(null);
  useEffect(() => setOpen(null), [seen.path]);
  if (seen.rows.length === 0) return <Empty what={t("rows.empty")} />;
  return (
    <div class="scroll rows" tabIndex={0} role="group" aria-label={t("rows.label", { path: seen.path })}>
      <table>
        <thead>
          <tr>
            <th scope="col"><span class="sr">{t("rows.row")}</span></th>
            {seen.columns.map((column, at) => (
              <th key={at} scope="col">
                <b>{column.name || t("rows.unnamed")}</b>
                {column.kind && <span class="quiet"> {maybe(`cell.${column.kind}`) ?? column.kind}</span>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {seen.rows.map((row, index) => (
            <Fragment key={index}>
              <tr class={open === index ? "open" : undefined}>
                <th scope="row" class="num">
                  <button class="b bare" type="button" aria-expanded={open === index} aria-label={t("rows.open", { n: integer(index + 1) })} onClick={() => setOpen(open === index ? null : index)}>
                    {integer(index + 1)}
                  </button>
                </th>
                {row.map((cell, at) => (
                  <td key={at} class={cellClass(seen.columns[at]?.kind ?? "")}>
                    {cell === null ? <span class="quiet">–</span> : <div class="cell">{cell.length > SHORT ? `${cell.slice(0, SHORT)}…` : cell}</div>}
                  </td>
                ))}
              </tr>
              {open === index && (
                <tr class="whole">
                  <td colSpan={row.length + 1}>
                    <dl class="whole">
                      {row.map((cell, at) => (
                        <div key={at}>
                          <dt>{seen.columns[at]?.name || t("rows.unnamed")}</dt>
                          <dd class="plain">{cell === null ? <span class="quiet">–</span> : <Value text={cell} />}</dd>
                        </div>
                      ))}
                    </dl>
                  </td>
                </tr>
              )}
            </Fragment>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const cellClass = (kind: string): string => (/^(number|u?int\d*|float\d*|double|halffloat|decimal.*)$/.test(kind) ? "r num" : kind === "text" || kind === "" || kind === "string" ? "" : "mono");

interface Turn {
  role: string;
  content: string;
}

/** A conversation as its turns; anything else as it is written. */
function Value({ text }: { text: string }) {
  const turns = turnsOf(text);
  if (turns === null) return <>{text}</>;
  return (
    <ol class="turns">
      {turns.map((turn, at) => <li key={at}><b>{turn.role}</b> {turn.content}</li>)}
    </ol>
  );
}

function turnsOf(text: string): Turn[] | null {
  if (!text.startsWith("[{")) return null;
  try {
    const found = JSON.parse(text) as unknown;
    const isTurn = (it: unknown): it is Turn => typeof it === "object" && it !== null && "role" in it && "content" in it && typeof it.role === "string" && typeof it.content === "string";
    return Array.isArray(found) && found.every(isTurn) ? found : null;
  } catch {
    return null; // cut off, or no JSON
  }
}

export function TextView({ text, label }: { text: string; label: string }) {
  if (text === "") return <Empty what={t("rows.empty")} />;
  return <pre class="code text" role="group" tabIndex={0} aria-label={label}>{text}</pre>;
}

/** Where one file of a repository is shown. */
export function FileLink({ repo, revision, path }: { repo: Pick<Repo, "type" | "repo_id">; revision: string; path: string }) {
  return <Link to={filePage(repo, revision, path)}>{path}</Link>;
}

export function filePage(repo: Pick<Repo, "type" | "repo_id">, revision: string, path: string): string {
  return `${repo.type}s/${repoPath(repo.repo_id)}/blob/${encodeURIComponent(revision)}/${path.split("/").map(encodeURIComponent).join("/")}`;
}
