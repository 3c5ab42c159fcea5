import { Empty } from "../../parts";
import { fileURL } from "../../parts/files";
import { Card } from "../../parts/markdown";
import { t } from "../../i18n";
import type { Panel } from "./tabs";

export function CardPanel({ repo, revision }: Panel) {
  return repo.card ? <Card text={repo.card} files={fileURL(repo, revision, "")} /> : <Empty what={t("card.none")} next={t("card.none.next")} />;
}
