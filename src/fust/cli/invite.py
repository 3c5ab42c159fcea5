"""`fust invite`: links that let people in."""

from __future__ import annotations

import re
import sys

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import ago, example, table
from fust.core.errors import InvalidInput
from fust.core.i18n import t

_SPANS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def span_s(text: str) -> int:
    """Returns the seconds of `30m`, `12h`, `7d` or `2w`.

    Raises:
        InvalidInput: it is none of them.
    """
    match = re.fullmatch(r"(\d{1,4})([mhdw])", text)
    if match is None:
        raise InvalidInput(
            "{value!r} is not a span of time.", hint="Write it like 12h, 7d or 2w.", value=text[:20]
        )
    return int(match[1]) * _SPANS[match[2]]


@click.group(
    invoke_without_command=True,
    help=t("Print a link that lets one person in, once: to this Fust, or to an organisation of it."),
    epilog=example("fust invite", "fust invite --org lab --role write --expires 2d", "fust invite list"),
)
@click.option("--org", help=t("The organisation that the person joins."))
@click.option(
    "--role",
    default="read",
    show_default=True,
    type=click.Choice(["read", "write", "admin", "owner"]),
    help=t("The role there."),
)
@click.option("--expires", default="7d", show_default=True, help=t("How long the link works: 12h, 7d, 2w."))
@click.option("--note", default="", help=t("For whom or what it is; shown on the page that it opens."))
@click.pass_context
def invite(context: click.Context, org: str | None, role: str, expires: str, note: str) -> None:
    """Makes an invitation when no verb is given."""
    if context.invoked_subcommand is not None:
        return
    cli = context.ensure_object(CLI)
    made = cli.client().create_invitation(organisation=org, role=role, expires_s=span_s(expires), note=note)
    if not cli.json and sys.stdout.isatty():
        click.echo(t("Send this link to one person; it works once and is not shown again:"), err=True)
    cli.result(made, made.url)


@invite.command("list", help=t("List invitations."), epilog=example("fust invite list"))
@pass_cli
def list_invitations(cli: CLI) -> None:
    """Lists invitations."""
    found = cli.client().list_invitations()
    words = {"open": t("open"), "used": t("used"), "expired": t("expired")}
    rows = [
        [
            i.id,
            f"{i.organisation} ({i.role})" if i.organisation else "-",
            words.get(i.state, i.state),
            i.created_by,
            ago(i.created_at),
            i.used_by or "-",
            i.note,
        ]
        for i in found
    ]
    headings = ["id", t("organisation"), t("state"), t("by"), t("made"), t("used by"), t("note")]
    cli.result({"items": found}, table(headings, rows) if rows else t("No invitations are out."))


@invite.command(
    "withdraw", help=t("End an invitation that nobody used."), epilog=example("fust invite withdraw i_01ab")
)
@click.argument("id")
@pass_cli
def withdraw(cli: CLI, id: str) -> None:
    """Ends an invitation."""
    cli.client().withdraw_invitation(id)
    cli.result({"id": id, "withdrawn": True}, t("The invitation {id} is withdrawn.", id=id))
