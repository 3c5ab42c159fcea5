"""Rows of files into token ids on the disk, told apart into what is trained on and what is held out.

Everything here is a pure function of the files, the tokenizer and the wish, so a run that was killed makes the same
again; a folder with a manifest is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import msgspec
import numpy as np
import numpy.typing as npt

from fust.core.errors import InvalidInput
from fust.core.files import fsync_folder, full_disk_is_clear, write_atomic
from fust.tune.files import DataFile, RawRow, choose_files, iter_rows
from fust.tune.masks import Marked, Masker, Sample
from fust.tune.messages import Unusable
from fust.tune.report import DataReport, Note, Tally
from fust.tune.rows import (
    READ,
    Chat,
    Completion,
    Example,
    Format,
    Pair,
    detect,
    is_good,
    read_example,
    read_judged,
)
from fust.tune.split import held_out_questions, is_within

_AT_ONCE = 512
"""Rows that are tokenised together."""
_SHOWN_SAMPLES = 4
_SHOWN_TOKENS = 600
_SHOWN_TEACHERS = 5
_SHOWN_COLUMNS = 12
_MODEL_NAME = re.compile(r"[\w.:/@+-]{1,100}")
_FEW_TEXTS = 20
"""A file of text is one row: of fewer of them the hash may well take all."""

_NO_IDS, _NO_MASKS = np.zeros(0, np.uint32), np.zeros(0, np.uint8)

Tell = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class DataWish:
    """What is to be made of the rows."""

    max_tokens: int
    """Longer samples are left out; documents are cut into pieces of it."""
    held_out_share: float = 0.05
    documents: bool = False
    """Whether rows are documents, all of which is learned."""
    pairs: bool = False
    """Whether rows are two answers that are compared: then samples 2i and 2i + 1 are a better and a worse one."""


class SampleView(msgspec.Struct):
    """A sample as it can be looked at: each token's text, and whether it is learned."""

    tokens: list[str]
    learned: list[bool]
    more: bool
    """Whether it has more tokens than are shown."""
    side: Literal["", "chosen", "rejected"] = ""
    """Which of two answers that are compared it is."""


