"""What a gated repo asks before it opens: the `extra_gated_…` keys of its card (huggingface.co/docs/hub/models-gated).

Read: `extra_gated_heading`, `extra_gated_description`, `extra_gated_prompt`, `extra_gated_fields` and
`extra_gated_button_content`. Fields are `text`, `checkbox`, `date_picker`, `country` (ISO 3166-1 alpha-2) and `select`;
a type that is not known is a text.
`extra_gated_eu_disallowed` is said to whoever asks, is a part of what they agree to, and refuses who names a country of
the European Union in a field of the form; nothing here finds out where a person is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any, Literal, cast

import msgspec

from fust.core.errors import Denied, InvalidInput

FieldType = Literal["text", "checkbox", "date_picker", "country", "select"]
_TYPES: dict[str, FieldType] = {
    "text": "text",
    "checkbox": "checkbox",
    "date_picker": "date_picker",
    "country": "country",
    "select": "select",
}
_MAX_FIELDS, _MAX_OPTIONS = 50, 300
_MAX_NAME, _MAX_TEXT, _MAX_PROMPT = 500, 500, 20_000
_MAX_ANSWER = 2_000
_CODES = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA "
    "CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA "
    "GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP "
    "KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS "
    "MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS "
    "RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW "
    "TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)
COUNTRIES = tuple(_CODES.split())
"""ISO 3166-1 alpha-2."""
_EU_CODES = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
_EU = frozenset(_EU_CODES.split())


class GateOption(msgspec.Struct, frozen=True):
    """A choice of a `select`."""

    value: str
    label: str


class GateField(msgspec.Struct, frozen=True):
    """Something that a person has to fill in; all fields must be."""

    name: str
    type: FieldType
    options: tuple[GateOption, ...] = ()
    """Of a `select`; the codes of a `country`."""


class GateForm(msgspec.Struct, frozen=True):
    """What a gate shows and asks; empty texts mean the usual ones."""

    heading: str = ""
    description: str = ""
    prompt: str = ""
    """Markdown: the terms."""
    fields: tuple[GateField, ...] = ()
    button: str = ""
    eu_disallowed: bool = False
    """The authors do not offer it to people in the European Union."""

    def hash(self) -> str:
        """Returns the SHA-256 (hex) of what a person agrees to: all but the button's word."""
        said: list[object] = [self.heading, self.description, self.prompt, self.fields]
        if self.eu_disallowed:
            said.append("eu_disallowed")  # left out else: hashes of other terms stay as they were
        return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def read_form(card: Mapping[str, Any]) -> GateForm:
    """Returns the form that a card's YAML describes; what has the wrong shape in it is left out."""
    return GateForm(
        heading=_text(card.get("extra_gated_heading"), _MAX_TEXT),
        description=_text(card.get("extra_gated_description"), _MAX_PROMPT),
        prompt=_text(card.get("extra_gated_prompt"), _MAX_PROMPT),
        fields=tuple(_fields(card.get("extra_gated_fields"))),
        button=_text(card.get("extra_gated_button_content"), 100),
        eu_disallowed=card.get("extra_gated_eu_disallowed") is True,
    )


def _text(value: object, limit: int) -> str:
    return str(value).strip()[:limit] if isinstance(value, str | int | float) else ""


def _fields(value: object) -> Iterator[GateField]:
    if not isinstance(value, dict):
        return
    items = list(cast("dict[str, object]", value).items())[:_MAX_FIELDS]
    for name, said in items:
        options: object = None
        if isinstance(said, dict):
            details = cast("dict[str, object]", said)
            said, options = details.get("type"), details.get("options")
        kind = _TYPES.get(said if isinstance(said, str) else "", "text")
        choices = tuple(_options(options)) if kind == "select" else ()
        if kind == "country":
            choices = tuple(GateOption(code, code) for code in COUNTRIES)
        if name.strip() and (kind != "select" or choices):
            yield GateField(name.strip()[:_MAX_NAME], kind, choices)


def _options(value: object) -> Iterator[GateOption]:
    for item in cast("list[object]", value)[:_MAX_OPTIONS] if isinstance(value, list) else []:
        if isinstance(item, dict):
            pair = cast("dict[str, object]", item)
            label = _text(pair.get("label"), _MAX_TEXT)
            chosen = _text(pair.get("value"), _MAX_TEXT) or label
        else:
            label = chosen = _text(item, _MAX_TEXT)
        if chosen:
            yield GateOption(chosen, label or chosen)


def check_answers(form: GateForm, given: Mapping[str, object]) -> dict[str, Any]:
    """Returns the answers to a form's fields, in its order; what the form does not ask is left out.

    Raises:
        InvalidInput: one is missing, or not of its type; names the field.
        Denied: a country of the European Union is named, where the authors do not offer it.

    """
    answers = {field.name: _check_answer(field, given.get(field.name)) for field in form.fields}
    named = _EU & {answers[field.name] for field in form.fields if field.type == "country"}
    if form.eu_disallowed and named:
        raise Denied(
            "Its authors do not offer this in the European Union, and {country} belongs to it.",
            hint="Ask its authors.",
            country=min(named),
        )
    return answers


def _check_answer(field: GateField, value: object) -> object:
    if field.type == "checkbox":
        if value is True or value in ("true", "on", "1"):
            return True
        raise InvalidInput("{field!r} must be ticked.", hint="Tick it to agree to it.", field=field.name)
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise InvalidInput(
            "{field!r} is not filled in.", hint="Every field of the form is needed.", field=field.name
        )
    if len(text) > _MAX_ANSWER:
        raise InvalidInput(
            "{field!r} has more than {limit} characters.",
            hint="Write less.",
            field=field.name,
            limit=_MAX_ANSWER,
        )
    if field.options and text not in [option.value for option in field.options]:
        raise InvalidInput(
            "{value!r} is not one of the choices of {field!r}.",
            hint="Choose one of: {choices}.",
            value=text[:100],
            field=field.name,
            choices=", ".join(option.value for option in field.options[:20]),
        )
    if field.type == "date_picker" and not _is_date(text):
        raise InvalidInput(
            "{field!r} is not a date: {value!r}.",
            hint="Write it like 2026-11-22.",
            value=text[:50],
            field=field.name,
        )
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
