import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { call, type Repo } from "../../api";
import { apiOf, placeOf } from "../../hub";
import { Empty, Section, Trouble } from "../../parts";
import { t } from "../../i18n";
import { useAct } from "../../load";
import { go, Link } from "../../router";
import { LargeFiles, Squash } from "./storage";
import type { Panel } from "./tabs";

export interface SettingsSection {
  id: string;
  shown: (repo: Repo) => boolean;
  show: (props: { repo: Repo; reload: () => Promise<void> }) => ComponentChildren;
}

const may = (what: Repo["may"][number]) => (repo: Repo): boolean => repo.may.includes(what);

/** The settings of a repository, in their order, each for those who may. A further one (webhooks, access …) is a line here. */
export const SETTINGS: SettingsSection[] = [
  { id: "visibility", shown: may("settings"), show: Visibility },
  { id: "branches", shown: may("settings"), show: Protected },
  { id: "name", shown: may("delete"), show: Name },
  { id: "copy", shown: may("push"), show: Copy },
  { id: "storage", shown: may("push"), show: LargeFiles },
  { id: "squash", shown: may("push"), show: Squash },
  { id: "delete", shown: may("delete"), show: Remove },
];

export function SettingsPanel({ repo, reload }: Panel) {
  const shown = SETTINGS.filter((section) => section.shown(repo));
  if (shown.length === 0) return <Empty what={t("reposet.none")} />;
  return <div class="settings">{shown.map((section) => <section.show key={section.id} repo={repo} reload={reload} />)}</div>;
}

interface SectionProps {
  repo: Repo;
  reload: () => Promise<void>;
}

function Visibility({ repo, reload }: SectionProps) {
  const [wanted, setWanted] = useState<boolean | null>(null); // until the server has said so
  const act = useAct();
  const hidden = wanted ?? repo.private;
  const set = (next: boolean): Promise<void> =>
    act.run(async () => {
      setWanted(next);
      try {
        await call(`${apiOf(repo)}/settings`, { method: "PUT", body: { private: next } });
        await reload();
      } finally {
        setWanted(null);
      }
    });
  return (
    <Section id="h-visibility" title={t("reposet.visibility")}>
      <div class="form">
        <fieldset disabled={act.busy}>
          <legend class="sr">{t("reposet.visibility")}</legend>
          <label class="tick"><input type="radio" name="visibility" checked={!hidden} onChange={() => void set(false)} /><span>{t("reposet.public")}</span></label>
          <label class="tick"><input type="radio" name="visibility" checked={hidden} onChange={() => void set(true)} /><span>{t("reposet.private")}</span></label>
        </fieldset>
        {act.problem && <Trouble problem={act.problem} />}
      </div>
    </Section>
  );
}

function Protected({ repo, reload }: SectionProps) {
  const first = repo.protected.join("\n");
  const [text, setText] = useState(first);
  const [saved, setSaved] = useState(false);
  const act = useAct();
  const save = (): Promise<void> =>
    act.run(async () => {
      const patterns = text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
      await call(`${apiOf(repo)}/settings`, { method: "PUT", body: { protectedBranches: patterns } });
      await reload();
      setSaved(true);
    });
  return (
    <Section id="h-branches" title={t("reposet.branches")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void save(); }}>
        <p class="small">{t("reposet.default")} <code>main</code>{t("list.stop")} <Link to={`${placeOf(repo)}/refs`}>{t("refs.title")}</Link></p>
        <label><span>{t("reposet.protected")}</span><textarea class="mono" rows={3} spellcheck={false} value={text} onInput={(event) => { setText(event.currentTarget.value); setSaved(false); }} /></label>
        <p class="small quiet">{t("reposet.protected.note")}</p>
        {act.problem && <Trouble problem={act.problem} />}
        <p class="row"><button class="b" type="submit" disabled={act.busy || text === first}>{t("settings.save")}</button><span class="small quiet" role="status">{saved ? t("settings.saved") : ""}</span></p>
      </form>
    </Section>
  );
}

function Name({ repo }: SectionProps) {
  const [owner = "", name = ""] = repo.repo_id.split("/");
  const [space, setSpace] = useState(owner);
  const [word, setWord] = useState(name);
  const act = useAct();
  const to = `${space.trim()}/${word.trim()}`;
  const move = (): Promise<void> =>
    act.run(async () => {
      await call("api/repos/move", { method: "POST", body: { fromRepo: repo.repo_id, toRepo: to, type: repo.type } });
      go(`${placeOf({ type: repo.type, repo_id: to })}?tab=settings`);
    });
  return (
    <Section id="h-name" title={t("reposet.name")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void move(); }}>
        <label><span>{t("reposet.owner")}</span><input type="text" required maxLength={96} autocapitalize="off" spellcheck={false} value={space} onInput={(event) => setSpace(event.currentTarget.value)} /></label>
        <label><span>{t("keys.name")}</span><input type="text" required maxLength={96} autocapitalize="off" spellcheck={false} value={word} onInput={(event) => setWord(event.currentTarget.value)} /></label>
        <p class="small quiet">{t("reposet.name.note")}</p>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b" type="submit" disabled={act.busy || to === repo.repo_id}>{t("reposet.move")}</button>
      </form>
    </Section>
  );
}

function Copy({ repo }: SectionProps) {
  return (
    <Section id="h-copy" title={t("reposet.copy")}>
      <div class="form">
        <p class="small">{t("reposet.copy.note")}</p>
        <Link class="b" to={`${placeOf(repo)}/duplicate`}>{t("reposet.copy.go")}</Link>
      </div>
    </Section>
  );
}

function Remove({ repo }: SectionProps) {
  const [typed, setTyped] = useState("");
  const act = useAct();
  const remove = (): Promise<void> =>
    act.run(async () => {
      await call("api/repos/delete", { method: "DELETE", body: { name: repo.repo_id, type: repo.type } });
      go(`${repo.type}s`);
    });
  return (
    <Section id="h-delete" title={t("orgs.delete.title")}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void remove(); }}>
        <p class="small">{t("reposet.delete.note")}</p>
        <label><span>{t("reposet.delete.type", { name: repo.repo_id })}</span><input type="text" autocomplete="off" autocapitalize="off" spellcheck={false} value={typed} onInput={(event) => setTyped(event.currentTarget.value)} /></label>
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b warn" type="submit" disabled={act.busy || typed !== repo.repo_id}>{t("reposet.delete.go")}</button>
      </form>
    </Section>
  );
}
