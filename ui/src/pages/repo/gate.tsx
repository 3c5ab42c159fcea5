import { useState } from "preact/hooks";
import type { Repo } from "../../api";
import { Section, Time, Trouble, Waiting } from "../../parts";
import { Comment } from "../../parts/markdown";
import { ask, choices, useGate, type Gate, type GateField } from "../../gate";
import { t } from "../../i18n";
import { useAct } from "../../load";

/** What stands before a gated repo: where the reader's request is, or the form that asks for access. */
export function GateNote({ repo, reload }: { repo: Repo; reload: () => Promise<void> }) {
  const loaded = useGate(repo);
  const gate = loaded.data;
  if (gate === undefined) return loaded.problem ? <Trouble problem={loaded.problem} /> : <Waiting what={t("waiting.gate")} />;
  const again = async (): Promise<void> => {
    await Promise.all([loaded.reload(), reload()]);
  };
  const until = gate.request?.until;
  if (gate.standing === "free") return null;
  if (gate.standing === "accepted") return until ? <div class="note calm"><p>{t("gate.until")} <Time at={until} /></p></div> : null;
  if (gate.standing === "pending") {
    return (
      <div class="note calm" role="status">
        <p><b>{t("gate.pending")}</b></p>
        <p>{t("gate.pending.next")} {gate.request && <Time at={gate.request.asked_at} />}</p>
      </div>
    );
  }
  if (gate.standing === "rejected") {
    return (
      <div class="note" role="status">
        <p><b>{t("gate.rejected")}</b></p>
        <p>{gate.request?.reason ? t("gate.rejected.why", { reason: gate.request.reason }) : t("gate.rejected.next")}</p>
      </div>
    );
  }
  return <AskForm key={gate.terms} repo={repo} gate={gate} again={again} />;
}

function AskForm({ repo, gate, again }: { repo: Repo; gate: Gate; again: () => Promise<void> }) {
  const [answers, setAnswers] = useState<Record<string, string | boolean>>({});
  const act = useAct();
  const send = (): Promise<void> =>
    act.run(async () => {
      await ask(repo, gate.terms, answers);
      await again();
    });
  const notes = { expired: t("gate.expired"), outdated: t("gate.outdated"), none: "" } as const;
  const note = notes[gate.standing as keyof typeof notes];
  return (
    <Section id="h-gate" title={gate.heading || t("gate.heading")} class="gate">
      {note && <div class="note" role="status"><p>{note} {gate.standing === "expired" && gate.request?.until && <Time at={gate.request.until} />}</p></div>}
      <div class="terms">
        {gate.description ? <Comment text={gate.description} /> : <p>{gate.gated === "manual" ? t("gate.manual.next") : t("gate.auto.next")}</p>}
        {gate.prompt && <Comment text={gate.prompt} />}
        {gate.eu_disallowed && <p>{t("gate.eu")}</p>}
      </div>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void send(); }}>
        {gate.fields.map((field) => (
          <Field key={field.name} field={field} value={answers[field.name]} onChange={(value) => setAnswers({ ...answers, [field.name]: value })} />
        ))}
        {act.problem && <Trouble problem={act.problem} retry={act.problem.code === "terms_changed" ? () => void again() : undefined} />}
        <button class="b go" type="submit" disabled={act.busy}>{gate.button || t("gate.ask")}</button>
        <p class="small quiet">{t("gate.shared")}</p>
      </form>
    </Section>
  );
}

function Field({ field, value, onChange }: { field: GateField; value: string | boolean | undefined; onChange: (value: string | boolean) => void }) {
  if (field.type === "checkbox") {
    return (
      <label class="tick">
        <input type="checkbox" required checked={value === true} onChange={(event) => onChange(event.currentTarget.checked)} />
        <span>{field.name}</span>
      </label>
    );
  }
  const text = typeof value === "string" ? value : "";
  if (field.type === "select" || field.type === "country") {
    return (
      <label>
        <span>{field.name}</span>
        <select required value={text} onChange={(event) => onChange(event.currentTarget.value)}>
          <option value="" disabled>{t("gate.choose")}</option>
          {choices(field).map((it) => <option key={it.value} value={it.value}>{it.label}</option>)}
        </select>
      </label>
    );
  }
  return (
    <label>
      <span>{field.name}</span>
      {field.type === "date_picker" ? (
        <input type="date" required value={text} onInput={(event) => onChange(event.currentTarget.value)} />
      ) : (
        <input type="text" required maxLength={2000} value={text} onInput={(event) => onChange(event.currentTarget.value)} />
      )}
    </label>
  );
}
