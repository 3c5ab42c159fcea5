import { useState } from "preact/hooks";
import { call, Problem } from "../api";
import type { Collection } from "../collections";
import { Trouble } from "./index";
import { useOwners } from "./owners";
import { t } from "../i18n";
import { useAct } from "../load";

/** A new, empty collection; one of that title that is there already is taken as it is. */
export function CollectionForm({ go: label, onMade }: { go: string; onMade: (slug: string) => Promise<void> | void }) {
  const owners = useOwners();
  const [owner, setOwner] = useState("");
  const [title, setTitle] = useState("");
  const [description, setDescription] = useState("");
  const [hidden, setHidden] = useState(false);
  const act = useAct();
  const make = (): Promise<void> =>
    act.run(async () => {
      const body = { title: title.trim(), namespace: owner || (owners[0] ?? ""), description: description.trim(), private: hidden };
      const made = await call<Collection>("api/collections", { method: "POST", body });
      await onMade(made.slug);
    });
  return (
    <form class="form" onSubmit={(event) => { event.preventDefault(); void make(); }}>
      <label><span>{t("newtalk.title")}</span><input type="text" required maxLength={60} value={title} onInput={(event) => setTitle(event.currentTarget.value)} /></label>
      <label><span>{t("collection.description")}</span><input type="text" maxLength={150} value={description} onInput={(event) => setDescription(event.currentTarget.value)} /></label>
      {owners.length > 1 && <label><span>{t("reposet.owner")}</span><select value={owner || owners[0]} onChange={(event) => setOwner(event.currentTarget.value)}>{owners.map((name) => <option key={name} value={name}>{name}</option>)}</select></label>}
      <label class="tick"><input type="checkbox" checked={hidden} onChange={(event) => setHidden(event.currentTarget.checked)} /><span>{t("collection.private")}</span></label>
      {act.problem && <Trouble problem={act.problem instanceof Problem && act.problem.status === 409 ? new Problem(409, "conflict", t("collection.taken"), null, act.problem.requestId) : act.problem} />}
      <button class="b go" type="submit" disabled={act.busy}>{label}</button>
    </form>
  );
}