@dataclass(slots=True)
class Prepared:
    """Samples on the disk."""

    folder: Path
    report: DataReport
    lengths: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]
    _starts: npt.NDArray[np.int64]
    _ids: npt.NDArray[np.uint32]
    _learned: npt.NDArray[np.uint8]

    @classmethod
    def open(cls, folder: Path) -> Prepared:
        """Opens a prepared folder; raises FileNotFoundError when there is none."""
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=DataReport)
        table = np.fromfile(folder / "samples.bin", np.int64).reshape(-1, 2)
        lengths = table[:, 0]
        if not len(lengths):  # an empty file cannot be mapped
            return cls(
                folder, manifest, lengths, lengths.astype(bool), np.zeros(1, np.int64), _NO_IDS, _NO_MASKS
            )
        ids = np.memmap(folder / "ids.bin", np.uint32, "r")
        learned = np.memmap(folder / "learned.bin", np.uint8, "r")
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        return cls(folder, manifest, lengths, table[:, 1].astype(bool), starts, ids, learned)

    def sample(self, number: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """Returns the ids of a sample, and for each 1 when it is learned."""
        place = slice(int(self._starts[number]), int(self._starts[number + 1]))
        return self._ids[place], self._learned[place]


@dataclass(frozen=True, slots=True)
class _Side:
    """Where a row goes: the hash of its question, which decides unless a file of its own says so."""

    question: int
    held_out: bool | None = None


@dataclass(slots=True)
class _Kept:
    """A row on its way: its marked texts, and where it goes."""

    place: str
    marked: list[Marked]
    side: _Side
    asks: bool
    """Whether some of it is a question, which must not be learned."""


@dataclass(slots=True)
class _Sorting:
    """Tells repeated rows, and what is asked in them."""

    has_own: bool
    """Whether the data has a held-out file of its own; then nothing else is held out."""
    seen: set[bytes] = field(default_factory=lambda: set[bytes]())
    held_questions: set[int] = field(default_factory=lambda: set[int]())
    key: bytes = b""
    """Of all rows that were read, in their order."""

    def place(self, row: RawRow, example: Chat | Completion, part: str | None) -> _Side:
        """Returns where a row goes.

        Raises:
            Unusable: it was there before, or its question is among the held-out ones of a file of their own.

        """
        raw = msgspec.json.encode(row.values, order="deterministic")
        whole = hashlib.sha256(raw).digest()
        if whole in self.seen:
            raise Unusable("twice")
        self.seen.add(whole)
        self.key = hashlib.sha256(self.key + whole).digest()
        question = int.from_bytes(hashlib.sha256(_question(example).encode()).digest()[:8], "big")
        if not self.has_own:
            return _Side(question)
        if part == "held_out":
            self.held_questions.add(question)
        elif question in self.held_questions:
            raise Unusable("leaked")
        return _Side(question, part == "held_out")


def prepare(
    files: Sequence[DataFile], masker: Masker, wish: DataWish, folder: Path, tell: Tell = lambda _: None
) -> Prepared:
    """Reads, marks, tokenises and stores the rows; ``tell`` hears how many rows were read.

    Raises:
        InvalidInput: rows are of a format that the base does not take.
        StorageFull: no room.

    """
    chosen = choose_files(files)
    wish = _share_of(wish, chosen)
    part = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    work = _Work(masker, wish, chosen)
    with full_disk_is_clear(part):
        report = work.write(part, tell)
        for name in ("ids.bin", "learned.bin", "samples.bin"):
            _sync(part / name)
    write_atomic(part / "manifest.json", msgspec.json.encode(report))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    fsync_folder(folder.parent)
    return Prepared.open(folder)


@dataclass(frozen=True, slots=True)
class Text:
    """What a row says, all of it, and on which side it is."""

    text: str
    held_out: bool


class _Plain:
    """Stands for a ``Masker`` where there is no tokenizer yet: every row is one text."""

    has_template = True

    def is_too_long_at_sight(self, example: Chat | Completion, tokens: int) -> bool:
        return False

    def mark(self, example: Chat | Completion) -> list[Marked]:
        if isinstance(example, Completion):
            return [Marked(example.prompt + example.completion, ())]
        return [Marked("\n".join(message.content for message in example.messages), ())]


def iter_texts(files: Sequence[DataFile], wish: DataWish, tell: Tell = lambda _: None) -> Iterator[Text]:
    """Yields the texts of the rows, parted as ``prepare`` parts them; a tokenizer can be made of them.

    Raises:
        InvalidInput: a file cannot be read.

    """
    chosen = choose_files(files)
    wish = replace(_share_of(wish, chosen), pairs=False)
    questions = (
        row.side.question for row in _Work(cast(Masker, _Plain()), wish, chosen).kept(lambda _: None)
    )
    held_out = held_out_questions(questions, wish.held_out_share)
    for row in _Work(cast(Masker, _Plain()), wish, chosen).kept(tell):
        is_held_out = row.side.question in held_out if row.side.held_out is None else row.side.held_out
        yield from (Text(marked.text, is_held_out) for marked in row.marked)


def _share_of(wish: DataWish, files: Sequence[DataFile]) -> DataWish:
    """Returns the wish for these files: of a few texts none is held out, which would be much."""
    few = len(files) < _FEW_TEXTS and all(file.name.lower().endswith((".txt", ".md")) for file in files)
    return replace(wish, held_out_share=0.0) if few else wish


@dataclass(slots=True)
class _Counterparts:
    """Answers that were judged one by one, made into pairs: a good and a bad one to the same question, in their order."""

    waiting: dict[tuple[bytes, bool], list[tuple[Chat | Completion, str]]] = field(
        default_factory=lambda: dict[tuple[bytes, bool], list[tuple["Chat | Completion", str]]]()
    )

    def match(self, answer: Chat | Completion, good: bool, place: str) -> Pair | None:
        """Returns the pair that an answer completes; else it waits."""
        question = hashlib.sha256(msgspec.json.encode(_before(answer))).digest()
        others = self.waiting.get((question, not good))
        if not others:
            self.waiting.setdefault((question, good), []).append((answer, place))
            return None
        other = others.pop(0)[0]
        return Pair(answer, other) if good else Pair(other, answer)

    def left(self) -> list[str]:
        """Returns the places of those that found none."""
        return [place for waiting in self.waiting.values() for _, place in waiting]


def _before(answer: Chat | Completion) -> object:
    """Returns all that stands before an answer."""
    return (
        answer.prompt if isinstance(answer, Completion) else [list(answer.messages[:-1]), list(answer.tools)]
    )


class _Work:
    """One pass over the files."""

    def __init__(self, masker: Masker, wish: DataWish, files: Sequence[DataFile]) -> None:
        self._masker = masker
        self._wish = wish
        # Held-out files first: then a training row whose question stands in one of them is seen.
        self._files = sorted(files, key=lambda file: (file.part != "held_out", file.name))
        self._tally = Tally()
        has_own = any(file.part == "held_out" for file in files) and any(f.part != "held_out" for f in files)
        self._sorting = _Sorting(has_own)
        self._counterparts = _Counterparts()
        self._formats: dict[str, int] = {}
        self._teachers: Counter[str] = Counter()
        self._rows = 0
        self._unused: dict[str, None] = {}
        self._sides: list[_Side] = []
        self._counts: list[tuple[int, int, int]] = []
        """Of each row: its samples, their tokens, and how many of these are learned."""
        self._longest = 0

    def write(self, folder: Path, tell: Tell) -> DataReport:
        """Writes the samples and returns what became of the rows."""
        kept, lengths = self.kept(tell), list[int]()
        with (folder / "ids.bin").open("wb") as ids, (folder / "learned.bin").open("wb") as learned:
            while rows := list(islice(kept, _AT_ONCE)):
                for sample in self._samples(rows):
                    np.asarray(sample.ids, np.uint32).tofile(ids)
                    np.asarray(sample.learned, np.uint8).tofile(learned)
                    lengths.append(len(sample.ids))
        held_out = self._held_out()
        flags = np.repeat(held_out, [samples for samples, _, _ in self._counts])
        np.stack([np.asarray(lengths, np.int64), flags.astype(np.int64)], 1).tofile(folder / "samples.bin")
        return self._report(held_out)

    def _held_out(self) -> npt.NDArray[np.bool_]:
        """Returns for each row whether it is held out."""
        chosen = held_out_questions((side.question for side in self._sides), self._wish.held_out_share)
        sides = [side.question in chosen if side.held_out is None else side.held_out for side in self._sides]
        return np.asarray(sides, bool)

    def kept(self, tell: Tell) -> Iterator[_Kept]:
        """Yields the rows that can be used, marked."""
        for file in self._files:
            format: Format | None = None
            for row in iter_rows(file):
                self._rows += 1
                tell(self._rows)
                place = f"{row.file}:{row.number}"
                try:
                    if row.wrong:
                        raise Unusable(row.wrong)
                    format = format if format and _has(row, format) else detect(row.values)
                    if format is None:
                        raise Unusable("unknown_columns", ", ".join(sorted(row.values))[:200])
                    kept = self._mark(row, format, file.part, place)
                except Unusable as reason:
                    self._tally.drop(reason.code, place, reason.detail)
                    continue
                self._formats[format] = self._formats.get(format, 0) + 1
                self._teachers.update(_teachers(row))
                self._unused |= dict.fromkeys(_unused(row, format))
                if kept is not None:
                    yield kept
        for place in self._counterparts.left():
            self._tally.drop("no_counterpart", place)

    def _mark(self, row: RawRow, format: Format, part: str | None, place: str) -> _Kept | None:
        """Returns the row with what is learned of it; None: a judged answer that waits for its counterpart."""
        if self._wish.pairs:
            return self._mark_pair(row, format, part, place)
        example = read_example(
            row.values, format, chat=self._masker.has_template and not self._wish.documents
        )
        example = self._suited(example, format)
        side = self._sorting.place(row, example, part)
        self._check_length(example)
        asks = isinstance(example, Chat) or bool(example.prompt)
        return _Kept(place, self._masker.mark(example), side, asks)

    def _mark_pair(self, row: RawRow, format: Format, part: str | None, place: str) -> _Kept | None:
        chat = self._masker.has_template
        if format == "unpaired":
            judged = read_judged(row.values, chat=chat)
            self._suited(judged, format)
            side = self._sorting.place(row, judged, part)
            self._check_length(judged)
            pair = self._counterparts.match(judged, is_good(row.values), place)
            return None if pair is None else _Kept(place, self._masker.mark_pair(pair), side, True)
        if format != "preference":
            raise Unusable("no_pair")
        pair = read_example(row.values, format, chat=chat)
        assert isinstance(pair, Pair)
        self._suited(pair, format)
        self._check_length(pair.chosen)
        self._check_length(pair.rejected)
        marked = self._masker.mark_pair(pair)
        return _Kept(place, marked, self._sorting.place(row, pair.chosen, part), True)

    def _check_length(self, example: Chat | Completion) -> None:
        if self._masker.is_too_long_at_sight(example, self._wish.max_tokens):
            raise Unusable("too_long")

    def _suited(self, example: Example, format: Format) -> Chat | Completion:
        """Returns the example as the method takes it."""
        if isinstance(example, Pair):
            example = example.chosen
        if self._wish.documents and isinstance(example, Completion):
            return Completion("", example.prompt + example.completion)
        if isinstance(example, Chat) and not self._masker.has_template:
            raise InvalidInput(
                "The rows are conversations ({format}), and the base model has no chat template.",
                hint="Tune its chat or instruct version, or give rows with `prompt` and `completion`.",
                code="no_chat_template",
                format=format,
            )
        return example

    def _samples(self, rows: Iterable[_Kept]) -> Iterator[Sample]:
        """Yields the samples of rows; a row goes as a whole or not at all."""
        listed = [row for row in rows if not self._is_too_long_at_sight(row)]
        samples = iter(self._masker.encode([marked for row in listed for marked in row.marked]))
        for row in listed:
            mine = [next(samples) for _ in row.marked]
            if not row.asks:
                mine = [piece for sample in mine for piece in self._cut(sample)]
            wrong = self._wrong(row, mine)
            if wrong:
                self._tally.drop(wrong, row.place)
                continue
            self._count(row, mine)
            yield from mine

    def _is_too_long_at_sight(self, row: _Kept) -> bool:
        """Drops a row of megabytes before it is tokenised; documents are cut into pieces, however long they are."""
        is_so = row.asks and any(
            self._masker.is_surely_longer(it, self._wish.max_tokens) for it in row.marked
        )
        if is_so:
            self._tally.drop("too_long", row.place)
        return is_so

    def _cut(self, sample: Sample) -> list[Sample]:
        """Returns a document in pieces that fit; each overlaps the one before by its last token, so none is unlearned."""
        size = self._wish.max_tokens
        if len(sample.ids) <= size:
            return [sample]
        starts = range(0, len(sample.ids) - 1, size - 1)
        return [Sample(sample.ids[i : i + size], sample.learned[i : i + size]) for i in starts]

    def _wrong(self, row: _Kept, samples: Sequence[Sample]) -> str:
        if any(len(sample.ids) > self._wish.max_tokens for sample in samples):
            return "too_long"
        if not all(any(sample.learned[1:]) for sample in samples):
            return "nothing_learned"
        if row.asks and any(all(sample.learned) for sample in samples):
            return "all_learned"
        return ""

    def _count(self, row: _Kept, samples: Sequence[Sample]) -> None:
        self._sides.append(row.side)
        tokens = [len(sample.ids) for sample in samples]
        self._counts.append((len(samples), sum(tokens), sum(sum(sample.learned[1:]) for sample in samples)))
        self._longest = max(self._longest, *tokens)

    def _report(self, held_out: npt.NDArray[np.bool_]) -> DataReport:
        masker = self._masker
        samples, tokens, learned = (
            np.asarray(self._counts, np.int64).reshape(-1, 3)[~held_out].sum(0).tolist()
        )
        return DataReport(
            format=", ".join(sorted(self._formats, key=lambda name: -self._formats[name])),
            files=[file.name for file in self._files],
            rows=self._rows,
            kept=int((~held_out).sum()),
            held_out=int(held_out.sum()),
            dropped=self._tally.drawn(),
            samples=samples,
            tokens=tokens,
            learned_tokens=learned,
            longest=self._longest,
            rewritten=masker.rewritten,
            endless=masker.endless,
            end_is_padding=masker.end_is_padding,
            pairs=samples // 2 if self._wish.pairs else 0,
            key=self._sorting.key.hex(),
            teachers=[name for name, _ in self._teachers.most_common(_SHOWN_TEACHERS)],
            notes=list(self._notes(held_out)),
        )

    def _notes(self, held_out: npt.NDArray[np.bool_]) -> Iterator[Note]:
        """Yields what else is to be known of the rows."""
        if not held_out.any() and len(held_out):
            yield Note("No row is held out, so nothing will tell what is only learned by heart: add rows, or a file of others named test.jsonl.")  # fmt: skip
        elif not self._sorting.has_own and not self._has_small_hash(held_out):
            yield Note(
                "By the share of {share} no row would be held out: {count} with the smallest hash of its question is.",
                {"share": f"{100 * self._wish.held_out_share:.2g} %", "count": int(held_out.sum())},
            )
        if self._unused:
            shown = [*self._unused][:_SHOWN_COLUMNS]
            more = ", …" if len(self._unused) > len(shown) else ""
            yield Note("Columns that are not used: {columns}.", {"columns": ", ".join(shown)[:300] + more})
        if self._masker.rewritten:
            yield Note(
                "The chat template writes earlier turns anew: {count} conversations became a sample for each answer.",
                {"count": self._masker.rewritten},
            )
        if self._masker.endless:
            yield Note(
                "The chat template ends {count} answers with no token of its own.",
                {"count": self._masker.endless},
            )
        if self._masker.end_is_padding:
            yield Note("The end token is also the padding token; it is learned all the same.")

    def _has_small_hash(self, held_out: npt.NDArray[np.bool_]) -> bool:
        share = self._wish.held_out_share
        return any(is_within(self._sides[i].question, share) for i in np.flatnonzero(held_out))


def view_samples(prepared: Prepared, decode: Callable[[list[int]], str]) -> list[SampleView]:
    """Returns the first samples with every token's text and mask; of tokens that share a character the last has it."""
    views: list[SampleView] = []
    for number in range(min(_SHOWN_SAMPLES, len(prepared.lengths))):
        ids, learned = prepared.sample(number)
        shown = ids[:_SHOWN_TOKENS]
        views.append(
            SampleView(
                _spell([int(i) for i in shown], decode),
                [bool(flag) for flag in learned[:_SHOWN_TOKENS]],
                len(ids) > len(shown),
                ("chosen", "rejected")[number % 2] if prepared.report.pairs else "",
            )
        )
    return views


def _spell(ids: list[int], decode: Callable[[list[int]], str]) -> list[str]:
    """Returns what each token adds to the text: a character whose bytes are spread over several comes with the last."""
    texts: list[str] = []
    told = ""
    for end in range(1, len(ids) + 1):
        whole = decode(ids[:end]).rstrip("\ufffd")  # a token may end one character and begin another
        texts.append(whole[len(told) :])
        told = whole
    return texts


def _question(example: Chat | Completion) -> str:
    """Returns what is asked, in a form in which trifles do not count; two rows with one question go to one side."""
    if isinstance(example, Completion):
        text = example.prompt or example.completion
    else:
        first = next((m.content for m in example.messages if m.role == "user"), "")
        text = first or example.messages[0].content
    return " ".join(text.casefold().split())


def _teachers(row: RawRow) -> list[str]:
    """Returns the model that wrote a row, where the row names one as Fust's exports and many data sets do."""
    said = next((value for key, value in row.values.items() if key.lower() in ("model", "teacher")), None)
    return [said] if isinstance(said, str) and _MODEL_NAME.fullmatch(said) else []


def _unused(row: RawRow, format: Format) -> list[str]:
    """Returns the columns of a row that say something and are not read."""
    return [name for name, value in row.values.items() if name.lower() not in READ[format] and value not in (None, "", [])]  # fmt: skip


def _has(row: RawRow, format: Format) -> bool:
    return detect(row.values) == format


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
