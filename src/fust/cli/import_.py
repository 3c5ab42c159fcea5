"""`fust import`: take over what a Hugging Face cache or an Ollama store on this machine holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, table
from fust.client import Client
from fust.client.stores.types import LocalRevision, Reason
from fust.core.errors import FustError, NotFound
from fust.core.i18n import t
from fust.core.units import show_size


@click.command(
    help=t(
        "Take over models and data sets that a Hugging Face cache or an Ollama store on this machine holds, without "
        "fetching them again. Each file is checked by its hash; what the hub has already is left alone."
    ),
    epilog=example(
        "fust import --dry-run",
        "fust import Qwen/Qwen3-0.6B 'google/*'",
        "fust import --ollama ~/.ollama/models --yes",
    ),
)
@click.argument("names", nargs=-1, metavar="[NAME]…")
@click.option(
    "--cache",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help=t("Hugging Face cache; its usual place if not given."),
)
@click.option(
    "--ollama",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help=t("Ollama's folder of models; its usual place if not given."),
)
@click.option("--to", metavar="OWNER", help=t("Owner here; the same if not given and yours to write."))
@click.option("--private", is_flag=True, help=t("Make the repos private."))
@click.option("--dry-run", is_flag=True, help=t("Only list what is there."))
@click.option("-y", "--yes", is_flag=True, help=t("Do not ask first."))
@pass_cli
def import_(
    cli: CLI,
    names: tuple[str, ...],
    cache: Path | None,
    ollama: Path | None,
    to: str | None,
    private: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Scans, lists, asks and uploads; the server never opens a path that somebody names."""
    found = [r for r in _scan(cache, ollama) if not names or _is_named(r.repo_id, names)]
    if not found:
        raise NotFound(
            "There is nothing to import.",
            hint="Name the place: --cache for a Hugging Face cache, --ollama for Ollama's models.",
        )
    client = cli.client()
    targets = {revision.repo_id: _target(client, revision.repo_id, to) for revision in found}
    if not cli.json:
        click.echo(_draw(found, targets), err=not dry_run)
    if dry_run:
        cli.result([_as_json(revision, targets) for revision in found], "")
        return
    if not yes and sys.stdin.isatty():
        click.confirm(t("Import all of it?"), abort=True, err=True)
    elif not yes:
        raise click.UsageError(t("Say --yes to import all of it, or --dry-run to look only."))
    results: list[dict[str, object]] = []
    for revision in found:
        results.append(_take_over(cli, client, revision, targets[revision.repo_id], private=private))
    failed = [result for result in results if result["error"] or result["damaged"]]
    cli.result(
        results,
        t("{count} repos were imported.", count=len({r["repo_id"] for r in results if not r["error"]})),
    )
    if failed:
        sys.exit(1)


def _scan(cache: Path | None, ollama: Path | None) -> list[LocalRevision]:
    from fust.client.stores.huggingface import default_cache, scan_cache
    from fust.client.stores.ollama import default_stores, scan_store

    both = cache is None and ollama is None
    caches = [cache] if cache else [default_cache(os.environ)] if both else []
    stores = [ollama] if ollama else default_stores(os.environ) if both else []
    found = [r for folder in caches if folder.is_dir() for r in scan_cache(folder)]
    found += [r for folder in stores if (folder / "manifests").is_dir() for r in scan_store(folder)]
    return [revision for revision in found if revision.files or revision.skipped]


def _is_named(repo_id: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(repo_id, name) for name in names)


def _target(client: Client, repo_id: str, to: str | None) -> str:
    """Returns the name here: under `--to`, else the same owner when the caller may write there, else the caller."""
    owner, slash, name = repo_id.rpartition("/")
    if not to:
        user = client.session().user
        mine = user.name if user else ""
        may = user is not None and (user.is_admin or owner.lower() == mine.lower())
        to = owner if slash and may else mine
    return f"{to}/{name}"


def _draw(found: Sequence[LocalRevision], targets: dict[str, str]) -> str:
    rows = [
        [r.repo_id, r.type, r.branch, str(len(r.files)), show_size(r.size_bytes), targets[r.repo_id]]
        for r in found
    ]
    lines = [table([t("repo"), t("type"), t("revision"), t("files"), t("size"), t("here")], rows)]
    lines += [
        t("Left out: {path} of {repo_id}, {reason}.", path=path, repo_id=r.repo_id, reason=_why(reason))
        for r in found
        for path, reason in r.skipped
    ]
    return "\n".join(lines)


def _why(reason: Reason) -> str:
    if reason == "outside":
        return t("it leads out of the store")
    return t("it is not complete") if reason == "broken" else t("it is no GGUF file")


def _as_json(revision: LocalRevision, targets: dict[str, str]) -> dict[str, object]:
    return {
        "repo_id": targets[revision.repo_id],
        "from": revision.repo_id,
        "type": revision.type,
        "revision": revision.branch,
        "files": [file.path for file in revision.files],
        "size_bytes": revision.size_bytes,
        "skipped": [path for path, _ in revision.skipped],
    }


def _take_over(
    cli: CLI, client: Client, revision: LocalRevision, repo_id: str, *, private: bool
) -> dict[str, object]:
    """Imports one revision; what goes wrong is said, and the next one is imported."""
    result: dict[str, object] = {"repo_id": repo_id, "revision": revision.branch, "error": "", "damaged": []}
    if not revision.files:
        return {**result, "error": "empty"}
    try:
        done = client.take_over(revision, repo_id, private=private)
    except FustError as error:
        click.echo(t("{repo_id} failed: {reason}", repo_id=repo_id, reason=error.sentence()), err=True)
        return {**result, "error": error.code}
    for path in done.damaged:
        click.echo(
            t("{path} of {repo_id} is damaged and was left out.", path=path, repo_id=repo_id), err=True
        )
    if not cli.json:
        click.echo(
            t(
                "{repo_id} ({revision}): {count} files taken over, {size}; {same} were here already.",
                repo_id=repo_id,
                revision=revision.branch,
                count=done.uploaded,
                size=show_size(done.uploaded_bytes),
                same=done.same,
            ),
            err=True,
        )
    return {
        **result,
        "uploaded": done.uploaded,
        "uploaded_bytes": done.uploaded_bytes,
        "same": done.same,
        "damaged": done.damaged,
    }
