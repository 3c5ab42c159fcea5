"""Log-likelihoods through the C API equal transformers' in 32 bits, however rows share their beginnings."""

from __future__ import annotations

import ctypes
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fust.formats.gguf_write import write_gguf
from fust.serve.engines import llama_c
from fust.serve.engines.scored import BadRow, TooLong, Wanted
from fust.serve.engines.scorer import Scorer
from fust.serve.facts import read_facts
from fust.wire.scoring import ScoredRow

torch = pytest.importorskip("torch", reason="needs fust[tune]")
transformers = pytest.importorskip("transformers", reason="needs fust[tune]")
from tests.support.hf_models import PROBE, fallback_tokenizer, model_in, tokenizer_of  # noqa: E402

CONTEXT = 256


def always() -> bool:
    return True


def truth(model: object, tokens: list[int]) -> np.ndarray:
    """(len(tokens), vocabulary) log-probabilities after each token, in 64 bits from a float32 pass."""
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), -1).numpy()  # type: ignore[operator]


def check(row: ScoredRow, wanted: np.ndarray, start: int = 1, within: float = 1e-3) -> float:
    worst = 0.0
    for at, token in enumerate(row.tokens):
        if at < max(1, start):
            assert row.logprobs[at] is None and row.greedy[at] is None
            continue
        got = row.logprobs[at]
        assert got is not None
        worst = max(worst, abs(got - float(wanted[at - 1, token])))
        gap = float(wanted[at - 1].max() - wanted[at - 1, token])
        if gap == 0 or gap > within:  # nearer ones may change places by rounding
            assert row.greedy[at] == (gap == 0)
    assert row.next[0].logprob == pytest.approx(float(wanted[-1].max()), abs=within)
    assert worst < within
    return worst


