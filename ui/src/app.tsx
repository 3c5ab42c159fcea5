import { Component, type ComponentChildren } from "preact";
import { Masthead } from "./parts/masthead";
import { Trouble, Waiting } from "./parts";
import { t, useLang } from "./i18n";
import { AuditPage } from "./pages/audit";
import { ChatPage } from "./pages/chat";
import { CollectionPage } from "./pages/collection";
import { CollectionsPage } from "./pages/collections";
import { CommitPage } from "./pages/commit";
import { DeploymentPage, DeploymentsPage } from "./pages/deployments";
import { DevicePage } from "./pages/device";
import { FilePage } from "./pages/file";
import { HealthPage } from "./pages/health";
import { HomePage } from "./pages/home";
import { JobPage } from "./pages/job";
import { JobsPage } from "./pages/jobs";
import { KeysPage } from "./pages/keys";
import { NewRepoPage } from "./pages/newrepo";
import { NotFoundPage } from "./pages/notfound";
import { OrganisationPage, OrganisationsPage } from "./pages/organisations";
import { PeoplePage } from "./pages/people";
import { ProfilePage } from "./pages/profile";
import { ReferencePage } from "./pages/reference";
import { CollectPage } from "./pages/repo/collect";
import { ComparePage } from "./pages/repo/compare";
import { DuplicatePage } from "./pages/repo/duplicate";
import { EditPage } from "./pages/repo/edit";
import { NewTalkPage } from "./pages/repo/newtalk";
import { DeleteFilePage, FileHistoryPage } from "./pages/repo/onefile";
import { RefsPage } from "./pages/repo/refs";
import { RepoPage } from "./pages/repo/page";
import { TalkPage } from "./pages/repo/talk";
import { UploadPage } from "./pages/repo/upload";
import { ReposPage } from "./pages/repos";
import { SearchPage } from "./pages/search";
import { SettingsPage } from "./pages/settings";
import { JoinPage } from "./pages/join";
import { SignInPage } from "./pages/signin";
import type { RepoType } from "./api";
import { typeOf } from "./hub";
import { TunePage } from "./pages/tune/wizard";
import { usePlace } from "./router";
import { ProviderFault } from "./parts/provider";
import { askSession, session } from "./session";
import { useStore } from "./store";

// Places of the server that one-part and two-part paths must not be taken for.
const PLACES = new Set(
  "models datasets chat jobs keys reference spaces fust api v1 settings health people organisations audit join device collections search deployments new static tune".split(" "),
);

function Page() {
  const { path, query } = usePlace();
  const parts = path.split("/").map(decode);
  const [first, second] = parts;
  if (path === "") return <HomePage />;
  if (parts.length === 1) {
    if (first === "models") return <ReposPage key="model" type="model" />;
    if (first === "datasets") return <ReposPage key="dataset" type="dataset" />;
    if (first === "spaces") return <ReposPage key="space" type="space" />;
    if (first === "collections") return <CollectionsPage />;
    if (first === "new") return <NewRepoPage key={query.get("type") ?? ""} />;
    if (first === "search") return <SearchPage />;
    if (first === "settings") return <SettingsPage />;
    if (first === "health") return <HealthPage />;
    if (first === "people") return <PeoplePage />;
    if (first === "organisations") return <OrganisationsPage />;
    if (first === "audit") return <AuditPage />;
    if (first === "chat") return <ChatPage />;
    if (first === "jobs") return <JobsPage />;
    if (first === "deployments") return <DeploymentsPage />;
    if (first === "device") return <DevicePage />;
    if (first === "tune") return <TunePage />;
    if (first === "keys") return <KeysPage />;
    if (first === "reference") return <ReferencePage />;
    if (first && !PLACES.has(first)) return <ProfilePage key={first} name={first} />;
  }
  if (parts.length === 2 && first && second) {
    if (first === "deployments") return <DeploymentPage key={second} id={second} />;
    if (first === "jobs") return <JobPage key={second} id={second} />;
    if (first === "organisations") return <OrganisationPage key={second} name={second} />;
  }
  if (first === "collections" && parts.length === 3) return <CollectionPage key={path} slug={parts.slice(1).join("/")} />;
  return <RepoPlace path={path} parts={parts} />;
}

/** What belongs to a repository; a model's address may leave out "models", as on the Hugging Face Hub. */
function RepoPlace({ path, parts }: { path: string; parts: string[] }) {
  const named = typeOf(parts[0]);
  const type = named ?? "model";
  const [owner, name, what, ...rest] = named ? parts.slice(1) : parts;
  if (!owner || !name || (!named && PLACES.has(owner))) return <NotFoundPage />;
  const repoId = `${owner}/${name}`;
  if (what === undefined) return <RepoPage key={path} type={type} repoId={repoId} />;
  return <RepoPart key={path} type={type} repoId={repoId} what={what} rest={rest} />;
}

/** A discussion, a commit, a file of a repository, or its change. */
function RepoPart({ type, repoId, what, rest }: { type: RepoType; repoId: string; what: string; rest: string[] }) {
  const [first, ...more] = rest;
  const file = more.join("/");
  if (what === "discussions") {
    if (first === undefined) return <RepoPage type={type} repoId={repoId} at="community" />;
    if (more.length > 0) return <NotFoundPage />;
    if (first === "new" || first === "propose") return <NewTalkPage type={type} repoId={repoId} request={first === "propose"} />;
    if (/^[1-9]\d{0,8}$/.test(first)) return <TalkPage type={type} repoId={repoId} num={Number(first)} />;
  }
  if (first === undefined && what === "refs") return <RefsPage type={type} repoId={repoId} />;
  if (first === undefined && what === "collect") return <CollectPage type={type} repoId={repoId} />;
  if (first === undefined && what === "duplicate") return <DuplicatePage type={type} repoId={repoId} />;
  if (first === undefined) return <NotFoundPage />;
  if (file === "") {
    if (what === "commit") return <CommitPage type={type} repoId={repoId} oid={first} />;
    if (what === "new") return <EditPage type={type} repoId={repoId} revision={first} file="" />;
    if (what === "compare") return <ComparePage type={type} repoId={repoId} range={first} />;
    if (what === "upload") return <UploadPage type={type} repoId={repoId} revision={first} />;
  } else {
    if (what === "blob") return <FilePage type={type} repoId={repoId} revision={first} file={file} />;
    if (what === "history") return <FileHistoryPage type={type} repoId={repoId} revision={first} file={file} />;
    if (what === "delete") return <DeleteFilePage type={type} repoId={repoId} revision={first} file={file} />;
    if (what === "edit") return <EditPage type={type} repoId={repoId} revision={first} file={file} />;
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
          <ProviderFault />
          {now.state === "in" && (path === "join" ? <JoinPage /> : <Page />)}
          {now.state === "out" && (path === "join" ? <JoinPage /> : <SignInPage />)}
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
