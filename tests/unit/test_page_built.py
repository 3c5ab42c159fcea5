"""What is committed of the page: complete, and without the address of anyone else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

WEB = Path(__file__).resolve().parents[2] / "src/fust/app/web"

# Names of XML dialects, the default hub (a placeholder in a form) and a library's word on where to report faults.
NAMED = (
    "http://www.w3.org/",
    "https://ci.school.org/hook",
    "https://huggingface.co",
    "https://github.com/markedjs/marked",
)


class _Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = dict(attrs)
        self.found += [value for name in ("src", "href") if tag != "base" and (value := fields.get(name))]
        self.inline += [tag for name in fields if name == "style" or name.startswith("on")]
        self._script = tag in ("script", "style") and "src" not in fields
        if self._script:
            self.inline.append(tag)


def test_every_file_that_the_page_asks_for_is_there() -> None:
    index = (WEB / "index.html").read_text()
    assert '<base href="/">' in index, "the server rewrites exactly this"
    parser = _Addresses()
    parser.feed(index)
    assert parser.inline == [], "the content policy allows no inline style or script"
    for address in parser.found:
        assert address.startswith("./"), f"{address} would leave the sub-path"
        assert (WEB / address).is_file(), address


def test_no_asset_names_another_host() -> None:
    strangers = {
        address
        for file in WEB.rglob("*")
        if file.is_file()
        for address in re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[\w./-]*", file.read_text())
        if not address.startswith(NAMED) and not ("//" + address.split("//")[1]).startswith("//www.w3.org/")
    }
    assert strangers == set()
