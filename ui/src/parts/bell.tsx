import { useState } from "preact/hooks";
import { Time, Trouble, coded } from "./index";
import { Pop } from "./pop";
import { integer } from "../format";
import { t } from "../i18n";
import { useAct } from "../load";
import { markRead, notices, type Notice } from "../notices";
import { Link } from "../router";
import { useStore } from "../store";

const SHAPES: Record<Notice["state"], string> = { needs: "bad", failed: "bad", succeeded: "done" };

/** What needs the reader and what came to an end, behind one button with its count. */
export function Bell({ onOpen }: { onOpen: () => void }) {
  const now = useStore(notices);
  const act = useAct();
  const [open, setOpen] = useState(false);
  const unread = now?.unread ?? 0;
  const close = (): void => setOpen(false);
  const news = now?.items.some((it) => it.unread && it.state !== "needs") ?? false;
  return (
    <Pop
      open={open}
      setOpen={(next) => {
        if (next) onOpen();
        setOpen(next);
      }}
      label={t("bell.label", { n: unread })}
      wide
      face={
        <>
          <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M3 11.500h10c-1.200-1-1.500-2-1.500-4.500 0-2.500-1.300-4-3.500-4S4.500 4.500 4.500 7c0 2.500-.3 3.500-1.500 4.500zM6.500 13.500h3" /></svg>
          {unread > 0 && <span class="count num" aria-hidden="true">{unread > 99 ? "99+" : integer(unread)}</span>}
        </>
      }
    >
      <div class="hrow">
        <h2>{t("bell.title")}</h2>
        {news && <button class="b bare" type="button" disabled={act.busy} onClick={() => void act.run(markRead)}>{t("bell.read")}</button>}
      </div>
      {act.problem && <Trouble problem={act.problem} />}
      {(now?.items.length ?? 0) === 0 ? (
        <p class="quiet">{t("bell.none")}</p>
      ) : (
        <ul class="news">
          {now?.items.map((it) => (
            <li key={it.id} class={it.unread ? "unread" : undefined}>
              <p>
                <span class={`st ${SHAPES[it.state]}`}>{t(`bell.${it.state}`)}</span>
                {it.at && <Time at={it.at} />}
              </p>
              <p><Link to={it.href} onGo={close}>{it.message}</Link></p>
              {it.hint && it.unread && <p class="quiet">{coded(it.hint)}</p>}
            </li>
          ))}
        </ul>
      )}
    </Pop>
  );
}
