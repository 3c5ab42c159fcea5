import { call, type Commit, type Repo, type RepoFile } from "../api";
import { Trouble } from "./index";
import { t } from "../i18n";
import { useAct } from "../load";
import { Link, repoPath } from "../router";

/** Beside a file that may be loaded as a pickle: whether that runs code, and which. */
export function SafetyBadge({ file }: { file: RepoFile }) {
  const seen = file.safety;
  if (!seen) return null;
  if (seen.level === "safe") return <div class="safety small"><span class="st idle">{t("safety.safe")}</span></div>;
  if (seen.level === "queued") return <div class="safety small"><span class="st idle">{t("safety.queued")}</span></div>;
  const shape = seen.level === "unsafe" ? "bad" : "warn";
  return (
    <details class="safety">
      <summary class="small"><span class={`st ${shape}`}>{t(`safety.${seen.level}`)}</span></summary>
      <p class="small">{t(`safety.${seen.level}.why`)}</p>
      {seen.imports.length > 0 && <p class="small mono">{seen.imports.slice(0, 30).join(", ")}{seen.imports.length > 30 ? " …" : ""}</p>}
      {seen.doubts.length > 0 && <p class="small">{seen.doubts.map((it) => t(`safety.doubt.${it.replace(" ", "_")}` as "safety.doubt.broken")).join(" ")}</p>}
    </details>
  );
}

/** Says beside a commit that it changed the licence. */
export function LicenceChange({ commit }: { commit: Commit }) {
  if (!commit.licence_before) return null;
  return (
    <p class="under">
      <span class="st warn">{commit.licence_after ? t("licence.changed", { from: commit.licence_before, to: commit.licence_after }) : t("licence.removed", { from: commit.licence_before })}</span>
    </p>
  );
}

/** Warns writers of secrets that lie in the history, until somebody says that they were revoked. */
export function Leaks({ repo, changed }: { repo: Repo; changed: () => void }) {
  const act = useAct();
  if (repo.leaks.length === 0) return null;
  const settle = (id: string): Promise<void> =>
    act.run(async () => {
      await call(`fust/v1/repos/${repo.type}/${repoPath(repo.repo_id)}/leaks/${encodeURIComponent(id)}`, { method: "DELETE" });
      changed();
    });
  return (
    <div class="note">
      <p><b>{t("leaks.title", { n: repo.leaks.length })}</b></p>
      <p>{t("leaks.next")}</p>
      <ul>
        {repo.leaks.slice(0, 10).map((it) => (
          <li key={it.id}>
            {t(`leaks.kind.${it.kind}` as "leaks.kind.private key")} · <Link to={`${repo.type}s/${repoPath(repo.repo_id)}/commit/${it.commit_oid}`}><span class="mono">{it.path}:{it.line}</span></Link> · {it.by}{" "}
            <button class="b bare" type="button" disabled={act.busy} onClick={() => void settle(it.id)}>{t("leaks.settle")}</button>
          </li>
        ))}
      </ul>
      {act.problem && <Trouble problem={act.problem} />}
    </div>
  );
}
