"""Writes the model card from the figures of a run, so that no number in it is typed by hand.

    python -m examples.starter.card --run OUT --machine "2 cores of an Intel Xeon ..." [--note "..."]

Reads OUT/training.json and OUT/measurements.json; writes OUT/model/README.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from examples.starter.sources import LANGUAGES, REPEATS, SOURCES

NAMES = {"en": "English", "ru": "Russian", "hi": "Hindi", "sw": "Swahili"}
NAMES_ZH = {"en": "英语", "ru": "俄语", "hi": "印地语", "sw": "斯瓦希里语"}


def card(training: dict[str, Any], measured: dict[str, Any], machine: str, note: str) -> str:
    """Returns the card: YAML front matter, English, then Chinese."""
    recipe = training["recipe"]
    corpus, files = training["corpus"], training["files"]
    share = min(1.0, training["tokens_read"]["stories"] / training["plan_tokens"])
    languages = "\n".join(f"- {language}" for language in LANGUAGES)
    rows = "\n".join(
        f"| {NAMES[x]} | {corpus[f'{x}/train']['stories']:,} | {corpus[f'{x}/train']['characters']:,} | "
        f"{corpus[f'{x}/held_out']['stories']:,} | {REPEATS[x] * share:.1f} | "
        f"{training['fertility'].get(x, {}).get('tokens_per_word', '-')} |"
        for x in LANGUAGES
    )
    figures = "\n".join(
        f"| {NAMES[x]} | {training['bits_per_byte_after_stories'].get(x, '-')} | "
        f"{training['bits_per_byte_after_chat'].get(x, '-')} | {measured[x]['ended']} | {measured[x]['in_language']} | "
        f"{measured[x]['copied_20_tokens']} |"
        for x in LANGUAGES
    )
    figures_zh = "\n".join(
        f"| {NAMES_ZH[x]} | {training['bits_per_byte_after_chat'].get(x, '-')} | {measured[x]['ended']} | "
        f"{measured[x]['in_language']} | {measured[x]['copied_20_tokens']} |"
        for x in LANGUAGES
    )
    sources = "\n".join(
        f"| {s.title or s.folder} | [{s.repo}](https://github.com/{s.repo}) @ `{s.commit[:12]}` | {s.holder} | "
        f"{s.licence or 'each story its own: CC-BY, CC-BY-SA or public domain'} |"
        for s in SOURCES
    )
    tokens = training["tokens_read"]
    return f"""---
license: cc-by-4.0
language:
{languages}
tags:
- fust
- starter
- stories
- gguf
- trained-from-scratch
library_name: transformers
pipeline_tag: text-generation
---
# Fust Starter

A very small language model that tells short stories in four languages. It comes with Fust so that hub, model API and
chat page have something to show in the first minute. It is a demonstration, not a tool: **it knows no facts, it cannot
reason, and its stories often lose their thread.** It was trained from nothing by the Fust project; the whole recipe is
`examples/starter` in Fust's source.

## Use
In Fust it is there already: choose `starter` on the chat page. Elsewhere:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("fust/starter")
model = AutoModelForCausalLM.from_pretrained("fust/starter")
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "Tell me a story about a lion"}}],
                                    add_generation_prompt=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**ids)[0]))
