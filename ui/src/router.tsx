import type { ComponentChildren } from "preact";
import { createStore, useStore } from "./store";

/** Path of the page's root, "/" or "/some/prefix/": the server writes it into <base href>. */
export const basePath = new URL("./", document.baseURI).pathname;

export interface Place {
  /** Path below the root, without slashes at its ends: "" is Home. */
  path: string;
  query: URLSearchParams;
}

function here(): Place {
  const full = location.pathname;
  const below = full.startsWith(basePath) ? full.slice(basePath.length) : full.slice(1);
  return { path: below.replace(/^\/+|\/+$/g, ""), query: new URLSearchParams(location.search) };
}

const place = createStore<Place>(here());
addEventListener("popstate", () => place.set(here()));

export const usePlace = (): Place => useStore(place);

/** Address below the root: `url("models/a/b")`; a leading slash is ignored. */
export function url(path: string): string {
  return basePath + path.replace(/^\/+/, "");
}

/** Absolute address below the root, for snippets. */
export function absoluteURL(path: string): string {
  return new URL(url(path), location.origin).href;
}

/** Path of a repository id, each part escaped. */
export function repoPath(repoId: string): string {
  return repoId.split("/").map(encodeURIComponent).join("/");
}

export function go(path: string, how: "push" | "replace" = "push"): void {
  const moved = path.split("?")[0] !== place.get().path;
  history[how === "push" ? "pushState" : "replaceState"](null, "", url(path));
  place.set(here());
  if (moved) {
    scrollTo(0, 0);
    document.getElementById("main")?.focus({ preventScroll: true });
  }
}

interface LinkProps {
  to: string;
  children: ComponentChildren;
  onGo?: () => void;
  class?: string;
  title?: string;
  "aria-label"?: string;
  "aria-current"?: "page" | "true";
}

/** A link inside the page: keeps modified clicks (new tab, download) to the browser. */
export function Link({ to, children, onGo, ...rest }: LinkProps) {
  return (
    <a
      {...rest}
      href={url(to)}
      onClick={(event) => {
        if (event.defaultPrevented || event.button !== 0) return;
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
        event.preventDefault();
        onGo?.();
        go(to.replace(/^\/+/, ""));
      }}
    >
      {children}
    </a>
  );
}
