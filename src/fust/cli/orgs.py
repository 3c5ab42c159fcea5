"""`fust orgs`: organisations and who belongs to them."""

from __future__ import annotations

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import ago, example, table
from fust.core.i18n import t

_ROLES = click.Choice(["read", "write", "admin", "owner"])


@click.group(
    invoke_without_command=True,
    help=t("List, make and look after organisations: names that several people share."),
    epilog=example("fust orgs", "fust orgs new lab", "fust orgs add lab maria --role write"),
)
@click.pass_context
def orgs(context: click.Context) -> None:
    """Lists when no verb is given."""
    if context.invoked_subcommand is None:
        context.invoke(list_orgs)


@orgs.command("list", help=t("List organisations."), epilog=example("fust orgs list --mine"))
@click.option("--mine", is_flag=True, help=t("Only those that you belong to."))
@pass_cli
def list_orgs(cli: CLI, mine: bool = False) -> None:
    """Lists organisations."""
    found = cli.client().list_organisations(mine=mine)
    rows = [[o.name, o.display_name or "-", str(o.members), o.role or "-", ago(o.created_at)] for o in found]
    headings = [t("name"), t("shown as"), t("members"), t("your role"), t("made")]
    cli.result(
        {"items": found},
        table(headings, rows) if rows else t("No organisations. Make one with `fust orgs new NAME`."),
    )


@orgs.command("new", help=t("Make an organisation that you own."), epilog=example("fust orgs new lab"))
@click.argument("name")
@click.option("--display-name", default="", help=t("As others see it."))
@pass_cli
def new_org(cli: CLI, name: str, display_name: str) -> None:
    """Makes an organisation."""
    made = cli.client().create_organisation(name, display_name)
    cli.result(made, t("{name} is made; you own it.", name=made.name))


@orgs.command("show", help=t("Show who belongs to an organisation."), epilog=example("fust orgs show lab"))
@click.argument("name")
@pass_cli
def show_org(cli: CLI, name: str) -> None:
    """Shows members."""
    client = cli.client()
    found, members = client.get_organisation(name), client.list_members(name)
    rows = [[m.name, m.full_name or "-", m.role, ago(m.since)] for m in members]
    heading = f"{found.name} ({found.display_name})" if found.display_name else found.name
    text = heading + "\n" + table([t("name"), t("full name"), t("role"), t("since")], rows)
    cli.result({"organisation": found, "members": members}, text)


@orgs.command(
    "rename",
    help=t("Change the name that is shown; the one in repo ids stays."),
    epilog=example('fust orgs rename lab "The Language Lab"'),
)
@click.argument("name")
@click.argument("display_name")
@pass_cli
def rename_org(cli: CLI, name: str, display_name: str) -> None:
    """Changes the shown name."""
    found = cli.client().rename_organisation(name, display_name)
    cli.result(found, t("{name} is shown as {shown}.", name=found.name, shown=found.display_name or "-"))


@orgs.command(
    "add",
    help=t("Add a person, or change their role: read, write, admin or owner."),
    epilog=example("fust orgs add lab maria", "fust orgs add lab maria --role admin"),
)
@click.argument("name")
@click.argument("user")
@click.option("--role", type=_ROLES, default="read", show_default=True, help=t("What they may do."))
@pass_cli
def add_member(cli: CLI, name: str, user: str, role: str) -> None:
    """Adds or changes a member."""
    member = cli.client().set_member(name, user, role)
    text = t("{user} has the role {role} in {name}.", user=member.name, role=member.role, name=name)
    cli.result(member, text)


@orgs.command(
    "remove", help=t("Take a person out of an organisation."), epilog=example("fust orgs remove lab maria")
)
@click.argument("name")
@click.argument("user")
@pass_cli
def remove_member(cli: CLI, name: str, user: str) -> None:
    """Ends a membership."""
    cli.client().remove_member(name, user)
    text = t("{user} does not belong to {name} any more.", user=user, name=name)
    cli.result({"organisation": name, "user": user, "removed": True}, text)


@orgs.command(
    "delete", help=t("Delete an organisation that keeps no repos."), epilog=example("fust orgs delete lab")
)
@click.argument("name")
@pass_cli
def delete_org(cli: CLI, name: str) -> None:
    """Deletes an organisation."""
    cli.client().delete_organisation(name)
    cli.result({"name": name, "deleted": True}, t("{name} is deleted.", name=name))
