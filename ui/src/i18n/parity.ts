import { en } from "./en.ts";
import { pieces, plural } from "./icu.ts";
import { zh } from "./zh.ts";

/** Names of the fields a template uses, and what is wrong with it. */
function read(template: string, names: Set<string>, faults: string[]): void {
  for (const piece of pieces(template)) {
    if ("text" in piece) continue;
    const choice = plural(piece.inside);
    if (choice === null) {
      names.add(piece.inside.trim());
      continue;
    }
    names.add(choice.name);
    if (!choice.branches.has("other")) faults.push(`plural of ${choice.name} lacks "other"`);
    for (const branch of choice.branches.values()) read(branch, names, faults);
  }
}

/** Where the Chinese catalogue does not match the English one; empty when they agree. */
export function catalogueFaults(): string[] {
  const faults: string[] = [];
  const other = zh as Record<string, string>;
  for (const [key, text] of Object.entries(en)) {
    const translated = other[key];
    if (translated === undefined || translated === "") {
      faults.push(`${key}: no Chinese text`);
      continue;
    }
    const [mine, theirs, wrong] = [new Set<string>(), new Set<string>(), [] as string[]];
    read(text, mine, wrong);
    read(translated, theirs, wrong);
    for (const fault of wrong) faults.push(`${key}: ${fault}`);
    for (const name of mine) if (!theirs.has(name)) faults.push(`${key}: {${name}} is missing in Chinese`);
    for (const name of theirs) if (!mine.has(name)) faults.push(`${key}: {${name}} is only in Chinese`);
    if (/[\u4e00-\u9fff][,;!?]|[\u4e00-\u9fff]\.(?:\s|$)/.test(translated)) faults.push(`${key}: half-width punctuation in Chinese`);
  }
  for (const key of Object.keys(other)) if (!(key in en)) faults.push(`${key}: only in Chinese`);
  return faults;
}
