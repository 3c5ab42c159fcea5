"""`fust tune` on a real server: rows in, an adapter or weights in the hub out, which peft and transformers load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fust.core.units import hours_words, show_seconds, span_words
from tests.conftest import RunningFust, start_fust
from tests.support.tiny_bases import write_base, write_documents, write_pairs, write_rows

pytest.importorskip("peft", reason="peft is not installed (pip install 'fust[tune]')")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is deprecated:FutureWarning"
)  # peft and transformers, of one another


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFust]:
    """A server with a base and rows; one core, so that two busy cores are not waited for."""
    folder = tmp_path_factory.mktemp("tune")
    running = start_fust(folder / "home", jobs__cores=1)
    running.cli("push", str(write_base(folder / "base")), "admin/base")
    running.cli("push", str(write_rows(folder / "rows.jsonl")), "admin/rows", "--type", "dataset")
    yield running
    running.stop()


def tune(house: RunningFust, *arguments: str) -> dict:
    done = house.cli("--json", "tune", "admin/base", *arguments, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)["result"]


def fetch(house: RunningFust, repo_id: str, folder: Path) -> Path:
    """Downloads a repo as a user's own program would."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo_id, endpoint=house.url, token=house.token, local_dir=folder / repo_id))


def last_run(house: RunningFust) -> dict:
    return json.loads(house.request("GET", "/fust/v1/runs?limit=1")[2])["items"][0]


def test_a_dry_run_says_what_would_be_done_and_trains_nothing(house):
    done = house.cli(
        "tune", "admin/base", "--data", "admin/rows", "--to", "admin/none", "--dry-run", "--budget", "2h"
    ).stdout
    assert last_run(house)["title"] == "Plan only: admin/none"
    result = last_run(house)["result"]
    forecast, report, recipe = result["forecast"], result["report"], result["recipe"]
    assert "⟦moon moon it is.<|im_end|>⟧" in done
    kept, held_out = report["kept"], report["held_out"]
    share = f"{report['learned_tokens'] / report['tokens']:.0%}"
    for said in (
        f"60 rows (messages): {kept} to train on, {held_out} held out.",
        f"{report['tokens']} tokens in {report['samples']} samples, {share} of them learned.",
        f"{recipe['steps']} steps of {show_seconds(forecast['step_s'])} s: ",
        f" MB, {hours_words(forecast['core_hours'])} core hours.",
        f"{forecast['saving']:.3%} less work than training such a model from nothing: {forecast['flops']:.2g} operations (4 N D;",
        f" instead of {forecast['from_scratch_flops']:.2g} (6 N D, D = 20 N tokens).",
    ):
        assert said in done, said
    assert forecast["core_hours"] == pytest.approx(
        forecast["time_s"] * recipe["threads"] * recipe.get("processes", 1) / 3600
    )
    assert forecast["saving"] == pytest.approx(1 - forecast["flops"] / forecast["from_scratch_flops"])
    assert all(r["why"] and f"{r['name']} " in done for r in result["reasons"])
    assert result["repo_id"] == "" and forecast["memory_bytes"] > 10**8 and forecast["step_s"] > 0
    assert report["kept"] + report["held_out"] == 60
    assert 0.2 < report["learned_tokens"] / report["tokens"] < 0.5
    steps = {r["name"]: r for r in result["reasons"]}["steps"]
    assert result["recipe"]["steps"] == int(steps["value"])
    assert recipe["checkpointing"] is False and "activations of a pass fit the memory" in done
    assert "2 h" in steps["why"].format(**steps["params"])
    assert house.request("GET", "/api/models/admin/none")[0] == 404


def read_json(house: RunningFust, path: str, **more: object) -> dict:
    status, _, body = house.request("GET", path, **more)
    assert status == 200, body
    return json.loads(body)


def test_bases_say_whether_they_fit_and_why(house):
    found = read_json(house, "/fust/v1/tune/bases")
    base = found["items"][0]
    assert (base["repo_id"], base["family"], base["fits"]) == ("admin/base", "llama", True)
    assert base["memory_bytes"] < found["memory_bytes"]
    assert "It takes up to" in base["reason"]
    full = read_json(house, "/fust/v1/tune/bases?method=full")["items"][0]
    assert full["parameters"] == base["parameters"] > 10_000
    status, _, body = house.request("GET", "/fust/v1/tune/bases?method=magic")
    assert status == 400 and b"lora" in body


