import { useId, useState } from "preact/hooks";
import type { TalkStatus } from "../hub";
import { Comment } from "./markdown";
import { Tabs } from "./index";
import { t } from "../i18n";

const SHAPES: Record<TalkStatus, string> = { open: "run", draft: "warn", merged: "done", closed: "idle" };

/** How a discussion stands, as a shape and a word. */
export function TalkState({ of }: { of: TalkStatus }) {
  return <span class={`st ${SHAPES[of] ?? "idle"}`}>{t(`talk.${of}`)}</span>;
}

/** A field for Markdown that can show what it will look like. */
export function Writing({ label, value, setValue, rows = 6, required }: { label: string; value: string; setValue: (next: string) => void; rows?: number; required?: boolean }) {
  const [side, setSide] = useState<"write" | "look">("write");
  const id = useId();
  return (
    <div class="writing">
      <Tabs of={id} now={side} label={t("writing.sides", { label })} onPick={setSide} tabs={[{ id: "write", label: t("writing.write") }, { id: "look", label: t("writing.look") }]} />
      <div role="tabpanel" id={`p-${id}${side}`} aria-labelledby={`t-${id}${side}`} tabIndex={side === "look" ? 0 : -1}>
        {side === "write" ? (
          <label>
            <span class="sr">{label}</span>
            <textarea rows={rows} required={required} maxLength={65_536} value={value} placeholder={t("writing.hint")} onInput={(event) => setValue(event.currentTarget.value)} />
          </label>
        ) : value.trim() === "" ? (
          <p class="small quiet">{t("writing.empty")}</p>
        ) : (
          <Comment text={value} />
        )}
      </div>
    </div>
  );
}
