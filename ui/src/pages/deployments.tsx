import { useState } from "preact/hooks";
import { call, type Deployment, type Page } from "../api";
import { Columns, Empty, Facts, Head, Section, Size, State, Sure, Time, Trouble, Waiting } from "../parts";
import { ServedLink } from "../parts/served";
import { Snippet, talkOf } from "../parts/snippet";
import { OperateNav } from "../parts/subnav";
import { decimal } from "../format";
import { maybe, t } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link, repoPath } from "../router";

const pathOf = (id: string): string => `fust/v1/deployments/${encodeURIComponent(id)}`;

/** Every model at the API: its state, its load, what it takes. */
export function DeploymentsPage() {
  const loaded = useLoad<Page<Deployment>>("fust/v1/deployments", 3000);
  const items = loaded.data?.items;
  return (
    <div class="page wrap">
      <Head kick={t("place.operate")} title={items ? t("serving.title", { n: items.length }) : t("place.deployments")} sum={t("serving.sum")} />
      <OperateNav />
      <Section id="h-deployments" title={t("serving.all")}>
        {loaded.problem && <Trouble problem={loaded.problem} retry={() => void loaded.reload()} />}
        {loaded.waiting && <Waiting what={t("waiting.deployment")} />}
        {items?.length === 0 && (
          <Empty what={t("serving.none")} next={t("serving.none.next")}>
            <Link class="b go" to="models">{t("home.choose")}</Link>
          </Empty>
        )}
        {items !== undefined && items.length > 0 && <Table items={items} />}
      </Section>
    </div>
  );
}

