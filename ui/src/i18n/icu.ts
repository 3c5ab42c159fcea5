/** Message templates: `{name}` and `{n, plural, =0 {…} one {…} other {…}}`, `#` being the number. Nothing else. */
export type Values = Record<string, string | number>;

/** Index of the brace that closes the one at `open`. */
function closing(text: string, open: number): number {
  let depth = 0;
  for (let at = open; at < text.length; at += 1) {
    if (text[at] === "{") depth += 1;
    else if (text[at] === "}" && (depth -= 1) === 0) return at;
  }
  throw new Error(`unbalanced braces: ${text}`);
}

export interface Plural {
  name: string;
  branches: Map<string, string>;
}

/** The parts of a plural's inside, or null when the braces hold a plain name. */
export function plural(inside: string): Plural | null {
  const head = /^\s*(\w+)\s*,\s*plural\s*,/.exec(inside);
  if (head === null) return null;
  const branches = new Map<string, string>();
  let at = head[0].length;
  for (;;) {
    const label = /^\s*(=\d+|\w+)\s*/.exec(inside.slice(at));
    if (label === null) break;
    const open = at + label[0].length;
    const close = closing(inside, open);
    branches.set(label[1] ?? "", inside.slice(open + 1, close));
    at = close + 1;
  }
  return { name: head[1] ?? "", branches };
}

/** Walks the top-level braces of a template: text pieces and insides. */
export function* pieces(template: string): Generator<{ text: string } | { inside: string }> {
  let from = 0;
  for (let open = template.indexOf("{"); open >= 0; open = template.indexOf("{", from)) {
    if (open > from) yield { text: template.slice(from, open) };
    const close = closing(template, open);
    yield { inside: template.slice(open + 1, close) };
    from = close + 1;
  }
  if (from < template.length) yield { text: template.slice(from) };
}

export function format(template: string, values: Values, locale: string): string {
  if (!template.includes("{")) return template;
  let out = "";
  for (const piece of pieces(template)) {
    if ("text" in piece) {
      out += piece.text;
      continue;
    }
    const choice = plural(piece.inside);
    if (choice === null) {
      out += String(values[piece.inside.trim()] ?? `{${piece.inside}}`);
      continue;
    }
    const n = Number(values[choice.name]);
    const rule = new Intl.PluralRules(locale).select(n);
    const branch = choice.branches.get(`=${n}`) ?? choice.branches.get(rule) ?? choice.branches.get("other") ?? "";
    const number = new Intl.NumberFormat(locale).format(n);
    out += format(branch.replaceAll("#", number), values, locale);
  }
  return out;
}
