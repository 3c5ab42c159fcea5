import { useState } from "preact/hooks";
import { call, type Deployment, type Run } from "../../api";
import { Columns, CopyButton, Size, Tabs, Trouble, Waiting } from "../../parts";
import { endonym, sentence, size } from "../../format";
import { lang, t } from "../../i18n";
import { useAct, useLoad } from "../../load";
import { go, Link, repoPath } from "../../router";

const EXAMPLES = ["chat.example.1", "chat.example.2", "chat.example.3"] as const;

interface KnownModel {
  name: string;
  repo_id: string;
  file: string;
  size_bytes: number;
  licence: string;
  needed_bytes: number;
  fits: boolean;
  command: string;
  is_here: boolean;
}
interface FirstMinute {
  starter: { repo_id: string; languages: { language: string; prompts: string[] }[] } | null;
  memory_available_bytes: number;
  models: KnownModel[];
}

/** An empty conversation: what one could ask, and, when only the starter is there, how to get a strong model. */
export function Welcome({ model, name, onPick }: { model: Deployment; name: string; onPick: (text: string) => void }) {
  const first = useLoad<FirstMinute>("fust/v1/first-minute");
  if (first.waiting) return <Waiting what={t("waiting.running")} />;
  const starter = first.data?.starter;
  if (first.data && starter && starter.repo_id === model.repo_id) {
    return (
      <div class="examples stack">
        <StarterPrompts languages={starter.languages} onPick={onPick} />
        <Stronger first={first.data} />
      </div>
    );
  }
  return (
    <div class="examples">
      <p class="soft">{t("chat.empty", { model: name })}</p>
      <ul>
        {EXAMPLES.map((key) => (
          <li key={key}><button class="b" type="button" onClick={() => onPick(t(key))}>{t(key)}</button></li>
        ))}
      </ul>
    </div>
  );
}

/** The language to begin with: the reader's own where the model speaks it. */
function preferred(codes: string[]): string {
  const wanted = [lang.get(), ...navigator.languages].map((it) => it.slice(0, 2).toLowerCase());
  // An English page may be a stopgap for somebody whose language the page does not have.
  const own = wanted.slice(1).find((it) => codes.includes(it)) ?? wanted.find((it) => codes.includes(it));
  return own ?? codes[0] ?? "en";
}

function StarterPrompts({ languages, onPick }: { languages: { language: string; prompts: string[] }[]; onPick: (text: string) => void }) {
  const codes = languages.map((it) => it.language);
  const [now, setNow] = useState(() => preferred(codes));
  const chinese = lang.get() === "zh-CN" && !codes.includes("zh");
  return (
    <div>
      <p class="soft">{t("chat.starter")}</p>
      {chinese && <p class="note calm">{t("chat.starter.nochinese")}</p>}
      <Tabs<string> tabs={codes.map((id) => ({ id, label: sentence(endonym(id)) }))} now={now} label={t("chat.starter.languages")} onPick={setNow} />
      {languages.map(({ language, prompts }) => (
        <div key={language} role="tabpanel" id={`p-${language}`} aria-labelledby={`t-${language}`} hidden={language !== now} lang={language}>
          <ul>
            {prompts.slice(0, 3).map((prompt) => (
              <li key={prompt}><button class="b" type="button" onClick={() => onPick(prompt)}>{prompt}</button></li>
            ))}
          </ul>
        </div>
      ))}
    </div>
  );
}

/** Strong models under free licences: which fit here, and how they come. */
function Stronger({ first }: { first: FirstMinute }) {
  const act = useAct();
  const pull = (it: KnownModel): void =>
    void act.run(async () => {
      const run = await call<Run>("fust/v1/runs", { method: "POST", body: { kind: "pull", params: { repo_id: it.repo_id, type: "model", files: [it.file] } } });
      go(`jobs/${encodeURIComponent(run.id)}`);
    });
  return (
    <section class="sec" aria-labelledby="h-stronger">
      <h3 id="h-stronger">{t("chat.stronger")}</h3>
      <p class="small soft">{t("chat.stronger.note", { free: size(first.memory_available_bytes) })}</p>
      {act.problem && <Trouble problem={act.problem} />}
      <table class="cards-s pullable">
        <Columns of={[t("chat.model"), t("facet.licence"), [t("files.size"), "r"], t("chat.stronger.fits"), [t("files.act"), "unseen"]]} />
        <tbody>
          {first.models.map((it) => (
            <tr key={it.repo_id}>
              <th scope="row">
                {it.name}
                <p class="under command"><code>{it.command}</code><CopyButton text={it.command} bare label={t("chat.stronger.copy")} /></p>
              </th>
              <td class="whole" data-l={t("facet.licence")}>{it.licence}</td>
              <td class="r" data-l={t("files.size")}><Size of={it.size_bytes} /></td>
              <td data-l={t("chat.stronger.fits")}><span class={it.fits ? "st done" : "st idle"}>{it.fits ? t("chat.stronger.yes") : t("chat.stronger.no", { needed: size(it.needed_bytes) })}</span></td>
              <td class="r">
                {it.is_here ? <Link to={`models/${repoPath(it.repo_id)}`}>{t("chat.stronger.here")}</Link>
                  : <button class="b" type="button" disabled={act.busy} aria-label={t("chat.stronger.pull.it", { name: it.name })} onClick={() => pull(it)}>{t("chat.stronger.pull")}</button>}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
