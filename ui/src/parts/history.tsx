import { useEffect, useState } from "preact/hooks";
import { askHistory, history, openFor, setHistory } from "../chats/store";
import { Trouble } from "./index";
import { t } from "../i18n";
import { useAct } from "../load";
import { useStore } from "../store";

/** The switch of a user's history, with what it means. */
export function KeepHistory({ user }: { user: string }) {
  const keep = useStore(history);
  const act = useAct();
  const [wanted, setWanted] = useState<boolean | null>(null);
  useEffect(() => {
    openFor(user);
    if (history.get() === null) void act.run(askHistory);
  }, [user]);
  return (
    <>
      <label class="tick">
        <input type="checkbox" checked={wanted ?? keep !== false} disabled={keep === null} onChange={(event) => {
          const next = event.currentTarget.checked;
          setWanted(next);
          void act.run(() => setHistory(next)).finally(() => setWanted(null));
        }} />
        <span>{t("chat.history.keep")}</span>
      </label>
      <p class="small quiet">{keep === false ? t("chat.history.off.note") : t("chat.history.note")}</p>
      {act.problem && <Trouble problem={act.problem} />}
    </>
  );
}
