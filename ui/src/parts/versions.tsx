import type { Repo } from "../api";
import { Time } from "./index";
import { t } from "../i18n";
import { Link } from "../router";

/** The commits of a repository; each opens the page as it was then. */
export function Versions({ repo, page, now }: { repo: Repo; page: string; now: string }) {
  return (
    <table class="cards-s">
      <caption class="sr">{t("versions.caption")}</caption>
      <thead>
        <tr>
          <th scope="col">{t("versions.what")}</th>
          <th scope="col">{t("versions.version")}</th>
          <th scope="col">{t("versions.who")}</th>
          <th scope="col" class="r">{t("versions.when")}</th>
        </tr>
      </thead>
      <tbody>
        {repo.commits.map((commit) => (
          <tr key={commit.oid}>
            <th scope="row">{commit.title}</th>
            <td class="mono" data-l={t("versions.version")}>
              <Link to={`${page}?revision=${commit.oid}`} aria-current={commit.oid === now ? "true" : undefined}>{commit.oid.slice(0, 8)}</Link>
            </td>
            <td class="soft" data-l={t("versions.who")}>{commit.author}</td>
            <td class="r" data-l={t("versions.when")}><Time at={commit.date} /></td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
