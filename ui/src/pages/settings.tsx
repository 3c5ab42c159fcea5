import { useState } from "preact/hooks";
import { call, type Page } from "../api";
import type { Browser } from "../accounts";
import { Columns, Head, Section, Sure, Time, Trouble, Waiting } from "../parts";
import { KeepHistory } from "../parts/history";
import { ProviderLink } from "../parts/provider";
import { t, useLang, type Lang } from "../i18n";
import { Webhooks } from "../parts/webhooks";
import { useAct, useLoad } from "../load";
import { chooseLang, chooseTheme } from "../looks";
import { Link } from "../router";
import { askSession, session } from "../session";
import { useStore } from "../store";
import { theme, type Theme } from "../theme";

/** What a person sets for themselves. */
export function SettingsPage() {
  const now = useStore(session);
  if (now.state !== "in") return null;
  return (
    <div class="page wrap">
      <Head title={t("place.settings")} sum={t("settings.sum")} />
      <div class="settings">
        <Profile key={now.user.name} name={now.user.name} fullName={now.user.full_name ?? ""} />
        <Password name={now.user.name} has={now.user.has_password} />
        <Looks />
        <Section id="h-history" title={t("settings.history")}>
          <div class="form">
            <KeepHistory user={now.user.name} />
            <p><Link class="b" to="chat">{t("settings.history.open")}</Link></p>
          </div>
        </Section>
        <Section id="h-keys" title={t("place.keys")}>
          <div class="stack">
            <p>{t("settings.keys")}</p>
            <p><Link class="b" to="keys">{t("use.manage")}</Link></p>
          </div>
        </Section>
        <Browsers />
        <Webhooks />
      </div>
    </div>
  );
}

function Profile({ name, fullName }: { name: string; fullName: string }) {
  const [value, setValue] = useState(fullName);
  const [saved, setSaved] = useState(false);
  const act = useAct();
  const save = (): Promise<void> =>
    act.run(async () => {
      setSaved(false);
      await call(`fust/v1/users/${encodeURIComponent(name)}`, { method: "PATCH", body: { full_name: value.trim() } });
      await askSession();
      setSaved(true);
    });
  return (
    <Section id="h-profile" title={t("settings.profile")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void save(); }}>
        <p>{t("account.as")} <b>{name}</b></p>
        <label><span>{t("people.fullname")}</span><input type="text" maxLength={100} autocomplete="name" value={value} onInput={(event) => { setValue(event.currentTarget.value); setSaved(false); }} /></label>
        {act.problem && <Trouble problem={act.problem} />}
        <p class="row"><button class="b" type="submit" disabled={act.busy}>{t("settings.save")}</button><span class="small quiet" role="status">{saved ? t("settings.saved") : ""}</span></p>
      </form>
    </Section>
  );
}

function Password({ name, has }: { name: string; has: boolean }) {
  const [first, setFirst] = useState("");
  const [again, setAgain] = useState("");
  const [saved, setSaved] = useState(false);
  const act = useAct();
  const differ = again !== "" && first !== again;
  const save = (): Promise<void> =>
    act.run(async () => {
      setSaved(false);
      await call(`fust/v1/users/${encodeURIComponent(name)}/password`, { method: "PUT", body: { password: first } });
      setFirst("");
      setAgain("");
      setSaved(true);
      await askSession();
    });
  return (
    <Section id="h-password" title={t("signin.password.label")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); if (!differ) void save(); }}>
        <p class="small quiet">{has ? t("settings.password.has") : t("settings.password.none")}</p>
        <input type="text" name="username" autocomplete="username" value={name} hidden readOnly />
        <label><span>{t("settings.password.new")}</span><input type="password" autocomplete="new-password" required minLength={8} value={first} onInput={(event) => setFirst(event.currentTarget.value)} /></label>
        <label>
          <span>{t("settings.password.again")}</span>
          <input type="password" autocomplete="new-password" required aria-invalid={differ} aria-describedby="differ" value={again} onInput={(event) => setAgain(event.currentTarget.value)} />
        </label>
        <p class="small quiet" id="differ" role="status">{differ ? t("settings.password.differ") : saved ? t("settings.password.saved") : ""}</p>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b" type="submit" disabled={act.busy || differ}>{has ? t("settings.password.change") : t("settings.password.set")}</button>
      </form>
      <ProviderLink />
    </Section>
  );
}

