"""What rows mean: the common shapes of tuning data are told apart by their columns and become few kinds of example.

| format | columns |
|---|---|
| `messages` | `messages` (also `dialog`, `dialogue`, `chat`): [{role, content}] |
| `sharegpt` | `conversations` (also `conversation`): [{from, value}] |
| `alpaca` | `instruction`, `output`, also `input` |
| `preference` | `chosen`, `rejected`, also `prompt` (text or messages); or OpenAI's `input`, `preferred_output`, `non_preferred_output` |
| `unpaired` | an answer as in `messages`, `sharegpt`, `alpaca` or `completion`; `label` or `kto_tag` (true or false) |
| `completion` | `prompt` (also `question`, `query`, `input`), `completion` (also `response`, `answer`, `output`), text or messages; also `context` |
| `text` | `text` (also `content`) |

All but the last take `system` (also `system_prompt`) and `tools` (also `functions`); those with a lone question take `history`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from fust.tune.messages import Message, Unusable, from_json, list_of, read_messages, read_text, read_tools

Format = Literal["messages", "sharegpt", "alpaca", "preference", "unpaired", "completion", "text"]
_CHATS = ("messages", "conversations", "conversation", "dialog", "dialogue", "chat")
_SHAREGPT = ("conversations", "conversation")
_ALWAYS_CHATS = ("messages", *_SHAREGPT)
_PROMPTS = ("prompt", "question", "query", "instruction")
_BESIDES = ("input", "context")
"""What a question is about, written below it; alone it is the question."""
_ANSWERS = ("completion", "response", "answer", "output")
_SYSTEM = ("system", "system_prompt")
_TOOLS = ("tools", "functions")
_LABELS = ("label", "kto_tag")
_GOOD, _BAD = ("true", "1", "good", "yes"), ("false", "0", "bad", "no")
_WORDS = ("model", "teacher")
"""Who wrote the row: for the card."""
_OPENAI_PAIR = ("input", "preferred_output", "non_preferred_output")
_AROUND = (*_SYSTEM, *_TOOLS, *_WORDS)
_ASKED = (*_PROMPTS, *_BESIDES, *_ANSWERS, "history", *_AROUND)
READ: dict[Format, frozenset[str]] = {
    "messages": frozenset((*_CHATS, *_AROUND)),
    "sharegpt": frozenset((*_CHATS, *_AROUND)),
    "alpaca": frozenset(_ASKED),
    "preference": frozenset(("chosen", "rejected", *_SHAREGPT, *_OPENAI_PAIR, *_PROMPTS, *_BESIDES, *_AROUND)),
    "unpaired": frozenset((*_CHATS, *_ASKED, *_LABELS)),
    "completion": frozenset(_ASKED),
    "text": frozenset(("text", "content", *_WORDS)),
}  # fmt: skip
"""Columns that a format looks at; what else a row has is not used, which is told."""
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
"""Of conversations that are one text, as in the first public preference data."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation; every answer of the assistant is learned that is not mere context."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A text and how it goes on; only the second part is learned. An empty prompt makes it a document."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, the first the better one."""

    chosen: Chat | Completion
    rejected: Chat | Completion


Example = Chat | Completion | Pair


def detect(columns: Iterable[str]) -> Format | None:
    """Returns what rows with these columns are, or None; a whole row tells by its label whether answers were judged."""
    have = {column.lower() for column in columns}
    row = _lower(cast("Mapping[str, Any]", columns)) if isinstance(columns, Mapping) else None
    if {"chosen", "rejected"} <= have or set(_OPENAI_PAIR) <= have:
        return "preference"
    chat = _chat_column(have, row)
    answered = any(name in have for name in _ANSWERS)
    asked = answered and any(name in have for name in (*_PROMPTS, *_BESIDES))
    if (chat or asked) and _is_judged(have, row):
        return "unpaired"
    if chat:
        return "sharegpt" if chat in _SHAREGPT else "messages"
    if {"instruction", "output"} <= have:
        return "alpaca"
    if asked:
        return "completion"
    return "text" if have & {"text", "content"} else None


def _chat_column(have: set[str], row: Mapping[str, Any] | None) -> str:
    """Returns the column with the conversation; names that may mean something else count where they hold a list."""
    for name in _CHATS:
        if name in have and (name in _ALWAYS_CHATS or (row is not None and _is_list(row[name]))):
            return name
    return ""


