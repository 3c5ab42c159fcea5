"""`fust jobs`: runs, their progress, their log and their end."""

from __future__ import annotations

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import ago, example, follow, raise_if_failed, show_progress, table
from fust.client import Client
from fust.core.i18n import t
from fust.wire.runs import Run


@click.command(
    help=t("List runs; with an ID show one, follow it or cancel it."),
    epilog=example("fust jobs", "fust jobs r0dcq5s8k2x1 --follow", "fust jobs r0dcq5s8k2x1 --cancel"),
)
@click.argument("run_id", metavar="[ID]", required=False)
@click.option("-f", "--follow", "follow_it", is_flag=True, help=t("Show its progress until its end."))
@click.option("--cancel", is_flag=True, help=t("End it."))
@click.option(
    "--resume", is_flag=True, help=t("Let one that was cancelled or failed go on where it stopped.")
)
@click.option(
    "--end-early", is_flag=True, help=t("End a tuning at its next step and publish what it has learned.")
)
@click.option("--log", "show_log", is_flag=True, help=t("Show what its process printed."))
@click.option("--active", is_flag=True, help=t("Only those that wait or run."))
@click.option("-n", "--limit", default=30, show_default=True, help=t("How many at most."))
@pass_cli
def jobs(
    cli: CLI,
    run_id: str | None,
    follow_it: bool,
    cancel: bool,
    resume: bool,
    end_early: bool,
    show_log: bool,
    active: bool,
    limit: int,
) -> None:
    """Lists, shows, follows, cancels or resumes."""
    if run_id is None and (follow_it or cancel or resume or end_early or show_log):
        raise click.UsageError(t("Say which run: `fust jobs` lists them."))
    client = cli.client()
    if run_id is None:
        _list(cli, client, active, limit)
        return
    if cancel:
        run = client.cancel_run(run_id)
        cli.result(run, t("Run {id} is asked to end.", id=run.id))
    elif resume:
        run = client.resume_run(run_id)
        cli.result(run, t("Run {id} is queued. See it with `fust jobs {id} --follow`.", id=run.id))
    elif end_early:
        run = client.end_run_early(run_id)
        cli.result(run, t("Run {id} ends at its next step and publishes what it has learned.", id=run.id))
    elif show_log:
        log = client.run_log(run_id)
        cli.result({"id": run_id, "log": log}, log.rstrip("\n"))
    elif follow_it:
        run = raise_if_failed(follow(client, run_id, quiet=cli.json))
        cli.result(run, _describe(run))
    else:
        run = client.get_run(run_id)
        cli.result(run, _describe(run))


def _list(cli: CLI, client: Client, active: bool, limit: int) -> None:
    runs = client.list_runs(state="active" if active else "", limit=limit)
    rows = [[run.id, run.title, t(run.state), _news(run), ago(run.created_at)] for run in runs]
    empty = t("No runs. `fust pull OWNER/NAME` starts one.")
    headings = [t("run"), t("what"), t("state"), t("progress"), t("asked")]
    cli.result({"items": runs}, table(headings, rows) if rows else empty)


def _news(run: Run) -> str:
    if run.state == "queued":
        return run.waits_for
    if run.error is not None:
        return run.error.message
    return show_progress(run.progress) if run.state == "running" else ""


def _describe(run: Run) -> str:
    lines = [t("{title}: {state}", title=run.title, state=t(run.state)), f"  {run.id}  {ago(run.created_at)}"]
    if run.progress and run.state == "running":
        lines.append(f"  {run.progress.message} {show_progress(run.progress)}")
    if run.waits_for:
        lines.append("  " + t("Waiting. {what}", what=run.waits_for))
    if run.error:
        lines.append(f"  {run.error.message} {run.error.hint}".rstrip())
    return "\n".join(lines)
