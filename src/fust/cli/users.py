"""`fust users`: people."""

from __future__ import annotations

import sys

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import example, table
from fust.core.i18n import t


@click.group(
    invoke_without_command=True,
    help=t("List, add, change and remove people."),
    epilog=example("fust users", "fust users new maria", "fust users suspend maria"),
)
@click.pass_context
def users(context: click.Context) -> None:
    """Lists when no verb is given."""
    if context.invoked_subcommand is None:
        context.invoke(list_users)


@users.command("list", help=t("List people."), epilog=example("fust users list"))
@pass_cli
def list_users(cli: CLI) -> None:
    """Lists people."""
    found = cli.client().list_users()
    rows = [
        [
            u.name,
            u.full_name or "-",
            t("yes") if u.is_admin else "-",
            t("yes") if u.has_password else "-",
            t("suspended") if u.suspended else "-",
        ]
        for u in found
    ]
    headings = [t("name"), t("full name"), t("administrator"), t("password"), t("state")]
    cli.result({"items": found}, table(headings, rows))


@users.command(
    "new",
    help=t("Add a person. The password is asked for; without one the person signs in by a key."),
    epilog=example("fust users new maria", "echo long-secret-words | fust users new maria --stdin"),
)
@click.argument("name")
@click.option("--admin", is_flag=True, help=t("May do everything."))
@click.option("--full-name", default="", help=t("As others see it."))
@click.option("--no-password", is_flag=True, help=t("Do not set one."))
@click.option("--stdin", is_flag=True, help=t("Read the password from standard input, for scripts."))
@pass_cli
def new_user(cli: CLI, name: str, admin: bool, full_name: str, no_password: bool, stdin: bool) -> None:
    """Adds a person."""
    password = None
    if stdin:
        password = sys.stdin.readline().rstrip("\n")
    elif not no_password and sys.stdin.isatty():
        password = click.prompt(t("New password"), hide_input=True, confirmation_prompt=True)
    user = cli.client().create_user(name, password=password, is_admin=admin, full_name=full_name)
    cli.result(user, t("{name} is added.", name=user.name))


@users.command(
    "set",
    help=t("Change what a person is called, or whether they administer this Fust."),
    epilog=example('fust users set maria --full-name "Maria Silva"', "fust users set maria --admin yes"),
)
@click.argument("name")
@click.option("--full-name", default=None, help=t("As others see it."))
@click.option("--admin", type=click.Choice(["yes", "no"]), default=None, help=t("May do everything."))
@pass_cli
def set_user(cli: CLI, name: str, full_name: str | None, admin: str | None) -> None:
    """Changes a person."""
    is_admin = None if admin is None else admin == "yes"
    user = cli.client().update_user(name, full_name=full_name, is_admin=is_admin)
    cli.result(user, t("{name} is changed.", name=user.name))


@users.command(
    "suspend",
    help=t("Refuse a person's keys and browsers, within two seconds; what they made stays."),
    epilog=example("fust users suspend maria"),
)
@click.argument("name")
@pass_cli
def suspend_user(cli: CLI, name: str) -> None:
    """Suspends a person."""
    user = cli.client().update_user(name, suspended=True)
    cli.result(user, t("{name} is suspended; `fust users resume {name}` ends that.", name=user.name))


@users.command(
    "resume",
    help=t("Let a suspended person in again; their keys work as before."),
    epilog=example("fust users resume maria"),
)
@click.argument("name")
@pass_cli
def resume_user(cli: CLI, name: str) -> None:
    """Ends a suspension."""
    user = cli.client().update_user(name, suspended=False)
    cli.result(user, t("{name} may act again.", name=user.name))


@users.command(
    "remove",
    help=t("Remove a person that keeps no repos, with all of their keys."),
    epilog=example("fust users remove maria"),
)
@click.argument("name")
@pass_cli
def remove_user(cli: CLI, name: str) -> None:
    """Removes a person."""
    cli.client().delete_user(name)
    cli.result({"name": name, "removed": True}, t("{name} is removed.", name=name))
