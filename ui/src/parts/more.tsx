import type { Paged } from "../paged";
import { integer } from "../format";
import { t } from "../i18n";

/** Under a list that goes on: how much of it is shown, and the rest. */
export function More<T>({ of }: { of: Paged<T> }) {
  if (!of.more || of.items === undefined) return null;
  const shown = integer(of.items.length);
  return (
    <p class="row more">
      <span class="small quiet" role="status">{of.total === null ? t("more.shown", { shown }) : t("more.of", { shown, total: integer(of.total) })}</span>
      <button class="b" type="button" disabled={of.busy} onClick={of.load}>{t("more.go")}</button>
    </p>
  );
}
