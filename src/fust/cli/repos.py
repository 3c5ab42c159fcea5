"""`fust ls` and `fust rm`: repos and their files."""

from __future__ import annotations

import sys

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import ago, example, table
from fust.core.i18n import t
from fust.core.units import show_size

_TYPE = click.Choice(["model", "dataset", "space"])


@click.command(
    help=t("List repos, or the files of one."),
    epilog=example("fust ls", "fust ls --type dataset --search corpus", "fust ls admin/my-model"),
)
@click.argument("repo_id", metavar="[OWNER/NAME]", required=False)
@click.option("--type", "repo_type", default="model", type=_TYPE, help=t("Kind of repo."))
@click.option("--search", default="", metavar="TEXT", help=t("Only those whose name holds this."))
@click.option("--revision", default="main", metavar="REV", help=t("Branch, tag or commit."))
@click.option("-n", "--limit", default=100, show_default=True, help=t("How many at most."))
@pass_cli
def ls(cli: CLI, repo_id: str | None, repo_type: str, search: str, revision: str, limit: int) -> None:
    """Lists repos or files."""
    client = cli.client()
    if repo_id:
        repo = client.get_repo(repo_id, repo_type, revision)
        rows = [
            [file.path, show_size(file.size_bytes), (file.sha256 or file.oid)[:12]] for file in repo.files
        ]
        empty = t("{repo_id} has no files yet. Add some with `fust push PATH {repo_id}`.", repo_id=repo_id)
        cli.result(repo, table([t("file"), t("size"), t("hash")], rows) if rows else empty)
        return
    query: dict[str, str | int] = {"type": repo_type, "limit": limit}
    if search:
        query["search"] = search
    page = client.list_repos(**query)
    rows = [
        [
            item.repo_id + (" " + t("(private)") if item.private else ""),
            show_size(item.size_bytes),
            ",".join(item.formats) or "-",
            item.deployment.state if item.deployment else "-",
            ago(item.updated_at),
        ]
        for item in page.items
    ]
    headings = [t("repo"), t("size"), t("formats"), t("served"), t("changed")]
    empty = t("No repos yet. Fetch one with `fust pull OWNER/NAME`, or `fust push PATH OWNER/NAME`.")
    cli.result(page, table(headings, rows) if rows else empty)


@click.command(
    help=t("Delete a repo with all of its files and versions. This cannot be undone."),
    epilog=example("fust rm admin/my-model", "fust rm admin/rows --type dataset --yes"),
)
@click.argument("repo_id", metavar="OWNER/NAME")
@click.option("--type", "repo_type", default="model", type=_TYPE, help=t("Kind of repo."))
@click.option("-y", "--yes", is_flag=True, help=t("Do not ask."))
@pass_cli
def rm(cli: CLI, repo_id: str, repo_type: str, yes: bool) -> None:
    """Deletes after a question."""
    client = cli.client()
    if not yes:
        repo = client.get_repo(repo_id, repo_type)
        if not sys.stdin.isatty():
            raise click.UsageError(
                t("Nobody can be asked here; add --yes to delete {repo_id}.", repo_id=repo_id)
            )
        question = t("Delete {repo_id} ({size}) for good?", repo_id=repo_id, size=show_size(repo.size_bytes))
        click.confirm(question, abort=True)
    client.delete_repo(repo_id, repo_type)
    cli.result({"repo_id": repo_id, "deleted": True}, t("{repo_id} is deleted.", repo_id=repo_id))
