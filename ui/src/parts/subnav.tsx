import { t, type MessageKey } from "../i18n";
import { Link, usePlace } from "../router";
import { session } from "../session";
import { useStore } from "../store";

type Entry = [path: string, name: MessageKey, admin: boolean];
const OPERATE: Entry[] = [
  ["health", "place.health", true],
  ["deployments", "place.deployments", false],
  ["people", "place.people", true],
  ["organisations", "place.organisations", false],
  ["audit", "place.audit", true],
];

/** Whether the signed-in user administers this Fust. */
export function useIsAdmin(): boolean {
  const now = useStore(session);
  return now.state === "in" && now.user.is_admin;
}

const HUB: [path: string, name: MessageKey][] = [
  ["models", "place.models"],
  ["datasets", "place.datasets"],
  ["spaces", "place.spaces"],
  ["collections", "place.collections"],
];

/** The lists of the hub. */
export function HubNav() {
  const first = usePlace().path.split("/")[0];
  return (
    <nav class="subnav" aria-label={t("place.hub")}>
      {HUB.map(([path, name]) => <Link key={path} to={path} aria-current={first === path ? "page" : undefined}>{t(name as "place.models")}</Link>)}
    </nav>
  );
}

/** The places of Operate that the reader may enter. */
export function OperateNav() {
  const admin = useIsAdmin();
  const first = usePlace().path.split("/")[0];
  const shown = OPERATE.filter(([, , only]) => admin || !only);
  if (shown.length < 2) return null;
  return (
    <nav class="subnav" aria-label={t("place.operate")}>
      {shown.map(([path, name]) => <Link key={path} to={path} aria-current={first === path ? "page" : undefined}>{t(name as "place.health")}</Link>)}
    </nav>
  );
}
