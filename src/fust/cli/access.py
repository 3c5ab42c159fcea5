"""`fust access`: gated repos: who asked for access, who gets it, and asking oneself."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from fust.cli.context import CLI, pass_cli
from fust.cli.show import ago, example, table
from fust.core.i18n import t

if TYPE_CHECKING:
    from fust.client.access import Gate, GateField, RepoAccess, Request

_TYPE = click.Choice(["model", "dataset", "space"])
_STATES = click.Choice(["pending", "accepted", "rejected", "expired"])
_until = click.option(
    "--until", default="", metavar="DATE", help=t("Last day of the access, like 2027-01-31.")
)
_reason = click.option("--reason", default="", metavar="TEXT", help=t("Why; they read it."))
_type = click.option("--type", "repo_type", default="model", type=_TYPE, help=t("Kind of repo."))
_repo = click.argument("repo_id", metavar="OWNER/NAME")


def _open(cli: CLI, repo_id: str, repo_type: str) -> RepoAccess:
    return cli.client().access(repo_id, repo_type)


@click.group(
    invoke_without_command=True,
    help=t("Gated repos: see who asked for access, decide, and ask yourself."),
    epilog=example("fust access", "fust access gate lab/model manual", "fust access list lab/model"),
)
@click.pass_context
def access(context: click.Context) -> None:
    """Lists when no verb is given."""
    if context.invoked_subcommand is None:
        context.invoke(list_access)


@access.command(
    "list",
    help=t("List a repo's requests; without a repo, yours and those that wait for you."),
    epilog=example("fust access list", "fust access list lab/model --state accepted"),
)
@click.argument("repo_id", metavar="[OWNER/NAME]", required=False)
@_type
@click.option("--state", default="pending", show_default=True, type=_STATES, help=t("Which requests."))
@click.option("-n", "--limit", default=100, show_default=True, help=t("How many at most."))
@pass_cli
def list_access(
    cli: CLI, repo_id: str | None = None, repo_type: str = "model", state: str = "pending", limit: int = 100
) -> None:
    """Lists requests."""
    if not repo_id:
        _list_mine(cli)
        return
    found = _open(cli, repo_id, repo_type).list(state, limit)
    rows = [
        [
            request.user.user,
            ago(request.timestamp),
            str(request.termsVersion or "-"),
            (request.until or "-")[:10],
            request.decidedBy or "-",
            request.rejectionReason or _told(request),
        ]
        for request in found
    ]
    headings = [t("name"), t("asked"), t("terms"), t("until"), t("decided by"), t("said")]
    cli.result(
        {"items": found}, table(headings, rows) if rows else t("No requests are {state}.", state=state)
    )


def _told(request: Request) -> str:
    return "; ".join(f"{name}: {value}" for name, value in (request.fields or {}).items()) or "-"


def _list_mine(cli: CLI) -> None:
    found = cli.client().my_access()
    parts: list[str] = []
    if found.waiting:
        rows = [[line.repo_id, line.type, str(line.pending)] for line in found.waiting]
        parts.append(table([t("waits for you"), t("kind"), t("requests")], rows))
    if found.items:
        rows = [
            [
                line.repo_id,
                line.type,
                line.standing,
                (line.request.until or "-")[:10],
                line.request.reason or "-",
            ]
            for line in found.items
        ]
        parts.append(table([t("you asked for"), t("kind"), t("state"), t("until"), t("reason")], rows))
    cli.result(found, "\n\n".join(parts) or t("You asked for no repo, and nobody waits for you."))


@access.command(
    "approve",
    help=t("Accept a request, or change until when it holds."),
    epilog=example(
        "fust access approve lab/model maria", "fust access approve lab/model maria --until 2027-01-31"
    ),
)
@_repo
@click.argument("user")
@_type
@_until
@pass_cli
def approve(cli: CLI, repo_id: str, user: str, repo_type: str, until: str) -> None:
    """Accepts."""
    decided = _open(cli, repo_id, repo_type).decide(user, "accepted", until=until)
    cli.result(decided, _opened(decided, repo_id))


@access.command(
    "grant",
    help=t("Let somebody in who did not ask."),
    epilog=example("fust access grant lab/model maria", "fust access grant lab/rows maria --type dataset"),
)
@_repo
@click.argument("user")
@_type
@_until
@pass_cli
def grant(cli: CLI, repo_id: str, user: str, repo_type: str, until: str) -> None:
    """Lets in."""
    decided = _open(cli, repo_id, repo_type).grant(user, until=until)
    cli.result(decided, _opened(decided, repo_id))


def _opened(decided: Request, repo_id: str) -> str:
    if decided.until:
        return t(
            "{user} has access to {repo_id} until {until}.",
            user=decided.user.user,
            repo_id=repo_id,
            until=decided.until[:10],
        )
    return t("{user} has access to {repo_id}.", user=decided.user.user, repo_id=repo_id)


@access.command(
    "reject",
    help=t("Reject a request; it cannot be sent again until you set it back."),
    epilog=example('fust access reject lab/model maria --reason "Not for companies."'),
)
@_repo
@click.argument("user")
@_type
@_reason
@pass_cli
def reject(cli: CLI, repo_id: str, user: str, repo_type: str, reason: str) -> None:
    """Rejects."""
    decided = _open(cli, repo_id, repo_type).decide(user, "rejected", reason=reason)
    text = t("The request of {user} for {repo_id} is rejected.", user=decided.user.user, repo_id=repo_id)
    cli.result(decided, text)


@access.command(
    "revoke",
    help=t("Take access away, at once. With --pending, the request waits for you again."),
    epilog=example("fust access revoke lab/model maria", "fust access revoke lab/model maria --pending"),
)
@_repo
@click.argument("user")
@_type
@_reason
@click.option("--pending", is_flag=True, help=t("Set the request back instead of rejecting it."))
@pass_cli
def revoke(cli: CLI, repo_id: str, user: str, repo_type: str, reason: str, pending: bool) -> None:
    """Takes away."""
    decided = _open(cli, repo_id, repo_type).decide(user, "pending" if pending else "rejected", reason=reason)
    text = t("{user} has no access to {repo_id} any more.", user=decided.user.user, repo_id=repo_id)
    cli.result(decided, text)


@access.command(
    "gate",
    help=t("Say who may download: manual (whom you accept), auto (who agrees to the terms), or no gate."),
    epilog=example("fust access gate lab/model manual", "fust access gate lab/model no"),
)
@_repo
@click.argument("mode", type=click.Choice(["manual", "auto", "no"]))
@_type
@pass_cli
def gate(cli: CLI, repo_id: str, mode: str, repo_type: str) -> None:
    """Sets the gate."""
    _open(cli, repo_id, repo_type).set_gate(mode)
    text = (
        t("{repo_id} is open to all who may see it.", repo_id=repo_id)
        if mode == "no"
        else t("{repo_id} is gated: {mode}.", repo_id=repo_id, mode=mode)
    )
    cli.result({"repo_id": repo_id, "gated": mode}, text)


@access.command(
    "ask-again",
    help=t("Close a repo to everybody who was let in until they agree to its terms as they are now."),
    epilog=example("fust access ask-again lab/model"),
)
@_repo
@_type
@pass_cli
def ask_again(cli: CLI, repo_id: str, repo_type: str) -> None:
    """Asks everybody again."""
    _open(cli, repo_id, repo_type).ask_again()
    text = t("Whoever was let in to {repo_id} agrees to its terms first.", repo_id=repo_id)
    cli.result({"repo_id": repo_id, "asked_again": True}, text)


@access.command(
    "request",
    help=t("Ask for access to a gated repo: shows its terms, asks what its form asks, and sends it."),
    epilog=example(
        "fust access request lab/model",
        'fust access request lab/model --field "Company=Goods & Co" --field "I agree=yes" --yes',
    ),
)
@_repo
@_type
@click.option("--field", "given", multiple=True, metavar="NAME=TEXT", help=t("An answer; yes ticks a box."))
@click.option("-y", "--yes", is_flag=True, help=t("You have read the terms and agree to them."))
@pass_cli
def request_access(cli: CLI, repo_id: str, repo_type: str, given: tuple[str, ...], yes: bool) -> None:
    """Asks."""
    repo = _open(cli, repo_id, repo_type)
    found = repo.gate()
    if found.open:
        cli.result(found, t("You have access to {repo_id} already.", repo_id=repo_id))
        return
    if not yes and not sys.stdin.isatty():
        raise click.UsageError(
            t("Nobody can be asked here; add --yes to agree to the terms of {repo_id}.", repo_id=repo_id)
        )
    if not yes:
        _show_terms(found)
    answers = _answers(found, given, ask=not yes)
    if not yes:
        click.confirm(t("Do you agree, and share this and your name with the owners?"), abort=True)
    sent = repo.request(found.terms, answers)
    text = (
        t("You have access to {repo_id} now.", repo_id=repo_id)
        if sent.status == "accepted"
        else t(
            "Your request for {repo_id} waits for its owners. `fust access` says what became of it.",
            repo_id=repo_id,
        )
    )
    cli.result(sent, text)


def _show_terms(found: Gate) -> None:
    for text in (found.heading, found.description, found.prompt):
        if text:
            click.echo(text + "\n", err=True)


def _answers(found: Gate, given: tuple[str, ...], *, ask: bool) -> dict[str, Any]:
    """Returns the answers: those given as options, the rest asked for when somebody is there to answer."""
    said: dict[str, str] = {}
    for pair in given:
        name, _, text = pair.partition("=")
        said[name.strip()] = text
    unknown = set(said) - {field.name for field in found.fields}
    if unknown:
        raise click.UsageError(
            t(
                "The form has no field {name!r}; it has: {names}.",
                name=min(unknown),
                names=", ".join(field.name for field in found.fields) or "-",
            )
        )
    answers: dict[str, Any] = {}
    for field in found.fields:
        if field.name not in said and ask:
            said[field.name] = _prompt(field)
        text = said.get(field.name, "")
        answers[field.name] = text.lower() in ("yes", "true", "1") if field.type == "checkbox" else text
    return answers


def _prompt(field: GateField) -> str:
    if field.type == "checkbox":
        return "yes" if click.confirm(field.name, err=True) else "no"
    if field.type == "select":
        values = [option.value for option in field.options]
        return click.prompt(field.name, type=click.Choice(values), err=True)
    hint = {"date_picker": " (2026-11-22)", "country": " (DE, CN, KE …)"}.get(field.type, "")
    return click.prompt(field.name + hint, err=True)
