"""Which tokens are learned: the model's own chat template is asked, turn by turn, where each answer begins and ends.

For every answer the template renders what stands before it, with the words that ask for an answer, and what stands
after it. The difference is what the model has to say: as it will be asked, so it is taught. Markers in templates
({% generation %}) are not needed; most stock templates have none.

Some templates write earlier turns differently once later ones exist (Qwen 3 drops the reasoning, Mistral moves the
system prompt to the last question). Such a conversation becomes one sample for each answer, each exactly as the model
will meet it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import msgspec

from fust.tune.messages import Message, Unusable
from fust.tune.rows import Chat, Completion, Pair

_ANOTHER = "\u241e"
"""An answer that nobody gives."""


class Tokenizer(Protocol):
    """The parts of a tokenizer of transformers that are used here."""

    chat_template: Any
    eos_token: str | None
    eos_token_id: int | None
    pad_token_id: int | None
    all_special_tokens: list[str]
    added_tokens_decoder: dict[int, Any]

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: object) -> str:
        """Returns the rendered conversation."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """Returns every token and its id."""
        ...

    def __call__(self, text: list[str], **options: object) -> Any:
        """Returns ids and character offsets."""
        ...


@dataclass(frozen=True, slots=True)
class Marked:
    """A text and the character spans of it that are learned."""

    text: str
    spans: tuple[tuple[int, int], ...]
    is_document: bool = False
    """Whether the tokenizer puts its own start in front and the text is closed with the end token."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids, and for each whether the model learns to say it."""

    ids: list[int]
    learned: list[bool]


