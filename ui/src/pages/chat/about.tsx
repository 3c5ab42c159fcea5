import { useState } from "preact/hooks";
import type { Deployment } from "../../api";
import { adopt, changeSettings, drop, HERE, history, remove } from "../../chats/store";
import { shownPath } from "../../chats/tree";
import type { Conversation, Settings } from "../../chats/types";
import { Facts, Section, Sure, Trouble } from "../../parts";
import { ServedLink } from "../../parts/served";
import { integer } from "../../format";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { go, url } from "../../router";
import { useStore } from "../../store";

const called = (it: Deployment): string => it.alias ?? it.name;

interface Props {
  conversation: Conversation | undefined;
  model: Deployment | undefined;
  draft: Settings;
  onDraft: (change: Partial<Settings>) => void;
  code: boolean;
  onCode: () => void;
}

export function About({ conversation, model, draft, onDraft, code, onCode }: Props) {
  const keep = useStore(history);
  const act = useAct();
  const stats = conversation && shownPath(conversation).findLast((it) => it.stats?.prompt_tokens)?.stats;
  const used = stats ? (stats.prompt_tokens ?? 0) + stats.tokens : null;
  const kept = conversation?.kept ?? keep !== false;
  const rows: [string, preact.ComponentChildren][] = [];
  if (model) rows.push([t("chat.model"), <ServedLink of={model} text={called(model)} />]);
  if (used !== null) rows.push([t("facts.context"), model?.context ? <>{integer(used)} <span class="unit">{t("chat.of", { n: integer(model.context) })}</span></> : integer(used)]);
  const before = conversation !== undefined && !conversation.id.startsWith(HERE);
  rows.push([t("chat.kept"), kept ? t("chat.kept.server") : before ? t("chat.kept.partly") : t("chat.kept.window")]);
  rows.push([t("chat.leaves"), t("chat.leaves.nothing")]);
  const settings = conversation?.settings ?? draft;
  const place = conversation && `fust/v1/chats/${encodeURIComponent(conversation.id)}/export`;
  return (
    <aside class="aside" aria-label={t("chat.about")}>
      <Section id="h-about" title={t("chat.about")}>
        <Facts rows={rows} />
        {conversation && (
          <div class="actions stack">
            <p><button class="b bare" type="button" aria-pressed={code} onClick={onCode}>{code ? t("chat.code.close") : t("chat.code")}</button></p>
            {!conversation.id.startsWith(HERE) && conversation.kept && (
              <p class="small exports">{t("chat.export")}{" "}
                <a href={url(`${place}?format=json`)} download>JSON</a>{" · "}
                <a href={url(`${place}?format=markdown`)} download>Markdown</a>
              </p>
            )}
            {!conversation.kept && keep === true && (
              <p><button class="b" type="button" disabled={act.busy} onClick={() => void act.run(async () => {
                const id = await adopt(conversation);
                drop(conversation.id);
                go(`chat?c=${id}`, "replace");
              })}>{t("chat.keep")}</button></p>
            )}
            <p><Sure bare label={t("chat.delete")} ask={t("chat.delete.sure")} busy={act.busy} onSure={() => void act.run(async () => { await remove(conversation.id); go("chat"); })} /></p>
            {act.problem && <Trouble problem={act.problem} />}
          </div>
        )}
      </Section>
      <Section id="h-settings" title={t("chat.settings")}>
        <SettingsForm key={conversation?.id ?? "new"} settings={settings} onChange={(change) => (conversation ? changeSettings(conversation.id, change) : onDraft(change))} />
      </Section>
    </aside>
  );
}

interface Figure {
  name: "temperature" | "top_p" | "max_tokens" | "seed";
  least: number;
  most: number;
  step: number | "any";
}
const FIGURES: Figure[] = [
  { name: "temperature", least: 0, most: 2, step: "any" },
  { name: "top_p", least: 0, most: 1, step: "any" },
  { name: "max_tokens", least: 1, most: 2 ** 31 - 1, step: 1 },
  { name: "seed", least: 0, most: 2 ** 32 - 1, step: 1 },
];

/** What is typed stays while the page around it is drawn anew; it counts once the field is left. */
function useTyped(value: string): [string, (text: string) => void] {
  const [field, setField] = useState({ value, typed: value });
  // Not in an effect: the first one may run after somebody has begun to type, and would wipe it out.
  if (field.value !== value) setField({ value, typed: value });
  return [field.typed, (typed) => setField({ value, typed })];
}

function Words({ rows, most, placeholder, value, onDone }: { rows: number; most: number; placeholder?: string; value: string; onDone: (text: string) => void }) {
  const [typed, setTyped] = useTyped(value);
  return <textarea rows={rows} maxLength={most} placeholder={placeholder} value={typed} onInput={(event) => setTyped(event.currentTarget.value)} onBlur={({ currentTarget: field }) => field.value !== value && onDone(field.value)} />;
}

/** Gives the number, undefined for none, null for what is not one or out of bounds. */
function NumberField({ figure, value, wrong, onDone }: { figure: Figure; value: number | undefined; wrong: boolean; onDone: (value: number | undefined | null) => void }) {
  const [typed, setTyped] = useTyped(value === undefined ? "" : String(value));
  return (
    <input
      type="number"
      inputMode="decimal"
      min={figure.least}
      max={figure.most}
      step={figure.step}
      placeholder={t("chat.param.model")}
      value={typed}
      aria-invalid={wrong}
      onInput={(event) => setTyped(event.currentTarget.value)}
      onBlur={({ currentTarget: field }) => onDone(!field.checkValidity() ? null : field.value === "" ? undefined : field.valueAsNumber)}
    />
  );
}

/** Instructions and parameters; what is empty, the model decides. Tells one field at a time: what the others hold may be newer. */
function SettingsForm({ settings, onChange }: { settings: Settings; onChange: (change: Partial<Settings>) => void }) {
  const [wrong, setWrong] = useState<string | null>(null);
  return (
    <form class="form params" onSubmit={(event) => event.preventDefault()}>
      <label>
        <span>{t("chat.system")}</span>
        <Words rows={4} most={100_000} placeholder={t("chat.system.example")} value={settings.system ?? ""} onDone={(text) => onChange({ system: text.trim() || undefined })} />
      </label>
      {FIGURES.map(({ name, least, most, step }) => (
        <label key={name} class="figure">
          <span>{t(`chat.param.${name}`)}</span>
          <NumberField
            figure={{ name, least, most, step }}
            value={settings[name]}
            wrong={wrong === name}
            onDone={(value) => {
              setWrong(value === null ? name : null);
              if (value !== null) onChange({ [name]: value });
            }}
          />
        </label>
      ))}
      {wrong !== null && <p class="note" role="alert">{t(`chat.param.${wrong as Figure["name"]}.range`)}</p>}
      <label>
        <span>{t("chat.param.stop")}</span>
        <Words rows={2} most={3000} value={(settings.stop ?? []).join("\n")} onDone={(text) => {
          const words = text.split("\n").filter((it) => it !== "").slice(0, 16).map((it) => it.slice(0, 200));
          onChange({ stop: words.length > 0 ? words : undefined });
        }} />
      </label>
      <p class="small quiet">{t("chat.settings.note")}</p>
    </form>
  );
}
