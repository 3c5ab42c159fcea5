"""The starter's recipe on tiny texts that the test makes: what may be read, and the whole way to a model that answers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs fust[tune]")
pytest.importorskip("transformers", reason="needs fust[tune]")

from examples.starter import __main__ as recipe_main  # noqa: E402
from examples.starter import chat, corpus, measure, train  # noqa: E402
from examples.starter.export import GGUF_NAME  # noqa: E402
from examples.starter.sources import SOURCES, accepted_licence  # noqa: E402

from fust.formats import read_gguf  # noqa: E402

ANIMALS = ["lion", "hare", "goat", "hen", "fox", "crow", "wolf", "bear", "frog", "mouse", "cow", "ant"]
PLACES = ["river", "hill", "market", "field", "well", "old house", "school", "forest"]
RU = ["лиса", "кошка", "мышь", "рыба", "птица", "белка", "утка", "собака"]
HI = ["शेर", "बंदर", "चिड़िया", "गाय", "बकरी", "मछली", "हाथी", "घोड़ा"]
SW = ["simba", "sungura", "kobe", "mbuzi", "paka", "ndege", "samaki", "nyoka"]


def story_file(title: str, body: str, licence: str | None = "[CC-BY]") -> str:
    lines = [] if licence is None else [f"* License: {licence}"]
    return "\n".join(
        [f"# {title}", "", "##", body, "", "##", *lines, "* Text: A. Writer", "* Language: en", ""]
    )


def sentence(language: str, order: random.Random) -> str:
    if language == "ru":
        return f"Жила {order.choice(RU)} и дружила она с ней, {order.choice(RU)} пела {order.randint(2, 99)} песен. "
    if language == "hi":
        return f"एक {order.choice(HI)} था और {order.choice(HI)} उसका मित्र था, वे {order.randint(2, 99)} दिन साथ रहे। "
    if language == "sw":
        return f"Hapo zamani {order.choice(SW)} alikutana na {order.choice(SW)} mara {order.randint(2, 99)} mtoni. "
    place = order.choice(PLACES)
    return f"The {order.choice(ANIMALS)} met the {order.choice(ANIMALS)} by the {place} {order.randint(2, 99)} times. "


def made_corpus(root: Path, stories: int = 40) -> Path:
    order = random.Random(5)
    for folder, language in (
        ("african-storybook", "en"),
        ("african-storybook", "sw"),
        ("pratham-books", "hi"),
    ):
        (root / folder / language).mkdir(parents=True)
        for i in range(stories):
            body = "".join(sentence(language, order) for _ in range(4))
            (root / folder / language / f"{i:04}_s.md").write_text(story_file(f"Story {i}", body), "utf-8")
    (root / "tinystories-ru").mkdir()
    rows = [{"id": str(i), "text": "".join(sentence("ru", order) for _ in range(4))} for i in range(stories)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (root / "tinystories-ru" / "stories.jsonl").write_text(lines, "utf-8")
    return root


@pytest.mark.parametrize(
    ("line", "accepted"),
    [
        ("[CC-BY]", "CC-BY-4.0"),
        ("CC BY", "CC-BY-4.0"),
        ("CC BY 3.0", "CC-BY-3.0"),
        ("[CC-BY-SA]", "CC-BY-SA-4.0"),
        ("CC BY-SA 4.0", "CC-BY-SA-4.0"),
        ("[Public Domain]", "LicenseRef-Public-Domain"),
        ("CC0", "CC0-1.0"),
        ("[CC-BY-NC]", None),
        ("CC BY-NC-SA", None),
        ("CC-BY-ND", None),
        ("CC BY-NC-ND 4.0", None),
        ("CC-BY or CC-BY-NC", None),
        ("CC-BY / CC-BY-SA", None),
        ("CC-BY?", None),
        ("BY", None),
        ("CC", None),
        ("All rights reserved", None),
        ("CC-BY 9.9", None),
        ("", None),
    ],
)
def test_only_open_licences_are_accepted(line, accepted):
    assert accepted_licence(line) == accepted


BODY = "The lion met the hare by the river. They talked about the rain for a long time, and then they all went home together."


def parsed(text: str):
    return corpus.parse_story_file(text, "african-storybook", "en", "0001_x")


def test_the_licence_is_the_storys_own_last_page():
    assert parsed(story_file("T", BODY))[0].licence == "CC-BY-4.0"
    assert parsed(story_file("T", BODY, None)) == (None, "no licence line")
    assert parsed(story_file("T", BODY, "[CC-BY-NC]"))[0] is None
    assert parsed(story_file("T", BODY, "[CC-BY]\n* License: [CC-BY-NC]"))[0] is None
    assert parsed(story_file("T", BODY + "\n* License: [CC-BY]", None))[0] is None
    assert parsed("no pages at all")[0] is None


def test_refused_stories_never_reach_the_corpus(tmp_path):
    folder = tmp_path / "african-storybook" / "en"
    folder.mkdir(parents=True)
    kept = BODY + " And so it was."
    (folder / "0001_a.md").write_text(story_file("Kept", kept), "utf-8")
    (folder / "0002_b.md").write_text(story_file("NC", BODY + " Secret one.", "[CC-BY-NC]"), "utf-8")
    (folder / "0003_c.md").write_text(story_file("None", BODY + " Secret two.", None), "utf-8")
    (folder / "0004_d.md").write_text(story_file("Twice", kept.upper()), "utf-8")
    (folder / "0005_e.md").write_text(story_file("Near", kept + " Indeed."), "utf-8")
    (folder / "README.md").write_text(story_file("Index", kept), "utf-8")
    read = corpus.read_corpus(tmp_path)
    assert [s.title for s in read.stories] == ["Kept"]
    reasons = " ".join(read.refused)
    assert "not accepted: [CC-BY-NC]" in reasons and "no licence line" in reasons
    assert "duplicate" in reasons and "near duplicate" in reasons


def test_no_source_at_all_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none of"):
        corpus.read_corpus(tmp_path)


def test_books_are_cut_at_their_headings():
    source = next(s for s in SOURCES if s.kind == "book")
    raw = (
        "licence\r\n*** START OF THIS BOOK ***\r\n\r\nTHE FOX\r\n\r\nTHE CROW\r\n\r\nA crow had\r\ncheese.\r\n\r\n"
        "[Illustration]\r\nIt fell.\r\n\r\n*** END OF THIS BOOK ***\r\nmore licence"
    ).encode("latin-1")
    stories = corpus.split_book(raw, source)
    assert [(s.title, s.text) for s in stories] == [
        ("The fox", ""),
        ("The crow", "A crow had cheese.\n\nIt fell."),
    ]


def test_the_split_depends_on_the_words_alone(tmp_path):
    read = corpus.read_corpus(made_corpus(tmp_path, 60))
    held = {s.text for s in read.stories if s.split == "held_out"}
    assert 0 < len(held) < len(read.stories) / 5
    story = read.stories[0]
    assert story.split == corpus.Story("x", "y", "en", "z", story.text.upper(), "", "").split


def tiny(**changed: object) -> train.Recipe:
    small = {
        "d_model": 32, "n_layer": 2, "n_head": 2, "n_kv_head": 1, "d_ff": 64, "context": 128, "rows_per_step": 2,
        "warmup_steps": 5, "checkpoint_every": 10, "evaluate_every": 40, "compiled": False, "chat_epochs": 1,
        "max_steps": 40,
    }  # fmt: skip
    return train.Recipe(**(small | changed))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    from examples.starter.tokenizer import train_tokenizer

    read = corpus.read_corpus(made_corpus(tmp_path_factory.mktemp("corpus")))
    return read, train_tokenizer(read, chat.Phrases().texts(), 700)


def test_packed_conversations_do_not_see_each_other(small):
    _, tokenizer = small
    model = train.build_model(tiny(), tokenizer.get_vocab_size(), tokenizer).eval()
    rows = [
        chat.encode(
            [chat.Turn("user", f"Hello {i}"), chat.Turn("assistant", "The fox met the hen.")], tokenizer
        )
        for i in range(3)
    ]
    packed = train.pack_conversations(rows, 128, 0)
    assert packed["ids"].shape == (1, 128)
    with torch.inference_mode():
        together = model.model(
            input_ids=torch.from_numpy(packed["ids"]),
            position_ids=torch.from_numpy(packed["positions"]),
            use_cache=False,
        ).last_hidden_state[0]
        at = 0
        for row in rows:
            alone = model.model(input_ids=torch.tensor([row.ids[:-1]]), use_cache=False).last_hidden_state[0]
            assert torch.allclose(together[at : at + len(alone)], alone, atol=1e-4)
            at += len(alone)


def test_only_the_assistants_words_are_learned(small):
    _, tokenizer = small
    row = chat.encode(
        [chat.Turn("system", "Be kind."), chat.Turn("user", "Who?"), chat.Turn("assistant", "A fox.")],
        tokenizer,
    )
    learned = tokenizer.decode(
        [i for i, own in zip(row.ids, row.learned, strict=True) if own], skip_special_tokens=False
    )
    assert learned == "A fox.<|im_end|>"


def test_a_killed_training_ends_at_the_same_weights(small, tmp_path):
    read, tokenizer = small
    rows = train.pack_stories(read, tokenizer, tiny())

    def trained(out: Path) -> dict:
        model = train.build_model(tiny(), tokenizer.get_vocab_size(), tokenizer)
        train.train_stories(model, rows, tiny(), out, lambda m: {}, lambda line: None)
        return model.state_dict()

    whole = trained(tmp_path / "whole")
    # Keep only the checkpoint of step 30, as if the process had died before the last one was finished.
    cut = tmp_path / "cut"
    shutil.copytree(tmp_path / "whole" / "step-000030", cut / "step-000030")
    (cut / "step-000040.tmp").mkdir()
    again = trained(cut)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_topics_are_found_in_stories():
    phrases = chat.Phrases()
    story = corpus.Story("s", "1", "ru", "", "Жила-была лиса. Она любила лес.", "", "")
    asked = {phrases.story(story, random.Random(i))[0].content.lower() for i in range(40)}
    assert any("лису" in a for a in asked)


def test_copied_runs_are_counted(small):
    read, tokenizer = small
    known = measure.training_runs(read, tokenizer, "en")
    story = read.of("en", "train")[0].text
    assert measure.copies("Well then: " + story, tokenizer, known)
    assert not measure.copies("Nobody ever wrote these particular words before, " * 3, tokenizer, known)


def test_the_whole_recipe_makes_a_model_that_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "STORIES", {"en": 20, "ru": 20, "hi": 20, "sw": 20})
    monkeypatch.setattr(chat, "SMALL_TALK", {"en": 20, "ru": 20, "hi": 20, "sw": 20, "zh": 10})
    root = made_corpus(tmp_path / "corpus")
    folder = recipe_main.run(root, tmp_path / "out", tiny(), vocab_size=700)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt"
    )
    out = model.generate(**ids, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > ids["input_ids"].shape[1]
    header = read_gguf(folder / GGUF_NAME)
    assert (header.architecture, header.file_type, header.context_length) == ("llama", "Q8_0", 128)
    assert header.chat_template == tokenizer.chat_template
    assert header.number("tokenizer.ggml.eos_token_id") == tokenizer.eos_token_id
    assert "Story 1 | A. Writer | CC-BY-4.0" in (folder / "ATTRIBUTION").read_text("utf-8")
    assert json.loads((tmp_path / "out" / "training.json").read_text())["recipe"]["max_steps"] == 40
    with measure.engine(folder / GGUF_NAME) as address:
        sampling = json.loads((folder / "generation_config.json").read_text())
        monkeypatch.setattr(measure, "MAX_TOKENS", 8)
        assert isinstance(measure.ask(address, "Tell me a story", 1, sampling).text, str)
