"""`fust pull`: fetch a repo, or all that an organisation has, from another hub."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, follow, raise_if_failed, table
from fust.client import Client
from fust.core.i18n import t
from fust.core.units import show_size
from fust.wire.runs import Run


@click.command(
    help=t(
        "Fetch a model or data set from huggingface.co, or any hub that speaks its protocol; OWNER alone means all that "
        "an organisation has. Of several GGUF files the largest that fits this machine is taken; the others are listed."
    ),
    epilog=example(
        "fust pull Qwen/Qwen3-0.6B-GGUF",
        "fust pull Qwen/Qwen3-0.6B-GGUF --file Qwen3-0.6B-Q8_0.gguf --limit 5MB/s",
        "fust pull team/corpus --type dataset --from http://fust.school.org:8787",
        "fust pull masakhane --exclude '*.bin' --yes",
    ),
)
@click.argument("repo_id", metavar="OWNER[/NAME]")
@click.option(
    "--from", "source", metavar="URL", help=t("Hub to fetch from (setting pull.source), or modelscope+URL.")
)
@click.option(
    "--type",
    "repo_type",
    type=click.Choice(["model", "dataset", "space"]),
    help=t("Kind of repo; a model if not given, models and data sets for an organisation."),
)
@click.option("--revision", metavar="REV", help=t("Branch, tag or commit there; main if not given."))
@click.option("--file", "files", multiple=True, metavar="FILE", help=t("Take this file; may be given again."))
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help=t("Take what matches, such as '*.json'; may be given again."),
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help=t("Leave out what matches; may be given again."),
)
@click.option("--all", "take_all", is_flag=True, help=t("Take all files."))
@click.option("--limit", metavar="RATE", help=t("Bandwidth to take at most, such as 10MB/s."))
@click.option(
    "--token",
    "with_token",
    is_flag=True,
    help=t("Ask for a token for that hub, or read it from FUST_PULL_TOKEN or standard input."),
)
@click.option(
    "--to", metavar="OWNER[/NAME]", help=t("Name of the repo or owner here; the same if not given.")
)
@click.option("-y", "--yes", is_flag=True, help=t("Pull an organisation without asking first."))
@click.option("-d", "--detach", is_flag=True, help=t("Do not wait; `fust jobs` shows how far it is."))
@pass_cli
def pull(
    cli: CLI,
    repo_id: str,
    source: str | None,
    repo_type: str | None,
    revision: str | None,
    files: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    take_all: bool,
    limit: str | None,
    with_token: bool,
    to: str | None,
    yes: bool,
    detach: bool,
) -> None:
    """Queues a pull and shows it until its end."""
    wanted: dict[str, Any] = {
        "source": source,
        "include": list(include),
        "exclude": list(exclude),
        "all": take_all,
        "limit": limit,
        "token": _ask_token() if with_token else "",
        "to": to,
    }
    client = cli.client()
    if "/" not in repo_id:
        if revision or files or repo_type == "space":
            raise click.UsageError(t("--revision, --file and --type space go with one repo, OWNER/NAME."))
        wanted |= {"owner": repo_id, "types": [repo_type] if repo_type else []}
        _pull_owner(cli, client, _given(wanted), yes=yes, detach=detach)
        return
    wanted |= {"repo_id": repo_id, "type": repo_type, "revision": revision, "files": list(files)}
    run = client.create_run("pull", _given(wanted))
    if detach:
        cli.result(run, t("Run {id} is queued. See it with `fust jobs {id} --follow`.", id=run.id))
        return
    run = raise_if_failed(follow(client, run.id, quiet=cli.json))
    result = run.result or {}
    lines = [
        t(
            "{repo_id} is here: {files} files, {size}.",
            repo_id=result.get("repo_id", repo_id),
            files=result.get("files", "?"),
            size=show_size(float(result.get("size_bytes", 0))),
        )
    ]
    if result.get("branch", "main") != "main":
        lines.append(t("It is revision {branch} of that repo.", branch=result["branch"]))
    if result.get("has_gguf"):
        lines.append(t("Make it answer with `fust serve {repo_id}`.", repo_id=result["repo_id"]))
    cli.result(run, "\n".join(lines))


def _given(wanted: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in wanted.items() if value}


def _ask_token() -> str:
    """Returns the token: never from an argument, which every process on the machine could read."""
    found = os.environ.get("FUST_PULL_TOKEN", "")
    if not found and not sys.stdin.isatty():
        found = sys.stdin.readline().strip()
    return found or click.prompt(t("Token"), hide_input=True, err=True)


def _pull_owner(cli: CLI, client: Client, wanted: dict[str, Any], *, yes: bool, detach: bool) -> None:
    """Shows what an organisation has, asks, and pulls it."""
    if not yes:
        preview = raise_if_failed(
            follow(client, client.create_run("pull_owner", {**wanted, "preview": True}).id, quiet=cli.json)
        )
        result = preview.result or {}
        if cli.json:
            cli.result(preview, "")
            return
        click.echo(_preview(result), err=True)
        if not sys.stdin.isatty():
            cli.result(preview, t("Nothing was pulled. Say --yes to pull all of it."))
            return
        click.confirm(t("Pull all of it?"), abort=True, err=True)
    run = client.create_run("pull_owner", wanted)
    if detach:
        cli.result(run, t("Run {id} is queued. See it with `fust jobs {id} --follow`.", id=run.id))
        return
    run = raise_if_failed(follow(client, run.id, quiet=cli.json))
    cli.result(run, _outcome(run))
    if (run.result or {}).get("failed"):
        sys.exit(1)


def _preview(result: dict[str, Any]) -> str:
    rows = [
        [repo["repo_id"], repo["type"], str(repo["files"]), show_size(repo["size_bytes"]), repo["error"]]
        for repo in result["repos"]
    ]
    drawn = table([t("repo"), t("type"), t("files"), t("size"), ""], rows)
    total = t(
        "{count} repos, {size}, from {source}.",
        count=len(rows),
        size=show_size(result["size_bytes"]),
        source=result["source"],
    )
    return f"{drawn}\n{total}"


def _outcome(run: Run) -> str:
    result = run.result or {}
    good = [repo for repo in result["repos"] if repo["state"] == "pulled"]
    lines = [
        t(
            "{count} repos are here, {size}.",
            count=len(good),
            size=show_size(sum(repo["size_bytes"] for repo in good)),
        )
    ]
    lines += [
        t("{repo_id} failed: {reason}", repo_id=repo["repo_id"], reason=repo["error"])
        for repo in result["repos"]
        if repo["state"] == "failed"
    ]
    return "\n".join(lines)
