import { t } from "../i18n";
import type { TextFile } from "./types";

/** As the server has them (fust.feedback.types), in characters. */
const MOST = 256_000;
/** Pixels of a side: projectors look at about a megapixel. */
const SIDES = [1024, 768, 512];
const QUALITIES = [0.85, 0.7, 0.5];

const PICTURE = /^data:image\/jpeg;base64,[A-Za-z0-9+/]+=*$/;

/** Whether an attached file is an image: its text is the URL that holds it. */
export const isImage = (file: TextFile): boolean => PICTURE.test(file.text);

/** Whether somebody chose an image, by what the browser calls it. */
export const isPicture = (file: File): boolean => file.type.startsWith("image/") && file.type !== "image/svg+xml";

/** An image as JPEG, made as small as a message may carry, or why it cannot be attached. */
export async function readImage(file: File): Promise<TextFile | { refused: string }> {
  const name = file.name.slice(-255) || "image.jpg";
  let picture: ImageBitmap;
  try {
    picture = await createImageBitmap(file);
  } catch {
    return { refused: t("chat.image.unread", { name }) };
  }
  try {
    for (const side of SIDES) {
      for (const quality of QUALITIES) {
        const text = drawn(picture, side, quality);
        if (text.length <= MOST && PICTURE.test(text)) return { name, text };
      }
    }
    return { refused: t("chat.image.unread", { name }) };
  } finally {
    picture.close();
  }
}

function drawn(picture: ImageBitmap, side: number, quality: number): string {
  const scale = Math.min(1, side / Math.max(picture.width, picture.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const paper = canvas.getContext("2d");
  if (paper === null) return "";
  paper.fillStyle = "#fff"; // JPEG has nothing transparent
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", quality);
}
