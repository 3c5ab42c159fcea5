import { useState } from "preact/hooks";
import type { Repo } from "../../api";
import { Columns, Empty, Section, Sure, Tabs, Time, Trouble, Waiting } from "../../parts";
import { apiOf } from "../../hub";
import { change, decide, grant, useGate, useOffers, type AccessRequest, type Gate, type Gated, type RequestState } from "../../gate";
import { integer } from "../../format";
import { t } from "../../i18n";
import { useAct, useLoad } from "../../load";
import { repoPath, url } from "../../router";
import type { Panel } from "./tabs";

const STATES: RequestState[] = ["pending", "accepted", "rejected", "expired"];
const MODES: Gated[] = ["no", "auto", "manual"];
const PAGE = 100;

/** Who asked for access to a gated repo and who has it, for those who decide; and whether it is gated at all. */
export function AccessPanel({ repo, reload }: Panel) {
  const loaded = useGate(repo);
  const gate = loaded.data;
  if (gate === undefined) return loaded.problem ? <Trouble problem={loaded.problem} retry={() => void loaded.reload()} /> : <Waiting what={t("waiting.gate")} />;
  const again = async (): Promise<void> => {
    await Promise.all([loaded.reload(), reload()]);
  };
  return (
    <div class="split">
      <div class="stack-l">
        {gate.gated === "no" ? <Empty what={t("access.open")} next={t("access.open.next")} /> : <Requests repo={repo} gate={gate} again={again} />}
      </div>
      <aside class="aside" aria-label={t("access.title")}>
        <Mode repo={repo} gate={gate} again={again} />
        {gate.gated !== "no" && <Give repo={repo} again={again} />}
        {gate.gated !== "no" && gate.may_change && <AskAgain repo={repo} gate={gate} again={again} />}
      </aside>
    </div>
  );
}

interface Part {
  repo: Repo;
  gate: Gate;
  again: () => Promise<void>;
}

function Mode({ repo, gate, again }: Part) {
  const act = useAct();
  const pick = (mode: Gated): void => {
    if (mode === gate.gated) return;
    void act.run(async () => {
      await change(repo, { gated: mode === "no" ? false : mode });
      await again();
    });
  };
  return (
    <Section id="h-mode" title={t("access.mode")}>
      <div class="form">
        <fieldset disabled={!gate.may_change || act.busy}>
          <legend class="sr">{t("access.mode")}</legend>
          {MODES.map((mode) => (
            <label key={mode} class="tick">
              <input type="radio" name="gated" checked={gate.gated === mode} onChange={() => pick(mode)} />
              <span>{t(`access.mode.${mode}`)}</span>
            </label>
          ))}
        </fieldset>
        {act.problem && <Trouble problem={act.problem} />}
        <p class="small quiet">{gate.may_change ? t("access.mode.note") : t("access.mode.admins")}</p>
      </div>
    </Section>
  );
}

function Requests({ repo, gate, again }: Part) {
  const counts = gate.counts ?? { pending: 0, accepted: 0, rejected: 0, expired: 0 };
  const [state, setState] = useState<RequestState>(counts.pending > 0 ? "pending" : counts.accepted > 0 ? "accepted" : "pending");
  const [shown, setShown] = useState(PAGE);
  const found = useLoad<AccessRequest[]>(`${apiOf(repo)}/user-access-request/${state}?limit=${shown}`);
  const kind = repo.type === "model" ? "" : `${repo.type}s/`;
  const both = async (): Promise<void> => {
    await Promise.all([found.reload(), again()]);
  };
  const pick = (next: RequestState): void => {
    setState(next);
    setShown(PAGE);
  };
  const report = <a class="small" href={url(`${kind}${repoPath(repo.repo_id)}/user-access-report`)} download>{t("access.report")}</a>;
  return (
    <Section id="h-requests" title={t("access.requests")} side={report}>
      <Tabs of="access-" now={state} label={t("access.requests")} onPick={pick} tabs={STATES.map((id) => ({ id, label: t(`access.${id}`), count: integer(counts[id]) }))} />
      <div role="tabpanel" id={`p-access-${state}`} aria-labelledby={`t-access-${state}`} tabIndex={0}>
        {found.problem && <Trouble problem={found.problem} retry={() => void found.reload()} />}
        {found.waiting && <Waiting what={t("waiting.access")} />}
        {found.data?.length === 0 && <Empty what={t(`access.none.${state}`)} />}
        {found.data !== undefined && found.data.length > 0 && <List repo={repo} items={found.data} again={both} />}
        {found.data !== undefined && counts[state] > found.data.length && shown < 1000 && (
          <p class="more"><button class="b" type="button" onClick={() => setShown(Math.min(1000, shown + PAGE))}>{t("access.more")}</button></p>
        )}
      </div>
    </Section>
  );
}