def check_course(house: RunningFust, run_id: str) -> None:
    """A run of 40 steps tells its plan, its steps and what it wrote before and after."""
    path = f"/fust/v1/tune/runs/{run_id}"
    tuning = read_json(house, path)
    assert tuning["recipe"]["steps"] == 40
    assert tuning["rows"]["kept"] + tuning["rows"]["held_out"] == 60
    assert {"name", "value", "why"} <= tuning["chosen"][0].keys()
    assert "".join(tuning["preview"][0]["tokens"]).startswith("<|im_start|>user")
    points = read_json(house, f"{path}/points")
    assert [it["step"] for it in points["items"]] == list(range(1, 41))
    assert points["items"][-1]["memory_bytes"] > 10**8
    assert (points["samples"][0]["step"], points["samples"][-1]["step"]) == (0, 40)
    before, after = points["samples"][0]["items"], points["samples"][-1]["items"]
    assert len(before) == 3 and [it["prompt"] for it in before] == [it["prompt"] for it in after]
    assert any("." in it["text"] for it in after) and not any("." in it["text"] for it in before)
    assert not points["more"]
    again = read_json(house, f"{path}/points?offset={points['next_offset']}")
    assert (again["items"], again["samples"]) == ([], [])
    status, headers, body = house.request("GET", f"{path}/points.csv")
    assert status == 200 and headers["content-type"].startswith("text/csv")
    lines = body.decode().splitlines()
    assert lines[0].startswith("step,loss,learning_rate") and len(lines) == 41


