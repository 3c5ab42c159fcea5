"""How things look in a terminal: tables, times, the news of a run."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import click

from fust.client import Client, ClientError
from fust.core.errors import FustError
from fust.core.i18n import t
from fust.core.units import show_size, span_words
from fust.wire.runs import FINAL_STATES, LogLine, Progress, Run

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


def example(*lines: str) -> str:
    """Returns the epilog of a command's help: real examples, kept as they are."""
    return "\b\n" + "\n".join([t("Example:"), *(f"  {line}" for line in lines)])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns columns as wide as they need; the last one is left as it is."""
    cells = [[heading.upper() for heading in headings], *[list(row) for row in rows]]
    widths = [max(_width(row[i]) for row in cells) for i in range(len(headings))]
    lines = [
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def _width(text: str) -> int:
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def ago(moment: str | None) -> str:
    """Returns `5 min 3 s ago` for an ISO time, or a dash for none."""
    if not moment:
        return "-"
    then = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    seconds = max(0.0, (datetime.now(UTC) - then).total_seconds())
    if seconds < 2:
        return t("just now")
    return t("{span} ago", span=span_words(seconds)) if seconds < 86400 * 2 else moment[:10]


def show_progress(progress: Progress | None) -> str:
    """Returns `45% (1.2 GB of 2.6 GB, 30 MB/s, 45 s left)`."""
    if progress is None:
        return ""
    if not progress.total:
        return progress.message
    show = show_size if progress.unit == "bytes" else _show_count
    parts = [t("{done} of {total}", done=show(progress.done), total=show(progress.total))]
    if progress.rate and progress.done < progress.total:
        parts.append(f"{show(progress.rate)}/s")
    if progress.eta_s:
        parts.append(t("{span} left", span=span_words(progress.eta_s)))
    return f"{progress.done / progress.total:.0%} ({', '.join(parts)})"


def _show_count(n: float) -> str:
    return f"{n:,.0f}" if n >= 100 else f"{n:.3g}"


class Painter(Protocol):
    """Shows the news of a run as they come."""

    def say(self, text: str) -> None:
        """Shows a line."""
        ...

    def progress(self, progress: Progress) -> None:
        """Shows how far it is."""
        ...


class PlainPainter:
    """Lines for a pipe or a file: a progress line at most each tenth of the way."""

    def __init__(self) -> None:
        self._tenth = -1

    def say(self, text: str) -> None:
        """Shows a line on standard error, so that standard output stays the result."""
        click.echo(text, err=True)

    def progress(self, progress: Progress) -> None:
        """Shows a line when the next tenth is reached."""
        tenth = int(progress.done * 10 // progress.total) if progress.total else -1
        if tenth != self._tenth:
            self._tenth = tenth
            click.echo(f"{progress.message} {show_progress(progress)}".strip(), err=True)


class BarPainter:
    """A bar in a terminal."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: Any = None

    def say(self, text: str) -> None:
        """Shows a line above the bar."""
        self._bars.console.print(text, markup=False, highlight=False)

    def progress(self, progress: Progress) -> None:
        """Moves the bar."""
        if self._task is None:
            self._task = self._bars.add_task("", total=None, figures="")
        figures = show_progress(progress) if progress.total else ""
        self._bars.update(
            self._task,
            description=progress.message,
            completed=progress.done,
            total=progress.total or None,
            figures=figures,
        )


@contextmanager
def painter(*, quiet: bool = False) -> Generator[Painter]:
    """Gives a bar in a terminal, lines elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield PlainPainter()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Words(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(escape(task.description)[:60])

    columns = (Words(), BarColumn(bar_width=30), TextColumn("{task.fields[figures]}", markup=False))
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        yield BarPainter(bars)


def follow(client: Client, run_id: str, *, quiet: bool = False) -> Run:
    """Shows a run until its end and returns it as it then is.

    Ctrl-C leaves the run alone: it is the server's, not the terminal's.

    Raises:
        click.Abort: the person looked away; says how to look again.

    """
    last: Run | None = None
    try:
        with painter(quiet=quiet) as paint:
            for news in client.follow_run(run_id):
                if isinstance(news, Progress):
                    if not quiet:
                        paint.progress(news)
                elif isinstance(news, LogLine):
                    if not quiet:
                        paint.say(news.message)
                else:
                    if not quiet and news.waits_for:
                        paint.say(t("Waiting. {what}", what=news.waits_for))
                    last = news
    except KeyboardInterrupt:
        click.echo(
            t(
                "The run goes on. See it with `fust jobs {id} --follow`, end it with `fust jobs {id} --cancel`.",
                id=run_id,
            ),
            err=True,
        )
        raise click.Abort from None
    return last if last is not None and last.state in FINAL_STATES else client.get_run(run_id)


def raise_if_failed(run: Run) -> Run:
    """Returns a run that succeeded.

    Raises:
        ClientError: it failed; in its own words.
        FustError: it was cancelled.

    """
    if run.error is not None:
        raise ClientError(500, run.error.code, run.error.message, run.error.hint)
    if run.state != "succeeded":
        raise FustError("The run {id} ended as {state}.", code=run.state, id=run.id, state=t(run.state))
    return run
