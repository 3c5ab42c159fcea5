import { useEffect, useRef, useState } from "preact/hooks";
import { call, type NewKey, type Page, type Scope } from "../api";
import type { FineKey } from "../accounts";
import { Columns, CopyButton, Empty, Head, Section, Sure, Time, Trouble, Waiting } from "../parts";
import { Code } from "../parts";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";
import { absoluteURL } from "../router";
import { useIsAdmin } from "../parts/subnav";
import { refreshStatus, status } from "../session";
import { useStore } from "../store";

export function KeysPage() {
  const keys = useLoad<Page<FineKey>>("fust/v1/tokens");
  const items = keys.data?.items;
  const [made, setMade] = useState<NewKey | null>(null);
  const revoke = useAct();
  const shown = useRef<HTMLDivElement>(null);
  // The form may stand far below: what it made must come into sight, for it is shown once.
  useEffect(() => {
    if (made === null) return;
    shown.current?.scrollIntoView({ block: "center" });
    shown.current?.focus({ preventScroll: true });
  }, [made]);
  return (
    <div class="page wrap">
      <Head title={t("place.keys")} sum={t("keys.sum")} />
      <div class="split">
        <div class="stack-l">
          {made && (
            <div class="note calm" role="status" ref={shown} tabIndex={-1}>
              <p><b>{made.name}</b>: {t("keys.once")}</p>
              <p class="row"><code class="token">{made.token}</code><CopyButton text={made.token} label={t("keys.copy")} /></p>
            </div>
          )}
          <Section id="h-keys" title={t("keys.yours")}>
            {keys.problem && <Trouble problem={keys.problem} retry={() => void keys.reload()} />}
            {revoke.problem && <Trouble problem={revoke.problem} />}
            {keys.waiting && <Waiting what={t("waiting.keys")} />}
            {items?.length === 0 && <Empty what={t("keys.none")} next={t("keys.none.next")} />}
            {items !== undefined && items.length > 0 && (
              <table class="cards-s">
                <Columns of={[t("keys.name"), t("keys.starts"), t("keys.scope"), [t("keys.made"), "r"], [t("keys.used"), "r"], [t("keys.until"), "r"], [t("files.act"), "unseen"]]} />
                <tbody>
                  {items.map((key) => (
                    <tr key={key.id}>
                      <th scope="row">{key.name}<Limits of={key} /></th>
                      <td class="mono quiet" data-l={t("keys.starts")}>{key.prefix}…</td>
                      <td data-l={t("keys.scope")}>{t(`scope.${key.scope}`)}</td>
                      <td class="r" data-l={t("keys.made")}><Time at={key.created_at} /></td>
                      <td class="r" data-l={t("keys.used")}>{key.last_used_at ? <Time at={key.last_used_at} /> : t("keys.never")}</td>
                      <td class="r" data-l={t("keys.until")}>{key.expired ? <span class="st bad">{t("keys.expired")}</span> : key.expires_at ? <Time at={key.expires_at} /> : t("keys.always")}</td>
                      <td class="r">
                        <Sure
                          bare
                          label={t("keys.revoke")}
                          ask={t("keys.revoke.sure", { name: key.name })}
                          busy={revoke.busy}
                          onSure={() =>
                            void revoke.run(async () => {
                              await call(`fust/v1/tokens/${encodeURIComponent(key.id)}`, { method: "DELETE" });
                              if (made?.id === key.id) setMade(null);
                              await keys.reload();
                            })
                          }
                        />
                      </td>
                    </tr>
                  ))}
                </tbody>
              </table>
            )}
          </Section>
          <HowTo />
        </div>
        <aside class="aside" aria-label={t("keys.make")}>
          <MakeForm
            onMade={(key) => {
              setMade(key);
              void keys.reload();
              void refreshStatus();
            }}
          />
        </aside>
      </div>
    </div>
  );
}

/** What a fine-grained key opens, in one line. */
function Limits({ of }: { of: FineKey }) {
  if (!of.repos && !of.models) return null;
  const parts: string[] = [];
  if (of.repos && of.repos.length > 0) parts.push(t("keys.repos.are", { list: of.repos.join(", ") }));
  if (of.models && of.models.length > 0) parts.push(t("keys.models.are", { list: of.models.join(", ") }));
  return <p class="under">{parts.length > 0 ? parts.join(" · ") : t("keys.opens.nothing")}</p>;
}

