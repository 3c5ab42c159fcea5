import type { ComponentChildren } from "preact";
import { call, Problem, type RepoSummary, type RepoType } from "../api";
import type { Collection } from "../collections";
import { placeOf } from "../hub";
import { usePaged, type Paged } from "../paged";
import { FollowButton, type Followed } from "../parts/follow";
import { More } from "../parts/more";
import { Empty, Facts, Head, Section, Tabs, Time, Trouble, Waiting } from "../parts";
import { integer } from "../format";
import { t } from "../i18n";
import { useLoad } from "../load";
import { go, Link, usePlace } from "../router";
import { session } from "../session";
import { useStore } from "../store";
import { CollectionList } from "./collections";
import { RepoRow } from "./repos";
import { useEffect, useState } from "preact/hooks";

interface Overview extends Followed {
  user?: string;
  name?: string;
  fullname: string;
  type: "user" | "org";
  createdAt: string;
  numModels: number;
  numDatasets: number;
  numSpaces: number;
  numUsers?: number;
  numFollowing?: number;
  orgs?: { name: string; fullname: string }[];
}
interface Like {
  createdAt: string;
  repo: { name: string; type: RepoType };
}
interface Somebody {
  user: string;
  fullname: string;
}

const VIEWS = ["model", "dataset", "space", "collections", "likes", "members", "followers", "following"] as const;
type View = (typeof VIEWS)[number];

/** What a person or an organisation shows of itself. */
export function ProfilePage({ name }: { name: string }) {
  const [who, setWho] = useState<Overview | null>(null);
  const [problem, setProblem] = useState<Problem | null>(null);
  useEffect(() => {
    const part = encodeURIComponent(name);
    call<Overview>(`api/users/${part}/overview`)
      .catch((error: unknown) => {
        if (!(error instanceof Problem) || error.status !== 404) throw error;
        return call<Overview>(`api/organizations/${part}/overview`);
      })
      .then(setWho)
      .catch((error: unknown) => { if (error instanceof Problem) setProblem(error); });
  }, [name]);
  const gone = problem?.status === 404;
  if (who === null) {
    return (
      <div class="page wrap">
        <Head title={gone ? t("profile.gone", { name }) : name} sum={gone ? t("profile.gone.next") : undefined} />
        {problem && !gone && <Trouble problem={problem} />}
        {problem === null && <Waiting what={t("waiting.profile")} />}
      </div>
    );
  }
  return <Profile who={who} name={who.user ?? who.name ?? name} changed={(next) => setWho({ ...who, ...next })} />;
}

function Profile({ who, name, changed }: { who: Overview; name: string; changed: (next: Followed) => void }) {
  const { query, path } = usePlace();
  const now = useStore(session);
  const org = who.type === "org";
  const counts: Partial<Record<View, number>> = { model: who.numModels, dataset: who.numDatasets, space: who.numSpaces };
  if (who.numFollowers > 0) counts.followers = who.numFollowers;
  if (who.numFollowing) counts.following = who.numFollowing;
  const views = VIEWS.filter((it) => !(org ? ["likes", "following"] : ["members"]).includes(it));
  const people = `api/${org ? "organizations" : "users"}/${encodeURIComponent(name)}`;
  const view = views.find((it) => it === query.get("show")) ?? (views.find((it) => (counts[it] ?? 0) > 0) ?? "model");
  const me = now.state === "in" && now.user.name === name;
  return (
    <div class="page wrap">
      <Head kick={org ? t("profile.org") : t("profile.person")} title={who.fullname || name} sum={who.fullname && who.fullname !== name ? name : undefined}>
        {!me && <FollowButton org={org} name={name} now={who} changed={changed} />}
        {me && <Link class="b" to="settings">{t("place.settings")}</Link>}
        {org && <Link class="b" to={`organisations/${encodeURIComponent(name)}`}>{t("profile.manage")}</Link>}
      </Head>
      <Tabs<View> now={view} label={t("profile.about")} onPick={(next) => go(`${path}?show=${next}`, "replace")} tabs={views.map((id) => ({ id, label: t(`profile.${id}`), count: counts[id] === undefined ? undefined : integer(counts[id] ?? 0) }))} />
      <div class="split">
        <div role="tabpanel" id={`p-${view}`} aria-labelledby={`t-${view}`} tabIndex={0}>
          {(view === "model" || view === "dataset" || view === "space") && <TheirRepos key={view} name={name} type={view} />}
          {view === "collections" && <TheirCollections name={name} />}
          {view === "likes" && <TheirLikes name={name} />}
          {view === "members" && <TheirMembers name={name} />}
          {(view === "followers" || view === "following") && <TheirPeople key={`${view} ${who.numFollowers}`} path={`${people}/${view}`} />}
        </div>
        <aside class="aside" aria-label={t("facts.title")}>
          <Section id="h-facts" title={t("facts.title")}>
            <Facts
              rows={[
                [t("keys.name"), <code>{name}</code>],
                [t("profile.since"), <Time at={who.createdAt} />],
                ...(who.numUsers === undefined ? [] : [[t("orgs.members"), integer(who.numUsers)] as [string, string]]),
                ...((who.orgs ?? []).length === 0 ? [] : [[t("place.organisations"), <>{who.orgs?.map((it, at) => <span key={it.name}>{at > 0 && t("list.comma")}<Link to={encodeURIComponent(it.name)}>{it.fullname || it.name}</Link></span>)}</>] as [string, ComponentChildren]]),
              ]}
            />
          </Section>
        </aside>
      </div>
    </div>
  );
}

