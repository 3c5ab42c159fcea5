import { useState } from "preact/hooks";
import { call, type Page } from "../api";
import { Columns, Empty, Section, Sure, Time, Trouble, Waiting } from "./index";
import { maybe, t } from "../i18n";
import { useAct, useLoad } from "../load";

type Kind = "user" | "org" | "model" | "dataset" | "space";
interface Webhook {
  id: string;
  url: string;
  watched: { type: Kind; name: string }[];
  domains: string[];
  signed: boolean;
  disabled: boolean;
  waiting: number;
  delivered: number;
  dead: number;
  withheld: number;
}
interface Delivery {
  id: string;
  scope: string;
  action: string;
  repo_id: string;
  state: "waiting" | "delivered" | "dead" | "withheld";
  attempts: number;
  status: number | null;
  outcome: string;
  took_ms: number | null;
  created_at: string;
  next_at: string | null;
  payload: unknown;
}

const API = "api/settings/webhooks";
const KINDS: Kind[] = ["user", "org", "model", "dataset", "space"];
const SHAPES = { waiting: "warn", delivered: "done", dead: "bad", withheld: "idle" } as const;

/** The caller's webhooks: where they go, what they watch, how their messages fared; and a form for another. */
export function Webhooks() {
  const found = useLoad<Page<Webhook>>("fust/v1/webhooks");
  const act = useAct();
  const [open, setOpen] = useState<string | null>(null);
  const [making, setMaking] = useState(false);
  const items = found.data?.items ?? [];
  const change = (path: string, method: "POST" | "DELETE"): Promise<void> =>
    act.run(async () => {
      await call(`${API}/${path}`, { method, ...(method === "POST" ? { body: {} } : {}) });
      await found.reload();
    });
  return (
    <Section id="h-webhooks" title={t("webhooks.title")} class="wide">
      {found.problem && <Trouble problem={found.problem} retry={() => void found.reload()} />}
      {act.problem && <Trouble problem={act.problem} />}
      {found.waiting && <Waiting what={t("waiting.webhooks")} />}
      {found.data && items.length === 0 && !making && <Empty what={t("webhooks.none")} next={t("webhooks.none.next")} />}
      {items.length > 0 && (
        <table class="cards-s">
          <Columns of={[t("webhooks.url"), t("webhooks.watched"), t("webhooks.messages"), [t("files.act"), "unseen"]]} />
          <tbody>
            {items.map((it) => (
              <tr key={it.id}>
                <th scope="row" class="cut">
                  <span class="mono">{it.url}</span>
                  <p class="under">{[...it.domains.map((domain) => t(`webhooks.domain.${domain}` as "webhooks.domain.repo")), t(it.signed ? "webhooks.signed" : "webhooks.unsigned")].join(" · ")}</p>
                </th>
                <td data-l={t("webhooks.watched")}>{it.watched.map((one) => <div key={one.type + one.name}><span class="quiet">{t(`webhooks.kind.${one.type}`)}</span> {one.name}</div>)}</td>
                <td data-l={t("webhooks.messages")}>{it.disabled ? <span class="st idle">{t("webhooks.off")}</span> : <Counts of={it} />}</td>
                <td class="r">
                  <span class="row">
                    <button class="b bare" type="button" aria-expanded={open === it.id} onClick={() => setOpen(open === it.id ? null : it.id)}>{t("webhooks.deliveries")}</button>
                    <button class="b bare" type="button" disabled={act.busy} onClick={() => void change(`${it.id}/${it.disabled ? "enable" : "disable"}`, "POST")}>{t(it.disabled ? "webhooks.enable" : "webhooks.disable")}</button>
                    <Sure bare label={t("webhooks.delete")} ask={t("webhooks.delete.sure")} busy={act.busy} onSure={() => void change(it.id, "DELETE")} />
                  </span>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {open !== null && items.some((it) => it.id === open) && <Deliveries key={open} of={open} changed={() => void found.reload()} />}
      {making ? (
        <MakeForm onDone={(made) => { setMaking(false); if (made) void found.reload(); }} />
      ) : (
        found.data && <p class="row more"><button class="b" type="button" onClick={() => setMaking(true)}>{t("webhooks.make")}</button></p>
      )}
    </Section>
  );
}

function Counts({ of }: { of: Webhook }) {
  const states = (["dead", "waiting", "withheld", "delivered"] as const).filter((it) => of[it] > 0);
  if (states.length === 0) return <span class="quiet">{t("webhooks.nothing")}</span>;
  return <>{states.map((it) => <div key={it}><span class={`st ${SHAPES[it]}`}>{t(`webhooks.count.${it}`, { n: of[it] })}</span></div>)}</>;
}

function Deliveries({ of, changed }: { of: string; changed: () => void }) {
  const [limit, setLimit] = useState(10);
  const path = `fust/v1/webhooks/${encodeURIComponent(of)}/deliveries`;
  const found = useLoad<Page<Delivery>>(`${path}?limit=${limit}`, 5000);
  const act = useAct();
  const [shown, setShown] = useState<string | null>(null);
  const items = found.data?.items ?? [];
  const again = (id: string): Promise<void> =>
    act.run(async () => {
      await call(`${path}/${encodeURIComponent(id)}/redeliver`, { method: "POST" });
      await found.reload();
      changed();
    });
  return (
    <div class="stack">
      <h3>{t("webhooks.last")}</h3>
      {found.problem && <Trouble problem={found.problem} retry={() => void found.reload()} />}
      {act.problem && <Trouble problem={act.problem} />}
      {found.waiting && <Waiting what={t("waiting.webhooks")} />}
      {found.data && items.length === 0 && <Empty what={t("webhooks.nothing")} next={t("webhooks.nothing.next")} />}
      {items.length > 0 && (
        <table class="cards-s">
          <Columns of={[t("webhooks.event"), t("webhooks.repo"), t("webhooks.came"), [t("webhooks.when"), "r"], [t("files.act"), "unseen"]]} />
          <tbody>
            {items.map((it) => (
              <tr key={it.id}>
                <th scope="row">
                  <button class="b bare mono" type="button" aria-expanded={shown === it.id} disabled={it.payload === null} onClick={() => setShown(shown === it.id ? null : it.id)}>{it.scope} {it.action}</button>
                  {shown === it.id && <pre class="code text" tabIndex={0} role="group" aria-label={t("webhooks.payload")}>{JSON.stringify(it.payload, null, 2)}</pre>}
                </th>
                <td data-l={t("webhooks.repo")}>{it.repo_id}</td>
                <td data-l={t("webhooks.came")}>
                  <span class={`st ${SHAPES[it.state]}`}>{t(`webhooks.state.${it.state}`)}</span>
                  <p class="under">{cameOf(it)}</p>
                </td>
                <td class="r" data-l={t("webhooks.when")}><Time at={it.created_at} /></td>
                <td class="r">{it.payload !== null && <button class="b bare" type="button" disabled={act.busy || (it.state === "waiting" && it.attempts === 0)} onClick={() => void again(it.id)}>{t("webhooks.again")}</button>}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {(found.data?.total ?? 0) > items.length && items.length < 200 && <p><button class="b" type="button" onClick={() => setLimit(Math.min(200, limit + 40))}>{t("webhooks.more")}</button></p>}
    </div>
  );
}

/** What came of the last attempt, and how many there were. */
function cameOf(it: Delivery): string {
  const parts: string[] = [];
  if (it.outcome === "status" || it.outcome === "redirect" || it.outcome === "ok") {
    parts.push(t(it.outcome === "redirect" ? "webhooks.outcome.redirect" : "webhooks.outcome.status", { status: String(it.status ?? "") }));
  } else if (it.outcome !== "") {
    parts.push(maybe(`webhooks.outcome.${it.outcome}`) ?? it.outcome);
  }
  if (it.attempts > 0) parts.push(t("webhooks.attempts", { n: it.attempts }));
  return parts.join(" · ");
}

function MakeForm({ onDone }: { onDone: (made: boolean) => void }) {
  const [url, setUrl] = useState("");
  const [kind, setKind] = useState<Kind>("user");
  const [name, setName] = useState("");
  const [secret, setSecret] = useState("");
  const [repo, setRepo] = useState(true);
  const [talk, setTalk] = useState(true);
  const act = useAct();
  const make = (): Promise<void> =>
    act.run(async () => {
      const domains = [...(repo ? ["repo"] : []), ...(talk ? ["discussion"] : [])];
      const body = { url: url.trim(), watched: [{ type: kind, name: name.trim() }], domains, ...(secret === "" ? {} : { secret }) };
      await call(API, { method: "POST", body });
      onDone(true);
    });
  return (
    <form class="form" onSubmit={(event) => { event.preventDefault(); void make(); }}>
      <label><span>{t("webhooks.url")}</span><input type="url" required maxLength={2000} placeholder="https://ci.school.org/hook" value={url} onInput={(event) => setUrl(event.currentTarget.value)} /></label>
      <label>
        <span>{t("webhooks.watch.kind")}</span>
        <select value={kind} onChange={(event) => setKind(event.currentTarget.value as Kind)}>
          {KINDS.map((it) => <option key={it} value={it}>{t(`webhooks.kind.${it}`)}</option>)}
        </select>
      </label>
      <label><span>{t("webhooks.watch.name")}</span><input type="text" required maxLength={200} placeholder={kind === "user" || kind === "org" ? "maria" : "maria/llama"} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
      <fieldset>
        <legend>{t("webhooks.domains")}</legend>
        <label class="tick"><input type="checkbox" checked={repo} onChange={() => setRepo(!repo)} /><span>{t("webhooks.domain.repo.long")}</span></label>
        <label class="tick"><input type="checkbox" checked={talk} onChange={() => setTalk(!talk)} /><span>{t("webhooks.domain.discussion.long")}</span></label>
      </fieldset>
      <label><span>{t("webhooks.secret")}</span><input type="text" maxLength={500} autocomplete="off" spellcheck={false} value={secret} onInput={(event) => setSecret(event.currentTarget.value)} /></label>
      <p class="small quiet">{t("webhooks.secret.note")}</p>
      {act.problem && <Trouble problem={act.problem} />}
      <p class="row">
        <button class="b" type="submit" disabled={act.busy || (!repo && !talk)}>{t("webhooks.make.do")}</button>
        <button class="b bare" type="button" onClick={() => onDone(false)}>{t("webhooks.cancel")}</button>
      </p>
    </form>
  );
}
