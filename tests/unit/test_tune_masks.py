"""What is learned of a conversation: the answers and the token that ends them, by the stock templates of the field.

The templates are those that the installed trl carries (`trl/chat_templates`, Apache-2.0; each is the model's own file).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fust.tune.masks import Masker
from fust.tune.rows import Chat, Completion, Message, Unusable
from tests.support.tiny_bases import CHATML, make_tokenizer

trl = pytest.importorskip("trl", reason="trl, whose templates are used, is not installed")
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SPECIAL = [
    "<s>", "</s>", "<bos>", "<eos>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|eot_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<|begin_of_text|>",
]  # fmt: skip
MISTRAL_V03 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% if loop.last or loop.index == messages | length - 1 %}[INST] {% if messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] + '\n\n' }}{% endif %}{{ message['content'] }}[/INST]{% else %}"
    "[INST] {{ message['content'] }}[/INST]{% endif %}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""As Mistral's of version 3: the system prompt stands in the last question. Words of our own."""

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
]


def masker_of(template: str) -> Masker:
    tokenizer = make_tokenizer(template, extra=SPECIAL)
    tokenizer.bos_token = "<s>"
    return Masker(tokenizer)


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
    masker = masker_of((TEMPLATES / f"{name}.jinja").read_text())
    answers = [f"{before}Hello there.{end}", f"{before}4, 🌍 سلام.{end}"]
    assert learned(masker, *TWO[:2]) == [answers[:1]]
    assert learned(masker, *TWO) == ([answers[:1], answers[1:]] if rewrites else [answers])
    assert masker.endless == 0
    assert masker.rewritten == (1 if rewrites else 0)


@pytest.mark.parametrize("name", ["llama3", "llama3_1", "qwen2_5", "qwen3", "gemma3", "phi3"])
def test_a_system_prompt_is_not_learned(name):
    masker = masker_of((TEMPLATES / f"{name}.jinja").read_text())
    said = learned(masker, Message("system", "Be kind."), *TWO)
    assert "kind" not in str(said)
    assert "Hello there." in str(said)


def test_a_template_without_system_prompts_says_so_for_the_row():
    masker = masker_of((TEMPLATES / "gemma.jinja").read_text())
    with pytest.raises(Unusable) as raised:
        masker.mark(Chat((Message("system", "Be kind."), *TWO)))
    assert raised.value.code == "template_refuses"
    assert "System role not supported" in raised.value.detail


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3_1"])
def test_calls_of_tools_are_learned_and_their_results_are_not(name):
    tools = ({"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}},)
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    masker = masker_of((TEMPLATES / f"{name}.jinja").read_text())
    said = learned(
        masker,
        Message("user", "What colour?"),
        Message("assistant", "", [call]),
        Message("tool", "PURPLE", name="look"),
        Message("assistant", "Blue."),
        tools=tools,
    )
    flat = "".join(stretch for sample in said for stretch in sample)
    assert '"look"' in flat and "sky" in flat and "Blue." in flat
    assert "PURPLE" not in flat and "Looks." not in flat


def test_a_template_that_moves_the_system_prompt_makes_a_sample_of_each_answer():
    masker = masker_of(MISTRAL_V03)
    assert learned(masker, Message("system", "S"), *TWO) == [
        [" Hello there.<|im_end|>"],
        [" 4, 🌍 سلام.<|im_end|>"],
    ]
    first, second = masker.mark(Chat((Message("system", "S"), *TWO)))
    assert first.text.startswith("<s>[INST] S\n\nHi[/INST]")
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