def test_an_adapter_that_peft_loads_and_that_learned(house, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = tune(
        house,
        "--data",
        "admin/rows",
        "--to",
        "admin/lora",
        "--set",
        "steps=40",
        "--set",
        "learning_rate=0.01",
    )
    trained = result["trained"]
    assert trained["steps"] == 40
    assert trained["held_out_loss"] < trained["first_held_out_loss"] - 0.5
    check_course(house, last_run(house)["id"])
    base, adapter = fetch(house, "admin/base", tmp_path), fetch(house, "admin/lora", tmp_path)
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == result["weights_sha256"]
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (adapter / name).read_bytes() == (base / name).read_bytes()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    assert model.peft_config["default"].base_model_name_or_path == "admin/base"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say moon 0"}], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer(text + "moon moon it is.<|im_end|>").input_ids])
    with torch.no_grad(), model.disable_adapter():
        before = float(model(input_ids=ids, labels=ids).loss)
    with torch.no_grad():
        after = float(model(input_ids=ids, labels=ids).loss)
    assert after < before
    log = [json.loads(line) for line in (adapter / "training_log.jsonl").read_text().splitlines()]
    assert [point["step"] for point in log] == list(range(1, 41))
    card = (adapter / "README.md").read_text()
    for said in (
        "base_model: admin/base",
        "library_name: peft",
        result["weights_sha256"],
        "60 read (messages)",
        "40 of",
    ):
        assert said in card, said
    assert json.loads((adapter / "recipe.json").read_text())["steps"] == 40


def test_the_news_of_a_run_carry_the_curve(house):
    run_id = last_run(house)["id"]
    events = house.request("GET", f"/fust/v1/runs/{run_id}/events")[2].decode()
    points = [
        json.loads(line[6:])["data"]
        for line in events.splitlines()
        if line.startswith("data: ") and "gradient_norm" in line
    ]
    assert [point["step"] for point in points] == list(range(1, 41))
    assert all(
        point["loss"] > 0 and point["learning_rate"] >= 0 and point["tokens_per_s"] > 0 for point in points
    )
    assert any(point["held_out_loss"] for point in points)


def table_of(page: str, heading: str) -> dict[str, list[str]]:
    """Returns the rows of the first table below a heading, by their first cell."""
    lines = page.split(f"## {heading}\n", 1)[1].split("\n## ")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {first: rest for first, *rest in cells}


def test_the_card_tells_all_of_the_record_in_both_languages(house, tmp_path):
    """Base, data, licence, teacher, recipe, hardware, time, cost, curve and limits: each as the run has it."""
    base = write_base(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [sw]\n---\n")
    house.cli("push", str(base), "admin/licensed")
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    told = [json.loads(line) | {"model": "acme/large-7b"} for line in rows.read_text().splitlines()]
    rows.write_text("".join(json.dumps(row) + "\n" for row in [*told, {"messages": []}]))
    house.cli("push", str(rows), "admin/told", "--type", "dataset")
    wish = ["--data", "admin/told", "--to", "admin/carded", "--set", "steps=24", "--set", "seed=5"]
    done = house.cli("--json", "tune", "admin/licensed", *wish)
    result = json.loads(done.stdout)["result"]
    recipe, trained, report = result["recipe"], result["trained"], result["report"]
    points = house.request("GET", "/admin/carded/resolve/main/training_log.jsonl")[2].splitlines()
    losses = {point["step"]: f"{point['loss']:.4f}" for point in map(json.loads, points)}

    def sha(kind: str, repo: str) -> str:
        return json.loads(house.request("GET", f"/api/{kind}/admin/{repo}")[2])["sha"]

    card = house.request("GET", "/admin/carded/resolve/main/README.md")[2].decode()
    _, front, english, chinese = card.split("---\n", 3)
    for said in ("base_model: admin/licensed", "- admin/told", "license: apache-2.0", "language:\n- sw"):
        assert said in front
    hours = hours_words(trained["spent_s"] * recipe["threads"] / 3600)
    for language, page, named in (
        (
            "en",
            english,
            "Record Base Data Rows Teacher Licence Hardware Time Seed Steps Curve Recipe Limits",
        ),
        ("zh", chinese, "记录 基座模型 数据 行 教师模型 许可 硬件 用时 随机种子 步数 曲线 配方 限制"),
    ):
        names = named.split()
        facts, curve, choices = (table_of(page, names[at]) for at in (0, 10, 11))
        wanted = {
            "Base": f"`admin/licensed`|`{sha('models', 'licensed')}`",
            "Data": f"`admin/told`|`{sha('datasets', 'told')}`",
            "Rows": f"{report['kept']} |{report['held_out']} |41 |messages",
            "Teacher": "acme/large-7b",
            "Licence": "apache-2.0",
            "Hardware": f"{recipe['threads']} |{recipe['precision']}",
            "Time": f"{span_words(trained['spent_s']).draw(language)}|{hours.draw(language)}",
            "Seed": "5",
            "Steps": "24",
        }
        for name, said in zip(names[1:], wanted.values(), strict=False):
            assert all(it in facts[name][0] for it in said.split("|")), (name, facts[name])
        assert facts["Held-out loss, before and after" if language == "en" else "训练前后的留出损失"] == [
            f"{trained['first_held_out_loss']:.4f} → {trained['held_out_loss']:.4f}"
        ]
        drawn = {int(step): row for step, row in curve.items() if step.isdigit()}
        assert {step: row[0] for step, row in drawn.items()}.items() <= losses.items()
        assert len(drawn) >= 12 and 24 in drawn and any(row[1] for row in drawn.values())
        assert {it["name"] for it in result["reasons"]} <= choices.keys()
        limits = page.split(f"## {names[12]}\n", 1)[1].split("\n## ")[0]
        assert limits.count("\n- ") >= 3 and str(report["kept"]) in limits and "rows.jsonl:41" in limits
    assert len(recipe["base_revision"]) == len(recipe["data_revision"]) == 40


def test_all_weights_from_a_local_file_and_transformers_loads_them(house, tmp_path):
    from transformers import AutoModelForCausalLM

    rows = write_rows(tmp_path / "mine.jsonl", 30)
    result = tune(house, "--data", str(rows), "--to", "admin/full", "--method", "full", "--set", "steps=3")
    assert result["recipe"]["data"] == "admin/full-data"
    assert json.loads(house.request("GET", "/api/datasets/admin/full-data")[2])["private"] is True
    # weights can tell what they learned from
    assert json.loads(house.request("GET", "/api/models/admin/full")[2])["private"] is True
    model = AutoModelForCausalLM.from_pretrained(fetch(house, "admin/full", tmp_path))
    base = AutoModelForCausalLM.from_pretrained(fetch(house, "admin/base", tmp_path))
    assert model.config.num_hidden_layers == 2
    assert not (model.model.embed_tokens.weight == base.model.embed_tokens.weight).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "admin/nothing", "--to", "admin/x"], "admin/nothing"),
        (["--data", "nowhere.jsonl", "--to", "admin/x"], "There is no file or folder nowhere.jsonl"),
        (
            ["--data", "admin/rows", "--to", "admin/x", "--budget", "soon"],
            "'soon' is neither a time nor a number",
        ),
        (
            ["--data", "admin/rows", "--to", "admin/x", "--set", "speed=9"],
            "no field 'speed'. It has: data, to,",
        ),
        (
            ["--data", "admin/rows", "--to", "admin/x", "--set", "epochs=two"],
            "epochs is 'two', and takes a number",
        ),
        (
            ["--data", "admin/rows", "--to", "admin/x", "--set", "precision=fp8"],
            "'fp8', and takes one of: bf16, fp32",
        ),
        (["--data", "admin/rows", "--to", "admin/x", "--set", "row_tokens=9999"], "row_tokens is 9999"),
        (["--data", "admin/rows", "--to", "admin/x", "--set", "epochs=0"], "epochs is 0"),
    ],
)
def test_what_cannot_be_is_said_before_compute_is_spent(house, arguments, said):
    done = house.cli("tune", "admin/base", *arguments, check=False)
    assert done.returncode != 0
    assert said in done.stderr


