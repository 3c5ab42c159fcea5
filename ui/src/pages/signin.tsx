import { useState } from "preact/hooks";
import { Head, Trouble } from "../parts";
import { t } from "../i18n";
import { useAct } from "../load";
import { usePlace } from "../router";
import { ProviderWay } from "../parts/provider";
import { signIn } from "../session";

export function SignInPage() {
  const expired = usePlace().query.has("code_error");
  const [token, setToken] = useState("");
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const byToken = useAct();
  const byPassword = useAct();
  return (
    <div class="page wrap signin">
      <Head title={t("signin.title")} sum={t("signin.sum")} />
      {expired && (
        <div class="note" role="alert">
          <p>{t("signin.expired")}</p>
          <p>{t("signin.expired.next")}</p>
        </div>
      )}
      <ProviderWay />
      <div class="ways">
        <section class="sec" aria-labelledby="by-link">
          <h2 id="by-link">{t("signin.link")}</h2>
          <p>{t("signin.link.how")}</p>
          <pre class="code" role="group" tabIndex={0} aria-label={t("signin.command")}>
            fust open
          </pre>
          <p class="small quiet">{t("signin.link.note")}</p>
        </section>
        <section class="sec" aria-labelledby="by-token">
          <h2 id="by-token">{t("signin.token")}</h2>
          <form
            class="form"
            onSubmit={(event) => {
              event.preventDefault();
              void byToken.run(() => signIn({ token: token.trim() }));
            }}
          >
            <label>
              <span>{t("signin.token.label")}</span>
              <input type="password" name="token" autocomplete="off" required value={token} onInput={(event) => setToken(event.currentTarget.value)} />
            </label>
            {byToken.problem && <Trouble problem={byToken.problem} />}
            <button class="b go" type="submit" disabled={byToken.busy}>
              {t("signin.token.go")}
            </button>
          </form>
        </section>
        <section class="sec" aria-labelledby="by-password">
          <h2 id="by-password">{t("signin.password")}</h2>
          <form
            class="form"
            onSubmit={(event) => {
              event.preventDefault();
              void byPassword.run(() => signIn({ name: name.trim(), password }));
            }}
          >
            <label>
              <span>{t("signin.name.label")}</span>
              <input type="text" name="username" autocomplete="username" required value={name} onInput={(event) => setName(event.currentTarget.value)} />
            </label>
            <label>
              <span>{t("signin.password.label")}</span>
              <input
                type="password"
                name="password"
                autocomplete="current-password"
                required
                value={password}
                onInput={(event) => setPassword(event.currentTarget.value)}
              />
            </label>
            {byPassword.problem && <Trouble problem={byPassword.problem} />}
            <button class="b" type="submit" disabled={byPassword.busy}>
              {t("signin.password.go")}
            </button>
          </form>
        </section>
      </div>
    </div>
  );
}
