"""`fust pull`: fetch a repo from another hub."""

from __future__ import annotations

from typing import Any

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, follow, raise_if_failed
from fust.core.i18n import t
from fust.core.units import show_size


@click.command(
    help=t(
        "Fetch a model or data set from huggingface.co, or any hub that speaks its protocol. "
        "Of several GGUF files the largest that fits this machine is taken; the others are listed."
    ),
    epilog=example(
        "fust pull Qwen/Qwen3-0.6B-GGUF",
        "fust pull Qwen/Qwen3-0.6B-GGUF --file Qwen3-0.6B-Q8_0.gguf",
        "fust pull team/corpus --type dataset --from http://fust.school.org:8787",
    ),
)
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option("--from", "source", metavar="URL", help=t("Hub to fetch from (setting pull.source)."))
@click.option(
    "--type",
    "repo_type",
    default="model",
    type=click.Choice(["model", "dataset", "space"]),
    help=t("Kind of repo."),
)
@click.option("--revision", metavar="REV", help=t("Branch, tag or commit there; main if not given."))
@click.option("--file", "files", multiple=True, metavar="FILE", help=t("Take this file; may be given again."))
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help=t("Take what matches, such as '*.json'; may be given again."),
)
@click.option("--all", "take_all", is_flag=True, help=t("Take all files."))
@click.option("--to", metavar="OWNER/NAME", help=t("Name of the repo here; the same if not given."))
@click.option("-d", "--detach", is_flag=True, help=t("Do not wait; `fust jobs` shows how far it is."))
@pass_cli
def pull(
    cli: CLI,
    repo_id: str,
    source: str | None,
    repo_type: str,
    revision: str | None,
    files: tuple[str, ...],
    include: tuple[str, ...],
    take_all: bool,
    to: str | None,
    detach: bool,
) -> None:
    """Queues a pull and shows it until its end."""
    wanted: dict[str, Any] = {
        "repo_id": repo_id,
        "type": repo_type,
        "source": source,
        "revision": revision,
        "files": list(files),
        "include": list(include),
        "all": take_all,
        "to": to,
    }
    client = cli.client()
    run = client.create_run("pull", {key: value for key, value in wanted.items() if value})
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
    if result.get("has_gguf"):
        lines.append(t("Make it answer with `fust serve {repo_id}`.", repo_id=result["repo_id"]))
    cli.result(run, "\n".join(lines))