function List({ repo, items, again }: { repo: Repo; items: AccessRequest[]; again: () => Promise<void> }) {
  return (
    <table class="cards-s access">
      <Columns of={[t("access.who"), t("access.asked"), t("access.terms"), t("access.decided"), [t("files.act"), "unseen"]]} />
      <tbody>
        {items.map((it) => (
          <tr key={it.requestId}>
            <th scope="row">
              {it.user.user}
              {it.user.fullname !== it.user.user && <span class="quiet"> {it.user.fullname}</span>}
              <Answers of={it} />
            </th>
            <td data-l={t("access.asked")}><Time at={it.timestamp} /></td>
            <td data-l={t("access.terms")} class="num">{it.termsVersion === null ? t("access.terms.none") : t("access.terms.version", { n: it.termsVersion })}</td>
            <td data-l={t("access.decided")}>
              <Decided of={it} />
            </td>
            <td class="r"><Decide repo={repo} of={it} again={again} /></td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Answers({ of }: { of: AccessRequest }) {
  const given = Object.entries(of.fields ?? {});
  if (given.length === 0) return null;
  return (
    <dl class="answers">
      {given.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value === true ? t("access.ticked") : String(value)}</dd></div>)}
    </dl>
  );
}

/** Who decided and when, until when it holds, and why not. */
function Decided({ of }: { of: AccessRequest }) {
  if (of.decidedAt === null) return <span class="quiet">{of.status === "accepted" ? t("access.by.gate") : "–"}</span>;
  return (
    <span>
      {of.decidedBy} <Time at={of.decidedAt} />
      {of.until && <span class="block">{of.ended ? t("access.ended") : t("access.until")} <Time at={of.until} /></span>}
      {of.rejectionReason && <span class="block quiet">{of.rejectionReason}</span>}
    </span>
  );
}

/** What may be done with a request now. */
function Decide({ repo, of, again }: { repo: Repo; of: AccessRequest; again: () => Promise<void> }) {
  const [until, setUntil] = useState("");
  const [reason, setReason] = useState("");
  const act = useAct();
  const name = of.user.user;
  const live = of.status === "accepted" && !of.ended;
  const set = (status: AccessRequest["status"]): void => {
    void act.run(async () => {
      await decide(repo, {
        user: name,
        status,
        ...(status === "accepted" && until !== "" ? { until } : {}),
        ...(status === "rejected" && reason.trim() !== "" ? { rejectionReason: reason.trim() } : {}),
      });
      await again();
    });
  };
  return (
    <details class="acts">
      <summary aria-label={t("access.decide.on", { name })}>{t("access.decide")}</summary>
      <div class="actlist decide">
        <form onSubmit={(event) => { event.preventDefault(); set("accepted"); }}>
          <label><span>{live ? t("access.newend") : t("access.end")}</span><input type="date" required={live} value={until} onInput={(event) => setUntil(event.currentTarget.value)} /></label>
          <button class={live ? "b" : "b go"} type="submit" disabled={act.busy}>{live ? t("access.change") : t("access.accept")}</button>
        </form>
        {of.status !== "rejected" && (
          <form onSubmit={(event) => { event.preventDefault(); set("rejected"); }}>
            <label><span>{t("access.reason")}</span><input type="text" maxLength={200} value={reason} onInput={(event) => setReason(event.currentTarget.value)} /></label>
            <button class="b" type="submit" disabled={act.busy}>{live ? t("access.revoke") : t("access.reject")}</button>
          </form>
        )}
        {of.status !== "pending" && <button class="b bare" type="button" disabled={act.busy} onClick={() => set("pending")}>{t("access.back")}</button>}
        {act.problem && <Trouble problem={act.problem} />}
      </div>
    </details>
  );
}

/** Lets somebody in who did not ask. */
function Give({ repo, again }: { repo: Repo; again: () => Promise<void> }) {
  const [name, setName] = useState("");
  const [until, setUntil] = useState("");
  const offers = useOffers(name);
  const act = useAct();
  const give = (): Promise<void> =>
    act.run(async () => {
      await grant(repo, name.trim(), until);
      setName("");
      setUntil("");
      await again();
    });
  return (
    <Section id="h-give" title={t("access.give")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void give(); }}>
        <label>
          <span>{t("orgs.add.name")}</span>
          <input type="text" required list="access-offers" autocapitalize="off" autocomplete="off" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} />
          <datalist id="access-offers">{offers.map((it) => <option key={it.name} value={it.name}>{it.full_name}</option>)}</datalist>
        </label>
        <label><span>{t("access.end")}</span><input type="date" value={until} onInput={(event) => setUntil(event.currentTarget.value)} /></label>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b" type="submit" disabled={act.busy}>{t("access.give.go")}</button>
      </form>
    </Section>
  );
}

function AskAgain({ repo, gate, again }: Part) {
  const act = useAct();
  const askAgain = (): void => {
    void act.run(async () => {
      await change(repo, { askAgain: true });
      await again();
    });
  };
  return (
    <Section id="h-again" title={t("access.again")}>
      <div class="form">
        <p class="small quiet">{t("access.again.note")}</p>
        {gate.asked_again_at && <p class="small quiet">{t("access.again.last")} <Time at={gate.asked_again_at} /></p>}
        {act.problem && <Trouble problem={act.problem} />}
        <Sure label={t("access.again.go")} ask={t("access.again.sure")} busy={act.busy} onSure={askAgain} />
      </div>
    </Section>
  );
}
