import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Bell } from "./bell";
import { Pop } from "./pop";
import { useIsAdmin } from "./subnav";
import { bytes } from "../format";
import { t, useLang, type MessageKey } from "../i18n";
import { chooseLang, chooseTheme } from "../looks";
import { go, Link, usePlace } from "../router";
import { session, signOut, status } from "../session";
import { useStore } from "../store";
import { nextTheme, theme, type Theme } from "../theme";

const PLACES: [path: string, name: MessageKey][] = [
  ["", "place.home"],
  ["models", "place.models"],
  ["datasets", "place.datasets"],
  ["chat", "place.chat"],
  ["tune", "place.tune"],
  ["jobs", "place.jobs"],
  ["keys", "place.keys"],
];
/** Reached by Operate or the account's menu, not by the first line. */
const OTHERS: [path: string, name: MessageKey][] = [
  ["health", "place.health"],
  ["deployments", "place.deployments"],
  ["people", "place.people"],
  ["organisations", "place.organisations"],
  ["audit", "place.audit"],
  ["settings", "place.settings"],
  ["spaces", "place.spaces"],
  ["collections", "place.collections"],
  ["search", "search.title"],
];
const OPERATE = new Set(["health", "deployments", "people", "organisations", "audit"]);

function currentPlace(path: string): string | null {
  const first = path.split("/")[0] ?? "";
  if ([...PLACES, ...OTHERS].some(([place]) => place === first)) return first;
  return path.split("/").length > 1 ? "models" : null;
}

export function Masthead() {
  const { state } = useStore(session);
  const signedIn = state === "in";
  const { path } = usePlace();
  const now = currentPlace(path);
  const admin = useIsAdmin();
  const [open, setOpen] = useState(false);
  const close = (): void => setOpen(false);
  useEffect(close, [path]);
  return (
    <header class="mast">
      <div class="mast-row">
        <Link class="brand" to="" aria-label={t("brand.home")}>
          <svg viewBox="0 0 24 26" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="2">
            <path d="M1.5 7 22.5 2.5M7 5.8v4M17 3.7v4" />
            <path d="M2.5 10h9v6.5c0 3-2 5-4.5 6.5-2.5-1.5-4.5-3.5-4.5-6.5z" fill="currentColor" />
            <path d="M12.8 8h9v6.5c0 3-2 5-4.5 6.5-2.5-1.5-4.5-3.5-4.5-6.5z" />
          </svg>
          Fust
        </Link>
        {signedIn && (
          <nav class={open ? "nav open" : "nav"} id="nav" aria-label={t("nav.sections")}>
            {PLACES.map(([place, name]) => (
              <Link key={place} to={place} aria-current={place === now ? "page" : undefined} onGo={close}>
                {t(name as "place.home")}
              </Link>
            ))}
            <Link to={admin ? "health" : "deployments"} aria-current={now !== null && OPERATE.has(now) ? "page" : undefined} onGo={close}>
              {t("place.operate")}
            </Link>
          </nav>
        )}
        <div class="tools">
          {signedIn && <Find />}
          <LangButton />
          <ThemeButton />
          {signedIn && <Bell onOpen={close} />}
          {signedIn && <Account onOpen={close} />}
          {signedIn && (
            <button class="b menu" type="button" aria-expanded={open} aria-controls="nav" onClick={() => setOpen(!open)}>
              {t("nav.menu")}
            </button>
          )}
        </div>
      </div>
      <SubLine signedIn={signedIn} asks={state === "out"} place={now} path={path} />
    </header>
  );
}

