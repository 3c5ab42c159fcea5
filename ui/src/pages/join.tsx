import { useEffect, useState } from "preact/hooks";
import { call, Problem } from "../api";
import { fullTime } from "../format";
import { Head, Trouble, Waiting } from "../parts";
import { t } from "../i18n";
import { useAct } from "../load";
import { go, Link, usePlace } from "../router";
import { askSession, session } from "../session";
import { useStore } from "../store";

interface Offer {
  organisation: string | null;
  role: string | null;
  new_user: boolean;
  invited_by: string;
  note: string;
  expires_at: string;
}

/** Where an invitation's link leads: says to what, and lets in, as a new user or as who is signed in. */
export function JoinPage() {
  const code = usePlace().query.get("code") ?? "";
  const [offer, setOffer] = useState<Offer | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    call<Offer>("fust/v1/invitations/look", { method: "POST", body: { code } }).then(setOffer, (error: unknown) => {
      if (error instanceof Problem) setProblem(error);
    });
  }, [code]);
  if (problem?.status === 404) {
    return (
      <div class="page wrap signin">
        <Head title={t("join.over")} sum={t("join.over.next")} />
      </div>
    );
  }
  if (problem || !offer) {
    return (
      <div class="page wrap signin">
        <Head title={t("join.title")} sum="" />
        {problem ? <Trouble problem={problem} /> : <Waiting what={t("join.waiting")} />}
      </div>
    );
  }
  const role = offer.role === null ? "" : t(`role.${offer.role}` as "role.read");
  const sum = offer.organisation === null ? t("join.fust", { by: offer.invited_by }) : t("join.org", { by: offer.invited_by, org: offer.organisation, role });
  return (
    <div class="page wrap signin">
      <Head title={t("join.title")} sum={sum} />
      <Answer code={code} offer={offer} />
    </div>
  );
}

function Answer({ code, offer }: { code: string; offer: Offer }) {
  const now = useStore(session);
  const act = useAct();
  const accept = (body: { name?: string; password?: string }): Promise<void> =>
    act.run(async () => {
      await call("fust/v1/invitations/accept", { method: "POST", body: { code, ...body } });
      await askSession();
      go(offer.organisation === null ? "" : `organisations/${encodeURIComponent(offer.organisation)}`, "replace");
    });
  return (
    <div class="ways one">
      <section class="sec" aria-labelledby="join-how">
        {now.state === "in" && offer.organisation !== null ? (
          <>
            <h2 id="join-how">{t("join.as", { name: now.user.name })}</h2>
            <p class="small quiet">{t("join.as.note", { name: now.user.name })}</p>
            {act.problem && <Trouble problem={act.problem} />}
            <p>
              <button class="b go" type="button" disabled={act.busy} onClick={() => void accept({})}>
                {t("join.as", { name: now.user.name })}
              </button>
            </p>
          </>
        ) : offer.new_user ? (
          <>
            <h2 id="join-how">{t("join.new")}</h2>
            <NewUser busy={act.busy} problem={act.problem} onSend={(name, password) => void accept({ name, password })} />
            {offer.organisation !== null && (
              <p class="small quiet">
                <Link to="">{t("join.have")}</Link>
              </p>
            )}
          </>
        ) : (
          <>
            <h2 id="join-how">{t("signin.place")}</h2>
            <p>{t("join.signin")}</p>
            <p>
              <Link class="b" to="">{t("join.signin.go")}</Link>
            </p>
          </>
        )}
        <p class="small quiet">
          {t("join.until", { time: fullTime(offer.expires_at) })}
        </p>
      </section>
    </div>
  );
}

interface NewUserProps {
  busy: boolean;
  problem: Problem | null;
  onSend: (name: string, password: string) => void;
}

function NewUser({ busy, problem, onSend }: NewUserProps) {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  return (
    <form
      class="form"
      onSubmit={(event) => {
        event.preventDefault();
        onSend(name.trim(), password);
      }}
    >
      <label>
        <span>{t("signin.name.label")}</span>
        <input type="text" name="username" autocomplete="username" required maxLength={96} aria-describedby="join-name-note" value={name} onInput={(event) => setName(event.currentTarget.value)} />
      </label>
      <p class="small quiet" id="join-name-note">{t("join.name.note")}</p>
      <label>
        <span>{t("signin.password.label")}</span>
        <input
          type="password"
          name="new-password"
          autocomplete="new-password"
          required
          minLength={8}
          aria-describedby="join-password-note"
          value={password}
          onInput={(event) => setPassword(event.currentTarget.value)}
        />
      </label>
      <p class="small quiet" id="join-password-note">{t("join.password.note")}</p>
      {problem && <Trouble problem={problem} />}
      <button class="b go" type="submit" disabled={busy}>
        {t("join.new.go")}
      </button>
    </form>
  );
}
