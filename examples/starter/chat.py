"""The conversations of the chat tuning: small talk that we wrote ourselves, and stories of the training split.

Every row is composed from ``chat_rows.json`` by a seeded random choice. Asking for a story is answered with a whole
story (so that the model learns to end), and asking for a topic with a story that begins with that topic. Chinese is
not in the corpus; the model learns one sentence that says so.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.starter.corpus import Corpus, Story
from examples.starter.sources import LANGUAGES
from examples.starter.tokenizer import TURN_END, TURN_START
from examples.starter.train import Conversation
from tokenizers import Tokenizer

ROWS_FILE = Path(__file__).parent / "chat_rows.json"
MAX_STORY_TOKENS = {"en": 480, "ru": 420, "hi": 620, "sw": 620}
STORIES = {"en": 1400, "ru": 1300, "hi": 260, "sw": 220}
"""How many conversations with a story each language gets; stories come again where a language has fewer."""
SMALL_TALK = {"en": 1100, "ru": 900, "hi": 700, "sw": 700, "zh": 500}
SYSTEM_SHARE = 0.15
TOPIC_WITHIN = 250
"""A story counts as being about a topic when the topic comes up in its first characters."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message; ``role`` is system, user or assistant."""

    role: str
    content: str


class Phrases:
    """What people may ask and what the model answers, per language."""

    def __init__(self, path: Path = ROWS_FILE) -> None:
        self._rows = json.loads(path.read_text("utf-8"))
        self.system: list[str] = self._rows["system"]
        self._topics = {
            language: {
                x: re.compile(p, re.IGNORECASE) for x, p in self._rows[language].get("topics", {}).items()
            }
            for language in (*LANGUAGES, "zh")
        }

    def small_talk(self, language: str, order: random.Random) -> list[Turn]:
        """Returns one question and its answer; all kinds of question are equally likely."""
        kinds = [k for k, v in self._rows[language].items() if isinstance(v, dict) and "say" in v]
        kind = self._rows[language][order.choice(kinds)]
        ask = order.choice(kind["ask"]).format(a=order.randint(1, 99), b=order.randint(1, 99))
        return [Turn("user", worn(ask, order)), Turn("assistant", order.choice(kind["say"]))]

    def story(self, story: Story, order: random.Random) -> list[Turn]:
        """Returns a wish that the story fulfils, by topic where one is known, and the story."""
        rows = self._rows[story.language]
        topics = [x for x, p in self._topics[story.language].items() if p.search(story.text[:TOPIC_WITHIN])]
        if topics and order.random() < 0.7:
            ask = order.choice(rows["about"]).format(x=order.choice(topics))
        else:
            ask = order.choice(rows["story"])
        return [Turn("user", worn(ask, order)), Turn("assistant", story.text)]

    def wish(self, language: str, order: random.Random, *, with_topic: bool) -> str:
        """Returns a wish for a story, for measurements."""
        if with_topic:
            return order.choice(self._rows[language]["about"]).format(
                x=order.choice(list(self._topics[language]))
            )
        return order.choice(self._rows[language]["story"])

    def texts(self) -> Iterator[str]:
        """Yields every phrase once, for the tokenizer."""
        for language in (*LANGUAGES, "zh"):
            for value in self._rows[language].values():
                if isinstance(value, dict) and "say" in value:
                    yield from value["ask"] + value["say"]


def worn(text: str, order: random.Random) -> str:
    """Returns the text as people type it: now and then without capital letter, full stop or question mark."""
    if order.random() < 0.25:
        text = text[:1].lower() + text[1:]
    draw = order.random()
    if draw < 0.25:
        return text.rstrip("?!.？！。")
    if draw < 0.4 and text[-1:].isalpha():
        return text + "."
    return text


def conversations(corpus: Corpus, tokenizer: Tokenizer, seed: int, context: int) -> list[Conversation]:
    """Returns the rows of the chat tuning, in token ids, none longer than the context."""
    order = random.Random(seed)
    phrases = Phrases()
    talks: list[list[Turn]] = []
    for language, wanted in STORIES.items():
        fitting = [s for s in corpus.of(language, "train") if fits(s, tokenizer)]
        order.shuffle(fitting)
        talks += [phrases.story(fitting[i % len(fitting)], order) for i in range(wanted if fitting else 0)]
    for language, wanted in SMALL_TALK.items():
        talks += [phrases.small_talk(language, order) for _ in range(wanted)]
    order.shuffle(talks)
    rows: list[Conversation] = []
    while talks:
        turns = talks.pop()
        while talks and order.random() < 0.35:
            turns = turns + talks.pop()
        if order.random() < SYSTEM_SHARE:
            turns = [Turn("system", order.choice(phrases.system)), *turns]
        row = encode(turns, tokenizer)
        while len(row.ids) > context and len(turns) > 2:
            turns = turns[2:] if turns[0].role == "user" else turns[3:]
            row = encode(turns, tokenizer)
        rows.append(row)
    return rows


def fits(story: Story, tokenizer: Tokenizer) -> bool:
    """Returns whether the story is short enough to be told in one answer, and ends like a story."""
    if len(story.text) > 9 * MAX_STORY_TOKENS[story.language] or not re.search(r"[.!?।\"')]$", story.text):
        return False
    return len(tokenizer.encode(story.text).ids) <= MAX_STORY_TOKENS[story.language]


def encode(turns: list[Turn], tokenizer: Tokenizer) -> Conversation:
    """Returns the turns as the chat template draws them; learned are the assistant's words and its turn end."""
    ids: list[int] = []
    learned: list[bool] = []
    for turn in turns:
        own = turn.role == "assistant"
        head = tokenizer.encode(f"{TURN_START}{turn.role}\n").ids
        body = tokenizer.encode(turn.content + TURN_END).ids
        tail = tokenizer.encode("\n").ids
        ids += head + body + tail
        learned += [False] * len(head) + [own] * len(body) + [False] * len(tail)
    return Conversation(ids, learned)
