"""What every verb shares: the common options, the running server, and how results and errors are written."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fust.core.errors import FustError, Unavailable
from fust.core.i18n import t, terminal_language

if TYPE_CHECKING:
    from fust.client import Client

_C = TypeVar("_C", bound=click.Command)


@dataclass(slots=True)
class CLI:
    """The common options of one command line; commands get it through ``pass_cli``."""

    json: bool = False
    """Whether results are written as JSON."""
    home_flag: Path | None = None
    url: str = field(default_factory=lambda: os.environ.get("FUST_URL", ""))
    """Server named by ``--url`` or ``FUST_URL``; empty: the one that runs on ``home``."""
    token: str = field(default_factory=lambda: os.environ.get("FUST_TOKEN", ""))
    """Key named by ``--token`` or ``FUST_TOKEN``; empty: the home's own."""

    @property
    def home(self) -> Path:
        """The Fust home: ``--home``, else ``FUST_HOME``, else ~/.fust."""
        folder = self.home_flag or Path(os.environ.get("FUST_HOME") or "~/.fust")
        return folder.expanduser().absolute()

    def client(self) -> Client:
        """Returns a client of the server that was named, or of the one that runs on the home.

        Raises:
            Unavailable: none was named and none runs here; says how to start one.
        """
        from fust.client import Client

        return Client(self.url or running_server(self.home), self.token or self._home_token())

    def _home_token(self) -> str:
        # The home's own key goes only to the home's own server: never to a URL that somebody handed us.
        if self.url and self.url.rstrip("/") != find_running_server(self.home):
            return ""
        try:
            return (self.home / "token").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def result(self, value: object, text: str = "") -> None:
        """Writes a command's result: ``value`` as JSON when that was asked for, else ``text``."""
        if self.json:
            import msgspec

            click.echo(json.dumps(msgspec.to_builtins(value), ensure_ascii=False, indent=2))
        elif text:
            click.echo(text)


pass_cli = click.make_pass_decorator(CLI, ensure=True)


def find_running_server(home: Path) -> str | None:
    """Returns the URL of the server that runs on a home, or None.

    ``server.json`` is believed only while the server's lock is held: a killed server leaves the file behind.
    """
    from fust.core.locks import is_held

    if not is_held(home / "server.lock"):
        return None
    try:
        document = json.loads((home / "server.json").read_text(encoding="utf-8"))
        return str(document["url"]).rstrip("/")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def running_server(home: Path) -> str:
    """Returns the URL of the server that runs on a home.

    Raises:
        Unavailable: none runs; says how to start one.
    """
    url = find_running_server(home)
    if url is None:
        raise Unavailable(
            "No Fust server runs on {home}.",
            hint="Start one with `fust up -d`, or name another with --url or FUST_URL.",
            home=home,
        )
    return url


def show_error(error: FustError, *, as_json: bool) -> None:
    """Writes an error on standard error: one line, or one JSON object."""
    language = terminal_language()
    if as_json:
        body = {"code": error.code, "message": error.message(language), "hint": error.hint(language)}
        click.echo(json.dumps({"error": body}, ensure_ascii=False), err=True)
        return
    line = " ".join(error.sentence(language).split())
    label = click.style(t("Error:"), fg="red", bold=True) if sys.stderr.isatty() else t("Error:")
    click.echo(f"{label} {line}", err=True)


def _set(name: str) -> Any:
    def callback(ctx: click.Context, _: click.Parameter, value: object) -> None:
        if value not in (None, False, ""):
            setattr(ctx.ensure_object(CLI), name, value)

    return callback


def with_common_options(command: _C, *, hidden: bool = True) -> _C:
    """Gives a command, and all below it, ``--json --home --url --token``; they may stand before or after the verb.

    An option that the command has itself is left alone. ``hidden`` keeps all but ``--json`` off its help page.
    """
    taken = {name for parameter in command.params for name in parameter.opts}
    common = [
        ("--json", "json", t("Write the result as JSON."), None, None),
        (
            "--home",
            "home_flag",
            t("Folder of this Fust (FUST_HOME, else ~/.fust)."),
            click.Path(path_type=Path),
            "PATH",
        ),
        (
            "--url",
            "url",
            t("Server to talk to (FUST_URL, else the one that runs here)."),
            click.STRING,
            "URL",
        ),
        ("--token", "token", t("Key to use (FUST_TOKEN, else the one in the home)."), click.STRING, "KEY"),
    ]
    for flag, name, about, kind, metavar in common:
        if flag not in taken:
            command.params.append(
                click.Option(
                    [flag, f"common_{name}"],
                    type=kind,
                    is_flag=kind is None,
                    metavar=metavar,
                    help=about,
                    hidden=hidden and kind is not None,
                    expose_value=False,
                    is_eager=True,
                    callback=_set(name),
                )
            )
    if isinstance(command, click.Group):
        for child in getattr(command, "commands", {}).values():
            with_common_options(child)
    return command
