import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Said } from "../../chats/answer";
import { isImage, isPicture, readImage } from "../../chats/images";
import { MOST_BYTES, MOST_FILES, readText } from "../../chats/files";
import type { TextFile } from "../../chats/types";
import { size } from "../../format";
import { t } from "../../i18n";

interface Props {
  id: string;
  label: string;
  start?: Said;
  disabled: boolean;
  /** Whether the model reads images. */
  sees: boolean;
  busy: boolean;
  onSend: (said: Said) => void;
  onStop?: () => void;
  onCancel?: () => void;
}

/** Where a message is written: words, and text files or images beside them. */
export function Compose({ id, label, start, disabled, sees, busy, onSend, onStop, onCancel }: Props) {
  const [text, setText] = useState(start?.text ?? "");
  const [files, setFiles] = useState<TextFile[]>(start?.files ?? []);
  const held = useRef(files);
  const reading = useRef<Promise<void>>(Promise.resolve());
  const [waits, setWaits] = useState(0);
  const [refused, setRefused] = useState<string[]>([]);
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    // On a phone, focus would open the keyboard over the page.
    if (onCancel || matchMedia("(pointer: fine)").matches) field.current?.focus({ preventScroll: true });
  }, []);
  useLayoutEffect(() => {
    const area = field.current;
    if (area === null) return;
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight + 2, 320)}px`;
  }, [text]);

  const put = (next: TextFile[]): void => {
    held.current = next;
    setFiles(next);
  };
  /** In the order in which they were given, however long each takes to read; sending waits for them. */
  const attach = (chosen: File[]): void => {
    const found = Promise.all(chosen.map((it) => {
      if (!isPicture(it)) return readText(it);
      return sees ? readImage(it) : { refused: t("chat.image.blind", { name: it.name }) };
    }));
    setWaits((n) => n + 1);
    reading.current = reading.current.then(async () => add(await found)).catch(() => undefined).finally(() => setWaits((n) => n - 1));
  };
  const add = (read: (TextFile | { refused: string })[]): void => {
    const fresh = read.filter((it): it is TextFile => "text" in it);
    const bad = read.flatMap((it) => ("refused" in it ? [it.refused] : []));
    const all = [...held.current, ...fresh];
    if (all.length > MOST_FILES) bad.push(t("chat.file.many", { n: MOST_FILES }));
    put(all.slice(0, MOST_FILES));
    setRefused(bad);
  };
  const taken = (event: { currentTarget: HTMLInputElement }): void => {
    const chosen = [...(event.currentTarget.files ?? [])];
    event.currentTarget.value = "";
    attach(chosen);
  };
  const empty = (text.trim() === "" && files.length === 0) || waits > 0;
  const submit = (): void => {
    if (busy || disabled || empty) return;
    onSend({ text: text.trim(), files });
    setText("");
    put([]);
    setRefused([]);
  };
  return (
    <form
      class={onCancel ? "compose inplace" : "compose"}
      onSubmit={(event) => { event.preventDefault(); submit(); }}
      onDragOver={(event) => { if (event.dataTransfer?.types.includes("Files")) event.preventDefault(); }}
      onDrop={(event) => {
        if (!event.dataTransfer?.files.length) return;
        event.preventDefault();
        attach([...event.dataTransfer.files]);
      }}
    >
      <label for={id} class="sr">{label}</label>
      <textarea
        id={id}
        rows={2}
        ref={field}
        value={text}
        placeholder={t("chat.placeholder")}
        onInput={(event) => setText(event.currentTarget.value)}
        onPaste={(event) => {
          const pasted = [...(event.clipboardData?.files ?? [])];
          if (pasted.length === 0) return;
          event.preventDefault();
          attach(pasted);
        }}
        onKeyDown={(event) => {
          if (event.key === "Escape" && onCancel && !event.isComposing) {
            onCancel();
            return;
          }
          // While an input method composes, Enter chooses a word; Safari reports that only as key code 229.
          if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
          event.preventDefault();
          submit();
        }}
      />
      {files.length > 0 && (
        <ul class="chips">
          {files.map((file, index) => (
            <li key={`${file.name}${index}`} class="chip">
              {isImage(file) && <img class="thumb" src={file.text} alt="" />}
              <span class="cut">{file.name}</span> {!isImage(file) && <span class="quiet num">{size(new Blob([file.text]).size)}</span>}
              <button class="b bare icon" type="button" aria-label={t("chat.file.remove", { name: file.name })} onClick={() => put(files.filter((_, at) => at !== index))}>
                <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M4 4l8 8M12 4l-8 8" /></svg>
              </button>
            </li>
          ))}
        </ul>
      )}
      {refused.length > 0 && <div class="note" role="alert">{refused.map((why) => <p key={why}>{why}</p>)}</div>}
      <div class="hrow">
        <span class="row">
          <label class="b bare attach" title={t("chat.file.limit", { most: size(MOST_BYTES), n: MOST_FILES })}>
            <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M4 2h5l3 3v9H4zM9 2v3h3M6 8h4M6 11h4" /></svg>
            {t("chat.file.attach")} <span class="quiet">{t("chat.file.most", { most: size(MOST_BYTES) })}</span>
            <input
              class="sr"
              type="file"
              multiple
              accept="text/*,.md,.csv,.tsv,.json,.jsonl,.yaml,.yml,.toml,.xml,.html,.css,.js,.ts,.py,.java,.c,.h,.cpp,.rs,.go,.sh,.sql,.tex,.log,.srt,.po"
              onChange={taken}
            />
          </label>
          {sees && (
            <label class="b bare attach" title={t("chat.image.limit", { n: MOST_FILES })}>
              <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M2 3h12v10H2zM2 11l4-4 3 3 2-2 3 3M10.500 5.500h1v1h-1z" /></svg>
              {t("chat.image.attach")}
              <input class="sr" type="file" multiple accept="image/png,image/jpeg,image/webp,image/gif" onChange={taken} />
            </label>
          )}
          <span class="small quiet keys"><kbd>Enter</kbd> {t("chat.enter")}<kbd>Shift</kbd> + <kbd>Enter</kbd> {t("chat.shift")}</span>
        </span>
        <span class="row">
          {onCancel && <button class="b bare" type="button" onClick={onCancel}>{t("chat.edit.cancel")}</button>}
          {busy ? (
            <button class="b" type="button" onClick={onStop}>
              <svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M4 4h8v8H4z" fill="currentColor" /></svg>
              {t("chat.stop")}
            </button>
          ) : (
            <button class="b go" type="submit" disabled={disabled || empty}>{t("chat.send")}</button>
          )}
        </span>
      </div>
    </form>
  );
}
