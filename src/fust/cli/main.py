"""`fust`: a table of verbs. The module of a verb is imported when it is used, so that help is instant."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from fust import __version__
from fust.cli import words
from fust.cli.context import CLI, show_error, with_common_options
from fust.core.errors import FustError
from fust.core.i18n import t

# Verb -> (module:attribute, what it does). The order is that of the help page.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("fust.cli.up:up", "Start Fust: hub, model API and page."),
    "down": ("fust.cli.up:down", "Stop the running server."),
    "open": ("fust.cli.up:open_", "Print a link that signs the browser in."),
    "status": ("fust.cli.up:status", "Show what runs and what needs you."),
    "doctor": ("fust.cli.up:doctor", "Check this machine, and say how to mend what is wrong."),
    "config": ("fust.cli.up:config", "Show every setting and where it came from."),
    "logs": ("fust.cli.up:logs", "Show the server's log."),
    "passwd": ("fust.cli.up:passwd", "Set a password for the page."),
    "pull": ("fust.cli.pull:pull", "Fetch a model or data set from another hub."),
    "import": ("fust.cli.import_:import_", "Take over models from a Hugging Face cache or an Ollama store."),
    "push": ("fust.cli.push:push", "Put a file or folder into a repo."),
    "ls": ("fust.cli.repos:ls", "List repos, or the files of one."),
    "rm": ("fust.cli.repos:rm", "Delete a repo."),
    "chat": ("fust.cli.chat:chat", "Talk with a model in the terminal."),
    "serve": ("fust.cli.serve:serve", "Make a model answer at the API."),
    "ps": ("fust.cli.serve:ps", "List the models that are served."),
    "stop": ("fust.cli.serve:stop", "Take a model off the API."),
    "engines": ("fust.cli.engines:engines", "List what serves models here, or build a faster one."),
    "tune": ("fust.cli.tune:tune", "Make a model yours with rows of your own."),
    "export": ("fust.cli.export:export", "Make GGUF files of a model, for laptops and other programs."),
    "merge": ("fust.cli.export:merge", "Put an adapter into the weights of its base."),
    "quantize": ("fust.cli.export:quantize", "Make a GGUF file smaller."),
    "jobs": ("fust.cli.jobs:jobs", "List runs, follow one or cancel it."),
    "tokens": ("fust.cli.tokens:tokens", "List, make and revoke your keys."),
    "backup": ("fust.cli.keep:backup", "Copy the home to a folder, while it is in use."),
    "restore": ("fust.cli.keep:restore", "Put a backup into an empty home."),
    "fsck": ("fust.cli.keep:fsck", "Check the home, and mend what is wrong."),
    "gc": ("fust.cli.keep:gc", "Remove files that nothing points to any more."),
    "users": ("fust.cli.users:users", "List, add, change and remove people."),
    "orgs": ("fust.cli.orgs:orgs", "Organisations and who belongs to them."),
    "access": ("fust.cli.access:access", "Gated repos: who asked for access, and who gets it."),
    "invite": ("fust.cli.invite:invite", "Print a link that lets somebody in."),
    "audit": ("fust.cli.audit:audit", "See who did what, export it, and check that nothing was changed."),
}


class LazyGroup(click.Group):
    """A group whose commands are strings until one of them is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the verbs in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the verb's command, its module imported now; None for no such verb."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return with_common_options(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table without importing any of it."""
        with formatter.section(t("Commands")):
            formatter.write_dl([(name, t(about)) for name, (_, about) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the verb; an unknown one is a usage error that names the nearest.

        Raises:
            UsageError: no such verb.
        """
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = t("Did you mean `fust {verb}`?", verb=near[0]) if near else t("See `fust --help`.")
            raise click.UsageError(t("There is no command {verb!r}.", verb=args[0][:50]) + " " + hint, ctx)
        return super().resolve_command(ctx, args)


def _show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"fust {__version__}")
        ctx.exit()


def _group() -> click.Group:
    group = LazyGroup(
        name="fust",
        help=t("The printing press for AI models: hub, model API and chat page in one install.")
        + "\n\n\b\n"
        + t("Example:")
        + "\n  fust up -d\n  fust pull Qwen/Qwen3-0.6B-GGUF\n  fust serve Qwen/Qwen3-0.6B-GGUF\n"
        + "  fust chat Qwen/Qwen3-0.6B-GGUF",
        params=[
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_version,
                help=t("Show the version and leave."),
            ),
        ],
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        no_args_is_help=True,
    )
    return group


def run(arguments: list[str] | None = None) -> int:
    """Runs one command line; returns the exit code: 0 well, 1 failed, 2 wrong use, 130 interrupted."""
    cli = CLI()
    words.speak()
    try:
        group = with_common_options(_group(), hidden=False)
        result: Any = group.main(args=arguments, prog_name="fust", standalone_mode=False, obj=cli)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except FustError as error:
        show_error(error, as_json=cli.json)
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        return 0 if error.ctx.parent is None else 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(err=True)
        return 130
    except BrokenPipeError:
        # The reader (`head`) has gone; give the interpreter a place to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def main() -> NoReturn:
    """Entry point of the `fust` script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
