"""What is learned of a conversation: the answers and the token that ends them, by the stock templates of the field.

Each template is the model's own file: those that the installed trl carries (`trl/chat_templates`, Apache-2.0), and
Mistral's in `tests/support/chat_templates`, whose README says where they come from.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fust.tune.masks import Masker
from fust.tune.messages import Message, Unusable
from fust.tune.rows import Chat, Completion
from tests.support.tiny_bases import CHATML, make_tokenizer

trl = pytest.importorskip("trl", reason="trl, whose templates are used, is not installed")
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
MISTRALS = Path(__file__).parents[1] / "support" / "chat_templates"
SPECIAL = [
    "<s>", "</s>", "<bos>", "<eos>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|eot_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|begin_of_text|>",
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]", "[CALL_ID]", "[ARGS]", "[TOOL_CONTENT]",
]  # fmt: skip
TWO = (
    Message("user", "Hi"),
    Message("assistant", "Hello there."),
    Message("user", "And 2+2?"),
    Message("assistant", "4, 🌍 سلام."),
)
CASES = [
    # template, end of a turn, what it writes before the answer, whether it rewrites earlier turns
    ("llama3", "<|eot_id|>", "", False),
    ("llama3_1", "<|eot_id|>", "", False),
    ("llama3_2", "<|eot_id|>", "", False),
    ("qwen2_5", "<|im_end|>", "", False),
    ("qwen3", "<|im_end|>", "<think>\n\n</think>\n\n", True),
    ("qwen3_instruct_2507", "<|im_end|>", "", False),
    ("gemma", "<end_of_turn>", "", False),
    ("gemma3", "<end_of_turn>", "", False),
    ("phi3", "<|end|>", "", False),
    ("phi3_5", "<|end|>", "", False),
    ("mistral_v0_2", "</s>", "", False),
    ("mistral_nemo", "</s>", "", False),
    ("mistral_small_3_2", "</s>", "", False),
]


def masker_of(template: str, end: str = "<|im_end|>") -> Masker:
    tokenizer = make_tokenizer(template, extra=SPECIAL)
    tokenizer.bos_token, tokenizer.eos_token = "<s>", end
    return Masker(tokenizer)


def stock(name: str) -> Masker:
    folder, end = (MISTRALS, "</s>") if name.startswith("mistral") else (TEMPLATES, "<|im_end|>")
    return masker_of((folder / f"{name}.jinja").read_text(encoding="utf-8"), end)


def learned(masker: Masker, *messages: Message, tools: tuple = ()) -> list[list[str]]:
    """Returns the learned stretches of each sample, read from its tokens."""
    found = []
    for sample in masker.encode(masker.mark(Chat(messages, tools))):
        stretches, run = [], []
        for token, flag in zip([*sample.ids, None], [*sample.learned, False], strict=True):
            if flag:
                run.append(token)
            elif run:
                stretches.append(masker._tokenizer.decode(run))  # type: ignore[attr-defined]
                run = []
        found.append(stretches)
    return found


@pytest.mark.parametrize(("name", "end", "before", "rewrites"), CASES)
def test_stock_templates(name, end, before, rewrites):
    masker = stock(name)
    answers = [f"{before}Hello there.{end}", f"{before}4, 🌍 سلام.{end}"]
    assert learned(masker, *TWO[:2]) == [answers[:1]]
    assert learned(masker, *TWO) == ([answers[:1], answers[1:]] if rewrites else [answers])
    assert masker.endless == 0
    assert masker.rewritten == (1 if rewrites else 0)


@pytest.mark.parametrize(
    "name",
    [
        "llama3",
        "llama3_1",
        "llama3_2",
        "qwen2_5",
        "qwen3",
        "qwen3_instruct_2507",
        "gemma3",
        "phi3",
        "phi3_5",
        "mistral_nemo",
        "mistral_small_3_2",
    ],
)
def test_a_system_prompt_is_not_learned(name):
    masker = stock(name)
    said = learned(masker, Message("system", "Be kind."), *TWO)
    assert "kind" not in str(said)
    assert "Hello there." in str(said)


@pytest.mark.parametrize(
    ("name", "said"), [("gemma", "System role not supported"), ("mistral_v0_2", "must alternate")]
)
def test_a_template_without_system_prompts_says_so_for_the_row(name, said):
    with pytest.raises(Unusable) as raised:
        stock(name).mark(Chat((Message("system", "Be kind."), *TWO)))
    assert raised.value.code == "template_refuses"
    assert said in raised.value.detail


@pytest.mark.parametrize(
    "name",
    ["qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3_1", "llama3_2", "mistral_nemo", "mistral_small_3_2"],
)
def test_calls_of_tools_are_learned_and_their_results_are_not(name):
    tools = ({"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}},)
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    said = learned(
        stock(name),
        Message("user", "What colour?"),
        Message("assistant", "", [call]),
        Message("tool", "PURPLE", name="look", tool_call_id="abcdefghi"),
        Message("assistant", "Blue."),
        tools=tools,
    )
    flat = "".join(stretch for sample in said for stretch in sample)
    assert "look" in flat and "sky" in flat and "Blue." in flat
    assert "PURPLE" not in flat and "Looks." not in flat


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("llama3", "tools_unwritten"),
        ("phi3", "tools_unwritten"),
        ("phi3_5", "tools_unwritten"),
        ("gemma", "template_refuses"),
        ("gemma3", "template_refuses"),
        ("mistral_v0_2", "template_refuses"),
    ],
)
def test_a_template_that_knows_no_tools_teaches_no_empty_answers(name, code):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    calls = (Message("user", "What colour?"), Message("assistant", "", [call]))
    with pytest.raises(Unusable) as raised:
        stock(name).mark(Chat((*calls, Message("tool", "PURPLE"), Message("assistant", "Blue."))))
    assert raised.value.code == "tools_unwritten"
    if name != "llama3":  # which writes results, though no calls
        with pytest.raises(Unusable) as raised:
            stock(name).mark(Chat((TWO[0], Message("tool", "PURPLE"), Message("assistant", "Blue."))))
        assert raised.value.code == code
    with pytest.raises(Unusable) as raised:
        stock(name).mark(Chat(TWO, ({"type": "function", "function": {"name": "look"}},)))
    assert (raised.value.code, raised.value.detail) == ("tools_unwritten", "look")


def test_a_template_that_leaves_out_the_system_prompt_is_found():
    template = "{% for m in messages if m.role != 'system' %}" + CHATML.partition("%}")[2].replace(
        "message", "m"
    )
    with pytest.raises(Unusable) as raised:
        masker_of(template).mark(Chat((Message("system", "Be kind."), *TWO)))
    assert raised.value.code == "system_unwritten"


def test_answers_that_are_context_are_not_learned():
    masker = stock("llama3_1")
    unlearned = Message("assistant", "Hello there.", is_context=True)
    assert learned(masker, TWO[0], unlearned, *TWO[2:]) == [["4, 🌍 سلام.<|eot_id|>"]]
    assert learned(masker, *TWO[:3], Message("assistant", "No.", is_context=True)) == [
        ["Hello there.<|eot_id|>"]
    ]
    with pytest.raises(Unusable) as raised:
        masker.mark(Chat((TWO[0], unlearned)))
    assert raised.value.code == "nothing_learned"


def test_a_template_that_moves_the_system_prompt_makes_a_sample_of_each_answer():
    masker = stock("mistral_nemo")
    assert learned(masker, Message("system", "S"), *TWO) == [["Hello there.</s>"], ["4, 🌍 سلام.</s>"]]
    first, second = masker.mark(Chat((Message("system", "S"), *TWO)))
    assert first.text.startswith("<s>[INST]S\n\nHi[/INST]")
    assert "S\n\nAnd 2+2?" in second.text and "S\n\nHi" not in second.text


def test_words_that_open_an_answer_and_are_not_repeated():
    """The question ends in an opened <think>, which the answer's own text does not have."""
    template = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    assert learned(masker_of(template), *TWO[:2]) == [["Hello there.<|im_end|>"]]


def test_a_template_without_an_end_is_counted():
    masker = masker_of(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert learned(masker, *TWO[:2]) == [[" Hello there."]]
    assert masker.endless == 1


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ((Message("user", "Hi"),), "no_answer"),
        ((Message("user", "Hi"), Message("assistant", " ")), "empty_answer"),
    ],
)
def test_rows_with_nothing_to_learn(messages, code):
    with pytest.raises(Unusable) as raised:
        masker_of(CHATML).mark(Chat(messages))
    assert raised.value.code == code


def test_what_follows_the_last_answer_is_left_off():
    masker = masker_of(CHATML)
    assert masker.mark(Chat((*TWO[:2], Message("user", "unanswered")))) == masker.mark(Chat(TWO[:2]))


def test_a_text_and_how_it_goes_on():
    masker = masker_of(CHATML)
    [sample] = masker.encode(masker.mark(Completion("say ", "hello moon")))
    said = masker._tokenizer.decode([i for i, flag in zip(sample.ids, sample.learned, strict=True) if flag])  # type: ignore[attr-defined]
    assert said == "hello moon<|im_end|>"
    assert sample.learned[0] is False
    [document] = masker.encode(masker.mark(Completion("", "hello moon")))
    assert all(document.learned)
