import { useState } from "preact/hooks";
import { call, type ChangedFile, type Comparison } from "../api";
import { Size, Trouble } from "./index";
import { filePage } from "./rows";
import { integer } from "../format";
import { viewOf, type RepoName } from "../hub";
import { t } from "../i18n";
import { useAct } from "../load";
import { Link } from "../router";

const OPEN_AT_FIRST = 8;
const LONG = 200; // lines of a file that is not opened by itself

/** Between which revisions files are compared; `since` as a pull request: from where the head left the base. */
export interface Span {
  /** Null: the head is the first of its history. */
  base: string | null;
  head: string;
  since: boolean;
}

/** The address of a comparison, of one file alone when `path` is given. */
export function comparePath(repo: RepoName, span: Span, path?: string): string {
  const query = new URLSearchParams({ base: span.base ?? span.head, head: span.head, since_parted: String(span.since) });
  if (path !== undefined) query.set("path", path);
  return `${viewOf(repo)}/compare?${query}`;
}

/** Changed files with their lines; long ones are closed at first, cut ones can be asked for whole. */
export function Changes({ repo, files, total, span }: { repo: RepoName; files: ChangedFile[]; total: number; span: Span }) {
  return (
    <>
      {files.map((file, at) => <Changed key={file.path} repo={repo} first={file} span={span} open={at < OPEN_AT_FIRST && linesOf(file) <= LONG} />)}
      {total === 0 && <p class="small quiet logempty">{t("commit.nothing")}</p>}
      {files.length < total && <p class="small quiet more">{t("commit.more", { shown: integer(files.length), total: integer(total) })}</p>}
    </>
  );
}

const linesOf = (file: ChangedFile): number => file.hunks.reduce((sum, hunk) => sum + hunk.lines.length, 0);
const countOf = (file: ChangedFile, sign: string): number => file.hunks.reduce((sum, hunk) => sum + hunk.lines.filter((line) => line.startsWith(sign)).length, 0);

function Changed({ repo, first, span, open }: { repo: RepoName; first: ChangedFile; span: Span; open: boolean }) {
  const [shown, setShown] = useState(open);
  const [whole, setWhole] = useState<ChangedFile | null>(null);
  const act = useAct();
  const file = whole ?? first;
  const load = (): Promise<void> =>
    act.run(async () => {
      const found = await call<Comparison>(comparePath(repo, span, first.path));
      setWhole(found.files[0] ?? first);
      setShown(true);
    });
  const hasLines = file.hunks.length > 0;
  return (
    <article class="changed">
      <h3 class="mono">{file.change === "removed" ? file.path : <Link to={filePage(repo, span.head, file.path)}>{file.path}</Link>}</h3>
      <p class="bits">
        <span>{t(`change.${file.change}`)}</span>
        {file.old_path && <span>{t("change.from", { path: file.old_path })}</span>}
        <Sizes file={file} />
        {hasLines && <span class="num">+{integer(countOf(file, "+"))} −{integer(countOf(file, "-"))}</span>}
        {hasLines && (
          <button class="b bare" type="button" aria-expanded={shown} aria-label={t(shown ? "change.hide.of" : "change.show.of", { path: file.path })} onClick={() => setShown(!shown)}>{t(shown ? "change.hide" : "change.show")}</button>
        )}
        {file.cut && whole === null && span.base !== null && (
          <button class="b bare" type="button" disabled={act.busy} aria-label={t("change.all.of", { path: file.path })} onClick={() => void load()}>{t("change.all")}</button>
        )}
      </p>
      {file.large && <Hashes file={file} />}
      {act.problem && <Trouble problem={act.problem} retry={() => void load()} />}
      {shown && hasLines && <Diff file={file} />}
    </article>
  );
}

function Sizes({ file }: { file: ChangedFile }) {
  const { size_before: before, size_after: after } = file;
  if (before !== null && after !== null && before !== after) return <span><Size of={before} /> → <Size of={after} /></span>;
  const only = after ?? before;
  return only === null ? null : <span><Size of={only} /></span>;
}

/** A large file is not read line by line: its hash says whether it is another. */
function Hashes({ file }: { file: ChangedFile }) {
  const [before, after] = [file.sha256_before.slice(0, 12), file.sha256_after.slice(0, 12)];
  return (
    <p class="small quiet">
      {t("change.large")} <code title={file.sha256_before || file.sha256_after}>{before || after}</code>
      {before && after && before !== after && <> → <code title={file.sha256_after}>{after}</code></>}
    </p>
  );
}

const KINDS: Record<string, "del" | "ins"> = { "-": "del", "+": "ins" };

function Diff({ file }: { file: ChangedFile }) {
  return (
    <div class="diff code" role="group" tabIndex={0} aria-label={t("change.lines", { path: file.path })}>
      {file.hunks.map((hunk, at) => {
        let [old, fresh] = [hunk.old_start, hunk.new_start];
        return (
          <div key={at}>
            {at > 0 && <p class="gap" aria-hidden="true">⋯</p>}
            {hunk.lines.map((line, row) => {
              const sign = line.charAt(0);
              const Kind = KINDS[sign] ?? "span";
              const numbers = { o: sign === "+" ? "" : String(old++), n: sign === "-" ? "" : String(fresh++) };
              // The numbers are drawn by the style, so that a copied selection holds the lines alone.
              return <Kind key={row} data-o={numbers.o}><i aria-hidden="true" data-n={numbers.n}>{sign}</i>{line.slice(1) || " "}</Kind>;
            })}
          </div>
        );
      })}
      {file.cut && <p class="gap">{t("change.cut")}</p>}
    </div>
  );
}
