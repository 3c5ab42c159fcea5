"""`fust tokens`: keys."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import ago, example, table
from fust.core.errors import InvalidInput, NotFound
from fust.core.i18n import t

if TYPE_CHECKING:
    from fust.client.types import Token


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
@click.option("--user", default="", help=t("Somebody else's, for administrators."))
@pass_cli
def list_tokens(cli: CLI, user: str) -> None:
    """Lists keys."""
    found = cli.client().list_tokens(user)
    rows = [
        [
            k.name,
            k.scope,
            f"{k.prefix}…",
            _limits(k),
            ago(k.created_at),
            ago(k.last_used_at),
            t("has ended") if k.expired else (k.expires_at or "-")[:10],
            k.id,
        ]
        for k in found
    ]
    headings = [t("name"), t("scope"), t("begins"), t("only for"), t("made"), t("used"), t("ends"), "id"]
    cli.result(
        {"items": found},
        table(headings, rows) if rows else t("No keys. Make one with `fust tokens new NAME`."),
    )


def _limits(key: Token) -> str:
    return ", ".join([*(key.repos or []), *(key.models or [])]) or "-"


@tokens.command(
    "new",
    help=t("Make a key and print it, once. Only its hash is kept."),
    epilog=example(
        "fust tokens new laptop --scope read",
        "export HF_TOKEN=$(fust tokens new push --scope write)",
        "fust tokens new ci --scope write --repo lab/news --expires 90d",
        "fust tokens new app --model helper",
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
@click.option(
    "--repo", "repos", multiple=True, help=t("Only for this repo: owner/name, dataset:owner/name or owner/*.")
)
@click.option("--model", "models", multiple=True, help=t("Only for this model at /v1: its name or alias."))
@click.option("--expires", default="", metavar="WHEN", help=t("When it ends: 12h, 90d or 2027-01-31."))
@click.option("--user", default="", help=t("For somebody else, by an administrator."))
@pass_cli
def new_token(
    cli: CLI, name: str, scope: str, repos: tuple[str, ...], models: tuple[str, ...], expires: str, user: str
) -> None:
    """Makes a key; in a pipe the key alone is printed."""
    token = cli.client().create_token(
        name,
        scope,
        user=user,
        repos=repos or None,
        models=models or None,
        expires_at=_end(expires) if expires else None,
    )
    if not cli.json and sys.stdout.isatty():
        click.echo(t("The key {name} ({scope}); it is not shown again:", name=name, scope=scope), err=True)
    cli.result(token, token.token)


def _end(text: str) -> str:
    """Returns the moment that ``12h``, ``90d`` or a date means, as ISO 8601."""
    match = re.fullmatch(r"([1-9]\d{0,5})([hd])", text)
    if match:
        span = timedelta(hours=int(match[1])) if match[2] == "h" else timedelta(days=int(match[1]))
        with suppress(OverflowError):
            return (datetime.now(UTC) + span).isoformat(timespec="seconds")
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.astimezone()).isoformat()
    raise InvalidInput(
        "{value!r} is not a time.", hint="Write 12h, 90d or a date such as 2027-01-31.", value=text[:50]
    )


@tokens.command(
    "revoke",
    help=t("End a key, by its name or id; it is refused from then on."),
    epilog=example("fust tokens revoke laptop"),
)
@click.argument("name")
@click.option("--user", default="", help=t("Somebody else's, for administrators."))
@pass_cli
def revoke_token(cli: CLI, name: str, user: str) -> None:
    """Ends a key."""
    client = cli.client()
    found = [k for k in client.list_tokens(user) if name in (k.id, k.name)]
    if not found:
        raise NotFound("There is no key {name!r}.", hint="`fust tokens` lists yours.", name=name)
    if len(found) > 1:
        ids = ", ".join(k.id for k in found)
        raise NotFound(
            "Several keys are called {name!r}.", hint="Give the id of one: {ids}.", name=name, ids=ids
        )
    client.revoke_token(found[0].id)
    cli.result({"id": found[0].id, "revoked": True}, t("The key {name} is revoked.", name=found[0].name))
