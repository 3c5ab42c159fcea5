import { call, type Repo } from "../api";
import { apiOf, placeOf } from "../hub";
import { integer } from "../format";
import { t } from "../i18n";
import { useAct } from "../load";
import { Link } from "../router";
import { Trouble } from "./index";

/** What anyone who is signed in can do with a repository: like it, put it into a collection. */
export function RepoButtons({ repo, reload }: { repo: Repo; reload: () => Promise<void> }) {
  const act = useAct();
  if (!repo.may.includes("discuss")) return null;
  const turn = (): Promise<void> =>
    act.run(async () => {
      await call(`${apiOf(repo)}/like`, { method: repo.liked ? "DELETE" : "POST" });
      await reload();
    });
  return (
    <>
      <button class="b" type="button" aria-pressed={repo.liked} disabled={act.busy} onClick={() => void turn()}>
        <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path fill={repo.liked ? "currentColor" : "none"} d="M8 13.500 2.700 8.200a3.300 3.300 0 0 1 0-4.700 3.300 3.300 0 0 1 4.700 0L8 4.100l.6-.6a3.300 3.300 0 0 1 4.700 0 3.300 3.300 0 0 1 0 4.700z" /></svg>
        {repo.liked ? t("like.done") : t("like")} <span class="num">{integer(repo.likes)}</span>
      </button>
      <Link class="b" to={`${placeOf(repo)}/collect`}>{t("collect.go")}</Link>
      {act.problem && <div class="wide"><Trouble problem={act.problem} /></div>}
    </>
  );
}
