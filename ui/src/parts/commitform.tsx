import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import type { Problem, Repo } from "../api";
import type { Message } from "../commits";
import { Trouble } from "./index";
import { t } from "../i18n";

const PULL = /^refs\/pr\/(\d+)$/;

/** The number of the pull request that a revision is; null for branches. */
export const requestOf = (revision: string): number | null => Number(PULL.exec(revision)?.[1] ?? 0) || null;

/** What was done and where it goes: to the branch, or into a new pull request for who may not or will not. */
export function CommitForm({ repo, revision, usual, propose, busy, problem, ready, onSend, children }: {
  repo: Repo;
  revision: string;
  /** The title when none is written. */
  usual: string;
  /** Whether a pull request is chosen at first. */
  propose: boolean;
  busy: boolean;
  problem: Problem | null;
  ready: boolean;
  onSend: (message: Message, propose: boolean) => void;
  children?: ComponentChildren;
}) {
  const [summary, setSummary] = useState("");
  const [description, setDescription] = useState("");
  const request = requestOf(revision);
  const writes = repo.may.includes("push") || request !== null;
  const [asked, setAsked] = useState(propose);
  const opens = request === null && (asked || !writes);
  return (
    <form
      class="form wide commit"
      aria-label={t("commitform.label")}
      onSubmit={(event) => {
        event.preventDefault();
        onSend({ summary: summary.trim() || usual, description: description.trim() }, opens);
      }}
    >
      <label><span>{t("commitform.summary")}</span><input type="text" maxLength={200} placeholder={usual} value={summary} onInput={(event) => setSummary(event.currentTarget.value)} /></label>
      <label><span>{t("commitform.description")}</span><textarea rows={3} maxLength={60_000} value={description} onInput={(event) => setDescription(event.currentTarget.value)} /></label>
      {request !== null ? (
        <p class="small quiet">{t("commitform.request", { num: request })}</p>
      ) : writes ? (
        <fieldset>
          <legend>{t("commitform.where")}</legend>
          <label class="tick"><input type="radio" name="where" checked={!opens} onChange={() => setAsked(false)} /><span>{t("commitform.branch", { branch: revision })}</span></label>
          <label class="tick"><input type="radio" name="where" checked={opens} onChange={() => setAsked(true)} /><span>{t("commitform.propose")}</span></label>
        </fieldset>
      ) : (
        <p class="small quiet">{t("commitform.mustpropose")}</p>
      )}
      {problem && <Trouble problem={problem} />}
      {problem?.status === 412 && <p class="small">{t("commitform.moved")}</p>}
      <p class="row">
        <button class="b go" type="submit" disabled={busy || !ready}>{opens ? t("commitform.go.propose") : request !== null ? t("commitform.go.request") : t("commitform.go")}</button>
        {children}
      </p>
    </form>
  );
}