function TheirRepos({ name, type }: { name: string; type: RepoType }) {
  const found = usePaged<RepoSummary>(`fust/v1/repos?${new URLSearchParams({ type, author: name, limit: "100" })}`);
  return <Listed of={found} waiting={t(`waiting.${type}s`)}>{(items) => <ul class="repos">{items.map((repo) => <RepoRow key={repo.repo_id} repo={repo} />)}</ul>}</Listed>;
}

function TheirCollections({ name }: { name: string }) {
  const found = usePaged<Collection>(`api/collections?${new URLSearchParams({ owner: name, limit: "100" })}`);
  return <Listed of={found} waiting={t("waiting.collections")}>{(items) => <CollectionList items={items} />}</Listed>;
}

/** Who follows, or is followed. */
function TheirPeople({ path }: { path: string }) {
  const found = usePaged<Somebody>(path);
  return <Listed of={found} waiting={t("waiting.profile")}>{(items) => <People items={items} />}</Listed>;
}

/** A list of theirs, as far as it has come; or that there is nothing in it. */
function Listed<T>({ of, waiting, children }: { of: Paged<T>; waiting: string; children: (items: T[]) => ComponentChildren }) {
  return (
    <>
      {of.problem && <Trouble problem={of.problem} retry={of.reload} />}
      {of.items === undefined && of.problem === null && <Waiting what={waiting} />}
      {of.items?.length === 0 && <Empty what={t("profile.nothing")} />}
      {of.items !== undefined && of.items.length > 0 && children(of.items)}
      <More of={of} />
    </>
  );
}

function TheirLikes({ name }: { name: string }) {
  const found = useLoad<Like[]>(`api/users/${encodeURIComponent(name)}/likes`);
  if (found.problem) return <Trouble problem={found.problem} retry={() => void found.reload()} />;
  if (found.data === undefined) return <Waiting what={t("waiting.profile")} />;
  if (found.data.length === 0) return <Empty what={t("profile.nothing")} />;
  return (
    <ul class="talks two">
      {found.data.map((it) => (
        <li key={it.repo.type + it.repo.name}>
          <div><h2><Link to={placeOf({ type: it.repo.type, repo_id: it.repo.name })}>{it.repo.name}</Link></h2><p class="bits"><span>{t(`kind.of.${it.repo.type}`)}</span></p></div>
          <div class="cell r small quiet"><Time at={it.createdAt} /></div>
        </li>
      ))}
    </ul>
  );
}

function TheirMembers({ name }: { name: string }) {
  const found = useLoad<Somebody[]>(`api/organizations/${encodeURIComponent(name)}/members`);
  if (found.problem) return <Trouble problem={found.problem} retry={() => void found.reload()} />;
  return found.data === undefined ? <Waiting what={t("waiting.members")} /> : <People items={found.data} />;
}

function People({ items }: { items: Somebody[] }) {
  return (
    <ul class="talks two">
      {items.map((it) => (
        <li key={it.user}><div><h2><Link to={encodeURIComponent(it.user)}>{it.fullname || it.user}</Link></h2>{it.fullname !== it.user && <p class="bits"><span>{it.user}</span></p>}</div></li>
      ))}
    </ul>
  );
}