def test_rows_are_brought_only_when_all_else_can_be(house, tmp_path):
    """What can be refused without the rows is refused before they are in the hub; then no data set is left behind."""
    rows = write_rows(tmp_path / "mine.jsonl", 4)
    for number, wrong in enumerate(
        (
            ["admin/nothing"],
            ["admin/base", "--set", "speed=9"],
            ["admin/base", "--budget", "0tok"],
            ["admin/rows"],
        )
    ):
        to = f"admin/vain{number}"
        done = house.cli("tune", *wrong, "--data", str(rows), "--to", to, "--dry-run", check=False)
        assert done.returncode == 1, done.stdout
        assert house.request("GET", f"/api/datasets/{to}-data")[0] == 404
    house.cli("push", str(rows), "admin/twice-data", "--type", "dataset", "--private")
    right = ("--data", str(rows), "--to", "admin/twice", "--dry-run", "--budget", "300 tokens")
    again = house.cli("tune", "admin/base", *right)
    assert "No files have been modified" not in again.stderr, "the words of another program"
    result = last_run(house)["result"]
    each = result["report"]["tokens"]  # four rows are one step
    assert result["recipe"]["steps"] == 300 // each > 1
    assert f"300 tokens are {300 // each} steps of {each}" in again.stdout


def test_rows_from_here_are_the_callers_own_private_and_no_others(house, tmp_path):
    """Where the result goes to somebody else, the rows do not; those of an earlier run are not learned again."""
    house.cli("users", "new", "olga", "--no-password")
    to = ("--to", "olga/helper", "--dry-run")
    first, second = tmp_path / "first", write_rows(tmp_path / "b[1].csv.jsonl", 9)
    write_rows(first / "data" / "a.jsonl", 11)
    (first / "README.md").write_text("# Rows\n")
    said = house.cli("tune", "admin/base", "--data", str(first), *to).stderr
    assert f"{first} goes into admin/helper-data, a private data set of yours." in said
    assert house.request("GET", "/api/datasets/olga/helper-data")[0] == 404
    assert json.loads(house.request("GET", "/api/datasets/admin/helper-data")[2])["private"] is True
    report = last_run(house)["result"]["report"]
    assert (report["rows"], report["files"], report["held_out"]) == (11, ["data/a.jsonl"], 1)
    report = tune(house, "--data", str(second), *to)["report"]
    assert (report["rows"], report["files"], report["held_out"]) == (9, [second.name], 0)
    settings = "/api/datasets/admin/helper-data/settings"
    assert house.request("PUT", settings, {"private": False})[0] == 200
    done = house.cli("tune", "admin/base", "--data", str(first), *to, check=False)
    assert done.returncode == 1
    assert "would go into admin/helper-data, which everybody can read" in done.stderr
    files = json.loads(house.request("GET", "/api/datasets/admin/helper-data")[2])["siblings"]
    assert "data/a.jsonl" not in [file["rfilename"] for file in files]


