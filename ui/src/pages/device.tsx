import { useState } from "preact/hooks";
import { call } from "../api";
import { fullTime } from "../format";
import { Head, Section, Trouble } from "../parts";
import { t } from "../i18n";
import { useAct } from "../load";
import { Link, usePlace } from "../router";

interface Asking {
  code: string;
  program: string;
  address: string;
  created_at: string;
  expires_at: string;
}

/** Where `hf auth login` sends people: who asks, whether its code is the one in the terminal, allow or deny. */
export function DevicePage() {
  const given = usePlace().query.get("code") ?? "";
  const [code, setCode] = useState(given);
  const [asking, setAsking] = useState<Asking | null>(null);
  const [done, setDone] = useState<"allowed" | "denied" | null>(null);
  const act = useAct();
  const look = (): Promise<void> =>
    act.run(async () => setAsking(await call<Asking>("fust/v1/device/look", { method: "POST", body: { code } })));
  if (done !== null) {
    return (
      <div class="page wrap signin">
        <Head title={t(done === "allowed" ? "device.allowed" : "device.denied")} sum={t(done === "allowed" ? "device.allowed.next" : "device.denied.next")} />
        <p><Link class="b" to="keys">{t("place.keys")}</Link></p>
      </div>
    );
  }
  return (
    <div class="page wrap signin">
      <Head title={t("device.title")} sum={t("device.sum")} />
      {asking === null ? (
        <form class="form" onSubmit={(event) => { event.preventDefault(); void look(); }}>
          <label>
            <span>{t("device.code")}</span>
            <input type="text" class="mono" required maxLength={20} autocomplete="off" autocapitalize="characters" spellcheck={false} placeholder="BCDF-GHJK" value={code} onInput={(event) => setCode(event.currentTarget.value)} />
          </label>
          {act.problem && <Trouble problem={act.problem} />}
          <p><button class="b go" type="submit" disabled={act.busy}>{t("device.look")}</button></p>
        </form>
      ) : (
        <Answer asking={asking} onDone={setDone} />
      )}
    </div>
  );
}

const DAYS = [30, 90, 365, 0];

function Answer({ asking, onDone }: { asking: Asking; onDone: (how: "allowed" | "denied") => void }) {
  const [scope, setScope] = useState<"read" | "write">("write");
  const [days, setDays] = useState(90);
  const [name, setName] = useState(t("device.key", { address: asking.address || "?" }));
  const act = useAct();
  const answer = (how: "allow" | "deny"): Promise<void> =>
    act.run(async () => {
      const body = how === "allow" ? { code: asking.code, scope, days, name: name.trim() } : { code: asking.code };
      await call(`fust/v1/device/${how}`, { method: "POST", body });
      onDone(how === "allow" ? "allowed" : "denied");
    });
  return (
    <Section id="h-device" title={t("device.asks")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void answer("allow"); }}>
        <p class="code mono" role="group" aria-label={t("device.code")}>{asking.code}</p>
        <p>{t("device.compare")}</p>
        <dl class="facts">
          <div><dt>{t("device.program")}</dt><dd>{asking.program}</dd></div>
          <div><dt>{t("device.address")}</dt><dd class="num">{asking.address || "–"}</dd></div>
          <div><dt>{t("device.since")}</dt><dd>{fullTime(asking.created_at)}</dd></div>
        </dl>
        <fieldset>
          <legend>{t("device.may")}</legend>
          {(["read", "write"] as const).map((it) => (
            <label key={it} class="tick"><input type="radio" name="scope" checked={scope === it} onChange={() => setScope(it)} /><span>{t(`scope.${it}.long`)}</span></label>
          ))}
        </fieldset>
        <label>
          <span>{t("device.days")}</span>
          <select value={String(days)} onChange={(event) => setDays(Number(event.currentTarget.value))}>
            {DAYS.map((it) => <option key={it} value={String(it)}>{it === 0 ? t("device.days.none") : t("device.days.n", { n: it })}</option>)}
          </select>
        </label>
        <label><span>{t("keys.name")}</span><input type="text" required maxLength={100} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        {act.problem && <Trouble problem={act.problem} />}
        <p class="row">
          <button class="b go" type="submit" disabled={act.busy}>{t("device.allow")}</button>
          <button class="b" type="button" disabled={act.busy} onClick={() => void answer("deny")}>{t("device.deny")}</button>
        </p>
        <p class="small quiet">{t("device.note", { time: fullTime(asking.expires_at) })}</p>
      </form>
    </Section>
  );
}
