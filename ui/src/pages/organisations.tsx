import { useEffect, useState } from "preact/hooks";
import { call, type Page } from "../api";
import { ROLES, type Member, type Organisation, type Role } from "../accounts";
import { Columns, Empty, Facts, Head, Section, Sure, Time, Trouble, Waiting } from "../parts";
import { Invitations } from "../parts/invite";
import { OperateNav, useIsAdmin } from "../parts/subnav";
import { integer } from "../format";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";
import { go, Link } from "../router";
import { session } from "../session";
import { useStore } from "../store";

const base = (org: string): string => `fust/v1/organisations/${encodeURIComponent(org)}`;

export function OrganisationsPage() {
  const found = useLoad<Page<Organisation>>("fust/v1/organisations");
  const items = found.data?.items;
  return (
    <div class="page wrap">
      <Head kick={t("place.operate")} title={t("place.organisations")} sum={t("orgs.sum")} />
      <OperateNav />
      <div class="split">
        <Section id="h-orgs" title={t("orgs.all")}>
          {found.problem && <Trouble problem={found.problem} retry={() => void found.reload()} />}
          {found.waiting && <Waiting what={t("waiting.orgs")} />}
          {items?.length === 0 && <Empty what={t("orgs.none")} next={t("orgs.none.next")} />}
          {items !== undefined && items.length > 0 && (
            <table class="cards-s">
              <Columns of={[t("keys.name"), t("orgs.role"), [t("orgs.members"), "r"], [t("keys.made"), "r"]]} />
              <tbody>
                {items.map((it) => (
                  <tr key={it.name}>
                    <th scope="row"><Link to={`organisations/${encodeURIComponent(it.name)}`}>{it.name}</Link>{it.display_name && it.display_name !== it.name && <p class="under">{it.display_name}</p>}</th>
                    <td data-l={t("orgs.role")}>{it.role ? t(`role.${it.role}`) : <span class="quiet">{t("orgs.norole")}</span>}</td>
                    <td class="r num" data-l={t("orgs.members")}>{integer(it.members)}</td>
                    <td class="r" data-l={t("keys.made")}><Time at={it.created_at} /></td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Section>
        <aside class="aside" aria-label={t("orgs.make")}>
          <MakeForm />
        </aside>
      </div>
    </div>
  );
}

function MakeForm() {
  const [name, setName] = useState("");
  const [display, setDisplay] = useState("");
  const act = useAct();
  return (
    <Section id="h-make" title={t("orgs.make")}>
      <form
        class="form"
        onSubmit={(event) => {
          event.preventDefault();
          void act.run(async () => {
            const made = await call<Organisation>("fust/v1/organisations", { method: "POST", body: { name: name.trim(), ...(display.trim() === "" ? {} : { display_name: display.trim() }) } });
            go(`organisations/${encodeURIComponent(made.name)}`);
          });
        }}
      >
        <label><span>{t("orgs.name")}</span><input type="text" required maxLength={96} autocapitalize="off" spellcheck={false} placeholder="physics-lab" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <label><span>{t("orgs.display")}</span><input type="text" maxLength={100} value={display} onInput={(event) => setDisplay(event.currentTarget.value)} /></label>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b go" type="submit" disabled={act.busy}>{t("orgs.make.go")}</button>
        <p class="small quiet">{t("orgs.make.note")}</p>
      </form>
    </Section>
  );
}

/** One organisation: who belongs to it and what they may. */
export function OrganisationPage({ name }: { name: string }) {
  const org = useLoad<Organisation>(base(name));
  const members = useLoad<Page<Member>>(`${base(name)}/members`);
  const it = org.data;
  const gone = org.problem?.status === 404;
  const admin = useIsAdmin();
  const may = (what: string): boolean => it?.may.includes(what) ?? false;
  const owner = it?.role === "owner" || admin;
  const roles = owner ? ROLES : ROLES.filter((role) => role === "read" || role === "write");
  const reload = async (): Promise<void> => {
    await Promise.all([org.reload(), members.reload()]);
  };
  return (
    <div class="page wrap">
      <Head kick={<Link to="organisations">{t("place.organisations")}</Link>} title={gone ? t("orgs.gone", { name }) : it?.display_name || name} sum={gone ? t("orgs.gone.next") : it && it.display_name !== name ? name : undefined}>
        {it && <Link class="b" to={encodeURIComponent(name)}>{t("orgs.models")}</Link>}
      </Head>
      <OperateNav />
      {org.problem && <Trouble problem={org.problem} retry={gone ? undefined : () => void org.reload()} />}
      {it && (
        <div class="split">
          <div class="stack-l">
            <Section id="h-members" title={t("orgs.members")}>
              {members.problem && <Trouble problem={members.problem} retry={() => void members.reload()} />}
              {members.waiting && <Waiting what={t("waiting.members")} />}
              {members.data && <Members org={name} items={members.data.items} roles={roles} editable={may("members")} reload={reload} />}
              {may("members") && <AddMember org={name} roles={roles} reload={reload} />}
            </Section>
            {may("members") && <Invitations organisation={name} roles={roles} />}
          </div>
          <aside class="aside" aria-label={t("facts.title")}>
            <Section id="h-facts" title={t("facts.title")}>
              <Facts
                rows={[
                  [t("orgs.name"), <code>{it.name}</code>],
                  [t("orgs.role"), it.role ? t(`role.${it.role}`) : t("orgs.norole")],
                  [t("orgs.members"), integer(it.members)],
                  [t("keys.made"), <Time at={it.created_at} />],
                ]}
              />
            </Section>
            <RoleHelp />
            {may("settings") && <Rename org={it} reload={org.reload} />}
            {may("delete") && <Remove org={name} />}
          </aside>
        </div>
      )}
    </div>
  );
}

function Members({ org, items, roles, editable, reload }: { org: string; items: Member[]; roles: Role[]; editable: boolean; reload: () => Promise<void> }) {
  const now = useStore(session);
  const me = now.state === "in" ? now.user.name : "";
  const act = useAct();
  const path = (user: string): string => `${base(org)}/members/${encodeURIComponent(user)}`;
  const put = (user: string, role: Role): Promise<void> =>
    act.run(async () => {
      await call(path(user), { method: "PUT", body: { role } });
      await reload();
    });
  const remove = (user: string): Promise<void> =>
    act.run(async () => {
      await call(path(user), { method: "DELETE" });
      await reload();
    });
  return (
    <>
      {act.problem && <Trouble problem={act.problem} />}
      <table class="cards-s">
        <Columns of={[t("signin.name.label"), t("role.title"), [t("orgs.since"), "r"], [t("files.act"), "unseen"]]} />
        <tbody>
          {items.map((it) => {
            const change = editable && roles.includes(it.role);
            return (
              <tr key={it.name}>
                <th scope="row">{it.name}{it.name === me && <span class="quiet"> {t("people.you")}</span>}{it.full_name && <p class="under">{it.full_name}</p>}</th>
                <td data-l={t("role.title")}>
                  {change ? (
                    <select class="inline" aria-label={t("orgs.role.of", { name: it.name })} value={it.role} disabled={act.busy} onChange={(event) => void put(it.name, event.currentTarget.value as Role)}>
                      {roles.map((role) => <option key={role} value={role}>{t(`role.${role}`)}</option>)}
                    </select>
                  ) : (
                    t(`role.${it.role}`)
                  )}
                </td>
                <td class="r" data-l={t("orgs.since")}><Time at={it.since} /></td>
                <td class="r">
                  {(change || it.name === me) && (
                    <Sure bare label={it.name === me ? t("orgs.leave") : t("orgs.remove")} ask={it.name === me ? t("orgs.leave.sure") : t("orgs.remove.sure", { name: it.name })} busy={act.busy} onSure={() => void remove(it.name)} />
                  )}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </>
  );
}

/** Adds somebody who has an account here; names are offered while typing. */
function AddMember({ org, roles, reload }: { org: string; roles: Role[]; reload: () => Promise<void> }) {
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>("read");
  const [offers, setOffers] = useState<{ name: string; full_name: string }[]>([]);
  const act = useAct();
  useEffect(() => {
    const stop = new AbortController();
    const timer = setTimeout(() => {
      call<Page<{ name: string; full_name: string }>>(`fust/v1/people?limit=10&search=${encodeURIComponent(name.trim())}`, { signal: stop.signal })
        .then((found) => setOffers(found.items))
        .catch(() => setOffers([])); // offers are a help only; adding says what is wrong
    }, 200);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [name]);
  return (
    <form
      class="filters padded"
      onSubmit={(event) => {
        event.preventDefault();
        void act.run(async () => {
          await call(`${base(org)}/members/${encodeURIComponent(name.trim())}`, { method: "PUT", body: { role } });
          setName("");
          await reload();
        });
      }}
    >
      <label class="grow">
        <span>{t("orgs.add.name")}</span>
        <input type="text" required list="offers" autocapitalize="off" autocomplete="off" spellcheck={false} value={name} onInput={(event) => setName(event.currentTarget.value)} />
        <datalist id="offers">{offers.map((it) => <option key={it.name} value={it.name}>{it.full_name}</option>)}</datalist>
      </label>
      <label><span>{t("role.title")}</span><select value={role} onChange={(event) => setRole(event.currentTarget.value as Role)}>{roles.map((it) => <option key={it} value={it}>{t(`role.${it}`)}</option>)}</select></label>
      <button class="b go" type="submit" disabled={act.busy}>{t("orgs.add")}</button>
      {act.problem && <Trouble problem={act.problem} />}
    </form>
  );
}

function RoleHelp() {
  return (
    <Section id="h-roles" title={t("role.help")}>
      <dl class="chosen">
        {ROLES.map((role) => <div key={role}><dt><b>{t(`role.${role}`)}</b></dt><dd>{t(`role.${role}.may`)}</dd></div>)}
      </dl>
    </Section>
  );
}

function Rename({ org, reload }: { org: Organisation; reload: () => Promise<void> }) {
  const [display, setDisplay] = useState(org.display_name);
  const act = useAct();
  return (
    <Section id="h-rename" title={t("orgs.display")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void act.run(async () => { await call(base(org.name), { method: "PATCH", body: { display_name: display.trim() } }); await reload(); }); }}>
        <label><span class="sr">{t("orgs.display")}</span><input type="text" maxLength={100} value={display} onInput={(event) => setDisplay(event.currentTarget.value)} /></label>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b" type="submit" disabled={act.busy || display.trim() === org.display_name}>{t("orgs.rename")}</button>
      </form>
    </Section>
  );
}

function Remove({ org }: { org: string }) {
  const act = useAct();
  return (
    <Section id="h-delete" title={t("orgs.delete.title")}>
      {act.problem && <Trouble problem={act.problem} />}
      <Sure label={t("orgs.delete")} ask={t("orgs.delete.sure", { name: org })} busy={act.busy} onSure={() => void act.run(async () => { await call(base(org), { method: "DELETE" }); go("organisations"); })} />
    </Section>
  );
}
