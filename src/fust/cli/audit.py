"""`fust audit`: who did what; export it, and check that nothing was changed afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, table
from fust.core.decode_words import words_of
from fust.core.errors import FustError, InvalidInput, NotFound
from fust.core.i18n import t, terminal_language

_C = TypeVar("_C", bound=Callable[..., Any])


@click.group(
    invoke_without_command=True,
    help=t("See who did what (administrators only)."),
    epilog=example("fust audit", "fust audit list --actor maria --action repo", "fust audit verify"),
)
@click.pass_context
def audit(context: click.Context) -> None:
    """Lists when no verb is given."""
    if context.invoked_subcommand is None:
        context.invoke(list_entries)


def _with_filters(command: _C) -> _C:
    for flag, about in (
        ("--until", t("Only before this date or time (UTC).")),
        ("--since", t("Only from this date or time on (UTC).")),
        ("--text", t("Only what holds these words anywhere.")),
        ("--subject", t("Only what was done to this, e.g. model:lab/tiny.")),
        ("--action", t("Only this action, or all of a kind: repo.create, repo.")),
        ("--actor", t("Only what this user did.")),
    ):
        command = click.option(flag, default="", help=about)(command)
    return command


@audit.command(
    "list",
    help=t("List what was done, newest first."),
    epilog=example("fust audit list -n 20 --text lab/tiny", "fust audit list --action session.refuse"),
)
@click.option("-n", "--limit", default=50, show_default=True, help=t("How many entries at most."))
@_with_filters
@pass_cli
def list_entries(cli: CLI, limit: int = 50, **filters: str) -> None:
    """Lists entries."""
    from fust.accounts.audit_actions import action_title

    language = terminal_language()
    wanted = {key: value for key, value in filters.items() if value}
    found = cli.client().list_audit(limit=max(1, min(limit, 500)), **wanted)
    rows = [
        [
            entry.at[:19].replace("T", " "),
            entry.actor or "-",
            action_title(entry.action, language),
            entry.subject,
            entry.address or "-",
            " ".join(f"{key}={value}" for key, value in entry.detail.items()),
        ]
        for entry in found.items
    ]
    headings = [t("when (UTC)"), t("who"), t("what"), t("to what"), t("address"), t("detail")]
    cli.result(found, table(headings, rows) if rows else t("Nothing that fits was done."))


@audit.command(
    "export",
    help=t("Write entries, oldest first, to standard output or a file. The audit notes it."),
    epilog=example("fust audit export -o audit.jsonl", "fust audit export --format csv --since 2026-01-01"),
)
@click.option(
    "--format",
    default="jsonl",
    show_default=True,
    type=click.Choice(["jsonl", "csv"]),
    help=t("JSON lines, which can be checked again, or a table."),
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help=t("The file to write."))
@_with_filters
@pass_cli
def export(cli: CLI, format: str, output: Path | None, **filters: str) -> None:
    """Writes entries; a file is whole or absent."""
    wanted = {key: value for key, value in filters.items() if value}
    lines = cli.client().export_audit(format=format, **wanted)
    if output is None:
        for line in lines:
            sys.stdout.buffer.write(line)
        return
    from fust.core.files import atomic_file

    count = 0
    with atomic_file(output) as file:
        for line in lines:
            file.write(line)
            count += 1
    cli.result({"path": str(output), "lines": count}, t("{count} lines in {path}.", count=count, path=output))


@audit.command(
    "verify",
    help=t("Walk the chain and name the first entry that was changed or removed.")
    + " "
    + t(
        "With FILE, an earlier export in JSON lines: check it, and that the server still holds its last entry."
    ),
    epilog=example("fust audit verify", "fust audit verify audit.jsonl"),
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@pass_cli
def verify(cli: CLI, file: Path | None) -> None:
    """Checks the chain; leaves with 1 when it is broken."""
    if file is not None:
        _verify_file(cli, file)
        return
    verdict = cli.client().verify_audit()
    if verdict.broken is not None:
        _say_broken(cli, verdict, verdict.broken.seq, verdict.broken.reason)
    head = verdict.head
    cli.result(
        verdict,
        t(
            "{count} entries, none changed. The last: {seq} {hash}",
            count=verdict.entries,
            seq=head.seq,
            hash=head.hash,
        )
        if head
        else t("The audit is empty."),
    )


def _say_broken(cli: CLI, verdict: object, seq: int, reason: str) -> None:
    if cli.json:
        cli.result(verdict)
    else:
        click.echo(t("Entry {seq} is not what was written: {reason}", seq=seq, reason=reason), err=True)
    raise SystemExit(1)


def _verify_file(cli: CLI, path: Path) -> None:
    from fust.accounts.audit_chain import reason_text, verify_chain

    entries = _read_export(path)
    first = next(iter(entries), None)
    verdict = verify_chain(_read_export(path), start=first.seq if first else 1)
    if verdict.broken_seq is not None:
        reason = reason_text(verdict.reason, terminal_language())
        _say_broken(
            cli, {"ok": False, "seq": verdict.broken_seq, "reason": reason}, verdict.broken_seq, reason
        )
    head = verdict.head
    if head is None:
        raise NotFound("There are no entries in {path}.", path=path)
    held = cli.client().list_audit(limit=1, cursor=head.seq + 1).items
    if not held or (held[0].seq, held[0].hash) != (head.seq, head.hash):
        reason = t("the server does not hold it, or holds another; its audit was cut off or written anew.")
        _say_broken(cli, {"ok": False, "seq": head.seq, "reason": reason}, head.seq, reason)
    cli.result(
        {"ok": True, "entries": verdict.entries, "head": {"seq": head.seq, "hash": head.hash}},
        t(
            "{count} entries in {path}, none changed, and the server still holds the last.",
            count=verdict.entries,
            path=path,
        ),
    )


def _read_export(path: Path) -> Iterator[Any]:
    import msgspec

    from fust.accounts.audit_chain import Entry

    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield msgspec.json.decode(line, type=Entry)
            except msgspec.MsgspecError as error:
                raise InvalidInput(
                    "Line {number} of {path} is not an entry of the audit: {reason}.",
                    hint="Give a file that `fust audit export` wrote, whole and as JSON lines.",
                    number=number,
                    path=path,
                    reason=words_of(error),
                ) from None
            except OSError as error:
                raise FustError(
                    "{path} cannot be read: {reason}.", path=path, reason=error.strerror
                ) from None
