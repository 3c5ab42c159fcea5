import { useEffect, useRef, useState } from "preact/hooks";
import { call, type Key, type NewKey, type Page, type Scope } from "../api";
import { CopyButton, Empty, Head, Section, Sure, Time, Trouble, Waiting } from "../parts";
import { Code } from "../parts";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";
import { absoluteURL } from "../router";
import { refreshStatus, session, status } from "../session";
import { useStore } from "../store";

export function KeysPage() {
  const keys = useLoad<Page<Key>>("fust/v1/tokens");
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
                <thead>
                  <tr>
                    <th scope="col">{t("keys.name")}</th>
                    <th scope="col">{t("keys.starts")}</th>
                    <th scope="col">{t("keys.scope")}</th>
                    <th scope="col" class="r">{t("keys.made")}</th>
                    <th scope="col" class="r">{t("keys.used")}</th>
                    <th scope="col" class="r"><span class="sr">{t("files.act")}</span></th>
                  </tr>
                </thead>
                <tbody>
                  {items.map((key) => (
                    <tr key={key.id}>
                      <th scope="row">{key.name}</th>
                      <td class="mono quiet" data-l={t("keys.starts")}>{key.prefix}…</td>
                      <td data-l={t("keys.scope")}>{t(`scope.${key.scope}`)}</td>
                      <td class="r" data-l={t("keys.made")}><Time at={key.created_at} /></td>
                      <td class="r" data-l={t("keys.used")}>{key.last_used_at ? <Time at={key.last_used_at} /> : t("keys.never")}</td>
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

function MakeForm({ onMade }: { onMade: (key: NewKey) => void }) {
  const now = useStore(session);
  const [name, setName] = useState("");
  const [scope, setScope] = useState<Scope>("read");
  const act = useAct();
  const scopes: Scope[] = now.state === "in" && now.user.is_admin ? ["read", "write", "admin"] : ["read", "write"];
  return (
    <Section id="h-make" title={t("keys.make")}>
      <form
        class="form"
        onSubmit={(event) => {
          event.preventDefault();
          void act.run(async () => {
            onMade(await call<NewKey>("fust/v1/tokens", { method: "POST", body: { name: name.trim(), scope } }));
            setName("");
          });
        }}
      >
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
