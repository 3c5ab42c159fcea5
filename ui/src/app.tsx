import { Component, type ComponentChildren } from "preact";
import { Masthead } from "./parts/masthead";
import { Trouble, Waiting } from "./parts";
import { t, useLang } from "./i18n";
import { ChatPage } from "./pages/chat";
import { DatasetPage } from "./pages/dataset";
import { HomePage } from "./pages/home";
import { JobPage } from "./pages/job";
import { JobsPage } from "./pages/jobs";
import { KeysPage } from "./pages/keys";
import { ModelPage } from "./pages/model";
import { ModelsPage } from "./pages/models";
import { NotFoundPage } from "./pages/notfound";
import { ReferencePage } from "./pages/reference";
import { SignInPage } from "./pages/signin";
import { usePlace } from "./router";
import { askSession, session } from "./session";
import { useStore } from "./store";

// Places of the server that one-part and two-part paths must not be taken for.
const PLACES = new Set(["models", "datasets", "chat", "jobs", "keys", "reference", "spaces", "fust", "api", "v1"]);

function Page() {
  const { path } = usePlace();
  const parts = path.split("/").map(decode);
  const [first, second, third] = parts;
  if (path === "") return <HomePage />;
  if (parts.length === 1) {
    if (first === "models") return <ModelsPage />;
    if (first === "chat") return <ChatPage />;
    if (first === "jobs") return <JobsPage />;
    if (first === "keys") return <KeysPage />;
    if (first === "reference") return <ReferencePage />;
  }
  if (parts.length === 2 && first && second) {
    if (first === "jobs") return <JobPage key={second} id={second} />;
    if (!PLACES.has(first)) return <ModelPage key={path} repoId={`${first}/${second}`} />;
  }
  if (parts.length === 3 && second && third) {
    if (first === "models") return <ModelPage key={path} repoId={`${second}/${third}`} />;
    if (first === "datasets") return <DatasetPage key={path} repoId={`${second}/${third}`} />;
  }
  return <NotFoundPage />;
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** A fault of the page itself stays on the page: what happened, and a way on. */
class Guard extends Component<{ children: ComponentChildren; at: string }, { fault: string | null }> {
  override state = { fault: null as string | null };
  override componentDidCatch(error: unknown): void {
    this.setState({ fault: error instanceof Error ? error.message : String(error) });
  }
  override componentDidUpdate(was: { at: string }): void {
    if (was.at !== this.props.at && this.state.fault !== null) this.setState({ fault: null });
  }
  override render() {
    if (this.state.fault === null) return this.props.children;
    return (
      <div class="page wrap">
        <h1>{t("fault.title")}</h1>
        <p class="sum">{t("fault.sum")}</p>
        <p class="small quiet">
          <code>{this.state.fault}</code>
        </p>
        <p>
          <button class="b" type="button" onClick={() => location.reload()}>
            {t("fault.reload")}
          </button>
        </p>
      </div>
    );
  }
}

export function App() {
  useLang();
  const now = useStore(session);
  const { path } = usePlace();
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>
        {t("skip")}
      </a>
      <Masthead />
      <main id="main" tabIndex={-1}>
        <Guard at={path}>
          {now.state === "in" && <Page />}
          {now.state === "out" && <SignInPage />}
          {now.state === "asking" && (
            <div class="page wrap">
              <h1 class="sr">Fust</h1>
              <Waiting what={t("waiting.server")} />
            </div>
          )}
          {now.state === "lost" && (
            <div class="page wrap">
              <h1>{t("lost.title")}</h1>
              <Trouble problem={now.problem} retry={() => void askSession()} />
            </div>
          )}
        </Guard>
      </main>
      <footer class="colophon">
        <div>
          <span>Fust {now.state === "in" || now.state === "out" ? now.version : ""}</span>
          <span>Apache-2.0</span>
          <span>{t("foot.here")}</span>
          <a href="reference">{t("reference.title")}</a>
        </div>
      </footer>
    </>
  );
}
