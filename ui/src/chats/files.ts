import { t } from "../i18n";
import { size } from "../format";
import type { TextFile } from "./types";

/** As the server has them (fust.feedback.types). */
export const MOST_BYTES = 256_000;
export const MOST_FILES = 5;

/** The text of a file, or why it cannot be attached. */
export async function readText(file: File): Promise<TextFile | { refused: string }> {
  const name = file.name.slice(-255) || "file.txt";
  if (file.size > MOST_BYTES) return { refused: t("chat.file.large", { name, size: size(file.size), most: size(MOST_BYTES) }) };
  let bytes: ArrayBuffer;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    return { refused: t("chat.file.unread", { name }) };
  }
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    // A binary file can be valid UTF-8 by chance; text holds no control characters but tab and the ends of lines.
    if (/[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/.test(text)) return { refused: t("chat.file.binary", { name }) };
    if (text.trim() === "") return { refused: t("chat.file.empty", { name }) };
    return { name, text };
  } catch {
    return { refused: t("chat.file.binary", { name }) };
  }
}