class Masker:
    """Turns examples into samples by one tokenizer and its template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        special = {*tokenizer.all_special_tokens, *added}
        self._special = tuple(sorted((token for token in special if token), key=len, reverse=True))
        self._longest = max(map(len, tokenizer.get_vocab()), default=1)
        """Letters, or bytes, of the longest token."""
        self.has_template = bool(tokenizer.chat_template)
        self.end_is_padding = (
            tokenizer.eos_token_id is not None and tokenizer.eos_token_id == tokenizer.pad_token_id
        )
        self._written = {"user", "assistant"}
        """Roles that the template is known to write."""
        self.rewritten = 0
        """Conversations that became several samples."""
        self.endless = 0
        """Answers behind which the template writes no token that ends them."""

    def mark(self, example: Chat | Completion) -> list[Marked]:
        """Returns the texts of an example with what is learned in them; one text unless the template rewrites.

        Raises:
            Unusable: the template refuses the conversation, or there is no answer in it.

        """
        if isinstance(example, Completion):
            start = len(example.prompt)
            return [
                Marked(example.prompt + example.completion, ((start, start + len(example.completion)),), True)
            ]
        return self._mark_chat(example)

    def mark_pair(self, pair: Pair) -> list[Marked]:
        """Returns the better and the worse text; learned is what they do not share: what is said after the same question.

        Raises:
            Unusable: the two are not answers to one question, or the template refuses them.

        """
        good, bad = pair.chosen, pair.rejected
        if isinstance(good, Completion) or isinstance(bad, Completion):
            if not (
                isinstance(good, Completion) and isinstance(bad, Completion) and good.prompt == bad.prompt
            ):
                raise Unusable("different_questions")
            return [*self.mark(good), *self.mark(bad)]
        shared = next(
            (
                i
                for i, (one, other) in enumerate(zip(good.messages, bad.messages, strict=False))
                if one != other
            ),
            -1,
        )
        if shared < 1 or any(side.messages[shared].role != "assistant" for side in (good, bad)):
            raise Unusable("different_questions")
        return [self._mark_end(side, shared) for side in (good, bad)]

    def _mark_end(self, chat: Chat, first: int) -> Marked:
        """Returns one text, of which the answers from message ``first`` on are learned."""
        [*_, last] = texts = self._mark_chat(chat)
        answers = [i for i, message in enumerate(chat.messages) if _is_learned(message)]
        kept = sum(i >= first for i in answers)
        # Where the template rewrites, the last text has the last answer alone.
        return Marked(last.text, last.spans[-kept:] if len(texts) == 1 else last.spans)

    def _mark_chat(self, chat: Chat) -> list[Marked]:
        answers = [i for i, message in enumerate(chat.messages) if _is_learned(message)]
        if not answers:
            has_answer = any(message.role == "assistant" for message in chat.messages)
            raise Unusable("nothing_learned" if has_answer else "no_answer")
        messages = list(chat.messages)[: answers[-1] + 1]
        if any(not _says_something(messages[i]) for i in answers):
            raise Unusable("empty_answer")
        turns = [self._turn(messages[: i + 1], chat.tools) for i in answers]
        if chat.tools or not {message.role for message in messages} <= self._written:
            self._check_written(messages, chat.tools)
        self.endless += sum(not self._is_ended(said, end) for said, _, end in turns)
        whole = turns[-1][0]
        spans: list[tuple[int, int]] = []
        for said, start, end in turns:
            if not whole.startswith(said[:end]):
                self.rewritten += 1
                return [Marked(text, ((begin, stop),)) for text, begin, stop in turns]
            spans.append((start, end))
        return [Marked(whole, tuple(spans))]

    def _turn(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> tuple[str, int, int]:
        """Returns the text up to and with the last message, and where in it the answer begins and ends."""
        said = self._render(messages, tools, ask=False)
        asked = self._render(messages[:-1], tools, ask=True) if len(messages) > 1 else ""
        start = len(asked)
        if not said.startswith(asked):
            # The question may end in words that the answer does not repeat, such as an opened <think>.
            before = self._render(messages[:-1], tools, ask=False)
            if said.startswith(before):
                start = _shared(asked, said)
            else:
                said = asked + self._answer(said, asked, messages, tools)
        end = self._first_end(said, start)
        if end <= start:
            raise Unusable("nothing_learned")
        for call in messages[-1].tool_calls or ():
            if call["function"]["name"] not in said[start:end]:
                raise Unusable("tools_unwritten", call["function"]["name"][:40])
        return said, start, end

    def _check_written(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> None:
        """Raises Unusable when the template leaves out tools, what they answered, or a system prompt, as some do in silence."""
        roles = {message.role for message in messages if message.content.strip()}
        said = self._seen(messages, tools)
        for tool in tools:
            if str(tool["function"]["name"]) not in said:
                raise Unusable("tools_unwritten", str(tool["function"]["name"])[:40])
        for role in sorted(roles - self._written):
            other = [msgspec.structs.replace(m, content=_ANOTHER) if m.role == role else m for m in messages]
            if self._seen(other, tools) == said:
                raise Unusable("tools_unwritten" if role == "tool" else "system_unwritten", role)
            self._written.add(role)

    def _seen(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> str:
        """Returns all that the template writes: Mistral Nemo writes a system prompt only in front of a question that waits."""
        asked = self._render(messages[:-1], tools, ask=True) if len(messages) > 1 else ""
        return asked + self._render(messages, tools, ask=False)

    def _answer(
        self, said: str, asked: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]]
    ) -> str:
        """Returns what is answered where the template words a question otherwise once it has an answer.

        Mistral Nemo writes the system prompt only in front of a question that waits: so the model is asked, and so it is
        taught. The answer begins where another one would make a difference.

        Raises:
            Unusable: what stands before the answer does not end as the question does.

        """
        other = self._render([*messages[:-1], Message("assistant", _ANOTHER)], tools, ask=False)
        start = _shared(said, other)
        end = self._last_special(asked, 0, len(asked))
        if end is None or not said[:start].endswith(end):
            raise Unusable("template_rewrites")
        return said[start:]

    def _first_end(self, said: str, start: int) -> int:
        """Returns where the answer ends: behind the token that ends the turn, before one that ends the whole text."""
        end = len(said.rstrip())
        while (last := self._last_special(said, start, end)) is not None:
            before = start + len(said[start : end - len(last)].rstrip())
            if self._last_special(said, start, before) is None:
                break
            end = before
        return end

    def _last_special(self, text: str, start: int, end: int) -> str | None:
        return next((token for token in self._special if text.endswith(token, start, end)), None)

    def _is_ended(self, said: str, end: int) -> bool:
        return self._last_special(said, 0, end) is not None

    def _render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, ask: bool) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                [message.as_dict() for message in messages],
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=ask,
            )
        except Exception as error:  # a template is a program of strangers and raises what it likes
            raise Unusable("template_refuses", f"{type(error).__name__}: {error}"[:200]) from None

    def is_too_long_at_sight(self, example: Chat | Completion, tokens: int) -> bool:
        """Returns whether a conversation has more tokens than that, before each of its turns is written once more.

        A message takes two tokens at least, its role and its end.
        """
        if isinstance(example, Completion):
            return False
        letters = sum(len(message.content) for message in example.messages)
        return 2 * len(example.messages) > tokens or letters > 4 * tokens * self._longest

    def is_surely_longer(self, marked: Marked, tokens: int) -> bool:
        """Returns whether a text has more tokens than that, by its length alone: to cut megabytes takes half a minute.

        Four times over, as a tokenizer may fold letters before it cuts.
        """
        return len(marked.text) > 4 * tokens * self._longest

    def encode(self, texts: Sequence[Marked]) -> list[Sample]:
        """Returns the samples of marked texts; a token is learned when all of it lies in a span."""
        found: list[Sample | None] = [None] * len(texts)
        for documents in (False, True):
            members = [i for i, marked in enumerate(texts) if marked.is_document is documents]
            encoded = self._tokens([texts[i].text for i in members], special=documents)
            for i, (ids, places) in zip(members, encoded, strict=True):
                if _straddles(places, texts[i].spans):
                    ids, places = self._in_pieces(texts[i])
                sample = Sample(ids, _learned(places, texts[i].spans))
                found[i] = self._closed(sample) if documents else sample
        return [sample for sample in found if sample is not None]

    def _tokens(
        self, texts: Sequence[str], *, special: bool
    ) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Returns for each text its ids and their places."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        return list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))

    def _in_pieces(self, marked: Marked) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the tokens of a text whose question and answer would share one: as when it is asked, they do not."""
        cuts = [0, *(edge for span in marked.spans for edge in span), len(marked.text)]
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for begin, end in pairwise(cuts):
            if begin == end:
                continue
            [(piece, inside)] = self._tokens(
                [marked.text[begin:end]], special=marked.is_document and begin == 0
            )
            ids += piece
            places += [(start + begin, stop + begin) for start, stop in inside]
        return ids, places

    def _closed(self, sample: Sample) -> Sample:
        """Puts the end token behind a document, once, and has it learned."""
        end = self._tokenizer.eos_token_id
        if end is None:
            return sample
        if sample.ids and sample.ids[-1] == end:
            return Sample(sample.ids, [*sample.learned[:-1], True])
        return Sample([*sample.ids, end], [*sample.learned, True])


def _straddles(places: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> bool:
    """Returns whether a token lies on the edge of a span."""
    edges = {edge for span in spans for edge in span}
    return any(end - start > 1 and not edges.isdisjoint(range(start + 1, end)) for start, end in places)


def _learned(places: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[bool]:
    result = [False] * len(places)
    at = 0
    for i, (start, end) in enumerate(places):
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        if at < len(spans) and end > start:
            result[i] = spans[at][0] <= start and end <= spans[at][1]
    return result


def _shared(one: str, other: str) -> int:
    """Returns how many characters both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _is_learned(message: Message) -> bool:
    return message.role == "assistant" and not message.is_context


def _says_something(message: Message) -> bool:
    return bool(message.content.strip() or message.tool_calls or message.reasoning_content)
