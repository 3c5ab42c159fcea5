import type { Deployment } from "../api";
import { Link, repoPath } from "../router";

/** A link to the model that a deployment serves; to the deployment itself when that has no repo, as echo and upstreams. */
export function ServedLink({ of, text }: { of: Deployment; text?: string }) {
  const to = of.repo_id ? `models/${repoPath(of.repo_id)}` : `deployments/${encodeURIComponent(of.id)}`;
  return <Link to={to}>{text ?? (of.repo_id || of.name)}</Link>;
}
