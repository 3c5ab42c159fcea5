import type { ComponentChildren } from "preact";
import type { Repo, RepoType } from "../../api";
import type { MessageKey } from "../../i18n";
import type { Serving } from "../model";
import { integer } from "../../format";
import { AccessPanel } from "./access";
import { CardPanel } from "./card";
import { DeployPanel } from "./deploy";
import { Community } from "./community";
import { FilesPanel } from "./files";
import { SETTINGS, SettingsPanel } from "./settings";
import { Rows } from "../../parts/rows";
import { AppPanel } from "../space";
import { UsePanel } from "../model";
import { Versions } from "../../parts/versions";

/** What a tab's panel is given. */
export interface Panel {
  repo: Repo;
  /** The revision that the address names; the newest of `main` when it names none. */
  revision: string;
  /** Path of the page, without its query. */
  page: string;
  reload: () => Promise<void>;
  /** How a model is served here; undefined for datasets and spaces. */
  serving: Serving | undefined;
}

export interface RepoTab {
  /** The word in the address: `?tab=files`. */
  id: string;
  label: MessageKey;
  /** The types that have it; all when left out. */
  types?: RepoType[];
  /** Whether the reader has it; everyone when left out. */
  shown?: (repo: Repo) => boolean;
  count?: (repo: Repo) => string | undefined;
  /** Takes the whole width: no facts beside it. */
  wide?: boolean;
  panel: (props: Panel) => ComponentChildren;
}

/** The tabs of a repository's page, in their order. A further one (access, evaluations …) is a line here. */
export const REPO_TABS: RepoTab[] = [
  { id: "card", label: "tab.card", panel: CardPanel },
  { id: "app", label: "tab.app", types: ["space"], wide: true, panel: AppPanel },
  { id: "rows", label: "tab.rows", types: ["dataset"], shown: (repo) => repo.open, wide: true, panel: Rows },
  { id: "files", label: "tab.files", count: (repo) => integer(repo.files.length), panel: FilesPanel },
  { id: "versions", label: "tab.versions", panel: Versions },
  { id: "community", label: "tab.community", shown: (repo) => repo.open, count: (repo) => (repo.discussions_open > 0 ? integer(repo.discussions_open) : undefined), wide: true, panel: Community },
  { id: "deploy", label: "tab.deploy", types: ["model"], shown: (repo) => repo.open, wide: true, panel: DeployPanel },
  { id: "use", label: "tab.use", types: ["model"], panel: UsePanel },
  { id: "access", label: "tab.access", shown: (repo) => repo.may.includes("push"), count: (repo) => (repo.access_pending > 0 ? integer(repo.access_pending) : undefined), wide: true, panel: AccessPanel },
  { id: "settings", label: "tab.settings", shown: (repo) => SETTINGS.some((section) => section.shown(repo)), wide: true, panel: SettingsPanel },
];
