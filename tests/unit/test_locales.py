"""Every message has both languages: the source is scanned, the Chinese catalogue must hold each template."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "fust"
CATALOGUE = SOURCE / "core" / "locales" / "zh"
FIELDS = ("hint",)
# Calls other than errors whose literal arguments are templates: name -> positions.
TEMPLATES = {
    "t": (0,),
    "fill": (0,),
    "Check": (0, 2, 3),
    "Chosen": (0, 2),
    "add": (2, 3),
    "note": (0,),
    "Fault": (1, 2),
    "Kind": (1,),
    "say": (0,),
    "_say": (0,),
    "_say_wait": (1,),
    "progress": (3,),
    "Finding": (2, 3),
    "Reason": (1,),
    "Reasoned": (2,),
    "_bad": (1,),
    "Words": (0,),
    "Clause": (0,),
    "__init__": (0,),
}


def error_classes() -> set[str]:
    """Returns the names of FustError and of all classes that derive from it."""
    parents: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {b.attr if isinstance(b, ast.Attribute) else getattr(b, "id", "") for b in node.bases}
                parents.setdefault(node.name, set()).update(bases)
    found = {"FustError"}
    while True:
        more = {name for name, bases in parents.items() if bases & found} - found
        if not more:
            return found
        found |= more


def literals(node: ast.expr | None) -> Iterator[str]:
    """Yields the string constants that an argument can be: itself, or either side of a conditional."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)


def templates_in_source() -> dict[str, str]:
    """Returns every template of the source with the place where it stands."""
    errors = error_classes()
    found: dict[str, str] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            positions = (0,) if name in errors else TEMPLATES.get(name, ())
            if name in {"t", "add", "fill"} and isinstance(node.func, ast.Attribute):
                continue
            arguments = [node.args[i] for i in positions if i < len(node.args)]
            if name in errors:
                arguments += [k.value for k in node.keywords if k.arg in FIELDS]
            for argument in arguments:
                for text in literals(argument):
                    found[text] = f"{path.relative_to(SOURCE)}:{node.lineno}"
    return {
        text: place
        for text, place in found.items()
        if re.search(r"[A-Za-z]{3}", re.sub(r"\{[^}]*\}", "", text))
    }


def catalogue() -> dict[str, str]:
    """Returns the whole Chinese catalogue; a template in two files must say the same in both."""
    merged: dict[str, str] = {}
    for path in sorted(CATALOGUE.glob("*.json")):
        for english, chinese in json.loads(path.read_text()).items():
            assert merged.get(english, chinese) == chinese, f"{english!r} has two translations ({path.name})"
            merged[english] = chinese
    return merged


def fields(template: str) -> set[str]:
    """Returns the names of a template's fields."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_every_message_is_in_chinese() -> None:
    known = catalogue()
    missing = [f"{place}: {text!r}" for text, place in templates_in_source().items() if text not in known]
    assert not missing, "no Chinese text for:\n" + "\n".join(missing)


def test_translations_use_the_same_fields() -> None:
    wrong = [english for english, chinese in catalogue().items() if fields(english) != fields(chinese)]
    assert not wrong, f"fields differ: {wrong}"


def test_chinese_is_set_as_chinese() -> None:
    """Full-width punctuation after Han, a space between Han and Latin."""
    bad = []
    for chinese in catalogue().values():
        plain = re.sub(r"`[^`]*`|\{[^}]*\}", "", chinese)
        if re.search(r"[一-鿿][,;:?!](?!\S*//)", plain) or re.search(r"[一-鿿]\.(\s|$)", plain):
            bad.append(chinese)
        if re.search(r"[一-鿿][A-Za-z]|[A-Za-z][一-鿿]", plain):
            bad.append(chinese)
    assert not bad, f"not set as Chinese: {bad}"


def test_no_catalogue_entry_is_dead() -> None:
    used = templates_in_source()
    source = "\n".join(path.read_text() for path in SOURCE.rglob("*.py"))
    dead = [
        text
        for text in catalogue()
        if text not in used and repr(text)[1:-1] not in source and text not in source
    ]
    assert not dead, f"not in the source any more: {dead}"
