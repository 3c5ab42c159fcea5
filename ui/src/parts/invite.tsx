import { useState } from "preact/hooks";
import { call, type Page } from "../api";
import { ROLES, type Invitation, type Role } from "../accounts";
import { Columns, CopyButton, Empty, Section, Sure, Time, Trouble, Waiting } from "./index";
import { t } from "../i18n";
import { useAct, useLoad } from "../load";

const DAY_S = 86_400;

/** Makes links that let someone in, and lists those that are out. With `organisation`, the link leads into it. */
export function Invitations({ organisation, roles = ROLES }: { organisation?: string; roles?: Role[] }) {
  const all = useLoad<Page<Invitation>>("fust/v1/invitations");
  const [made, setMade] = useState<Invitation | null>(null);
  const act = useAct();
  const items = all.data?.items.filter((it) => (organisation === undefined ? true : it.organisation === organisation)) ?? [];
  return (
    <Section id="h-invite" title={t("invite.title")}>
      <MakeLink organisation={organisation} roles={roles} onMade={(it) => { setMade(it); void all.reload(); }} />
      {made?.url && (
        <div class="note calm" role="status">
          <p>{t("invite.once")}</p>
          <p class="row"><code class="token">{made.url}</code><CopyButton text={made.url} label={t("invite.copy")} /></p>
        </div>
      )}
      {all.problem && <Trouble problem={all.problem} retry={() => void all.reload()} />}
      {act.problem && <Trouble problem={act.problem} />}
      {all.waiting && <Waiting what={t("waiting.invitations")} />}
      {all.data && items.length === 0 && <Empty what={t("invite.none")} />}
      {items.length > 0 && (
        <table class="cards-s">
          <Columns of={[t("invite.for"), t("col.state"), t("invite.by"), [t("invite.until"), "r"], [t("files.act"), "unseen"]]} />
          <tbody>
            {items.map((it) => (
              <tr key={it.id}>
                <th scope="row">{it.organisation === null ? t("invite.fust") : t("invite.into", { org: it.organisation, role: t(`role.${it.role ?? "read"}`) })}{it.note && <p class="under">{it.note}</p>}</th>
                <td><span class={`st ${it.state === "open" ? "run" : it.state === "used" ? "done" : "idle"}`}>{it.state === "used" && it.used_by ? t("invite.usedby", { name: it.used_by }) : t(`invite.${it.state}`)}</span></td>
                <td class="soft" data-l={t("invite.by")}>{it.created_by}</td>
                <td class="r" data-l={t("invite.until")}><Time at={it.expires_at} /></td>
                <td class="r">{it.state === "open" && <Sure bare label={t("invite.withdraw")} ask={t("invite.withdraw.sure")} busy={act.busy} onSure={() => void act.run(async () => { await call(`fust/v1/invitations/${encodeURIComponent(it.id)}`, { method: "DELETE" }); if (made?.id === it.id) setMade(null); await all.reload(); })} />}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Section>
  );
}

function MakeLink({ organisation, roles, onMade }: { organisation: string | undefined; roles: Role[]; onMade: (made: Invitation) => void }) {
  const [role, setRole] = useState<Role>("read");
  const [days, setDays] = useState(7);
  const [note, setNote] = useState("");
  const act = useAct();
  const make = (): Promise<void> =>
    act.run(async () => {
      const body = { expires_s: days * DAY_S, ...(note.trim() === "" ? {} : { note: note.trim() }), ...(organisation === undefined ? {} : { organisation, role }) };
      onMade(await call<Invitation>("fust/v1/invitations", { method: "POST", body }));
      setNote("");
    });
  return (
    <form class="filters padded" onSubmit={(event) => { event.preventDefault(); void make(); }}>
      <label class="grow"><span>{t("invite.note")}</span><input type="text" maxLength={200} value={note} placeholder={t("invite.note.example")} onInput={(event) => setNote(event.currentTarget.value)} /></label>
      {organisation !== undefined && (
        <label><span>{t("role.title")}</span><select value={role} onChange={(event) => setRole(event.currentTarget.value as Role)}>{roles.map((it) => <option key={it} value={it}>{t(`role.${it}`)}</option>)}</select></label>
      )}
      <label>
        <span>{t("invite.valid")}</span>
        <select value={days} onChange={(event) => setDays(Number(event.currentTarget.value))}>
          {[1, 7, 30].map((it) => <option key={it} value={it}>{t("days", { n: it })}</option>)}
        </select>
      </label>
      <button class="b go" type="submit" disabled={act.busy}>{t("invite.make")}</button>
      {act.problem && <Trouble problem={act.problem} />}
    </form>
  );
}
