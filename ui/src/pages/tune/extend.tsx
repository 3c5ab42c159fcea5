import { useState } from "preact/hooks";
import { call, type Run } from "../../api";
import { Section, Sure, Trouble } from "../../parts";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { go } from "../../router";
import { BUDGETS, much } from "./wizard";

/** More of a tuning that has ended: for a time, from its last checkpoint, as a job of its own. */
export function Extend({ run }: { run: Run }) {
  const [budget, setBudget] = useState("30m");
  const act = useAct();
  const start = (): Promise<void> =>
    act.run(async () => {
      const next = await call<Run>("fust/v1/runs", { method: "POST", body: { kind: "tune", params: { extends: run.id, budget } } });
      go(`jobs/${encodeURIComponent(next.id)}`);
    });
  return (
    <Section id="h-extend" title={t("tune.extend")}>
      <p class="soft">{t("tune.extend.note")}</p>
      {act.problem && <Trouble problem={act.problem} />}
      <div class="filters">
        <label>
          <span>{t("tune.budget")}</span>
          <select value={budget} onChange={(event) => setBudget(event.currentTarget.value)}>
            {BUDGETS.filter((it) => it !== "").map((it) => <option key={it} value={it}>{much(it)}</option>)}
          </select>
        </label>
        <Sure label={t("tune.extend.start")} ask={t("tune.extend.sure", { to: String(run.result?.["repo_id"] ?? "") })} busy={act.busy} onSure={() => void start()} />
      </div>
    </Section>
  );
}