const DAYS = [0, 7, 30, 90, 365];
const lines = (text: string): string[] => text.split(/[\s,]+/).filter((it) => it !== "");

function MakeForm({ onMade }: { onMade: (key: NewKey) => void }) {
  const admin = useIsAdmin();
  const [name, setName] = useState("");
  const [scope, setScope] = useState<Scope>("read");
  const [fine, setFine] = useState(false);
  const [repos, setRepos] = useState("");
  const [models, setModels] = useState("");
  const [days, setDays] = useState(0);
  const act = useAct();
  const scopes: Scope[] = admin && !fine ? ["read", "write", "admin"] : ["read", "write"];
  const make = (): Promise<void> =>
    act.run(async () => {
      const body: Record<string, unknown> = { name: name.trim(), scope };
      if (fine) Object.assign(body, { repos: lines(repos), models: lines(models) });
      if (days > 0) body["expires_at"] = new Date(Date.now() + days * 86_400_000).toISOString();
      onMade(await call<NewKey>("fust/v1/tokens", { method: "POST", body }));
      setName("");
    });
  return (
    <Section id="h-make" title={t("keys.make")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void make(); }}>
        <label>
          <span>{t("keys.name")}</span>
          <input type="text" required maxLength={80} value={name} placeholder={t("keys.name.example")} onInput={(event) => setName(event.currentTarget.value)} />
        </label>
        <fieldset>
          <legend>{t("keys.may")}</legend>
          {scopes.map((it) => (
            <label key={it} class="tick">
              <input type="radio" name="scope" value={it} checked={scope === it} onChange={() => setScope(it)} />
              <span>{t(`scope.${it}.long`)}</span>
            </label>
          ))}
        </fieldset>
        <fieldset>
          <legend>{t("keys.where")}</legend>
          <label class="tick"><input type="radio" name="fine" checked={!fine} onChange={() => setFine(false)} /><span>{t("keys.where.all")}</span></label>
          <label class="tick">
            <input type="radio" name="fine" checked={fine} onChange={() => { setFine(true); if (scope === "admin") setScope("read"); }} />
            <span>{t("keys.where.fine")}</span>
          </label>
        </fieldset>
        {fine && (
          <>
            <label><span>{t("keys.repos")}</span><textarea rows={2} spellcheck={false} placeholder={"owner/name\ndataset:owner/*"} value={repos} onInput={(event) => setRepos(event.currentTarget.value)} /></label>
            <label><span>{t("keys.models")}</span><textarea rows={2} spellcheck={false} placeholder={"owner/name\nowner/*"} value={models} onInput={(event) => setModels(event.currentTarget.value)} /></label>
            <p class="small quiet">{t("keys.fine.note")}</p>
          </>
        )}
        <label>
          <span>{t("keys.until")}</span>
          <select value={days} onChange={(event) => setDays(Number(event.currentTarget.value))}>
            {DAYS.map((it) => <option key={it} value={it}>{it === 0 ? t("keys.always") : t("days", { n: it })}</option>)}
          </select>
        </label>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b go" type="submit" disabled={act.busy}>{t("keys.make")}</button>
      </form>
    </Section>
  );
}

/** Where a key goes: the two settings that most programs read. */
function HowTo() {
  const now = useStore(status);
  const openai = now?.openai_base_url ?? absoluteURL("v1").replace(/\/$/, "");
  const hub = now?.base_url ?? absoluteURL("").replace(/\/$/, "");
  return (
    <Section id="h-how" title={t("keys.how")}>
      <div class="stack howto">
        <p>{t("keys.how.openai")}</p>
        <Code label={t("keys.shell")} text={`export OPENAI_BASE_URL=${openai}\nexport OPENAI_API_KEY=FUST_KEY`} />
        <p>{t("keys.how.hub")}</p>
        <Code label={t("keys.shell")} text={`export HF_ENDPOINT=${hub}\nexport HF_TOKEN=FUST_KEY\nhf upload owner/name ./folder`} />
      </div>
    </Section>
  );
}
