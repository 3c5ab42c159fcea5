"""`fust --help` is instant because it imports next to nothing."""

import json
import resource
import subprocess
import sys

import click
import pytest

from fust.cli.main import COMMANDS, LazyGroup

HEAVY = (
    "torch",
    "ray",
    "litestar",
    "sqlalchemy",
    "pydantic",
    "httpx",
    "httpx2",
    "aiohttp",
    "rich",
    "msgspec",
)
LIMIT_S = 0.2


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport json, sys; sys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stderr)}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"]])
def test_help_imports_nothing_heavy(arguments):
    loaded = (
        modules_after(f"from fust.cli.main import run\nrun({arguments!r})")
        if arguments != ["nonsense"]
        else (
            modules_after(
                "import io, sys\nfrom fust.cli.main import run\nold, sys.stderr = sys.stderr, io.StringIO()\nrun(['nonsense'])\nsys.stderr = old"
            )
        )
    )
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_the_help_of_a_verb_imports_no_server(verb):
    loaded = modules_after(f"from fust.cli.main import run\nrun([{verb!r}, '--help'])")
    assert not loaded & (set(HEAVY) - {"msgspec"})


def test_help_takes_less_than_200_ms_of_a_processor():
    """The best of several tries, counted in processor time: the machine may be busy with other things."""
    best = 9.0
    for _ in range(8):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "fust.cli.main", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if best < LIMIT_S:
            return
    raise AssertionError(f"fust --help took {best:.3f} s")


def leaves(command: click.Command, path: str = "fust"):
    """Yields (path, command) of every command that does something."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            assert child is not None
            yield from leaves(child, f"{path} {name}")
    else:
        yield path, command


ALL = dict(leaves(LazyGroup("fust")))


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_command_has_json_an_example_and_all_its_help(path):
    command = ALL[path]
    assert "--json" in {option for parameter in command.params for option in parameter.opts}
    text = command.get_help(click.Context(command, info_name=path))
    assert "fust " in (command.epilog or ""), f"{path} shows no example"
    assert "--json" in text
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{path} {parameter.opts} says nothing"
