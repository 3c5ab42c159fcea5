import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import type { Repo, RepoType } from "../../api";
import { Head, Trouble, Waiting } from "../../parts";
import { placeOf } from "../../hub";
import { t } from "../../i18n";
import { useLoad, type Loaded } from "../../load";
import { go, Link, repoPath, usePlace } from "../../router";

const PLURALS = { model: "models", dataset: "datasets", space: "spaces" } as const;

/**
 * A repository at a revision; `files` off leaves out what a long list costs. When the address has a name that the
 * repository had before, it is changed to the name of today.
 */
export function useRepo(type: RepoType, repoId: string, { revision = "main", files = true } = {}): Loaded<Repo> {
  const { path, query } = usePlace();
  const asked = new URLSearchParams({ revision, ...(files ? {} : { files: "false" }) });
  const loaded = useLoad<Repo>(`fust/v1/repos/${type}/${repoPath(repoId)}?${asked}`);
  const now = loaded.data?.repo_id;
  useEffect(() => {
    if (now === undefined || now === repoId) return;
    const parts = path.split("/");
    const rest = parts.slice(parts[0] === PLURALS[type] ? 3 : 2);
    go([`${PLURALS[type]}/${repoPath(now)}`, ...rest].join("/") + (query.size > 0 ? `?${query}` : ""), "replace");
  }, [now, repoId]);
  return loaded;
}

/** The words of the way to a repository: its list, its owner. */
export function RepoKick({ type, repoId, children }: { type: RepoType; repoId: string; children?: ComponentChildren }) {
  const [owner = "", name] = repoId.split("/");
  return (
    <>
      <Link to={PLURALS[type]}>{t(`place.${PLURALS[type]}`)}</Link> / <Link to={encodeURIComponent(owner)}>{owner}</Link>
      {children && <> / <Link to={placeOf({ type, repo_id: repoId })}>{name}</Link>{children}</>}
    </>
  );
}

/** Stands for a repository's page until there is one, or says why there is none. */
export function RepoMissing({ type, repoId, loaded }: { type: RepoType; repoId: string; loaded: Loaded<Repo> }) {
  const gone = loaded.problem?.status === 404;
  return (
    <div class="page wrap">
      <Head
        kick={<RepoKick type={type} repoId={repoId} />}
        title={gone ? t(`${type}.gone`, { name: repoId }) : (repoId.split("/")[1] ?? repoId)}
        sum={gone ? t(`${type}.gone.next`) : undefined}
      />
      {loaded.problem && <Trouble problem={loaded.problem} retry={gone ? undefined : () => void loaded.reload()} />}
      {loaded.waiting && <Waiting what={t(`waiting.${type}`)} />}
    </div>
  );
}