function Table({ items }: { items: Deployment[] }) {
  return (
    <table class="cards-s">
      <Columns of={[t("col.what"), t("col.state"), t("facts.engine"), [t("serving.load"), "r"], [t("col.speed"), "r"], [t("col.memory"), "r"], [t("serving.used"), "r"]]} />
      <tbody>
        {items.map((it) => (
          <tr key={it.id}>
            <th scope="row">
              <Link to={`deployments/${encodeURIComponent(it.id)}`}>{it.name}</Link> {it.alias && <span class="quiet">{it.alias}</span>}
              {(it.error ?? it.note) && <p class="under">{it.error ?? it.note}</p>}
            </th>
            <td>
              <State of={it.state} />
              {it.pinned && <small class="quiet"> {t("serving.pinned")}</small>}
            </td>
            <td class="soft" data-l={t("facts.engine")}>{it.engine}</td>
            <td class={it.slots ? "r num" : "r num none"} data-l={t("serving.load")}>{requests(it)}</td>
            <td class={it.tokens_per_s ? "r num" : "r num none"} data-l={t("col.speed")}><Speed of={it} /></td>
            <td class={it.memory_bytes ? "r" : "r none"} data-l={t("col.memory")}>{it.memory_bytes ? <Size of={it.memory_bytes} /> : "–"}</td>
            <td class="r" data-l={t("serving.used")}>{it.last_used_at ? <Time at={it.last_used_at} /> : t("serving.never")}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** How many requests are on it, of how many it answers at a time. */
function requests({ busy, slots }: Deployment): string {
  if (!slots) return "–";
  return busy > slots ? t("serving.queue", { n: slots, slots, waiting: busy - slots }) : t("serving.busy", { n: busy, slots });
}

function Speed({ of }: { of: Deployment }) {
  return of.tokens_per_s ? <>{decimal(of.tokens_per_s)} <span class="unit">{t("unit.tps")}</span></> : <>–</>;
}

/** One deployment: how it does, why it is served so, what its engine says; start, stop, pin, name. */
export function DeploymentPage({ id }: { id: string }) {
  const loaded = useLoad<Deployment>(pathOf(id), 2000);
  const it = loaded.data;
  const kick = <><Link to="deployments">{t("place.deployments")}</Link> / {it?.repo_id || it?.name || id}</>;
  if (it === undefined) {
    const gone = loaded.problem?.status === 404;
    return (
      <div class="page wrap">
        <Head kick={kick} title={gone ? t("serving.gone") : t("place.deployments")} sum={gone ? t("serving.gone.next") : undefined} />
        {loaded.problem && !gone && <Trouble problem={loaded.problem} retry={() => void loaded.reload()} />}
        {loaded.waiting && <Waiting what={t("waiting.deployment")} />}
      </div>
    );
  }
  return (
    <div class="page wrap">
      <Head kick={kick} title={it.alias ?? it.name} sum={<><State of={it.state} /> {it.note}</>}>
        <Buttons of={it} reload={loaded.reload} />
      </Head>
      {it.error && <div class="note told" role="alert"><p>{it.error}</p></div>}
      <div class="split">
        <div class="stack-l">
          <Section id="h-call" title={t("serving.call")}>
            <Snippet model={it.alias ?? it.name} talk={talkOf(null, it)} keyName={it.name} />
          </Section>
          {(it.engine === "llamacpp" || it.engine === "vllm") && <Adapters of={it} reload={loaded.reload} />}
          <Logs id={id} />
        </div>
        <aside class="aside" aria-label={t("facts.title")}>
          <Section id="h-now" title={t("serving.now")}>
            <Facts rows={nowFacts(it)} />
          </Section>
          <Section id="h-served" title={t("facts.served")}>
            <Facts rows={servedFacts(it)} />
            {it.pinned && <p class="small quiet">{t("serving.pin.why")}</p>}
          </Section>
          {it.why.length > 0 && (
            <Section id="h-why" title={t("serving.why")}>
              <ul class="why small soft">{it.why.map((line) => <li key={line}>{line}</li>)}</ul>
            </Section>
          )}
          <Alias of={it} reload={loaded.reload} />
        </aside>
      </div>
    </div>
  );
}

function Buttons({ of, reload }: { of: Deployment; reload: () => Promise<void> }) {
  const act = useAct();
  const does = (method: "POST" | "PATCH", tail: string, body?: unknown) => (): void =>
    void act.run(async () => {
      await call(pathOf(of.id) + tail, { method, body });
      await reload();
    });
  const stop = (): void =>
    void act.run(async () => {
      await call(pathOf(of.id), { method: "DELETE" });
      go("deployments");
    });
  const loaded = of.state === "ready" || of.state === "loading";
  const free = does("POST", "/unload");
  return (
    <>
      {of.state !== "failed" && of.has_chat_template !== false && <Link class="b go" to={`chat?model=${encodeURIComponent(of.name)}`}>{t("place.chat")}</Link>}
      {!loaded && <button class="b" type="button" disabled={act.busy} onClick={does("POST", "/load")}>{t("serving.start")}</button>}
      {loaded && of.busy === 0 && <button class="b" type="button" disabled={act.busy} onClick={free}>{t("serving.free")}</button>}
      {loaded && of.busy > 0 && <Sure label={t("serving.free")} ask={t("serving.free.sure")} busy={act.busy} onSure={free} />}
      <button class="b" type="button" disabled={act.busy} onClick={does("PATCH", "", { pinned: !of.pinned })}>{of.pinned ? t("serving.unpin") : t("serving.pin")}</button>
      <Sure label={t("serve.stop")} ask={t("serving.stop.sure", { name: of.alias ?? of.name })} busy={act.busy} onSure={stop} />
      {act.problem && <div class="wide"><Trouble problem={act.problem} /></div>}
    </>
  );
}

type Rows = [string, preact.ComponentChildren][];

function nowFacts(it: Deployment): Rows {
  const rows: Rows = [[t("serving.load"), <span class="num">{requests(it)}</span>]];
  if (it.tokens_per_s) rows.push([t("facts.speed"), <Speed of={it} />]);
  if (it.memory_bytes) rows.push([t("facts.memory"), <Size of={it.memory_bytes} />]);
  if (it.started_at) rows.push([t("col.since"), <Time at={it.started_at} />]);
  rows.push([t("serving.used"), it.last_used_at ? <Time at={it.last_used_at} /> : t("serving.never")]);
  return rows;
}

function servedFacts(it: Deployment): Rows {
  const rows: Rows = it.repo_id ? [[t("serving.model"), <ServedLink of={it} />]] : [];
  if (it.file) rows.push([t("facts.file"), <code>{it.file}</code>]);
  if (it.revision) rows.push([t("facts.revision"), <code>{it.revision.slice(0, 8)}</code>]);
  rows.push([t("facts.engine"), it.engine]);
  if (it.context) rows.push([t("facts.context"), t("facts.tokens", { n: it.context })]);
  if (it.slots) rows.push([t("serving.slots"), <span class="num">{it.slots}</span>]);
  if (it.threads) rows.push([t("serving.threads"), <span class="num">{it.threads}</span>]);
  return rows;
}

function Alias({ of, reload }: { of: Deployment; reload: () => Promise<void> }) {
  const [alias, setAlias] = useState(of.alias ?? "");
  const act = useAct();
  const save = (): Promise<void> =>
    act.run(async () => {
      await call(pathOf(of.id), { method: "PATCH", body: { alias: alias.trim() } });
      await reload();
    });
  return (
    <Section id="h-alias" title={t("serving.alias")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void save(); }}>
        <input type="text" aria-labelledby="h-alias" autocapitalize="off" spellcheck={false} maxLength={128} value={alias} onInput={(event) => setAlias(event.currentTarget.value)} />
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b" type="submit" disabled={act.busy || alias.trim() === (of.alias ?? "")}>{t("serving.alias.save")}</button>
      </form>
    </Section>
  );
}

/** Small models beside it: each answers under a name of its own, and comes and goes without a failed request. */
function Adapters({ of, reload }: { of: Deployment; reload: () => Promise<void> }) {
  const [repo, setRepo] = useState("");
  const act = useAct();
  const path = `${pathOf(of.id)}/adapters`;
  const add = (): Promise<void> =>
    act.run(async () => {
      await call(path, { method: "POST", body: { repo_id: repo.trim() } });
      setRepo("");
      await reload();
    });
  const remove = (name: string): Promise<void> =>
    act.run(async () => {
      await call(`${path}/${encodeURIComponent(name)}`, { method: "DELETE" });
      await reload();
    });
  return (
    <Section id="h-adapters" title={t("adapters.title")}>
      <p class="soft">{t("adapters.note")}</p>
      {of.adapters.length > 0 && (
        <table class="cards-s">
          <Columns of={[t("facts.name"), t("col.state"), [t("files.size"), "r"], [t("files.act"), "unseen"]]} />
          <tbody>
            {of.adapters.map((it) => (
              <tr key={it.name}>
                <th scope="row">
                  <code>{`${of.alias ?? of.name}:${it.name}`}</code>
                  <p class="under"><Link to={`models/${repoPath(it.repo_id)}`}>{it.repo_id}</Link>{it.error && ` – ${it.error}`}</p>
                </th>
                <td><State of={it.state} /></td>
                <td class="r" data-l={t("files.size")}><Size of={it.size_bytes} /></td>
                <td class="r"><Sure bare label={t("adapters.remove")} ask={t("adapters.remove.sure", { name: it.name })} busy={act.busy} onSure={() => void remove(it.name)} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {act.problem && <Trouble problem={act.problem} />}
      <form class="filters" onSubmit={(event) => { event.preventDefault(); void add(); }}>
        <label class="grow">
          <span>{t("adapters.repo")}</span>
          <input type="text" required pattern="[^\/\s]+\/[^\/\s]+" title={t("pull.repo.title")} placeholder="owner/name" autocapitalize="off" spellcheck={false} value={repo} onInput={(event) => setRepo(event.currentTarget.value)} />
        </label>
        <button class="b" type="submit" disabled={act.busy}>{t("adapters.add")}</button>
      </form>
    </Section>
  );
}

/** The end of what its engines wrote; only for who may stop it, others do not see the section. */
function Logs({ id }: { id: string }) {
  const loaded = useLoad<Page<{ mode: string; text: string }>>(`${pathOf(id)}/logs`, 3000);
  if (loaded.problem?.status === 403) return null;
  const items = loaded.data?.items;
  return (
    <Section id="h-log" title={t("serving.log")}>
      {loaded.problem && <Trouble problem={loaded.problem} />}
      {items?.length === 0 && <p class="small quiet">{t("serving.log.none")}</p>}
      {items?.map(({ mode, text }) => (
        <div key={mode}>
          {items.length > 1 && <h3 class="small">{maybe(`serving.mode.${mode}`) ?? mode}</h3>}
          <pre class="code log" role="group" tabIndex={0} aria-label={t("serving.log")}>{text}</pre>
        </div>
      ))}
    </Section>
  );
}
