"""`fust fsck`, `gc`, `backup` and `restore`: looking after a home, with its server running or not."""

from __future__ import annotations

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example
from fust.core.i18n import fill, t, terminal_language
from fust.core.settings import load_settings
from fust.core.units import show_size


@click.command(
    help=t("Compare database, repos and files with each other; name what does not fit, and how to mend it."),
    epilog=example("fust fsck", "fust fsck --deep", "fust down && fust fsck --repair"),
)
@click.option("--deep", is_flag=True, help=t("Read every byte and every commit, not only sizes."))
@click.option("--repair", is_flag=True, help=t("Mend what can be mended; the server must be stopped."))
@pass_cli
def fsck(cli: CLI, deep: bool, repair: bool) -> None:
    """Checks a home."""
    from fust.app.fsck import check_home, repair_home

    settings, language = load_settings(cli.home), terminal_language()
    found = (
        repair_home(settings, deep=deep)
        if repair
        else ((finding, False) for finding in check_home(settings, deep=deep))
    )
    rows: list[dict[str, object]] = []
    for finding, mended in found:
        message, mend = (
            fill(finding.message, finding.params, language),
            fill(finding.mend, finding.params, language),
        )
        rows.append(
            {
                "kind": finding.kind,
                "subject": finding.subject,
                "message": message,
                "mend": mend,
                "mended": mended,
            }
        )
        if not cli.json:
            click.echo(f"✓ {message} {t('Mended.')}" if mended else f"✗ {message}\n    {mend}")
    left = sum(not row["mended"] for row in rows)
    if rows:
        text = t("{count} findings, {left} left.", count=len(rows), left=left)
    else:
        text = t("{home} is whole.", home=settings.home)
    cli.result({"findings": rows, "left": left}, text)
    if left:
        raise SystemExit(1)


@click.command(
    help=t("Remove large files that no repo points to, and folders of old runs, when their time is over."),
    epilog=example("fust gc --dry-run", "FUST_HUB__KEEP_UNREFERENCED_S=86400 fust gc"),
)
@click.option("--dry-run", is_flag=True, help=t("Only say what would go."))
@pass_cli
def gc(cli: CLI, dry_run: bool) -> None:
    """Prunes a home; a running server does so every day."""
    from fust.app.fsck import open_database
    from fust.app.prune import prune
    from fust.hub.blobs import LocalBlobs
    from fust.hub.service import blobs_folder

    settings = load_settings(cli.home)
    database = open_database(settings)
    try:
        done = prune(settings, database, LocalBlobs(blobs_folder(settings.blobs_url)), dry_run=dry_run)
    finally:
        database.close()
    counts = {
        "files": done.large.files,
        "xorbs": done.large.xorbs,
        "strays": done.large.strays,
        "runs": done.runs,
    }
    cli.result(
        {**counts, "size_bytes": done.size_bytes, "dry_run": dry_run},
        t(
            "Would go: {size} ({files} large files, {xorbs} xorbs, {strays} stray files, folders of {runs} runs)."
            if dry_run
            else "Gone: {size} ({files} large files, {xorbs} xorbs, {strays} stray files, folders of {runs} runs).",
            **counts,
            size=show_size(done.size_bytes),
        ),
    )
