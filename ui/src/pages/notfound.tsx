import { Head } from "../parts";
import { t } from "../i18n";
import { Link, usePlace } from "../router";

export function NotFoundPage() {
  const { path } = usePlace();
  return (
    <div class="page wrap">
      <Head title={t("notfound.title")} sum={t("notfound.sum", { path: `/${path}` })}>
        <Link class="b go" to="">
          {t("notfound.home")}
        </Link>
        <Link class="b" to="models">
          {t("notfound.models")}
        </Link>
      </Head>
    </div>
  );
}
