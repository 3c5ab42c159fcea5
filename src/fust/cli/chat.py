"""`fust chat`: talk with a model in the terminal."""

from __future__ import annotations

import sys
import time
from contextlib import closing

import click

from fust.cli.context import CLI, pass_cli, show_error
from fust.cli.show import example
from fust.client import Client
from fust.core.errors import FustError
from fust.core.i18n import t

Messages = list[dict[str, str]]


@click.command(
    help=t(
        "Talk with a model. With a prompt, or with text on standard input, it answers once and leaves; "
        "otherwise you take turns. Ctrl-C stops an answer, Ctrl-D leaves, /new begins anew."
    ),
    epilog=example(
        "fust chat Qwen/Qwen3-0.6B-GGUF",
        "fust chat small 'Name three rivers in Africa.'",
        "cat report.txt | fust chat small --system 'Summarise in two sentences.'",
    ),
)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--system", default="", metavar="TEXT", help=t("What the model is told first."))
@click.option("--temperature", type=float, help=t("0 for the likeliest answer, higher for more variety."))
@click.option("--max-tokens", type=int, help=t("Longest answer, in tokens."))
@click.option("--seed", type=int, help=t("The same seed gives the same answer."))
@pass_cli
def chat(
    cli: CLI,
    model: str,
    prompt: str | None,
    system: str,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
) -> None:
    """Answers once, or takes turns."""
    options: dict[str, object] = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    talk = Talk(cli, cli.client(), model, options, system)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read().strip()
    if prompt is not None:
        talk.answer_once(prompt)
    else:
        talk.take_turns()


class Talk:
    """One conversation; it lives in this process only."""

    def __init__(self, cli: CLI, client: Client, model: str, options: dict[str, object], system: str) -> None:
        self._cli = cli
        self._client = client
        self._model = model
        self._options = options
        self._start: Messages = [{"role": "system", "content": system}] if system else []
        self._messages: Messages = list(self._start)

    def answer_once(self, prompt: str) -> None:
        """Writes one answer; raises what the server refuses."""
        text, finish, tokens = self._answer(prompt, quiet=self._cli.json)
        answer = {"model": self._model, "content": text, "finish_reason": finish, "completion_tokens": tokens}
        self._cli.result(answer)

    def take_turns(self) -> None:
        """Asks and answers until Ctrl-D; an error ends the turn, not the talk."""
        click.echo(
            t("{model}. Ctrl-C stops an answer, Ctrl-D leaves, /new begins anew.", model=self._model),
            err=True,
        )
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                continue
            if line in ("/exit", "/quit", "/bye"):
                return
            if line == "/new":
                self._messages = list(self._start)
            elif line:
                self._turn(line)

    def _turn(self, line: str) -> None:
        before = list(self._messages)
        started = time.monotonic()
        try:
            _, _, tokens = self._answer(line, quiet=False)
        except FustError as error:
            show_error(error, as_json=False)
            self._messages = before
            return
        if tokens:
            rate = tokens / max(1e-6, time.monotonic() - started)
            click.secho(
                t("{tokens} tokens, {rate} a second", tokens=tokens, rate=f"{rate:.0f}"), dim=True, err=True
            )

    def _answer(self, prompt: str, *, quiet: bool) -> tuple[str, str | None, int | None]:
        """Writes the answer as it comes and keeps it; returns (text, why it ended, tokens). Ctrl-C ends it early."""
        self._messages.append({"role": "user", "content": prompt})
        pieces: list[str] = []
        finish, tokens = None, None
        try:
            with closing(self._client.chat(self._model, self._messages, **self._options)) as stream:
                for delta in stream:
                    pieces.append(delta.text)
                    finish = delta.finish_reason or finish
                    tokens = delta.completion_tokens or tokens
                    if delta.text and not quiet:
                        click.echo(delta.text, nl=False)
                        sys.stdout.flush()
        except KeyboardInterrupt:
            finish = "stopped"
        if not quiet:
            click.echo()
        text = "".join(pieces)
        self._messages.append({"role": "assistant", "content": text})
        return text, finish, tokens
