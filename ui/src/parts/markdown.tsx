import createPurifier from "dompurify";
import { Marked, type Token, type TokensList } from "marked";
import { memo } from "preact/compat";
import { useMemo } from "preact/hooks";
import { t } from "../i18n";
import { Code } from "./index";

// Cards and answers are hostile input. Three fences: this list of what may stay, no attribute that names style,
// script or form, and the server's content security policy behind it.
const TAGS = (
  "p br hr h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong b i del s ins a img table thead tbody tfoot tr th td " +
  "caption details summary sub sup kbd samp var mark dl dt dd div span abbr q cite small"
).split(" ");
const ATTRIBUTES = ["href", "src", "alt", "title", "align", "start", "colspan", "rowspan", "width", "height", "open", "lang", "dir"];

const purifier = createPurifier(window);

/** Where relative addresses of a text lead: a folder of files on this server, or nowhere. */
export interface Roots {
  files: string | null;
}

let roots: Roots = { files: null };

/** The address inside the repository, or null when the text points elsewhere. */
function insideRepo(address: string): string | null {
  if (roots.files === null || address === "" || /^(?:[a-z][a-z0-9+.-]*:|\/|\\|#)/i.test(address)) return null;
  const folder = new URL(roots.files, location.origin);
  let full: URL;
  try {
    full = new URL(address, folder);
  } catch {
    return null;
  }
  return full.origin === location.origin && full.pathname.startsWith(folder.pathname) ? full.pathname : null;
}

function replaceImage(image: Element): void {
  const address = image.getAttribute("src") ?? "";
  const inside = insideRepo(address);
  if (inside !== null) {
    image.setAttribute("src", inside);
    image.setAttribute("loading", "lazy");
    if (!image.hasAttribute("alt")) image.setAttribute("alt", "");
    return;
  }
  // A picture on another host would tell that host who reads: a link instead, followed only on purpose.
  const name = image.getAttribute("alt") || t("markdown.image");
  const inLink = image.closest("a") !== null;
  const stand = document.createElement(inLink || !/^https?:/i.test(address) ? "span" : "a");
  stand.textContent = t("markdown.picture", { name });
  if (stand instanceof HTMLAnchorElement) {
    stand.href = address;
    away(stand);
  }
  image.replaceWith(stand);
}

function away(link: Element): void {
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noopener noreferrer nofollow");
}

function mendLink(link: Element): void {
  const address = link.getAttribute("href") ?? "";
  if (/^https?:/i.test(address)) away(link);
  else if (/^mailto:/i.test(address)) return;
  else {
    const inside = insideRepo(address);
    if (inside === null) link.replaceWith(...link.childNodes);
    else link.setAttribute("href", inside);
  }
}

/** Wide parts scroll in their own box, which the keyboard can reach. */
function boxWide(part: Element): void {
  if (part.tagName === "PRE") {
    part.setAttribute("tabindex", "0");
    part.classList.add("code");
    return;
  }
  const box = document.createElement("div");
  box.className = "scroll";
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", t("markdown.table"));
  part.replaceWith(box);
  box.append(part);
}

/** Headings of a text go below the page's own: its highest becomes h2, none is skipped. */
function levelHeadings(body: DocumentFragment, floor: number): void {
  const headings = [...body.querySelectorAll("h1,h2,h3,h4,h5,h6")];
  const highest = Math.min(...headings.map((heading) => Number(heading.tagName[1])));
  let last = floor - 1;
  for (const heading of headings) {
    const wanted = Math.min(Number(heading.tagName[1]) - highest + floor, last + 1, 6);
    last = wanted;
    const fresh = document.createElement(`h${wanted}`);
    fresh.append(...heading.childNodes);
    heading.replaceWith(fresh);
  }
}

export function safeHTML(html: string, where: Roots, floor: number): string {
  roots = where;
  const body = purifier.sanitize(html, {
    RETURN_DOM_FRAGMENT: true,
    ALLOWED_TAGS: [...TAGS, "h1"],
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|[^a-z]|[a-z+.-]+(?:[^a-z+.\-:]|$))/i,
  });
  body.querySelectorAll("img").forEach(replaceImage);
  body.querySelectorAll("a").forEach(mendLink);
  levelHeadings(body, floor);
  body.querySelectorAll("table,pre").forEach(boxWide);
  const holder = document.createElement("div");
  holder.append(body);
  return holder.innerHTML;
}

const marked = new Marked({
  gfm: true,
  renderer: {
    // The checkbox of a task list would be a form control without a name.
    checkbox({ checked }) {
      return checked ? "☑ " : "☐ ";
    },
  },
});

const Block = memo(function Block({ html }: { html: string }) {
  return <div class="block" dangerouslySetInnerHTML={{ __html: html }} />;
});

/** Front matter belongs to the machine, not to the reader. */
function withoutFrontMatter(text: string): string {
  return text.replace(/^\uFEFF?---\r?\n[\s\S]*?\r?\n---[ \t]*(?:\r?\n|$)/, "");
}

/** A whole document: a model or dataset card. */
export const Card = memo(function Card({ text, files, floor = 2 }: { text: string; files: string; floor?: number }) {
  const html = useMemo(() => safeHTML(marked.parse(withoutFrontMatter(text), { async: false }), { files }, floor), [text, files, floor]);
  return <div class="prose" dangerouslySetInnerHTML={{ __html: html }} />;
});

/** What somebody wrote in a discussion: as a card, but its links lead into no folder. */
export const Comment = memo(function Comment({ text, floor = 3 }: { text: string; floor?: number }) {
  const html = useMemo(() => safeHTML(marked.parse(text, { async: false, breaks: true }), { files: null }, floor), [text, floor]);
  return <div class="prose" dangerouslySetInnerHTML={{ __html: html }} />;
});

function blockOf(token: Token, links: TokensList["links"]): string {
  const one = Object.assign([token], { links }) as TokensList;
  return marked.parser(one);
}

/** An answer, possibly still growing: finished blocks are not drawn again, so a selection in them survives. */
export function Answer({ text }: { text: string }) {
  const tokens = marked.lexer(text);
  return (
    <div class="prose">
      {tokens.map((token, index) => {
        if (token.type === "space" || token.type === "def") return null;
        if (token.type === "code") return <Code key={index} text={String(token["text"])} label={languageOf(token) || t("markdown.code")} />;
        return <Drawn key={index} token={token} links={tokens.links} raw={token.raw} />;
      })}
    </div>
  );
}

function languageOf(token: Token): string {
  const named = "lang" in token && typeof token.lang === "string" ? token.lang : "";
  return /^[\w+#.-]{1,20}/.exec(named)?.[0] ?? "";
}

const Drawn = memo(
  function Drawn({ token, links }: { token: Token; links: TokensList["links"]; raw: string }) {
    return <Block html={safeHTML(blockOf(token, links), { files: null }, 3)} />;
  },
  (was, is) => was.raw === is.raw,
);