const LANGS: [Lang, string][] = [["en", "English"], ["zh-CN", "简体中文"]];
const THEMES: Theme[] = ["system", "light", "dark"];

function Looks() {
  const lang = useLang();
  const shown = useStore(theme);
  const act = useAct();
  return (
    <Section id="h-looks" title={t("settings.looks")}>
      <div class="form">
        <fieldset>
          <legend>{t("settings.lang")}</legend>
          {LANGS.map(([id, label]) => (
            <label key={id} class="tick"><input type="radio" name="lang" checked={lang === id} onChange={() => void act.run(() => chooseLang(id))} /><span lang={id}>{label}</span></label>
          ))}
        </fieldset>
        <fieldset>
          <legend>{t("settings.theme")}</legend>
          {THEMES.map((it) => (
            <label key={it} class="tick"><input type="radio" name="theme" checked={shown === it} onChange={() => void act.run(() => chooseTheme(it))} /><span>{t(`theme.${it}.long`)}</span></label>
          ))}
        </fieldset>
        {act.problem ? <Trouble problem={act.problem} /> : <p class="small quiet">{t("settings.looks.note")}</p>}
      </div>
    </Section>
  );
}

const HOWS = new Set(["password", "link", "token", "oidc", "invitation"]);

function Browsers() {
  const found = useLoad<Page<Browser>>("fust/v1/sessions");
  const act = useAct();
  const items = found.data?.items ?? [];
  const end = (path: string): Promise<void> =>
    act.run(async () => {
      await call(path, { method: "DELETE" });
      await askSession();
      await found.reload();
    });
  return (
    <Section id="h-browsers" title={t("browsers.title")} class="wide">
      {found.problem && <Trouble problem={found.problem} retry={() => void found.reload()} />}
      {act.problem && <Trouble problem={act.problem} />}
      {found.waiting && <Waiting what={t("waiting.browsers")} />}
      {items.length > 0 && (
        <>
          <table class="cards-s">
            <Columns of={[t("browsers.device"), t("browsers.address"), t("browsers.how"), [t("browsers.since"), "r"], [t("keys.used"), "r"], [t("files.act"), "unseen"]]} />
            <tbody>
              {items.map((it) => (
                <tr key={it.id}>
                  <th scope="row"><span title={it.agent}>{it.device || t("browsers.unknown")}</span>{it.current && <> <span class="tag">{t("browsers.this")}</span></>}</th>
                  <td class="num" data-l={t("browsers.address")}>{it.address || "–"}</td>
                  <td class="soft" data-l={t("browsers.how")}>{HOWS.has(it.how) ? t(`how.${it.how}` as "how.link") : it.how || "–"}</td>
                  <td class="r" data-l={t("browsers.since")}><Time at={it.created_at} /></td>
                  <td class="r" data-l={t("keys.used")}><Time at={it.last_used_at} /></td>
                  <td class="r">{!it.current && <button class="b bare" type="button" disabled={act.busy} aria-label={t("browsers.end.of", { device: it.device || t("browsers.unknown") })} onClick={() => void end(`fust/v1/sessions/${encodeURIComponent(it.id)}`)}>{t("account.out")}</button>}</td>
                </tr>
              ))}
            </tbody>
          </table>
          <p class="row more">
            {items.length > 1 && <Sure label={t("browsers.others")} ask={t("browsers.others.sure")} busy={act.busy} onSure={() => void end("fust/v1/sessions?others=true")} />}
            <Sure label={t("browsers.all")} ask={t("browsers.all.sure")} busy={act.busy} onSure={() => void end("fust/v1/sessions")} />
          </p>
        </>
      )}
    </Section>
  );
}
