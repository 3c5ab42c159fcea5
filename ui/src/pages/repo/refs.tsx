import { useState } from "preact/hooks";
import { call, type Page, type Ref, type Repo, type RepoType } from "../../api";
import { apiOf, filesOf, placeOf, viewOf } from "../../hub";
import { Head, Section, Sure, Trouble, Waiting } from "../../parts";
import { RefPicker } from "../../parts/versions";
import { t } from "../../i18n";
import { useAct, useLoad } from "../../load";
import { Link } from "../../router";
import { RepoKick, RepoMissing, useRepo } from "./load";

/** The branches and tags of a repository: made, compared and deleted. */
export function RefsPage({ type, repoId }: { type: RepoType; repoId: string }) {
  const loaded = useRepo(type, repoId, { files: false });
  const repo = loaded.data;
  if (repo === undefined) return <RepoMissing type={type} repoId={repoId} loaded={loaded} />;
  return <Refs repo={repo} />;
}

function Refs({ repo }: { repo: Repo }) {
  const refs = useLoad<Page<Ref>>(`${viewOf(repo)}/refs`);
  const writes = repo.may.includes("push");
  const lists = [["branch", t("refs.branches")], ["tag", t("refs.tags")]] as const;
  return (
    <div class="page wrap">
      <Head kick={<RepoKick type={repo.type} repoId={repo.repo_id}> / <Link to={`${placeOf(repo)}?tab=versions`}>{t("tab.versions")}</Link></RepoKick>} title={t("refs.title")} sum={t("refs.sum")} />
      {refs.problem && <Trouble problem={refs.problem} retry={() => void refs.reload()} />}
      {refs.waiting && <Waiting what={t("waiting.versions")} />}
      {refs.data && (
        <div class="split">
          <div class="stack-l">
            {lists.map(([kind, title]) => (
              <Section key={kind} id={`h-${kind}`} title={title}>
                <RefTable repo={repo} items={refs.data?.items.filter((it) => it.kind === kind) ?? []} writes={writes} reload={refs.reload} />
              </Section>
            ))}
          </div>
          {writes && (
            <aside class="aside" aria-label={t("refs.make")}>
              <MakeRef repo={repo} kind="branch" refs={refs.data.items} reload={refs.reload} />
              <MakeRef repo={repo} kind="tag" refs={refs.data.items} reload={refs.reload} />
            </aside>
          )}
        </div>
      )}
    </div>
  );
}

function RefTable({ repo, items, writes, reload }: { repo: Repo; items: Ref[]; writes: boolean; reload: () => Promise<void> }) {
  const act = useAct();
  const remove = (ref: Ref): Promise<void> =>
    act.run(async () => {
      await call(`${apiOf(repo)}/${ref.kind}/${encodeURIComponent(ref.name)}`, { method: "DELETE" });
      await reload();
    });
  if (items.length === 0) return <p class="small quiet logempty">{t("refs.none")}</p>;
  return (
    <>
      {act.problem && <Trouble problem={act.problem} />}
      <table class="cards-s">
        <thead>
          <tr><th scope="col">{t("keys.name")}</th><th scope="col">{t("versions.version")}</th><th scope="col" class="r"><span class="sr">{t("files.act")}</span></th></tr>
        </thead>
        <tbody>
          {items.map((ref) => (
            <tr key={ref.name}>
              <th scope="row" class="mono"><Link to={filesOf(repo, ref.name)}>{ref.name}</Link>{ref.name === "main" && ref.kind === "branch" && <> <span class="tag">{t("refs.default")}</span></>}</th>
              <td class="mono" data-l={t("versions.version")}><Link to={`${placeOf(repo)}/commit/${ref.oid}`}>{ref.oid.slice(0, 8)}</Link></td>
              <td class="r">
                <span class="row">
                  {ref.name !== "main" && <Link class="b bare" to={`${placeOf(repo)}/compare/main...${encodeURIComponent(ref.name)}`} aria-label={t("refs.compare.of", { name: ref.name })}>{t("compare.go")}</Link>}
                  {writes && !(ref.name === "main" && ref.kind === "branch") && <Sure bare label={t("refs.delete")} ask={t("refs.delete.sure", { name: ref.name })} busy={act.busy} onSure={() => void remove(ref)} />}
                </span>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </>
  );
}

function MakeRef({ repo, kind, refs, reload }: { repo: Repo; kind: "branch" | "tag"; refs: Ref[]; reload: () => Promise<void> }) {
  const [name, setName] = useState("");
  const [from, setFrom] = useState("main");
  const [message, setMessage] = useState("");
  const act = useAct();
  const make = (): Promise<void> =>
    act.run(async () => {
      if (kind === "branch") await call(`${apiOf(repo)}/branch/${encodeURIComponent(name.trim())}`, { method: "POST", body: { startingPoint: from } });
      else await call(`${apiOf(repo)}/tag/${encodeURIComponent(from)}`, { method: "POST", body: { tag: name.trim(), message: message.trim() || null } });
      setName("");
      setMessage("");
      await reload();
    });
  return (
    <Section id={`h-make-${kind}`} title={t(`refs.make.${kind}`)}>
      <form class="form" onSubmit={(event) => { event.preventDefault(); void make(); }}>
        <label><span>{t("keys.name")}</span><input type="text" required maxLength={200} autocapitalize="off" spellcheck={false} placeholder={kind === "branch" ? "swahili" : "v1.0"} value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <RefPicker repo={repo} revision={from} label={t("refs.from")} onPick={setFrom} refs={refs} />
        {kind === "tag" && <label><span>{t("refs.message")}</span><input type="text" maxLength={1000} value={message} onInput={(event) => setMessage(event.currentTarget.value)} /></label>}
        {act.problem && <Trouble problem={act.problem} />}
        <button class="b" type="submit" disabled={act.busy}>{t(`refs.make.${kind}`)}</button>
      </form>
    </Section>
  );
}
