import { useState } from "preact/hooks";
import { call, type RepoType } from "../api";
import { sendCommit } from "../commits";
import { placeOf } from "../hub";
import { Head, Trouble } from "../parts";
import { HubNav } from "../parts/subnav";
import { useOwners } from "../parts/owners";
import { t } from "../i18n";
import { useAct } from "../load";
import { go, Link, usePlace } from "../router";

const TYPES: RepoType[] = ["model", "dataset", "space"];
/** Ids as the cards of the Hugging Face Hub have them; any other is written into the card afterwards. */
const LICENCES = ["apache-2.0", "mit", "bsd-3-clause", "gpl-3.0", "agpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "odc-by", "openrail"];

/** The first card: what it says is what lists and filters show. */
function firstCard(name: string, licence: string, type: RepoType): string {
  const said = [...(licence === "" ? [] : [`license: ${licence}`]), ...(type === "space" ? ["sdk: static"] : [])];
  return `${said.length === 0 ? "" : `---\n${said.join("\n")}\n---\n\n`}# ${name}\n`;
}

/** A new model, dataset or space. */
export function NewRepoPage() {
  const { query } = usePlace();
  const [type, setType] = useState<RepoType>(TYPES.find((it) => it === query.get("type")) ?? "model");
  const owners = useOwners("write");
  const asked = query.get("owner") ?? "";
  const [owner, setOwner] = useState("");
  const [name, setName] = useState("");
  const [licence, setLicence] = useState("");
  const [hidden, setHidden] = useState(true);
  const act = useAct();
  const holder = owner || (owners.includes(asked) ? asked : (owners[0] ?? ""));
  const make = (): Promise<void> =>
    act.run(async () => {
      const body = { type, organization: holder, name: name.trim(), private: hidden, ...(type === "space" ? { sdk: "static" } : {}) };
      const made = await call<{ name: string }>("api/repos/create", { method: "POST", body });
      const repo = { type, repo_id: made.name };
      const card = { path: "README.md", encoding: "utf-8" as const, content: firstCard(name.trim(), licence, type) };
      await sendCommit(repo, { revision: "main", propose: false }, { summary: t("newrepo.commit"), description: "" }, [{ key: "file", value: card }]);
      go(placeOf(repo));
    });
  return (
    <div class="page wrap">
      <Head title={t("newrepo.title")} sum={t("newrepo.sum")} />
      <HubNav />
      <form class="form" onSubmit={(event) => { event.preventDefault(); void make(); }}>
        <fieldset>
          <legend>{t("newrepo.type")}</legend>
          {TYPES.map((it) => (
            <label key={it} class="tick">
              <input type="radio" name="type" value={it} checked={type === it} onChange={() => setType(it)} />
              <span>{t(`newrepo.${it}`)}</span>
            </label>
          ))}
        </fieldset>
        <label><span>{t("reposet.owner")}</span><select value={holder} onChange={(event) => setOwner(event.currentTarget.value)}>{owners.map((it) => <option key={it} value={it}>{it}</option>)}</select></label>
        <label>
          <span>{t("keys.name")}</span>
          <input type="text" required maxLength={96} pattern="[A-Za-z0-9._\-]+" autocapitalize="off" spellcheck={false} aria-describedby="h-name" value={name} onInput={(event) => setName(event.currentTarget.value)} />
          <small id="h-name">{t("newrepo.name.note")}</small>
        </label>
        <label>
          <span>{t("facts.licence")}</span>
          <select value={licence} onChange={(event) => setLicence(event.currentTarget.value)}>
            <option value="">{t("newrepo.licence.none")}</option>
            {LICENCES.map((it) => <option key={it} value={it}>{it}</option>)}
          </select>
        </label>
        <label class="tick"><input type="checkbox" checked={hidden} onChange={(event) => setHidden(event.currentTarget.checked)} /><span>{t("newrepo.private")}</span></label>
        {act.problem && <Trouble problem={act.problem} />}
        <p class="row">
          <button class="b go" type="submit" disabled={act.busy}>{t("newrepo.go")}</button>
          <Link class="b bare" to={`${type}s`}>{t("thread.cancel")}</Link>
        </p>
      </form>
    </div>
  );
}