function SubLine({ signedIn, asks, place, path }: { signedIn: boolean; asks: boolean; place: string | null; path: string }) {
  const machine = useStore(status)?.machine;
  const parts = path.split("/");
  const deep = place === "models" ? (parts[0] === "models" ? parts.slice(1) : parts) : place === null || place === "collections" || place === "deployments" ? [] : parts.slice(1);
  const isRepo = place === "models" || place === "datasets" || place === "spaces";
  const name = [...PLACES, ...OTHERS].find(([it]) => it === place)?.[1];
  let gauge = null;
  if (signedIn && machine !== undefined) {
    const total = bytes(machine.memory_total_bytes);
    const used = bytes(machine.memory_total_bytes - machine.memory_available_bytes, total.unit);
    gauge = <span class="gauge">{t("gauge.memory", { used: used.figure, total: total.figure, unit: total.unit })}</span>;
  }
  return (
    <div class="sub">
      {signedIn && name !== undefined && (parts.length > 1 ? <Link to={place ?? ""}>{t(name as "place.home")}</Link> : <b>{t(name as "place.home")}</b>)}
      {signedIn && deep.length > 0 && <b class="deep">{deep.map(decodeURIComponentSafely).at(isRepo ? 1 : -1)?.replace(/^([0-9a-f]{12})[0-9a-f]{28}$/, "$1")}</b>}
      {asks && <b>{t("signin.place")}</b>}
      {gauge}
    </div>
  );
}

function decodeURIComponentSafely(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Search over everything; "/" puts the cursor here from anywhere that is not a text field. */
function Find() {
  const field = useRef<HTMLInputElement>(null);
  useLayoutEffect(() => { // from the moment that the page is seen: who knows the key is fast
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      const at = event.target as HTMLElement;
      if (at.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName)) return;
      const aim = document.getElementById("search") ?? field.current;
      if (aim === null || aim.offsetParent === null) return;
      event.preventDefault();
      aim.focus();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return (
    <form
      class="find"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        go(`search?q=${encodeURIComponent(field.current?.value.trim() ?? "")}`);
      }}
    >
      <label>
        <span class="sr">{t("find.label")}</span>
        <input type="search" ref={field} placeholder={t("find.hint")} />
      </label>
    </form>
  );
}

function LangButton() {
  const other = useLang() === "en" ? "zh-CN" : "en";
  return (
    <button class="b bare" id="lang" type="button" lang={other} onClick={() => void chooseLang(other).catch(() => undefined)}>
      {other === "en" ? "English" : "中文"}
    </button>
  );
}

const THEME_NAMES: Record<Theme, "theme.system" | "theme.light" | "theme.dark"> = { system: "theme.system", light: "theme.light", dark: "theme.dark" };

function ThemeButton() {
  const now = useStore(theme);
  const next = nextTheme(now);
  const label = t("theme.button", { now: t(THEME_NAMES[now]), next: t(THEME_NAMES[next]) });
  return (
    <button class="b bare icon" id="theme" type="button" aria-label={label} title={label} data-now={now} onClick={() => void chooseTheme(nextTheme(theme.get())).catch(() => undefined)}>
      <svg class="i" viewBox="0 0 16 16" aria-hidden="true">
        <circle cx="8" cy="8" r="6" fill={now === "dark" ? "currentColor" : "none"} />
        {now === "system" && <path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor" />}
      </svg>
    </button>
  );
}

/** Who is signed in, and the way out. */
function Account({ onOpen }: { onOpen: () => void }) {
  const now = useStore(session);
  const [open, setOpen] = useState(false);
  if (now.state !== "in") return null;
  return (
    <Pop
      open={open}
      setOpen={(next) => {
        if (next) onOpen();
        setOpen(next);
      }}
      label={t("account.button", { name: now.user.name })}
      title={now.user.name}
      face={
        <svg class="i" viewBox="0 0 16 16" aria-hidden="true">
          <circle cx="8" cy="5.500" r="2.750" />
          <path d="M2.500 14c.5-3 2.700-4.500 5.500-4.500s5 1.500 5.500 4.500" />
        </svg>
      }
    >
      <p>
        {t("account.as")} <b>{now.user.name}</b>
      </p>
      {now.user.is_admin && <p class="small quiet">{t("account.admin")}</p>}
      <p><Link to={encodeURIComponent(now.user.name)} onGo={() => setOpen(false)}>{t("account.profile")}</Link></p>
      <p><Link to="settings" onGo={() => setOpen(false)}>{t("place.settings")}</Link></p>
      <button class="b" type="button" onClick={() => void signOut()}>
        {t("account.out")}
      </button>
    </Pop>
  );
}
