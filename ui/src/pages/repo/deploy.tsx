import { call } from "../../api";
import { Columns, Empty, Section, Size, State, Trouble, Waiting } from "../../parts";
import { integer, size } from "../../format";
import { t } from "../../i18n";
import { useAct, useLoad } from "../../load";
import { Link } from "../../router";
import { serve, stop } from "../model";
import type { Panel } from "./tabs";

interface Option {
  file: string;
  engine: string;
  size_bytes: number;
  memory_bytes: number;
  context: number;
  slots: number;
  fits: "yes" | "smaller" | "no";
  error: string | null;
  chosen: boolean;
}
interface Plan {
  revision: string;
  room_bytes: number;
  items: Option[];
  why: string[];
  bases: string[];
  error: string | null;
}

/** What each file of a model would take here, which one would be served and why; and the buttons that serve it. */
export function DeployPanel({ repo, revision, serving }: Panel) {
  const loaded = useLoad<Plan>(`fust/v1/deployments/plan?repo_id=${encodeURIComponent(repo.repo_id)}&revision=${encodeURIComponent(revision)}`);
  const plan = loaded.data;
  if (loaded.problem) return <Trouble problem={loaded.problem} retry={() => void loaded.reload()} />;
  if (plan === undefined) return <Waiting what={t("waiting.plan")} />;
  return (
    <>
      {plan.bases.length > 0 && <Beside repo={repo} revision={revision} serving={serving} bases={plan.bases} />}
      {plan.error && <div class="note"><p>{plan.error}</p></div>}
      {plan.items.length === 0 && plan.bases.length === 0 && !plan.error && <Empty what={t("plan.none")} next={t("plan.none.next")} />}
      {plan.items.length > 0 && (
        <Section id="h-plan" title={t("plan.title")}>
          <p class="small soft">{t("plan.note", { room: size(plan.room_bytes) })}</p>
          <Options plan={plan} repo={repo} revision={revision} serving={serving} />
        </Section>
      )}
      {plan.why.length > 0 && (
        <Section id="h-plan-why" title={t("serving.why")}>
          <ul class="why small soft">{plan.why.map((line) => <li key={line}>{line}</li>)}</ul>
        </Section>
      )}
    </>
  );
}

type Given = Pick<Panel, "repo" | "revision" | "serving">;

function Options({ plan, repo, revision, serving }: Given & { plan: Plan }) {
  const act = useAct();
  const reload = serving?.reload ?? (async () => undefined);
  return (
    <>
      {act.problem && <Trouble problem={act.problem} />}
      <table class="cards-s">
        <Columns of={[t("files.file"), [t("files.size"), "r"], [t("plan.memory"), "r"], [t("plan.requests"), "r"], t("chat.stronger.fits"), [t("files.act"), "unseen"]]} />
        <tbody>
          {plan.items.map((it) => {
            // A file by its own name is a deployment of its own; the one that is chosen goes by the repo's name.
            const served = serving?.deployments.find((one) => one.file === it.file && one.engine === it.engine);
            const cannot = it.error !== null || it.fits === "no";
            return (
              <tr key={it.engine + it.file}>
                <th scope="row"><span class="mono">{it.file}</span><small class="block quiet">{it.engine}{it.chosen && <> · {t("plan.chosen")}</>}</small></th>
                <td class="r" data-l={t("files.size")}><Size of={it.size_bytes} /></td>
                <td class="r" data-l={t("plan.memory")}>{it.error ? "–" : <Size of={it.memory_bytes} />}</td>
                <td class="r" data-l={t("plan.requests")}>{it.context > 0 && !cannot ? t("plan.slots", { slots: it.slots, context: integer(it.context) }) : "–"}</td>
                <td data-l={t("chat.stronger.fits")}>{it.error ?? <span class={it.fits === "no" ? "st idle" : "st done"}>{t(`plan.fits.${it.fits}`)}</span>}</td>
                <td class="r">
                  {served ? (
                    <span class="row"><Link to={`deployments/${encodeURIComponent(served.id)}`}><State of={served.state} /></Link>
                      <button class="b bare" type="button" disabled={act.busy} aria-label={t("serve.stop.file", { path: it.file })} onClick={() => void act.run(() => stop(served, reload))}>{t("serve.stop.short")}</button>
                    </span>
                  ) : (
                    <button class={it.chosen ? "b go" : "b"} type="button" disabled={act.busy || cannot} aria-label={t("plan.deploy.file", { path: it.file })}
                      onClick={() => void act.run(() => serve(repo, { file: it.chosen ? null : it.file, engine: it.engine, revision }, reload))}>{t("plan.deploy")}</button>
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

/** An adapter goes beside its base, which is served with it. */
function Beside({ repo, revision, serving, bases }: Given & { bases: string[] }) {
  const act = useAct();
  const put = (): Promise<void> =>
    act.run(async () => {
      await call("fust/v1/deployments", { method: "POST", body: { repo_id: repo.repo_id, revision } });
      await serving?.reload();
    });
  return (
    <Section id="h-beside" title={t("plan.adapter")}>
      <p class="soft">{t("plan.adapter.note", { base: bases[0] ?? "" })}</p>
      {act.problem && <Trouble problem={act.problem} />}
      <p><button class="b go" type="button" disabled={act.busy} onClick={() => void put()}>{t("plan.deploy")}</button></p>
    </Section>
  );
}
