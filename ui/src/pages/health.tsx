import type { Check, Storage } from "../api";
import { Bar, Columns, Facts, Head, Section, Size, Trouble, Waiting } from "../parts";
import { OperateNav } from "../parts/subnav";
import { integer, size } from "../format";
import { t } from "../i18n";
import { useLoad } from "../load";
import { status } from "../session";
import { useStore } from "../store";

const SHAPES: Record<Check["state"], string> = { ok: "run", warn: "warn", fail: "bad" };

/** What `fust doctor` finds, each finding with the line that mends it, and what storage holds. */
export function HealthPage() {
  const doctor = useLoad<{ checks: Check[] }>("fust/v1/doctor", 30_000);
  const storage = useLoad<Storage>("fust/v1/storage");
  const checks = doctor.data?.checks;
  const wrong = checks?.filter((it) => it.state !== "ok").length ?? 0;
  return (
    <div class="page wrap">
      <Head kick={t("place.operate")} title={checks ? t("health.title", { n: wrong }) : t("place.health")} sum={t("health.sum")}>
        <button class="b" type="button" onClick={() => { void doctor.reload(); void storage.reload(); }}>{t("health.again")}</button>
      </Head>
      <OperateNav />
      <div class="split">
        <Section id="h-checks" title={t("health.checks")}>
          {doctor.problem && <Trouble problem={doctor.problem} retry={() => void doctor.reload()} />}
          {doctor.waiting && <Waiting what={t("waiting.health")} />}
          {checks && (
            <table class="cards-s">
              <Columns of={[t("health.part"), t("col.state"), t("health.found")]} />
              <tbody>
                {[...checks].sort((a, b) => rank(a) - rank(b)).map((it) => (
                  <tr key={it.name}>
                    <th scope="row">{it.name}</th>
                    <td><span class={`st ${SHAPES[it.state]}`}>{t(`health.${it.state}`)}</span></td>
                    <td class="found">{it.value}{it.mend && <p class="under">{it.mend}</p>}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Section>
        <aside class="aside" aria-label={t("storage.title")}>
          <Section id="h-storage" title={t("storage.title")}>
            {storage.problem && <Trouble problem={storage.problem} retry={() => void storage.reload()} />}
            {storage.waiting && <Waiting what={t("waiting.storage")} />}
            {storage.data && <StorageFacts of={storage.data} />}
          </Section>
          <Disk />
        </aside>
      </div>
    </div>
  );
}

const rank = (check: Check): number => ["fail", "warn", "ok"].indexOf(check.state);

function StorageFacts({ of }: { of: Storage }) {
  const onDisk = of.whole_bytes + of.xorb_bytes;
  const saved = Math.max(0, of.xet_bytes - of.xorb_bytes);
  const shared = Math.max(0, of.referenced_bytes - of.files_bytes);
  return (
    <>
      <Facts
        rows={[
          [t("storage.files"), <span class="num">{integer(of.files)}</span>],
          [t("storage.referenced"), <Size of={of.referenced_bytes} />],
          [t("storage.disk"), <Size of={onDisk} />],
          [t("storage.copies"), <Size of={shared} />],
          [t("storage.chunks"), <Size of={saved} />],
        ]}
      />
      <p class="small quiet why">{t("storage.why")}</p>
      <ul class="res">
        <li>
          <div class="hrow">
            <span>{t("storage.cache")}</span>
            <span class="num">{size(of.cache_bytes)} <span class="unit">{t("storage.of", { room: size(of.cache_room_bytes) })}</span></span>
          </div>
          <Bar share={of.cache_bytes / Math.max(1, of.cache_room_bytes)} />
        </li>
      </ul>
      <p class="small quiet">{t("storage.cache.why")}</p>
    </>
  );
}

function Disk() {
  const machine = useStore(status)?.machine;
  if (machine === undefined) return null;
  const used = machine.disk_total_bytes - machine.disk_free_bytes;
  return (
    <Section id="h-disk" title={t("machine.disk")}>
      <ul class="res">
        <li>
          <div class="hrow">
            <span>{t("storage.used")}</span>
            <span class="num">{size(used)} <span class="unit">{t("storage.of", { room: size(machine.disk_total_bytes) })}</span></span>
          </div>
          <Bar share={used / machine.disk_total_bytes} />
        </li>
      </ul>
    </Section>
  );
}