@pytest.fixture(scope="module", params=["Llama", "Qwen3", "Qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, Scorer]:
    folder = tmp_path_factory.mktemp("scorer")
    tokenizer_of(None, folder)
    made = model_in(folder, request.param, tied=request.param != "Qwen2")
    write_gguf(folder, folder / "m.gguf", "F32", name="test")
    return made, Scorer(folder / "m.gguf", CONTEXT, 1)


def some(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(512), k=count)


def test_every_token_has_the_models_own_log_probability(model: tuple[object, Scorer]) -> None:
    reference, scorer = model
    for seed, length in enumerate((1, 2, 17, CONTEXT)):
        tokens = some(seed, length)
        row = scorer.score([Wanted(tokens, 1)], 0, always)[0]
        assert row.tokens == tokens and row.top == []
        check(row, truth(reference, tokens))


def test_beginnings_are_read_once_and_change_nothing(model: tuple[object, Scorer]) -> None:
    reference, scorer = model
    begin = some(7, 60)
    ends = [some(100 + i, length) for i, length in enumerate((1, 4, 9, 2, 2, 3, 5, 1, 8, 30))]
    rows = [Wanted(begin + end, len(begin)) for end in ends] + [Wanted(begin, 1), Wanted(begin + ends[0], 1)]
    order = list(range(len(rows)))
    for seed in range(4):
        random.Random(seed).shuffle(order)
        scored = scorer.score([rows[i] for i in order], seed, always)
        for i, row in zip(order, scored, strict=True):
            check(row, truth(reference, rows[i].tokens), rows[i].start)


def test_many_rows_in_random_order_equal_their_own_pass(model: tuple[object, Scorer]) -> None:
    reference, scorer = model
    dice = random.Random(3)
    stems = [some(i, dice.randint(1, 40)) for i in range(5)]
    for turn in range(12):
        rows: list[Wanted] = []
        for _ in range(dice.randint(1, 12)):
            tokens = dice.choice(stems)[: dice.randint(1, 40)] + some(dice.randint(0, 3), dice.randint(0, 6))
            rows.append(Wanted(tokens, dice.randint(1, len(tokens) + 1)))
        for wanted, row in zip(rows, scorer.score(rows, turn % 4, always), strict=True):
            check(row, truth(reference, wanted.tokens), wanted.start)
            assert len(row.top) == (len(row.tokens) if turn % 4 else 0)


def test_the_likeliest_are_told_in_order(model: tuple[object, Scorer]) -> None:
    reference, scorer = model
    tokens = some(11, 9)
    row, wanted = scorer.score([Wanted(tokens, 4)], 5, always)[0], truth(reference, tokens)
    assert [place is None for place in row.top] == [True] * 4 + [False] * 5
    for at in range(4, 9):
        place = row.top[at]
        assert place is not None and [one.token for one in place] == list(np.argsort(-wanted[at - 1])[:5])
        assert [one.logprob for one in place] == pytest.approx(
            [wanted[at - 1, one.token] for one in place], abs=1e-3
        )
    assert len(row.next) == 5


def test_gemma_3_keeps_to_its_bound_within_and_past_its_windows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its norms are computed in another order, so 3e-3; windows of 16 tokens, beginnings that are shared and longer."""
    fallback_tokenizer(tmp_path)
    shape = {"query_pre_attn_scalar": 16, "sliding_window": 16, "num_hidden_layers": 7}
    reference = model_in(tmp_path, "Gemma3Text", True, **shape)
    write_gguf(tmp_path, tmp_path / "m.gguf", "F32", name="test")
    scorer = Scorer(tmp_path / "m.gguf", CONTEXT, 1)
    # Its windowed layers keep all that the others keep, so that a beginning can be gone back to; the estimate counts that.
    assert "using full-size SWA cache" in capfd.readouterr().err
    facts = read_facts(tmp_path / "m.gguf", (tmp_path / "m.gguf").stat().st_size)
    assert facts.window == 16 and facts.window_width == facts.kv_width * 6 // 7
    whole = replace(facts, window=0, window_width=0)
    assert facts.memory_bytes("score", 4096, 1) == whole.memory_bytes("score", 4096, 1)
    assert facts.memory_bytes("generate", 4096, 1) < whole.memory_bytes("generate", 4096, 1)
    begin = some(1, 100)
    rows = [Wanted(some(0, CONTEXT), 1), *(Wanted(begin + some(i, 3 * i), len(begin)) for i in range(1, 6))]
    for wanted, row in zip(rows, scorer.score(rows, 0, always), strict=True):
        check(row, truth(reference, wanted.tokens), wanted.start, within=3e-3)


def test_words_are_tokenised_and_written(model: tuple[object, Scorer]) -> None:
    _, scorer = model
    for text in PROBE:
        ids = scorer.tokenize(text)
        assert b"".join(scorer.piece(token) for token in ids).decode() == text


def test_what_cannot_be_scored_is_refused_and_nothing_is_lost(model: tuple[object, Scorer]) -> None:
    reference, scorer = model
    good = Wanted(some(5, 30), 1)
    with pytest.raises(BadRow, match="no tokens"):
        scorer.score([good, Wanted([], 1)], 0, always)
    with pytest.raises(BadRow, match="no token 512"):
        scorer.score([Wanted([3, 512], 1)], 0, always)
    with pytest.raises(BadRow, match="no token -1"):
        scorer.score([Wanted([-1], 1)], 0, always)
    with pytest.raises(TooLong) as error:
        scorer.score([Wanted(some(1, CONTEXT + 1), 1)], 0, always)
    assert (error.value.tokens, error.value.context) == (CONTEXT + 1, CONTEXT)
    with pytest.raises(InterruptedError):
        scorer.score([good], 0, lambda: False)
    check(scorer.score([good], 0, always)[0], truth(reference, good.tokens))


def test_a_library_of_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_c, "VERSION", "1999.1.1")
    with pytest.raises(llama_c.LayoutUnknown, match=r"1999\.1\.1"):
        llama_c.open_library()

    class Longer(ctypes.Structure):
        _fields_ = [*llama_c.ContextParams._fields_, ("one_more", ctypes.c_void_p)]

    monkeypatch.setattr(llama_c, "ContextParams", Longer)
    with pytest.raises(llama_c.LayoutUnknown, match="llama_context_default_params"):
        llama_c.check_layout(ctypes.CDLL(llama_c._path()))


def test_the_real_small_model_scores_as_in_transformers(shared_dir: Path) -> None:
    path = shared_dir / "weights" / "stories260K-f32.gguf"
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    scorer = Scorer(path, 512, 1)
    story = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    tokens = scorer.tokenize(story)
    row = scorer.score([Wanted(tokens, 1)], 0, always)[0]
    assert check(row, truth(reference, tokens), within=1e-4) < 1e-4
    assert sum(value for value in row.logprobs if value is not None) > -30  # it knows such stories
