import { call } from "../api";
import { integer } from "../format";
import { t } from "../i18n";
import { useAct } from "../load";
import { Trouble } from "./index";

export interface Followed {
  isFollowing?: boolean;
  numFollowers: number;
}

/** Follows a person or an organisation, or no longer. */
export function FollowButton({ org, name, now, changed }: { org: boolean; name: string; now: Followed; changed: (next: Followed) => void }) {
  const act = useAct();
  const path = `api/${org ? "organizations" : "users"}/${encodeURIComponent(name)}/follow`;
  const turn = (): Promise<void> => act.run(async () => changed(await call<Followed>(path, { method: now.isFollowing ? "DELETE" : "POST" })));
  return (
    <>
      <button class="b" type="button" aria-pressed={now.isFollowing ?? false} disabled={act.busy} onClick={() => void turn()}>
        {now.isFollowing ? t("follow.done") : t("follow.go")} <span class="num">{integer(now.numFollowers)}</span>
      </button>
      {act.problem && <div class="wide"><Trouble problem={act.problem} /></div>}
    </>
  );
}