@pytest.mark.parametrize(("method", "budget"), [("continue", 2000), ("dpo", 3000), ("pretrain", 5000)])
def test_a_budget_of_tokens_holds_for_every_method(house, tmp_path, method, budget):
    write = {"continue": write_documents, "dpo": write_pairs, "pretrain": write_documents}[method]
    rows = write(tmp_path / "rows.jsonl", 60)
    base = [] if method == "pretrain" else ["admin/base"]
    asked = (
        "--data",
        str(rows),
        "--to",
        f"admin/{method}",
        "--method",
        method,
        "--budget",
        f"{budget} tokens",
    )
    done = house.cli("tune", *base, *asked, "--dry-run")
    result = last_run(house)["result"]
    recipe, forecast = result["recipe"], result["forecast"]
    per_token = (4 if method == "dpo" else 6) * (forecast["from_scratch_flops"] / 120) ** 0.5
    trained_on = forecast["flops"] / per_token
    assert budget / 2 < trained_on <= budget, (trained_on, recipe)
    assert f"{budget} tokens are " in done.stdout


def test_a_gate_holds_before_compute_is_spent(house):
    """Who was not let in through the gate of a base, or of the rows, gets no run; who was, gets one."""
    house.cli("users", "new", "nina", "--no-password")
    key = json.loads(house.cli("--json", "tokens", "new", "k", "--user", "nina", "--scope", "write").stdout)[
        "token"
    ]
    settings, access = "/api/{}s/{}/settings", "/api/{}s/{}/user-access-request/grant"
    params = {"base": "admin/base", "data": "admin/rows", "to": "nina/mine", "dry_run": True}

    def start() -> tuple[int, dict]:
        body = {"kind": "tune", "params": params}
        status, _, answer = house.request("POST", "/fust/v1/runs", body, token=key)
        return status, json.loads(answer)

    newest = last_run(house)["id"]
    for kind, repo in (("model", "admin/base"), ("dataset", "admin/rows")):
        assert house.request("PUT", settings.format(kind, repo), {"gated": "manual"})[0] == 200
        try:
            status, problem = start()
            assert (status, problem["code"]) == (403, "gated"), problem
            assert repo in problem["detail"] and problem["hint"], problem
            assert last_run(house)["id"] == newest, "no run was made"
            assert house.request("POST", access.format(kind, repo), {"user": "nina"})[0] == 200
            status, run = start()
            assert status == 201, run
            assert house.request("POST", f"/fust/v1/runs/{run['id']}/cancel")[0] in (200, 202)
            newest = last_run(house)["id"]
        finally:
            assert house.request("PUT", settings.format(kind, repo), {"gated": False})[0] == 200


def test_bases_that_cannot_be_tuned_are_refused_by_what_they_are(house, tmp_path):
    kinds = {
        "pickle": (["config.json", "pytorch_model.bin", "tokenizer.json"], "pickle files"),
        "gguf": (["model.gguf"], "GGUF"),
        "adapter": (["adapter_config.json", "adapter_model.safetensors"], "is an adapter"),
        "empty": (["notes.txt"], "it has no config.json, *.safetensors, tokenizer.json"),
    }
    for name, (files, said) in kinds.items():
        for file in files:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text("{}")
        house.cli("push", str(tmp_path / name), f"admin/{name}")
        done = house.cli("tune", f"admin/{name}", "--data", "admin/rows", "--to", "admin/x", check=False)
        assert done.returncode == 1 and said in done.stderr, done.stderr


def test_rows_that_are_brought_stand_instead_of_earlier_ones(house, tmp_path):
    """A second try with another file is not trained on the first; the card of the data stays."""
    to = ("--to", "admin/tries", "--dry-run")
    tune(house, "--data", str(write_rows(tmp_path / "first.jsonl", 30)), *to)
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\n---\n")
    house.cli("push", str(card), "admin/tries-data", "--type", "dataset")
    second = write_rows(tmp_path / "second.jsonl", 12, start=50)
    assert tune(house, "--data", str(second), *to)["report"]["rows"] == 12
    write_rows(tmp_path / "folder" / "sub" / "a [1].jsonl", 7)
    assert tune(house, "--data", str(tmp_path / "folder"), *to)["report"]["rows"] == 7
    assert tune(house, "--data", str(second), *to)["report"]["rows"] == 12
    held = json.loads(house.request("GET", "/api/datasets/admin/tries-data")[2])["siblings"]
    assert {it["rfilename"] for it in held} == {".gitattributes", "README.md", "second.jsonl"}


