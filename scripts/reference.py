"""Writes docs/reference/*.md from the code; `--check` fails when a page is not what the code says."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import sys
import typing
from pathlib import Path

import click

from fust.cli.main import COMMANDS, LazyGroup, main
from fust.core import settings as settings_module
from fust.core.errors import FustError
from fust.core.settings import SECTIONS
from fust.gateway.routes import BODIES
from fust.gateway.shelf import ROUTES as SHELF
from fust.serve.engines.kinds import KINDS, Kind
from fust.wire.body import Body

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"


def field_texts(kind: type) -> dict[str, str]:
    """Returns field name -> the docstring below it."""
    tree = ast.parse(inspect.getsource(settings_module))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == kind.__name__)
    texts: dict[str, str] = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
        ):
            texts[field.target.id] = ast.literal_eval(after.value)
    return texts


def settings_page() -> str:
    """Returns the page of all settings."""
    lines = [
        "# Settings",
        "",
        "Order: flag, environment, `$FUST_HOME/fust.toml`, default. `fust config show` prints every value and where it "
        "came from. In the environment `server.port` is `FUST_SERVER__PORT`; in the file it is `port` under `[server]`.",
    ]
    for name, kind in SECTIONS.items():
        lines += ["", f"## {name}", "", "| setting | default | meaning |", "|---|---|---|"]
        texts = field_texts(kind)
        for field in dataclasses.fields(kind):
            default = field.default if field.default is not dataclasses.MISSING else ""
            shown = f"`{default}`" if default not in ("", ()) else "empty"
            lines.append(f"| `{name}.{field.name}` | {shown} | {texts[field.name]} |")
    return "\n".join(lines) + "\n"


def cli_page() -> str:
    """Returns the page of all commands."""
    lines = ["# Commands", "", "Every command takes `--json`, `--home`, `--url` and `--token`."]
    group = LazyGroup(name="fust")
    context = click.Context(group, info_name="fust")
    for verb in COMMANDS:
        command = group.get_command(context, verb)
        assert command is not None, verb
        lines += command_lines(command, f"fust {verb}", context)
    return "\n".join(lines) + "\n"


def command_lines(command: click.Command, path: str, parent: click.Context) -> list[str]:
    """Returns the lines of one command and of those below it."""
    context = click.Context(command, info_name=path.split()[-1], parent=parent)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [
        "",
        f"## `{path}`",
        "",
        inspect.cleandoc(command.help or "").split("\f")[0],
        "",
        f"Usage: `{path} {usage}`",
    ]
    if command.epilog:
        lines += [
            "",
            command.epilog
            if "`" in command.epilog
            else command.epilog.replace("Example: ", "Example: `") + "`",
        ]
    options = [
        p for p in command.params if isinstance(p, click.Option) and not p.hidden and p.name != "common_json"
    ]
    if options:
        lines += ["", "| option | meaning |", "|---|---|"]
        lines += [f"| `{', '.join(o.opts)}` | {o.help or ''} |" for o in options]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            lines += command_lines(child, f"{path} {name}", context)
    return lines


def errors_page() -> str:
    """Returns the page of error codes."""

    def rows(kind: type[FustError]) -> list[str]:
        doc = (inspect.getdoc(kind) or "").split("\n")[0]
        below = sorted(kind.__subclasses__(), key=lambda k: (k.status, k.code))
        own = [f"| `{kind.code}` | {kind.status} | {doc} |"]
        return own + [row for child in below for row in rows(child)]

    lines = [
        "# Error codes",
        "",
        "The Fust surface answers RFC 9457 problem details with `code`, `hint` and `request_id`; `/v1` answers OpenAI's "
        "envelope; the hub surface sets `X-Error-Code` where the Hub's clients read it.",
        "",
        "| code | status | meaning |",
        "|---|---|---|",
    ]
    seen: dict[str, str] = {}
    for row in rows(FustError):
        seen.setdefault(row, row)
    return "\n".join([*lines, *seen]) + "\n"


def model_api_page() -> str:
    """Returns the page of `/v1`: what happens to every field of a request."""
    lines = [
        "# Model API",
        "",
        "*ignored* fields are accepted and cannot change the answer; *refused* ones answer 400 `unsupported_parameter` unless "
        "they are null or have the value named. Any other field answers 400 `unknown_parameter` with its name.",
        "",
        "| route | what it gives |",
        "|---|---|",
        *(
            f"| `{r.method} {r.pattern}` | {(inspect.getdoc(r.function) or '').splitlines()[0]} |"
            for r in SHELF
        ),
        "",
        *engines_table(),
    ]
    parts: list[type[Body]] = []
    for route, kind in BODIES.items():
        lines += ["", f"## `POST {route}`", "", *fields_table(kind)]
        parts += [part for part in parts_of(kind) if part not in parts]
    lines += ["", "# Parts of bodies"]
    for part in sorted(parts, key=lambda part: (part.__module__, part.__name__)):
        lines += ["", f"## {part.__module__.rpartition('.')[2]}: {part.__name__}", ""]
        lines += [(inspect.getdoc(part) or "").split("\n")[0], "", *fields_table(part)]
    return "\n".join(lines) + "\n"


def engines_table() -> list[str]:
    """Returns what each kind of engine can, from the claims in its code."""
    names = sorted(
        frozenset[str]().union(*(kind.adds.union(*kind.claims.values()) for kind in KINDS.values()))
    )

    def cell(kind: Kind, name: str) -> str:
        if any(name in kind.claims.get(mode, ()) for mode in kind.text_modes):
            return "yes"
        return "some models" if name in kind.adds.union(*kind.claims.values()) else "no"

    return [
        "## Engines",
        "",
        "What each engine can (`fust serve --engine NAME` chooses one); what it cannot answers 400 or 501 with its name. "
        "Tools are called with any engine that keeps a JSON schema; `template_tools`: the model's own template writes them.",
        "",
        "| | " + " | ".join(KINDS) + " |",
        "|---|" + "---|" * len(KINDS),
        *(f"| {name} | " + " | ".join(cell(kind, name) for kind in KINDS.values()) + " |" for name in names),
        "| LoRA adapters | "
        + " | ".join("yes" if it.takes_adapters else "no" for it in KINDS.values())
        + " |",
    ]


def fields_table(kind: type[Body]) -> list[str]:
    """Returns a row for each field of a body."""
    lines = ["| field | what happens |", "|---|---|"]
    names = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    for field in sorted(names):
        if field in kind.neutral:
            passes = ", ".join(f"`{json.dumps(value)}`" for value in kind.neutral[field])
            what = f"refused, but {passes} passes" if passes else "refused"
        else:
            what = "ignored" if field in kind.ignored else "honoured"
        lines.append(f"| `{names[field]}` | {what} |")
    return lines


def parts_of(kind: type[Body]) -> list[type[Body]]:
    """Returns every struct that stands in a body, at any depth."""
    found: list[type[Body]] = []

    def look(hint: object) -> None:
        if isinstance(hint, type) and issubclass(hint, Body) and hint not in found:
            found.append(hint)
            for inner in typing.get_type_hints(hint, include_extras=True).values():
                look(inner)
        for inner in typing.get_args(hint):
            look(inner)

    for hint in typing.get_type_hints(kind, include_extras=True).values():
        look(hint)
    return [part for part in found if part is not kind]


MARK = "<!-- modules: written by scripts/reference.py from the first line of each module's docstring -->"


def architecture_page() -> str:
    """Returns docs/architecture.md with its list of modules made anew; what stands above the mark is written by hand."""
    above = (ROOT / "docs" / "architecture.md").read_text().split(MARK)[0]
    source = ROOT / "src" / "fust"
    lines = [MARK]
    for package in sorted(p for p in source.iterdir() if (p / "__init__.py").exists()):
        lines += ["", f"**{package.name}**", ""]
        for path in sorted(package.rglob("*.py")):
            doc = ast.get_docstring(ast.parse(path.read_text()))
            if path.name != "__init__.py" and "migrations" not in path.parts and doc:
                first = " ".join(doc.split("\n\n")[0].split())
                lines.append(f"* `{path.relative_to(source).as_posix()}`: {first}")
    return above + "\n".join(lines) + "\n"


def hub_contract_page() -> str:
    """Returns the page of the hub's routes, with what each answers."""
    from fust.hub.routes import ROUTES

    lines = [
        "# The hub's contract",
        "",
        "What Hugging Face's clients, git and git-lfs can ask of a Fust hub. `{type}` is models, datasets or spaces; "
        "`{x*}` takes the rest of the path. What is not offered answers 501 with a sentence, never a misleading 200.",
        "",
        "| method | path | state | what it gives |",
        "|---|---|---|---|",
    ]
    for route in ROUTES:
        state = "not offered" if "not_offered" in route.handler.__name__ else "offered"
        doc = (inspect.getdoc(route.handler) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        lines.append(f"| {route.method} | `{route.pattern}` | {state} | {doc} |")
    return "\n".join(lines) + "\n"


PAGES = {
    "../architecture.md": architecture_page,
    "settings.md": settings_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "model-api.md": model_api_page,
    "hub-contract.md": hub_contract_page,
}


def import_all() -> None:
    """Imports every module, so that every error class is known."""
    import importlib

    for path in sorted((ROOT / "src" / "fust").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if "migrations" not in name and not name.endswith(("_child", "__main__")):
            importlib.import_module(name)


def run(check: bool) -> int:
    """Writes or checks all pages; returns an exit status."""
    import_all()
    stale = [
        name
        for name, page in PAGES.items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text() != page()
    ]
    if check and stale:
        print(
            f"docs/reference is not what the code says: {', '.join(stale)}. Run: .venv/bin/python scripts/reference.py"
        )
        return 1
    for name in stale:
        REFERENCE.mkdir(parents=True, exist_ok=True)
        (REFERENCE / name).write_text(PAGES[name]())
    return 0


if __name__ == "__main__":
    assert main
    raise SystemExit(run("--check" in sys.argv[1:]))
