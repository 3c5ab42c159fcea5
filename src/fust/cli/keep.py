"""`fust fsck`, `gc`, `backup` and `restore`: looking after a home, with its server running or not."""

from __future__ import annotations

from pathlib import Path

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, table
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
    help=t(
        "Remove large files that no repo points to, converted models that nothing serves, and folders of old runs, when their time is over."
    ),
    epilog=example("fust gc --dry-run", "FUST_HUB__KEEP_UNREFERENCED_S=86400 fust gc"),
)
@click.option("--dry-run", is_flag=True, help=t("Only say what would go."))
@pass_cli
def gc(cli: CLI, dry_run: bool) -> None:
    """Prunes a home; a running server does so every day."""
    from fust.accounts.service import Accounts
    from fust.app.fsck import open_database
    from fust.app.prune import prune
    from fust.hub.service import Hub

    settings = load_settings(cli.home)
    database = open_database(settings)
    try:
        done = prune(
            settings, database, Hub(database, Accounts(database, settings), settings), dry_run=dry_run
        )
    finally:
        database.close()
    counts = {
        "files": done.large.files,
        "xorbs": done.large.xorbs,
        "strays": done.large.strays,
        "runs": done.runs,
        "converted": done.converted,
    }
    cli.result(
        {**counts, "size_bytes": done.size_bytes, "dry_run": dry_run},
        t(
            "Would go: {size} ({files} large files, {xorbs} xorbs, {strays} stray files, folders of {runs} runs, {converted} converted models)."
            if dry_run
            else "Gone: {size} ({files} large files, {xorbs} xorbs, {strays} stray files, folders of {runs} runs, {converted} converted models).",
            **counts,
            size=show_size(done.size_bytes),
        ),
    )


@click.command(
    help=t("Copy the home to a folder, while its server runs or not; a second time only what is new."),
    epilog=example("fust backup /mnt/backup/fust", "fust backup /mnt/backup/fust --verify"),
)
@click.argument("dest", type=click.Path(path_type=Path))
@click.option(
    "--verify", "check", is_flag=True, help=t("Copy nothing: read the newest backup again, every byte.")
)
@pass_cli
def backup(cli: CLI, dest: Path, check: bool) -> None:
    """Adds a snapshot to a folder of backups, or checks one."""
    dest = dest.expanduser().absolute()
    if check:
        _verify(cli, dest)
        return
    from fust.app.backup import back_up

    done = back_up(load_settings(cli.home), dest)
    assert done.manifest is not None
    lines = [
        t(
            "Backup {name}: {repos} repos, {blobs} large files and xorbs ({size}); {copied} were copied now.",
            name=done.snapshot,
            repos=done.manifest.repos,
            blobs=done.manifest.blobs,
            size=show_size(done.manifest.size_bytes),
            copied=show_size(done.copied_bytes),
        ),
        *(
            t("✗ {name} is missing or damaged in the home; see `fust fsck --deep`.", name=n)
            for n in done.damaged
        ),
        t("Not in it: `token`, `signing-key` and other keys of the home. Keep them apart, or make new ones."),
    ]
    cli.result(
        {
            "snapshot": done.snapshot,
            "copied_files": done.copied_files,
            "copied_bytes": done.copied_bytes,
            "manifest": done.manifest,
        },
        "\n".join(lines),
    )
    if done.damaged:
        raise SystemExit(1)


def _verify(cli: CLI, source: Path) -> None:
    from fust.app.restore import find_snapshot, verify

    name, _ = find_snapshot(source)
    bad = list(verify(source))
    text = t("Backup {name} is whole.", name=name) if not bad else "\n".join(f"✗ {line}" for line in bad)
    cli.result({"snapshot": name, "damaged": bad}, text)
    if bad:
        raise SystemExit(1)


@click.command(
    help=t("Put a backup into an empty home."),
    epilog=example(
        "fust restore /mnt/backup/fust --list", "fust restore /mnt/backup/fust --home ~/fust-restored"
    ),
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--at", default="", metavar="NAME", help=t("Which backup; without it the newest."))
@click.option("--list", "listing", is_flag=True, help=t("Only show which backups there are."))
@pass_cli
def restore(cli: CLI, source: Path, at: str, listing: bool) -> None:
    """Restores a home."""
    source = source.expanduser().absolute()
    if listing:
        from fust.app.backup import list_snapshots

        found = list_snapshots(source)
        rows = [[name, str(m.repos), show_size(m.size_bytes), m.version] for name, m in found]
        drawn = table([t("backup"), t("repos"), t("size"), t("version")], rows)
        cli.result([{"name": name, "manifest": manifest} for name, manifest in found], drawn)
        return
    from fust.app.restore import restore as run

    done = run(load_settings(cli.home), source, at)
    lines = [
        t(
            "Restored {name} to {home}: {repos} repos, {blobs} large files and xorbs.",
            name=done.snapshot,
            home=cli.home,
            repos=done.repos,
            blobs=done.blobs,
        ),
        *(t("✗ The backup lacks {name}.", name=name) for name in done.missing),
        t("Start it with `fust up`; it makes a new key for the administrator. People sign in again."),
    ]
    cli.result(done, "\n".join(lines))
    if done.missing:
        raise SystemExit(1)
