"""`fust push`: put a file or a folder into a repo."""

from __future__ import annotations

from pathlib import Path

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example
from fust.core.i18n import t


@click.command(
    help=t(
        "Put a file, or the content of a folder, into a repo as one commit. The repo is made when it is not there."
    ),
    epilog=example("fust push ./my-model admin/my-model", "fust push rows.jsonl admin/rows --type dataset"),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option(
    "--type",
    "repo_type",
    default="model",
    type=click.Choice(["model", "dataset", "space"]),
    help=t("Kind of repo."),
)
@click.option(
    "--as",
    "path_in_repo",
    default="",
    metavar="PATH",
    help=t("Path in the repo; the same name if not given."),
)
@click.option("-m", "--message", default="", help=t("What the commit says."))
@click.option("--private", is_flag=True, help=t("Make the repo private when it is made."))
@pass_cli
def push(
    cli: CLI, path: Path, repo_id: str, repo_type: str, path_in_repo: str, message: str, private: bool
) -> None:
    """Uploads through huggingface_hub."""
    url = cli.client().upload(
        path,
        repo_id,
        repo_type=repo_type,
        message=message or f"Upload {path.resolve().name}",
        private=private,
        path_in_repo=path_in_repo,
    )
    cli.result(
        {"repo_id": repo_id, "type": repo_type, "url": url}, t("{path} is in {url}", path=path, url=url)
    )
