"""`fust tokens` and `fust users`: keys and people."""

from __future__ import annotations

import sys

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import ago, example, table
from fust.core.errors import NotFound
from fust.core.i18n import t


@click.group(
    invoke_without_command=True,
    help=t("List, make and revoke your keys."),
    epilog=example("fust tokens", "fust tokens new laptop --scope read", "fust tokens revoke laptop"),
)
@click.pass_context
def tokens(context: click.Context) -> None:
    """Lists when no verb is given."""
    if context.invoked_subcommand is None:
        context.invoke(list_tokens)


@tokens.command(
    "list", help=t("List your keys; their secrets are not kept anywhere."), epilog=example("fust tokens list")
)
@pass_cli
def list_tokens(cli: CLI) -> None:
    """Lists keys."""
    found = cli.client().list_tokens()
    rows = [[k.name, k.scope, f"{k.prefix}…", ago(k.created_at), ago(k.last_used_at), k.id] for k in found]
    headings = [t("name"), t("scope"), t("begins"), t("made"), t("used"), "id"]
    cli.result(
        {"items": found},
        table(headings, rows) if rows else t("No keys. Make one with `fust tokens new NAME`."),
    )


@tokens.command(
    "new",
    help=t("Make a key and print it, once. Only its hash is kept."),
    epilog=example(
        "fust tokens new laptop --scope read", "export HF_TOKEN=$(fust tokens new push --scope write)"
    ),
)
@click.argument("name")
@click.option(
    "--scope",
    default="read",
    show_default=True,
    type=click.Choice(["read", "write", "admin"]),
    help=t("What it may do."),
)
@pass_cli
def new_token(cli: CLI, name: str, scope: str) -> None:
    """Makes a key; in a pipe the key alone is printed."""
    token = cli.client().create_token(name, scope)
    if not cli.json and sys.stdout.isatty():
        click.echo(t("The key {name} ({scope}); it is not shown again:", name=name, scope=scope), err=True)
    cli.result(token, token.token)


@tokens.command(
    "revoke",
    help=t("End a key, by its name or id; it is refused from then on."),
    epilog=example("fust tokens revoke laptop"),
)
@click.argument("name")
@pass_cli
def revoke_token(cli: CLI, name: str) -> None:
    """Ends a key."""
    client = cli.client()
    found = [k for k in client.list_tokens() if name in (k.id, k.name)]
    if not found:
        raise NotFound("There is no key {name!r}.", hint="`fust tokens` lists yours.", name=name)
    if len(found) > 1:
        ids = ", ".join(k.id for k in found)
        raise NotFound(
            "Several keys are called {name!r}.", hint="Give the id of one: {ids}.", name=name, ids=ids
        )
    client.revoke_token(found[0].id)
    cli.result({"id": found[0].id, "revoked": True}, t("The key {name} is revoked.", name=found[0].name))


@click.group(
    invoke_without_command=True,
    help=t("List and add people."),
    epilog=example("fust users", "fust users new maria", "fust users new root2 --admin"),
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
    rows = [[u.name, t("yes") if u.is_admin else "-", t("yes") if u.has_password else "-"] for u in found]
    cli.result({"items": found}, table([t("name"), t("administrator"), t("password")], rows))


@users.command(
    "new",
    help=t("Add a person. The password is asked for; without one the person signs in by a key."),
    epilog=example("fust users new maria", "echo long-secret-words | fust users new maria --stdin"),
)
@click.argument("name")
@click.option("--admin", is_flag=True, help=t("May do everything."))
@click.option("--no-password", is_flag=True, help=t("Do not set one."))
@click.option("--stdin", is_flag=True, help=t("Read the password from standard input, for scripts."))
@pass_cli
def new_user(cli: CLI, name: str, admin: bool, no_password: bool, stdin: bool) -> None:
    """Adds a person."""
    password = None
    if stdin:
        password = sys.stdin.readline().rstrip("\n")
    elif not no_password and sys.stdin.isatty():
        password = click.prompt(t("New password"), hide_input=True, confirmation_prompt=True)
    user = cli.client().create_user(name, password=password, is_admin=admin)
    cli.result(user, t("{name} is added.", name=user.name))
