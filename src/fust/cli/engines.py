"""`fust engines`: what serves models here, and building one for this machine."""

from __future__ import annotations

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, follow, raise_if_failed, table
from fust.core.i18n import t


@click.group(
    invoke_without_command=True,
    help=t(
        "List the engines that serve models here, and which llama.cpp is used; or build one for this machine."
    ),
    epilog=example("fust engines", "fust engines build --jobs 2"),
)
@click.pass_context
def engines(context: click.Context) -> None:
    """Lists engines, without a command behind it."""
    if context.invoked_subcommand is None:
        context.invoke(_list)


@click.command(hidden=True)
@pass_cli
def _list(cli: CLI) -> None:
    found = cli.client().list_engines()
    rows = [[engine.name, t("yes") if engine.available else t("no"), engine.detail] for engine in found.items]
    cli.result(found, table([t("engine"), t("here"), t("detail")], rows))


@engines.command(
    help=t(
        "Compile llama.cpp for this machine's processor, measure it against the wheel's with a small model, and use it "
        "from then on when it is faster. Takes a C++ compiler and 10 to 40 minutes; needs an administrator's key."
    ),
    epilog=example("fust engines build", "fust engines build --jobs 4 -d"),
)
@click.option("--jobs", default=1, show_default=True, help=t("Compilers at a time; each takes up to 2 GB."))
@click.option(
    "--source",
    default="",
    help=t("A source distribution of xllamacpp on the server's disk, where no index is reached."),
)
@click.option("-d", "--detach", is_flag=True, help=t("Do not wait; `fust jobs` shows how far it is."))
@pass_cli
def build(cli: CLI, jobs: int, source: str, detach: bool) -> None:
    """Starts the run that builds and waits for it."""
    client = cli.client()
    run = client.create_run("build_engine", {"jobs": jobs, "source": source})
    if detach:
        cli.result(run, t("Run {id} is queued. See it with `fust jobs {id} --follow`.", id=run.id))
        return
    run = raise_if_failed(follow(client, run.id, quiet=cli.json))
    result = run.result or {}
    used = t("It is used from now on.") if result.get("is_used") else t("The wheel stays in use.")
    cli.result(run, t("{ratio} times as fast as the wheel.", ratio=result.get("ratio", 0)) + " " + used)
