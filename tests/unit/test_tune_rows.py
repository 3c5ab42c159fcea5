"""Rows of every format and file become examples, and bad ones are named and not silently dropped."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from fust.core.errors import InvalidInput
from fust.tune.files import DataFile, choose_files, is_data, iter_rows
from fust.tune.messages import Message, Unusable
from fust.tune.rows import Chat, Completion, Pair, detect, read_example

USER, ANSWER = Message("user", "Hi"), Message("assistant", "Hello")
LOOK = {"type": "function", "function": {"name": "look"}}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}

SHAPES = [
    ("messages", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}, Chat((USER, ANSWER))),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Hello"}]},
        Chat((USER, ANSWER)),
    ),
    ("messages", {"messages": json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])}, Chat((USER, ANSWER))),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be kind."},
        Chat((Message("system", "Be kind."), USER, ANSWER)),
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": json.dumps(CALL["function"])}, {"from": "observation", "value": "blue"}, {"from": "gpt", "value": "Hello"}], "tools": '[{"name": "look"}]'},
        Chat((USER, Message("assistant", "", [CALL]), Message("tool", "blue"), ANSWER), (LOOK,)),
    ),
    (
        "messages",  # parts as LLaMA-Factory writes them
        {"messages": [{"role": "user", "content": [{"type": "text", "value": "Hi"}]}, {"role": "assistant", "content": [{"type": "reasoning", "value": "Hm."}, {"type": "tool_call", "value": json.dumps(CALL["function"])}]}, {"role": "tool", "content": [{"type": "text", "value": "blue"}]}, {"role": "assistant", "content": ["Hel", {"type": "text", "text": "lo"}]}], "tools": json.dumps([LOOK])},
        Chat((USER, Message("assistant", "", [CALL], "Hm."), Message("tool", "blue"), ANSWER), (LOOK,)),
    ),
    (
        "messages",  # arguments as OpenAI writes them, and its older way to call; the first answer is context
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No", "weight": 0}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}]}, {"role": "tool", "content": "blue", "tool_call_id": "c1"}, {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": "sky"}'}}, {"role": "function", "name": "look", "content": "blue"}, {"role": "assistant", "content": "Hello", "weight": 1}], "functions": [{"name": "look"}]},
        Chat((USER, Message("assistant", "No", is_context=True), USER, Message("assistant", "", [{"id": "c1"} | CALL]), Message("tool", "blue", tool_call_id="c1"), Message("assistant", "", [CALL]), Message("tool", "blue", name="look"), ANSWER), (LOOK,)),
    ),
    ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "train": True}], "system": "", "tools": "[]"}, Chat((USER, ANSWER))),
    ("sharegpt", {"conversation": [{"input": "Hi", "output": "Hello"}, {"human": "Hi", "assistant": "Hello"}]}, Chat((USER, ANSWER, USER, ANSWER))),
    ("messages", {"dialog": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "system": "Be kind."}, Chat((Message("system", "Be kind."), USER, ANSWER))),
    ("completion", {"instruction": "Who?", "context": "It was me.", "response": "You.", "category": "qa"}, Chat((Message("user", "Who?\nIt was me."), Message("assistant", "You.")))),
    ("completion", {"system_prompt": "Be kind.", "question": "Hi", "response": "Hello"}, Chat((Message("system", "Be kind."), USER, ANSWER))),
    ("completion", {"query": "Hi", "response": "Hello", "history": [["Hi", "Hello"]]}, Chat((USER, ANSWER, USER, ANSWER))),
    ("completion", {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "tool_calls": [CALL]}], "tools": [LOOK]}, Chat((USER, Message("assistant", "", [CALL])), (LOOK,))),
    ("completion", {"prompt": "Hi", "completion": "Hello", "label": "greeting"}, Chat((USER, ANSWER))),
    ("unpaired", {"instruction": "Hi", "input": "", "output": "Hello", "kto_tag": True}, Chat((USER, ANSWER))),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello"}, Chat((USER, ANSWER))),
    (
        "alpaca",
        {"instruction": "Add", "input": "1 and 2", "output": "3", "system": "S", "history": [["Hi", "Hello"]]},
        Chat((Message("system", "S"), USER, ANSWER, Message("user", "Add\n1 and 2"), Message("assistant", "3"))),
    ),
    ("completion", {"prompt": "Hi", "completion": "Hello"}, Chat((USER, ANSWER))),
    ("completion", {"question": "Hi", "answer": "Hello"}, Chat((USER, ANSWER))),
    ("completion", {"question": "Hi", "answer": 4}, Chat((USER, Message("assistant", "4")))),
    (
        "completion",
        {"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]},
        Chat((USER, ANSWER)),
    ),
    ("unpaired", {"prompt": "Hi", "completion": "Hello", "label": True}, Chat((USER, ANSWER))),
    ("unpaired", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "label": True}, Chat((USER, ANSWER))),
    ("unpaired", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "label": "true"}, Chat((USER, ANSWER))),
    ("messages", {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "label": "maths"}, Chat((USER, ANSWER))),
    (
        "preference",
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Go"},
        Pair(Chat((USER, ANSWER)), Chat((USER, Message("assistant", "Go")))),
    ),
    (
        "preference",
        {"conversations": [{"from": "human", "value": "Hi"}], "chosen": {"from": "gpt", "value": "Hello"}, "rejected": {"from": "gpt", "value": "Go"}},
        Pair(Chat((USER, ANSWER)), Chat((USER, Message("assistant", "Go")))),
    ),
    (
        "preference",
        {"chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go"}]},
        Pair(Chat((USER, ANSWER)), Chat((USER, Message("assistant", "Go")))),
    ),
    (
        "preference",  # the whole conversation in each answer, and the question beside it
        {"prompt": "Hi", "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go"}], "messages": []},
        Pair(Chat((USER, ANSWER)), Chat((USER, Message("assistant", "Go")))),
    ),
    (
        "preference",  # OpenAI
        {"input": {"messages": [{"role": "user", "content": "Hi"}], "tools": [LOOK], "parallel_tool_calls": True}, "preferred_output": [{"role": "assistant", "content": "Hello"}], "non_preferred_output": [{"role": "assistant", "content": "Go"}]},
        Pair(Chat((USER, ANSWER), (LOOK,)), Chat((USER, Message("assistant", "Go")), (LOOK,))),
    ),
    (
        "preference",
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"},
        Pair(Chat((USER, ANSWER)), Chat((USER, Message("assistant", "Go")))),
    ),
    ("text", {"text": "Once upon a time"}, Completion("", "Once upon a time")),
]  # fmt: skip


@pytest.mark.parametrize(("format", "row", "example"), SHAPES)
def test_a_row_is_told_by_its_columns_and_read(format, row, example):
    assert detect(row) == format
    assert read_example(row, format, chat=True) == example


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "2+2=", "completion": "4"}, "2+2="),
        ({"instruction": "Add", "input": "2 and 2", "output": "4"}, "Add\n2 and 2\n"),
        ({"instruction": "Add 2 and 2", "input": "", "output": "4"}, "Add 2 and 2\n"),
        ({"system": "Sums.", "query": "2+2", "response": "4", "history": [["1+1", "2"]]}, "Sums.\n1+1\n2\n2+2\n"),
    ],
)  # fmt: skip
def test_without_a_chat_template_a_prompt_and_its_answer_stay_text(row, prompt):
    format = detect(row)
    assert format is not None
    assert read_example(row, format, chat=False) == Completion(prompt, "4")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"messages": []}, "empty"),
        ({"messages": "not json"}, "no_messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "not_text"),
        ({"instruction": "", "output": "x"}, "empty"),
        ({"instruction": "x", "output": "  "}, "empty"),
        ({"prompt": "x", "completion": "y", "label": False}, "judged_bad"),
        (
            {
                "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
                "label": False,
            },
            "judged_bad",
        ),
        (
            {
                "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
                "label": "False",
            },
            "judged_bad",
        ),
        ({"instruction": "x", "output": "y", "kto_tag": False}, "judged_bad"),
        ({"prompt": "x", "completion": "y", "label": 0}, "judged_bad"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0.5}]}, "unknown_weight"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [{"type": "text", "text": "y", "train": False}]}]}, "unknown_weight"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": "{"}}]}]}, "bad_arguments"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "tools": "look"}, "no_tools"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "tools": [{"type": "function"}]}, "no_tools"),
        ({"prompt": "x", "completion": float("nan")}, "empty"),
        ({"input": "p", "preferred_output": "a", "non_preferred_output": "b"}, "no_prompt"),
        ({"chosen": "a", "rejected": "b"}, "no_prompt"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "same_answers"),
        ({"text": "  "}, "empty"),
        ({"text": "\ud800"}, "not_utf8"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_says_why(row, code):
    format = detect(row)
    assert format is not None
    with pytest.raises(Unusable) as raised:
        read_example(row, format, chat=True)
    assert raised.value.code == code


@pytest.mark.parametrize(
    "row", [{"a": 1, "b": 2}, {"dialogue": "A: Hi", "summary": "A greets."}, {"chat": "Hi"}]
)
def test_unknown_columns_are_no_format(row):
    assert detect(row) is None


def rows_of(path: Path):
    return list(iter_rows(DataFile(path.name, path)))


def test_a_bad_line_costs_one_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "one"}\n\n{"text": "\xff"}\n{"text": \n[1]\n{"text": "\xd8\xb3\xd9\x84\xd8\xa7\xd9\x85 \xf0\x9f\x8c\x8d"}'
    )
    found = [(row.number, row.wrong, row.values.get("text")) for row in rows_of(path)]
    assert found == [
        (1, "", "one"),
        (3, "not_utf8", None),
        (4, "not_json", None),
        (5, "not_object", None),
        (6, "", "سلام 🌍"),
    ]


def test_a_giant_line_is_passed_over(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "' + b"x" * (17 * 2**20) + b'"}\n{"text": "after"}\n')
    assert [(row.number, row.wrong) for row in rows_of(path)] == [(1, "too_large"), (2, "")]


def test_tables_and_arrays(tmp_path):
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    rows = [{"prompt": 'Grüße, "you"', "completion": "line\nbreak"}, {"prompt": "你好", "completion": "好"}]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "lines.json").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (tmp_path / "a.csv").write_text(
        'prompt,completion\n"Grüße, ""you""","line\nbreak"\n你好,好\n', encoding="utf-8"
    )
    (tmp_path / "semicolons.csv").write_text(
        '\ufeffprompt;completion\r\n"Grüße, ""you""";"line\nbreak"\r\n你好;好\r\n',
        encoding="utf-8",
        newline="",
    )
    (tmp_path / "a.tsv").write_text(
        'prompt\tcompletion\n"Grüße, ""you"""\t"line\nbreak"\n你好\t好\n', encoding="utf-8"
    )
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.json", "lines.json", "a.csv", "semicolons.csv", "a.tsv", "a.parquet"):
        assert [row.values for row in rows_of(tmp_path / name)] == rows, name


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize(("format", "row", "example"), SHAPES)
def test_every_format_reads_alike_from_every_kind_of_file(tmp_path, kind, format, row, example):
    """What is more than a text stands in the cells of a table as JSON."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        turns = row.get("messages")
        mixes = isinstance(turns, list) and turns and "Hel" in turns[-1]["content"]  # texts beside objects
        mixed = {**row, "messages": json.dumps(row["messages"])} if mixes else row
        mixed = mixed if "history" not in row else {**row, "history": json.dumps(row["history"])}
        parquet.write_table(arrow.Table.from_pylist([mixed]), path)
    elif kind in ("csv", "tsv"):
        cells = {name: cell if isinstance(cell, str) else json.dumps(cell) for name, cell in row.items()}
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, cells, delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerow(cells)
    else:
        path.write_text(json.dumps(row if kind == "jsonl" else [row]), encoding="utf-8")
    [raw] = rows_of(path)
    assert detect(raw.values) == format
    assert read_example(raw.values, format, chat=True) == example


def test_an_answer_that_is_json_stays_text():
    row = {"prompt": "A list, please", "completion": '[{"name": "moon"}]'}
    assert read_example(row, "completion", chat=True).messages[1].content == row["completion"]


def test_fields_that_a_table_gives_to_every_object_are_no_arguments(tmp_path):
    """Parquet has one type for a column: the arguments of one call are null fields of all others."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    def talk(arguments: dict) -> list:
        call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
        return [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]

    rows = [{"messages": talk({"at": "sky"})}, {"messages": talk({"for": "birds"})}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    chats = [read_example(row.values, "messages", chat=True) for row in rows_of(tmp_path / "a.parquet")]
    assert chats == [read_example(row, "messages", chat=True) for row in rows]
    assert (
        "birds" in str(chats[1]) and "at" not in chats[1].messages[1].tool_calls[0]["function"]["arguments"]
    )


def test_a_table_with_bad_bytes_or_too_many_cells_costs_those_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,completion\nx,y\n\xff,y\na,b,c\np,q\n")
    assert [row.wrong for row in rows_of(path)] == ["", "not_utf8", "not_csv", ""]


def test_a_broken_parquet_file_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(InvalidInput, match=r"a\.parquet cannot be read as Parquet"):
        rows_of(path)


def test_which_files_are_rows_and_which_are_held_out(tmp_path):
    names = [
        "README.md",
        "data/train-00000.parquet",
        "data/validation-00000.parquet",
        "test.jsonl",
        ".hidden.jsonl",
        "notes.txt",
    ]
    assert [name for name in names if is_data(name)] == [
        "data/train-00000.parquet",
        "data/validation-00000.parquet",
        "test.jsonl",
        "notes.txt",
    ]
    chosen = choose_files(DataFile(name, tmp_path) for name in names)
    assert [(file.name, file.part) for file in chosen] == [
        ("data/train-00000.parquet", "train"),
        ("data/validation-00000.parquet", "held_out"),
        ("test.jsonl", "held_out"),
    ]
    with pytest.raises(InvalidInput):
        choose_files([DataFile("model.bin", tmp_path)])


def test_a_few_texts_are_all_trained_on_and_of_many_some_are_held_out(tmp_path):
    """A file of text is one row; with a hash alone one in twenty single files would leave nothing to train on."""
    from fust.tune.prepare import DataWish, iter_texts

    def held_out(count: int) -> list[bool]:
        files = []
        for number in range(count):
            path = tmp_path / f"{number}.txt"
            path.write_text(f"Tale {number}. " + "Once upon a time there was a hen. " * 80)
            files.append(DataFile(path.name, path))
        return [
            text.held_out
            for text in iter_texts(files, DataWish(max_tokens=128, held_out_share=0.5, documents=True))
        ]

    assert held_out(19) == [False] * 19
    assert 5 < sum(held_out(40)) < 35
