import { useState } from "preact/hooks";
import { call, type Page } from "../api";
import type { Person } from "../accounts";
import { Columns, Head, Section, Sure, Time, Trouble, Waiting } from "../parts";
import { Invitations } from "../parts/invite";
import { OperateNav } from "../parts/subnav";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";
import { session } from "../session";
import { useStore } from "../store";

/** Everyone who may sign in, for administrators: made, invited, suspended, signed out, removed. */
export function PeoplePage() {
  const people = useLoad<Page<Person>>("fust/v1/users");
  const [search, setSearch] = useState("");
  const items = people.data?.items ?? [];
  const wanted = search.trim().toLowerCase();
  const shown = items.filter((it) => wanted === "" || `${it.name} ${it.full_name}`.toLowerCase().includes(wanted));
  return (
    <div class="page wrap">
      <Head kick={t("place.operate")} title={t("place.people")} sum={people.data && t("people.sum", { n: items.length, admins: items.filter((it) => it.is_admin).length })} />
      <OperateNav />
      <div class="split">
        <div class="stack-l">
          <Section id="h-people" title={t("people.all")}>
            {people.problem && <Trouble problem={people.problem} retry={() => void people.reload()} />}
            {people.waiting && <Waiting what={t("waiting.people")} />}
            {items.length > 8 && (
              <form class="filters padded" role="search" aria-label={t("people.search")} onSubmit={(event) => event.preventDefault()}>
                <label class="grow"><span>{t("people.search")}</span><input type="search" id="search" value={search} onInput={(event) => setSearch(event.currentTarget.value)} /></label>
              </form>
            )}
            {items.length > 0 && <PeopleTable items={shown} reload={people.reload} />}
          </Section>
          <Invitations />
        </div>
        <aside class="aside" aria-label={t("people.make")}>
          <MakeForm onMade={() => void people.reload()} />
        </aside>
      </div>
    </div>
  );
}

function PeopleTable({ items, reload }: { items: Person[]; reload: () => Promise<void> }) {
  const now = useStore(session);
  const me = now.state === "in" ? now.user.name : "";
  const act = useAct();
  const [said, setSaid] = useState("");
  const change = (name: string, body: Partial<Person>): Promise<void> =>
    act.run(async () => {
      await call(`fust/v1/users/${encodeURIComponent(name)}`, { method: "PATCH", body });
      await reload();
    });
  const signOut = (name: string): Promise<void> =>
    act.run(async () => {
      const { ended } = await call<{ ended: number }>(`fust/v1/users/${encodeURIComponent(name)}/sign-out`, { method: "POST" });
      setSaid(t("people.ended", { name, n: ended }));
    });
  const remove = (name: string): Promise<void> =>
    act.run(async () => {
      await call(`fust/v1/users/${encodeURIComponent(name)}`, { method: "DELETE" });
      await reload();
    });
  return (
    <>
      {act.problem && <Trouble problem={act.problem} />}
      <p class="sr" role="status">{said}</p>
      <table class="cards-s">
        <Columns of={[t("signin.name.label"), t("role.title"), t("col.state"), [t("people.seen"), "r"], [t("files.act"), "unseen"]]} />
        <tbody>
          {items.map((it) => (
            <tr key={it.name}>
              <th scope="row">{it.name}{it.name === me && <span class="quiet"> {t("people.you")}</span>}{it.full_name && <p class="under">{it.full_name}</p>}</th>
              <td data-l={t("role.title")}>{it.is_admin ? t("people.admin") : t("people.user")}</td>
              <td><span class={`st ${it.suspended ? "bad" : "run"}`}>{it.suspended ? t("people.suspended") : t("people.active")}</span></td>
              <td class="r" data-l={t("people.seen")}>{it.last_seen_at ? <Time at={it.last_seen_at} /> : t("keys.never")}</td>
              <td class="r">
                {it.name !== me && (
                  <details class="acts">
                    <summary aria-label={t("people.acts.of", { name: it.name })}>{t("people.acts")}</summary>
                    <div class="actlist">
                      <button class="b bare" type="button" disabled={act.busy} onClick={() => void change(it.name, { is_admin: !it.is_admin })}>{it.is_admin ? t("people.demote") : t("people.promote")}</button>
                      <button class="b bare" type="button" disabled={act.busy} onClick={() => void change(it.name, { suspended: !it.suspended })}>{it.suspended ? t("people.restore") : t("people.suspend")}</button>
                      <button class="b bare" type="button" disabled={act.busy} onClick={() => void signOut(it.name)}>{t("people.signout")}</button>
                      <Sure bare label={t("people.remove")} ask={t("people.remove.sure", { name: it.name })} busy={act.busy} onSure={() => void remove(it.name)} />
                    </div>
                  </details>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {said && <p class="small quiet">{said}</p>}
    </>
  );
}

function MakeForm({ onMade }: { onMade: () => void }) {
  const [name, setName] = useState("");
  const [fullName, setFullName] = useState("");
  const [password, setPassword] = useState("");
  const [admin, setAdmin] = useState(false);
  const act = useAct();
  const make = (): Promise<void> =>
    act.run(async () => {
      await call("fust/v1/users", { method: "POST", body: { name: name.trim(), full_name: fullName.trim(), is_admin: admin, ...(password === "" ? {} : { password }) } });
      setName("");
      setFullName("");
      setPassword("");
      setAdmin(false);
      onMade();
    });
  return (
    <Section id="h-make" title={t("people.make")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void make(); }}>
        <label><span>{t("signin.name.label")}</span><input type="text" required maxLength={96} autocapitalize="off" autocomplete="off" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <label><span>{t("people.fullname")}</span><input type="text" maxLength={100} autocomplete="off" value={fullName} onInput={(event) => setFullName(event.currentTarget.value)} /></label>
        <label><span>{t("people.password")}</span><input type="password" autocomplete="new-password" value={password} onInput={(event) => setPassword(event.currentTarget.value)} /></label>
        <label class="tick"><input type="checkbox" checked={admin} onChange={(event) => setAdmin(event.currentTarget.checked)} /><span>{t("people.make.admin")}</span></label>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b go" type="submit" disabled={act.busy}>{t("people.make.go")}</button>
        <p class="small quiet">{t("people.make.note")}</p>
      </form>
    </Section>
  );
}