def _is_list(value: object) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[{"))


def _is_judged(have: set[str], row: Mapping[str, Any] | None) -> bool:
    """Returns whether a row's label says good or bad, and is not the name of some class."""
    if row is None:
        return "prompt" in have and not have.isdisjoint(_LABELS)
    label = _label(row)
    if isinstance(label, bool) or str(label).lower() in ("true", "false"):
        return True
    return "prompt" in have and str(label).lower() in (*_GOOD, *_BAD)


def read_judged(values: Mapping[str, Any], *, chat: bool) -> Chat | Completion:
    """Returns the answer of a row of the format `unpaired`, whatever its judgement is (see ``is_good``).

    Raises:
        Unusable: it is empty.

    """
    row = _lower(values)
    column = _chat_column(set(row), row)
    return _whole(row, Chat(read_messages(row[column]))) if column else _answered(row, chat=chat)


def read_example(values: Mapping[str, Any], format: Format, *, chat: bool) -> Example:
    """Returns the example that a row is; ``chat``: a lone prompt and its answer are turns of a conversation.

    Raises:
        Unusable: the row is not what its columns say, or it is empty.

    """
    row = _lower(values)
    if format in ("messages", "sharegpt"):
        return _whole(row, Chat(read_messages(row[_chat_column(set(row), row)])))
    if format == "preference":
        return _preference(row, chat=chat)
    if format == "unpaired" and not is_good(row):
        raise Unusable("judged_bad")
    if format == "unpaired":
        return read_judged(row, chat=chat)
    if format in ("alpaca", "completion"):
        return _answered(row, chat=chat)
    text = read_text(row.get("text", row.get("content")))
    if not text.strip():
        raise Unusable("empty")
    return Completion("", text)


def _answered(row: Mapping[str, Any], *, chat: bool) -> Chat | Completion:
    """Returns a question and its answer, with what stands before them."""
    prompt, answer = _text_or_turns(_asked(row)), _text_or_turns(_first(row, _ANSWERS))
    if isinstance(prompt, str) and isinstance(answer, str):
        if not answer.strip() or not prompt.strip():
            raise Unusable("empty")
        if not chat:
            return _whole(row, _continued(row, prompt, answer))
        return _whole(row, Chat((*_history(row), Message("user", prompt), Message("assistant", answer))))
    said = read_messages([{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer)
    asked = read_messages([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    return _whole(row, Chat((*_history(row), *asked, *said)))


def _text_or_turns(value: object) -> object:
    """Returns a text, or messages: those that a cell of a table holds as JSON, too."""
    if isinstance(value, str) and value.lstrip().startswith(("[{", "{")):
        return _parsed_turns(value)
    is_turns = isinstance(value, list | Mapping)
    return cast("object", value) if is_turns else read_text(value)


def _parsed_turns(text: str) -> object:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return read_text(text)
    turns = cast("list[object]", found) if isinstance(found, list) else [found]
    is_turns = all(isinstance(turn, Mapping) and _is_message(cast("Mapping[str, Any]", turn)) for turn in turns)  # fmt: skip
    return turns if is_turns else read_text(text)


def _is_message(fields: Mapping[str, Any]) -> bool:
    return any(name in fields for name in ("role", "from")) and any(
        name in fields for name in ("content", "value", "tool_calls")
    )


def _continued(row: Mapping[str, Any], prompt: str, answer: str) -> Completion:
    """Returns a question as text: as it stands where it is all, else a line for each part."""
    before = [message.content for message in _history(row)]
    is_alpaca = "instruction" in row and "output" in row
    is_all = not before and not is_alpaca and _first(row, (*_PROMPTS, *_BESIDES)) == prompt
    return Completion(prompt if is_all else "\n".join((*before, prompt, "")), answer)


def _asked(row: Mapping[str, Any]) -> object:
    """Returns the question, and below it what it is about."""
    parts = [row[name] for name in _PROMPTS if not _is_empty(row.get(name))][:1]
    parts += [row[name] for name in _BESIDES if not _is_empty(row.get(name))]
    if not parts:
        raise Unusable("empty")
    return parts[0] if len(parts) == 1 else "\n".join(read_text(part).strip() for part in parts)


def _is_empty(value: object) -> bool:
    return value is None or value == [] or value == {} or (isinstance(value, str) and not value.strip())


def _history(row: Mapping[str, Any]) -> list[Message]:
    """Returns the turns before a question: pairs, or messages."""
    turns = list_of(from_json(row.get("history") or None, "no_messages"))
    if turns and all(isinstance(turn, Mapping) for turn in turns):
        return list(read_messages(turns))
    found: list[Message] = []
    for turn in turns:
        asked, said = [*list_of(turn), "", ""][:2]
        found += [Message("user", read_text(asked)), Message("assistant", read_text(said))]
    return found


def _preference(row: Mapping[str, Any], *, chat: bool) -> Pair:
    if "chosen" not in row:
        row = _of_openai(row)
    prompt: object = next((row[name] for name in _SHAREGPT if row.get(name)), None)
    if prompt is None and any(not _is_empty(row.get(name)) for name in (*_PROMPTS, *_BESIDES)):
        prompt = _asked(row)
    sides = [_whole(row, _preferred(prompt, row[name], chat=chat)) for name in ("chosen", "rejected")]
    if sides[0] == sides[1]:
        raise Unusable("same_answers")
    return Pair(*sides)


def _of_openai(row: Mapping[str, Any]) -> dict[str, Any]:
    found = from_json(row["input"], "no_prompt")
    asked: Mapping[str, Any] = cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}
    if not asked.get("messages"):
        raise Unusable("no_prompt")
    return {
        "prompt": asked["messages"],
        "tools": asked.get("tools"),
        "chosen": row["preferred_output"],
        "rejected": row["non_preferred_output"],
    }


def _preferred(prompt: object, answer: object, *, chat: bool) -> Chat | Completion:
    prompt, answer = None if prompt is None else _text_or_turns(prompt), _text_or_turns(answer)
    if isinstance(answer, str) and isinstance(prompt, str | None):
        if not prompt:
            return _transcript(answer)
        if not answer.strip():
            raise Unusable("empty")
        return Chat((Message("user", prompt), Message("assistant", answer))) if chat else Completion(prompt, answer)  # fmt: skip
    after = (Message("assistant", answer),) if isinstance(answer, str) else read_messages(answer)
    before = () if prompt is None else (Message("user", prompt),) if isinstance(prompt, str) else read_messages(prompt)  # fmt: skip
    # Some write the whole conversation into each answer, and the question once more beside it.
    return Chat((*before, *after) if after[0].role == "assistant" else after)


def _transcript(text: str) -> Chat:
    """Returns the conversation that one text is, a blank line before each `Human: …` and `Assistant: …`."""
    begin, *pieces = _TURN.split(text)
    if begin.strip() or len(pieces) < 4:
        raise Unusable("no_prompt")
    roles = {"Human": "user", "Assistant": "assistant"}
    return Chat(
        tuple(Message(roles[who], said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True))
    )


def _whole(row: Mapping[str, Any], answer: Chat | Completion) -> Chat | Completion:
    """Returns an example with the row's system prompt and tools.

    Raises:
        Unusable: there are tools, and no conversation that could call them.

    """
    system = read_text(next((row[name] for name in _SYSTEM if row.get(name)), ""))
    tools = read_tools(next((row[name] for name in _TOOLS if row.get(name)), None))
    if isinstance(answer, Completion):
        if tools:
            raise Unusable("tools_unwritten", str(tools[0]["function"]["name"])[:40])
        return Completion(f"{system}\n{answer.prompt}", answer.completion) if system.strip() else answer
    has_system = answer.messages[0].role == "system" or not system.strip()
    before = () if has_system else (Message("system", system),)
    return Chat((*before, *answer.messages), tools)


def _first(row: Mapping[str, Any], names: Iterable[str]) -> object:
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise Unusable("empty")


def is_good(row: Mapping[str, Any]) -> bool:
    """Returns whether the label of a judged answer says that it is a good one."""
    return str(_label(_lower(row))).lower() in _GOOD


def _label(row: Mapping[str, Any]) -> object:
    return next((row[name] for name in _LABELS if row.get(name) is not None), None)


def _lower(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in row.items()}