def test_rows_that_are_left_out_are_named(house, tmp_path):
    rows = write_rows(tmp_path / "bad.jsonl", 30)
    with rows.open("ab") as file:
        file.write(b'{"messages": "\xff"}\nnonsense\n{"a": 1}\n')
        file.write(rows.read_bytes().splitlines()[0] + b"\n")
        file.write(
            json.dumps(
                {"messages": [{"role": "user", "content": "x" * 9000}, {"role": "assistant", "content": "y"}]}
            ).encode()
        )
    chinese = replace(house, environ=house.environ | {"FUST_LANG": "zh"})
    said = chinese.cli("tune", "admin/base", "--data", str(rows), "--to", "admin/bad", "--dry-run").stdout
    result = last_run(house)["result"]
    report = result["report"]
    for words in (
        f"35 行（messages）：{report['kept']} 行用于训练，留出 {report['held_out']} 行。",
        f"{report['tokens']} 个词元",
        "不是 UTF-8：1 行（bad.jsonl:31）。",
        "列名不属于任何已知格式：1 行（bad.jsonl:33）：a",
        f"{result['recipe']['steps']} 步，每步 {show_seconds(result['forecast']['step_s'])} 秒：共 ",
        f"{hours_words(result['forecast']['core_hours']).draw('zh')} 核时。",
        f"比从零训练同样的模型省 {result['forecast']['saving']:.3%} 的计算：",
        "第一个样本",
    ):
        assert words in said, (words, said)
    plain = said.partition("第一个样本")[0]
    for row in result["reasons"]:
        assert row["why"][:30] not in plain, "a reason is not in Chinese"
    dropped = {drop["code"]: drop["rows"] for drop in report["dropped"]}
    assert dropped == {
        "not_utf8": ["bad.jsonl:31"],
        "not_json": ["bad.jsonl:32"],
        "unknown_columns": ["bad.jsonl:33"],
        "twice": ["bad.jsonl:34"],
        "too_long": ["bad.jsonl:35"],
    }
    assert report["rows"] == 35 and report["kept"] + report["held_out"] == 30


def test_judged_answers_of_which_none_has_a_counterpart_say_what_to_do(house, tmp_path):
    """Twenty questions, each with a good answer or a bad one: dpo has nothing to compare, lora learns the good ones."""
    rows = tmp_path / "judged.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"prompt": f"question {i}", "completion": f"answer {i}", "label": i % 2 == 0}) + "\n"
            for i in range(20)
        )
    )
    chinese = replace(house, environ=house.environ | {"FUST_LANG": "zh"})
    for speaker, said in (
        (house, ("with none of the other judgement", "no question has both", "--method lora")),
        (chinese, ("评价相反", "没有一个问题两者都有", "--method lora")),
    ):
        wish = ("tune", "admin/base", "--data", str(rows), "--to", "admin/judged", "--dry-run")
        done = speaker.cli(*wish, "--method", "dpo", check=False)
        assert done.returncode != 0
        for it in said:
            assert it in done.stderr, done.stderr
        assert "20" in done.stderr and "No row is held out" not in done.stderr
    dry = tune(house, "--data", str(rows), "--to", "admin/judged", "--dry-run")["report"]
    assert dry["kept"] + dry["held_out"] == 10
    assert {drop["code"]: drop["count"] for drop in dry["dropped"]} == {"judged_bad": 10}


def test_rows_that_go_away_before_their_run_begins_are_missed_by_name(house, tmp_path):
    """The run waits for the one core; what it needs is looked for when it begins, and it fails with a clear word."""

    def start(**params: object) -> str:
        body = {"kind": "tune", "params": {"base": "admin/base"} | params}
        status, _, answer = house.request("POST", "/fust/v1/runs", body)
        assert status == 201, answer
        return json.loads(answer)["id"]

    house.cli("push", str(write_rows(tmp_path / "rows.jsonl", 12)), "admin/fleeting", "--type", "dataset")
    first = start(data="admin/rows", to="admin/long", steps=100_000)
    second = start(data="admin/fleeting", to="admin/vain")
    body = {"type": "dataset", "name": "fleeting", "organization": "admin"}
    assert house.request("DELETE", "/api/repos/delete", body)[0] == 200
    assert house.request("POST", f"/fust/v1/runs/{first}/cancel")[0] in (200, 202)
    followed = house.cli("jobs", second, "--follow", check=False)
    run = read_json(house, f"/fust/v1/runs/{second}")
    assert run["state"] == "failed", followed.stdout
    assert run["error"]["code"] == "repo_not_found" and "admin/fleeting" in run["error"]["message"]
    assert run["error"]["hint"]
