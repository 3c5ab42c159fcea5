import { t } from "../i18n";
import { useLoad } from "../load";
import { url, usePlace } from "../router";

interface Ways {
  oidc: { label: string; linked: boolean } | null;
}

const FAULTS = "state denied token domain no_account name linked suspended provider".split(" ");

/** The way in through the institution's own sign-in, where there is one: it comes before all others. */
export function ProviderWay() {
  const way = useLoad<Ways>("fust/v1/sign-in").data?.oidc;
  if (!way) return null;
  return (
    <section class="sec provider" aria-labelledby="by-provider">
      <h2 id="by-provider">{t("provider.title")}</h2>
      <p>
        <a class="b go" href={url("fust/v1/oidc/start")}>
          {t("provider.go", { name: way.label })}
        </a>
      </p>
      <p class="small quiet">{t("provider.note", { name: way.label })}</p>
    </section>
  );
}

/** Links the account that is signed in with one at the institution. */
export function ProviderLink() {
  const way = useLoad<Ways>("fust/v1/sign-in").data?.oidc;
  if (!way) return null;
  if (way.linked) return <p class="small quiet">{t("provider.linked", { name: way.label })}</p>;
  return (
    <>
      <p>
        <a class="b" href={url("fust/v1/oidc/start?link=true&next=settings")}>
          {t("provider.link", { name: way.label })}
        </a>
      </p>
      <p class="small quiet">{t("provider.link.note", { name: way.label })}</p>
    </>
  );
}

/** Why the institution's sign-in ended without one. */
export function ProviderFault() {
  const code = usePlace().query.get("oidc_error");
  const way = useLoad<Ways>(code === null ? null : "fust/v1/sign-in").data?.oidc;
  if (code === null || !way) return null;
  return (
    <div class="page wrap fault">
      <div class="note" role="alert">
        <p>{t("provider.fault", { name: way.label })}</p>
        <p>{t(`provider.fault.${FAULTS.includes(code) ? code : "token"}` as "provider.fault.token")}</p>
      </div>
    </div>
  );
}