```
`starter-q8_0.gguf` runs in llama.cpp and everything built on it. Sampling that works: temperature 0.8, top-p 0.9,
repetition penalty 1.1 (`generation_config.json`).

## The model
| | |
|---|---|
| Shape | Llama: {recipe["n_layer"]} layers, width {recipe["d_model"]}, {recipe["n_head"]} heads of {recipe["d_model"] // recipe["n_head"]} ({recipe["n_kv_head"]} for keys and values), SwiGLU {recipe["d_ff"]}, RMSNorm, rope, tied embeddings |
| Parameters | {training["parameters"]:,} |
| Context | {recipe["context"]} tokens |
| Tokenizer | byte-level BPE, {training["vocabulary"]:,} tokens, every byte has one; vowel signs stay with their letter (the rule llama.cpp calls `qwen35`) |
| Chat format | `<|im_start|>role`, text, `<|im_end|>`; `<|im_end|>` ends an answer |
| Files | `model.safetensors` bf16, {files["model.safetensors"] / 1e6:.1f} MB; `starter-q8_0.gguf` Q8_0, {files["starter-q8_0.gguf"] / 1e6:.1f} MB |

## Data
Only stories whose licence allows it. In sources with a licence per story, the line at the end of the story itself
counts: CC-BY, CC-BY-SA or public domain are taken; NonCommercial, NoDerivatives, missing or doubtful ones are refused
(a test in Fust's source says so). Every story with title, author and licence is named in `ATTRIBUTION`.

| Source | Repository | Holder | Licence |
|---|---|---|---|
{sources}

Cleaning: Unicode NFC, one kind of quotes, no markup, 120 to 25,000 characters, wrong scripts and links dropped, exact
and near duplicates (half of the 8-word runs) dropped; 4 % held out by a hash of the words. The Russian stories were
written by language models (Gemma 2 and others) and carry their habits; the English books are from 1890 to 1912 and
carry the views of their time.

| Language | Stories for training | Characters | Held out | Readings | Tokens per word |
|---|---:|---:|---:|---:|---:|
{rows}

Chat: conversations composed from phrases that the project wrote itself (`chat_rows.json`: greetings, who it is, thanks,
farewells, what it cannot do) and from training stories that answer "tell me a story". Chinese is not in the corpus: the model has one Chinese sentence, which says so.

## Training
{tokens["stories"]:,} tokens of stories, then {tokens["chat"]:,} tokens of conversations ({recipe["chat_epochs"]} epochs), in
steps of {recipe["rows_per_step"] * recipe["context"]:,}. Muon (rate {recipe["matrix_rate"]}) for the matrices, AdamW (rate
{recipe["vector_rate"]}) for embeddings and norms; warm-up {recipe["warmup_steps"]} steps, a plateau, and a fall to zero during the
chat tuning. bf16 autocast, float32 weights, seed {recipe["seed"]}.

Hardware: {machine}. Time: {training["pretraining_s"] / 60:.0f} minutes of pre-training and {training["chat_s"] / 60:.0f} of chat tuning. Energy:
not readable on this machine; at a guess of 10 W for the share of the processor used, about {(training["pretraining_s"] + training["chat_s"]) * 10 / 3.6e6:.2f} kWh.
Last training loss: {training["loss_stories"]} nats a token on stories, {training["loss_chat"]} on conversations. {note}

## Measured
Bits per byte on held-out stories, each cut to one context (lower is better; after pre-training, after chat tuning;
with few held-out stories in Hindi and Swahili these are rough). Then, of
{measured["en"]["samples"]} sampled answers to wishes for a story (Q8_0 file, sampling as above): how many end by themselves,
how many py3langid takes for the prompt's language, and how many share a run of 20 tokens with a training story.

| Language | Bits per byte, stories | Bits per byte, chat | Ended | In the language | 20-token copies |
|---|---:|---:|---:|---:|---:|
{figures}

`python -m examples.starter.measure` repeats the measurement.

## Limits
* Stories drift: names change, things appear and vanish, sentences can be wrong in grammar and sense.
* English, Hindi and Swahili are weaker than Russian, for which there was five to fifty times as much text.
* It knows only the small talk it was tuned on. Anything else gets a story, a polite refusal or nonsense.
* A story about a topic works for common words (cat, lion, river); rarer topics are ignored.
* It can repeat phrases from its training stories. It has seen no filter for harmful text beyond the choice of
  children's stories; old fairy tales contain violence and the prejudices of their age.

## What it must not be used for
Questions of fact, medicine, law, money, school marks, translation, advice of any kind, decisions about people, content
for children without an adult who reads it first, and any comparison that pretends it stands for what Fust can serve.
For real work pull a real model: `fust pull OWNER/NAME`.

## Licence
CC-BY-4.0. Most sources ask for attribution (CC-BY); none of the stories read is share-alike, so nothing stricter is
needed; the Apache-2.0 and public-domain texts allow it. Keep `ATTRIBUTION` with the weights. The code of the recipe is
Apache-2.0, as all of Fust.

---

# Fust Starter（中文）

一个很小的语言模型，会用英语、俄语、印地语和斯瓦希里语讲小故事。**它不会中文**：语料里没有中文，它只学了一句说明这一点的中文。
它随 Fust 一起提供，让你在第一分钟就能试用模型库、接口和聊天页面。它只是演示：**不懂事实，不会推理，故事常常前后不连贯。**
模型由 Fust 项目从零训练，完整的训练方法在源代码的 `examples/starter`。

## 模型
Llama 结构，{recipe["n_layer"]} 层，宽度 {recipe["d_model"]}，{training["parameters"]:,} 个参数，上下文 {recipe["context"]} 个词元，字节级 BPE 分词器（{training["vocabulary"]:,} 个词元）。
`model.safetensors` 为 bf16，`starter-q8_0.gguf` 为 Q8_0。

## 数据
只使用许可明确允许的故事：CC-BY、CC-BY-SA 或公有领域；禁止商用、禁止演绎、没有许可或许可含糊的一律不用。每篇故事的标题、作者和许可都列在 `ATTRIBUTION` 中。
俄语故事由其他语言模型生成（Apache-2.0），英语书籍出版于 1890 至 1912 年，带有那个时代的观念。
聊天语料由项目自己编写的短句和训练故事组成。

## 训练
故事 {tokens["stories"]:,} 个词元，对话 {tokens["chat"]:,} 个词元。硬件：{machine}。用时：预训练约 {training["pretraining_s"] / 60:.0f} 分钟，聊天微调约 {training["chat_s"] / 60:.0f} 分钟。

## 测量
| 语言 | 每字节比特数 | 自行结束（共 {measured["en"]["samples"]}） | 语言正确 | 照抄 20 个词元 |
|---|---:|---:|---:|---:|
{figures_zh}

## 限制
故事会跑题，语法和意思可能出错；除俄语外文本很少，效果较弱；只会训练过的寒暄；少见的主题会被忽略；可能重复训练故事中的句子；旧童话里有暴力和偏见。

## 不得用于
事实问答、医疗、法律、财务、考试评分、翻译、任何建议、对人的决定，或在没有成人先读的情况下给儿童阅读。
真正的工作请拉取更强的模型：`fust pull OWNER/NAME`。

## 许可
CC-BY-4.0，请与 `ATTRIBUTION` 一同传播。训练代码为 Apache-2.0。
"""


def main() -> None:
    """Writes the card of a finished run."""
    parser = argparse.ArgumentParser(prog="python -m examples.starter.card")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--machine", required=True)
    parser.add_argument("--note", default="")
    asked = parser.parse_args()
    training = json.loads((asked.run / "training.json").read_text("utf-8"))
    measured = json.loads((asked.run / "measurements.json").read_text("utf-8"))
    (asked.run / "model" / "README.md").write_text(
        card(training, measured, asked.machine, asked.note), "utf-8"
    )


if __name__ == "__main__":
    main()
