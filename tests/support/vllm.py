"""A `vllm` that keeps the contract: takes the flags and fields that Fust uses of the real one and no others, and answers in
its forms, by a plain pass of transformers. What each flag, route and field was read in: `tests/api/test_engine_vllm.py`.

`install(folder)` writes it beside an `nvidia-smi` that shows a GPU, as programs on a PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--served-model-name", "--host", "--port", "--max-model-len", "--max-num-seqs", "--gpu-memory-utilization",
    "--generation-config", "--tensor-parallel-size", "--runner", "--reasoning-parser", "--max-loras", "--max-lora-rank",
)  # fmt: skip
SWITCHES = ("--enable-lora",)
SAMPLING = {
    "model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "logit_bias",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "ignore_eos", "logprobs", "n", "response_format",
    "structured_outputs",
}  # fmt: skip
FIELDS = {
    "/v1/chat/completions": SAMPLING | {"messages", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs", "reasoning_effort", "add_generation_prompt", "continue_final_message"},
    "/v1/completions": SAMPLING | {"prompt", "prompt_logprobs", "return_tokens_as_token_ids"},
    "/v1/embeddings": {"model", "input", "encoding_format", "dimensions"},
    "/rerank": {"model", "query", "documents", "top_n"},
    "/classify": {"model", "input"},
    "/tokenize": {"model", "prompt", "add_special_tokens", "return_token_strs", "messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"},
    "/detokenize": {"model", "tokens"},
    "/v1/load_lora_adapter": {"lora_name", "lora_path"},
    "/v1/unload_lora_adapter": {"lora_name"},
}  # fmt: skip


def install(folder: Path, *, memory_mib: int = 81_559) -> Path:
    """Writes both programs; returns their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    programs = {
        "vllm": f'#!/bin/sh\nexec {sys.executable} -P {__file__} "$@"\n',
        "nvidia-smi": f"#!/bin/sh\necho 'NVIDIA Contract, {memory_mib}'\n",
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


class Wrong(Exception):
    """What vLLM answers with status 400, or another."""

    def __init__(self, message: str, kind: str = "BadRequestError", status: int = 400) -> None:
        super().__init__(message)
        self.kind, self.status = kind, status


class Model:
    """A causal model and its tokenizer; every step is a whole pass, so that nothing depends on a cache."""

    def __init__(self, folder: str, most: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(1)
        self.torch, self.most = torch, most
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self.model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # fmt: skip
        eos = getattr(self.model.config, "eos_token_id", None)
        self.eos = set(eos if isinstance(eos, list) else [eos]) - {None}
        self.adapters: dict[str, str] = {}

    def load(self, name: str, path: str, most_rank: int) -> None:
        """Raises Wrong for what the real one refuses (`PEFTHelper`)."""
        import peft

        settings = json.loads((Path(path) / "adapter_config.json").read_text())
        if missing := {"r", "lora_alpha", "target_modules"} - settings.keys():
            raise Wrong(f"Missing required configuration fields: {missing}", "InternalServerError", 500)
        if settings["r"] > most_rank:
            said = f"LoRA rank {settings['r']} is greater than max_lora_rank {most_rank}."
            raise Wrong(said, "InternalServerError", 500)
        if isinstance(self.model, peft.PeftModel):
            self.model.load_adapter(path, adapter_name=name)
        else:
            self.model = peft.PeftModel.from_pretrained(self.model, path, adapter_name=name)
        self.model.eval()
        self.adapters[name] = path

    def unload(self, name: str) -> None:
        del self.adapters[name]  # PEFT keeps it; nobody can name it

    def logprobs(self, tokens: list[int], adapter: str) -> Any:
        if adapter:
            self.model.set_adapter(adapter)
        off = not adapter and hasattr(self.model, "disable_adapter")
        with self.torch.inference_mode(), self.model.disable_adapter() if off else contextlib.nullcontext():
            return self.model(self.torch.tensor([tokens])).logits[0].float().log_softmax(-1)

    def entry(self, token: int, as_id: bool) -> str:
        return f"token_id:{token}" if as_id else self.tokenizer.decode([token])


def matcher_of(model: Model, body: dict[str, Any]) -> Any:
    form = body.get("response_format") or {}
    if form.get("type") not in ("json_schema", "json_object"):
        return None
    import llguidance
    import llguidance.hf

    trie = llguidance.hf.from_tokenizer(model.tokenizer, n_vocab=model.model.config.vocab_size)
    schema = form["json_schema"]["schema"] if form["type"] == "json_schema" else {"type": "object"}
    source = llguidance.LLMatcher.grammar_from_json_schema(
        json.dumps(schema), overrides={"whitespace_flexible": False}
    )
    return llguidance.LLMatcher(trie, source, log_level=0)


def masked(model: Model, matcher: Any, row: Any) -> Any:
    bits = matcher.compute_bitmask()
    allowed = [bool(bits[token >> 3] >> (token & 7) & 1) for token in range(row.shape[-1])]
    return row.masked_fill(~model.torch.tensor(allowed), float("-inf"))


async def write(model: Model, prompt: list[int], body: dict[str, Any], most: int) -> Any:
    """Yields (token, its row of log-probabilities)."""
    torch, adapter = model.torch, body["model"] if body["model"] in model.adapters else ""
    chance = torch.Generator().manual_seed(body.get("seed") or time.monotonic_ns() % 2**31)
    matcher, tokens = matcher_of(model, body), list(prompt)
    for _ in range(most):
        row = model.logprobs(tokens, adapter)[-1].clone()
        for token, bias in (body.get("logit_bias") or {}).items():
            row[int(token)] += bias
        choice = row if matcher is None else masked(model, matcher, row)
        heat = 1.0 if body.get("temperature") is None else body["temperature"]
        token = (
            int(choice.argmax())
            if heat == 0
            else int(torch.multinomial((choice / heat).softmax(-1), 1, generator=chance))
        )
        if token in model.eos and not body.get("ignore_eos"):
            yield token, None
            return
        if matcher is not None:
            matcher.consume_token(token)
        tokens.append(token)
        yield token, row
        if matcher is not None and matcher.is_stopped():
            yield -1, None
            return
        await asyncio.sleep(0)


class Server:
    """The routes."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.name = given, given.served_model_name
        self.pools = given.runner == "pooling"
        if not self.pools:
            self.model = Model(given.model_tag, int(given.max_model_len))
        self.running = 0

    def prompt_of(self, body: dict[str, Any]) -> list[int]:
        if "messages" not in body:
            text = body["prompt"]
            special = body.get("add_special_tokens", True)
            return text if isinstance(text, list) else self.model.tokenizer(text, add_special_tokens=special)["input_ids"]  # fmt: skip
        return self.model.tokenizer.apply_chat_template(
            body["messages"], tools=body.get("tools"), tokenize=True, return_dict=False,
            add_generation_prompt=body.get("add_generation_prompt", True),
            continue_final_message=body.get("continue_final_message", False), **(body.get("chat_template_kwargs") or {}),
        )  # fmt: skip

    async def generate(self, request: Any, body: dict[str, Any], is_chat: bool) -> Any:
        from aiohttp import web

        prompt = self.prompt_of(body)
        asked = body.get("max_tokens") or (self.model.most - len(prompt) if is_chat else 16)
        if len(prompt) + asked > self.model.most or not prompt:
            raise Wrong(f"This model's maximum context length is {self.model.most} tokens. You asked for {len(prompt) + asked}.")  # fmt: skip
        reply = Reply(self, body, prompt, is_chat)
        if not body.get("stream"):
            async for token, row in write(self.model, prompt, body, asked):
                if reply.put(token, row):
                    break
            return web.json_response(reply.whole())
        assert body.get("stream_options") == {"include_usage": True}
        out = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await out.prepare(request)

        async def send(value: object) -> None:
            await out.write(f"data: {json.dumps(value)}\n\n".encode())

        if is_chat:
            await send(reply.frame({"delta": {"role": "assistant", "content": ""}}))
        sent = 0
        async for token, row in write(self.model, prompt, body, asked):
            count = len(reply.tokens)
            ended = reply.put(token, row)
            whole = reply.text.rstrip("\ufffd")  # the rest of the character comes with the next token
            piece, sent = whole[sent:], max(sent, len(whole))
            told = {} if reply.top is None else {"logprobs": reply.told(count)}
            await send(reply.frame({"delta": {"content": piece}} if is_chat else {"text": piece}, **told))
            if ended:
                break
        rest = reply.text[sent:]
        last = {"delta": {"content": rest}} if is_chat else {"text": rest}
        await send(reply.frame(last, finish_reason=reply.end, stop_reason=reply.stop))
        await send({**reply.frame({}), "choices": [], "usage": reply.usage()})
        await out.write(b"data: [DONE]\n\n")
        return out

    async def chat(self, request: Any, body: dict[str, Any]) -> Any:
        return await self.generate(request, body, True)

    async def complete(self, request: Any, body: dict[str, Any]) -> Any:
        return await self.generate(request, body, False)

    async def tokenize(self, request: Any, body: dict[str, Any]) -> Any:
        from aiohttp import web

        tokens = self.prompt_of(body)
        return web.json_response(
            {"count": len(tokens), "max_model_len": self.model.most, "tokens": tokens, "token_strs": None}
        )

    async def detokenize(self, request: Any, body: dict[str, Any]) -> Any:
        from aiohttp import web

        return web.json_response({"prompt": self.model.tokenizer.decode(body["tokens"])})

    async def load_adapter(self, request: Any, body: dict[str, Any]) -> Any:
        from aiohttp import web

        name = body["lora_name"]
        if name in self.model.adapters:
            raise Wrong(f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        self.model.load(name, body["lora_path"], int(self.given.max_lora_rank))
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: Any, body: dict[str, Any]) -> Any:
        from aiohttp import web

        name = body["lora_name"]
        if name not in self.model.adapters:
            raise Wrong(f"The lora adapter '{name}' cannot be found.", "NotFoundError", 404)
        self.model.unload(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    # Of models that pool only the forms are kept: their numbers follow from the text.

    async def embed(self, request: Any, body: dict[str, Any]) -> Any:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [
            {"object": "embedding", "index": i, "embedding": [(len(text) + n) % 7 / 10 for n in range(32)]}
            for i, text in enumerate(texts)
        ]
        return self.pooled("list", texts, data=data)

    async def rerank(self, request: Any, body: dict[str, Any]) -> Any:
        words = set(body["query"].split())
        results = [
            {"index": i, "document": {"text": text}, "relevance_score": len(words & set(text.split())) / len(words)}
            for i, text in enumerate(body["documents"])
        ]  # fmt: skip
        results.sort(key=lambda result: -result["relevance_score"])
        return self.pooled("rerank", body["documents"], results=results)

    async def classify(self, request: Any, body: dict[str, Any]) -> Any:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        data = [
            {"index": i, "label": f"class-{len(text) % 3}", "probs": [0.1, 0.2, 0.7], "num_classes": 3}
            for i, text in enumerate(texts)
        ]
        return self.pooled("list", texts, data=data)

    def pooled(self, kind: str, texts: list[str], **found: Any) -> Any:
        from aiohttp import web

        count = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        return web.json_response(
            {"id": "p-1", "object": kind, "created": 1, "model": self.name, "usage": usage, **found}
        )

    async def handle(self, request: Any) -> Any:
        from aiohttp import web

        path = request.path
        if path == "/health":
            return web.Response()
        if path == "/metrics":
            labels = f'{{engine="0",model_name="{self.name}"}}'
            return web.Response(text=f"vllm:num_requests_running{labels} {self.running}.0\n")
        if path.startswith("/v1") and request.headers.get("authorization") != "Bearer " + os.environ["VLLM_API_KEY"]:  # fmt: skip
            return web.json_response({"error": "Unauthorized"}, status=401)
        if path == "/v1/models":
            card = {
                "id": self.name,
                "object": "model",
                "owned_by": "vllm",
                "max_model_len": int(self.given.max_model_len),
            }
            named = [] if self.pools else self.model.adapters.items()
            loras = [{"id": name, "object": "model", "owned_by": "vllm", "root": path, "parent": self.name} for name, path in named]  # fmt: skip
            return web.json_response({"object": "list", "data": [card, *loras]})
        routes = {
            "/v1/chat/completions": self.chat, "/v1/completions": self.complete, "/v1/embeddings": self.embed,
            "/rerank": self.rerank, "/classify": self.classify, "/tokenize": self.tokenize, "/detokenize": self.detokenize,
        }  # fmt: skip
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1" and self.given.enable_lora:
            routes |= {"/v1/load_lora_adapter": self.load_adapter, "/v1/unload_lora_adapter": self.unload_adapter}  # fmt: skip
        if path not in routes or self.pools is not (path in ("/v1/embeddings", "/rerank", "/classify")):
            return web.json_response({"detail": "Not Found"}, status=404)
        body = await request.json()
        self.running += 1
        try:
            odd = body.keys() - FIELDS[path]
            if odd:
                raise Wrong(f"fields that the real one does not have, or that Fust should not send: {odd}")
            most = int(os.environ.get("VLLM_MAX_STOP_STRINGS", "4"))
            if isinstance(body.get("stop"), list) and len(body["stop"]) > most:
                raise Wrong(
                    f"List should have at most {most} items after validation, not {len(body['stop'])}"
                )
            if path == "/v1/chat/completions" and "tools" in body and body.get("tool_choice") != "none":
                raise Wrong('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set')  # fmt: skip
            known = {self.name} if self.pools else {self.name, *self.model.adapters}
            if "lora_name" not in body and body["model"] not in known:
                return web.json_response({"error": {"message": f"The model `{body['model']}` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}}, status=404)  # fmt: skip
            return await routes[path](request, body)
        except Wrong as error:
            return web.json_response({"error": {"message": str(error), "type": error.kind, "param": None, "code": error.status}}, status=error.status)  # fmt: skip
        finally:
            self.running -= 1


class Reply:
    """One answer in vLLM's form."""

    def __init__(self, server: Server, body: dict[str, Any], prompt: list[int], is_chat: bool) -> None:
        self.server, self.model, self.body, self.prompt, self.chat = (
            server,
            server.model,
            body,
            prompt,
            is_chat,
        )
        self.adapter = body["model"] if body["model"] in server.model.adapters else ""
        self.tokens: list[int] = []
        self.rows: list[Any] = []
        self.text, self.end = "", "length"
        self.stop: str | None = None
        asked = body.get("logprobs")
        self.top: int | None = (body.get("top_logprobs") or 0) if asked is True else None if asked is False else asked  # fmt: skip
        self.as_id = bool(body.get("return_tokens_as_token_ids"))

    def put(self, token: int, row: Any) -> bool:
        """Takes a token; returns whether it is the end."""
        if row is None:
            self.end = "stop"
            return True
        self.tokens.append(token)
        self.rows.append(row)
        self.text = self.model.tokenizer.decode([*self.prompt, *self.tokens])[
            len(self.model.tokenizer.decode(self.prompt)) :
        ]
        stops = self.body.get("stop") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            if stop in self.text:
                self.text, self.end, self.stop = self.text.partition(stop)[0], "stop", stop
                return True
        return False

    def told(self, start: int) -> dict[str, Any]:
        assert self.top is not None
        pairs = list(zip(self.tokens[start:], self.rows[start:], strict=True))
        tops = [[(int(t), float(row[t])) for t in row.topk(max(1, self.top)).indices] for _, row in pairs]
        name = self.model.entry
        if self.chat:
            content = [
                {"token": name(token, False), "logprob": float(row[token]), "bytes": list(name(token, False).encode()),
                 "top_logprobs": [{"token": name(t, False), "logprob": p, "bytes": list(name(t, False).encode())} for t, p in top[: self.top]]}
                for (token, row), top in zip(pairs, tops, strict=True)
            ]  # fmt: skip
            return {"content": content}
        return {
            "tokens": [name(token, self.as_id) for token, _ in pairs],
            "token_logprobs": [float(row[token]) for token, row in pairs],
            "top_logprobs": [{name(t, self.as_id): p for t, p in top} for top in tops],
            "text_offset": [0] * len(pairs),
        }

    def of_prompt(self) -> list[Any]:
        """Returns the log-probabilities of the prompt: by token, with the rank, its own always among them."""
        rows = self.model.logprobs(self.prompt, self.adapter)
        places: list[Any] = [None]
        for at, token in enumerate(self.prompt[1:]):
            row = rows[at]
            named = {token, *row.topk(self.body["prompt_logprobs"]).indices.tolist()}
            places.append(
                {str(t): {"logprob": float(row[t]), "rank": int((row > row[t]).sum()) + 1, "decoded_token": self.model.entry(t, False)} for t in named}
            )  # fmt: skip
        return places

    def usage(self) -> dict[str, int]:
        return {"prompt_tokens": len(self.prompt), "completion_tokens": len(self.tokens), "total_tokens": len(self.prompt) + len(self.tokens)}  # fmt: skip

    def frame(self, choice: dict[str, Any], **more: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        full = {"index": 0, "finish_reason": None, "logprobs": None, "stop_reason": None, **choice, **more}
        return {"id": "x-1", "object": kind, "created": 1, "model": self.server.name, "choices": [full]}

    def whole(self) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.end, "stop_reason": self.stop}
        choice["logprobs"] = None if self.top is None else self.told(0)
        if self.chat:
            choice["message"] = {
                "role": "assistant",
                "content": self.text,
                "reasoning": None,
                "refusal": None,
            }
        else:
            choice["text"] = self.text
            if self.body.get("prompt_logprobs") is not None:
                choice["prompt_logprobs"] = self.of_prompt()
        kind = "chat.completion" if self.chat else "text_completion"
        return {"id": "x-1", "object": kind, "created": 1, "model": self.server.name, "choices": [choice], "usage": self.usage()}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", allow_abbrev=False)
    serve.add_argument("model_tag")
    for flag in FLAGS:
        serve.add_argument(flag)
    for flag in SWITCHES:
        serve.add_argument(flag, action="store_true")
    given = parser.parse_args()
    assert given.host == "127.0.0.1", "everything but /v1 is open to whoever reaches the port"
    assert os.environ["VLLM_API_KEY"] and not any(os.environ["VLLM_API_KEY"] in word for word in sys.argv)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    if given.enable_lora and "no_lora" in json.loads((Path(given.model_tag) / "config.json").read_text()):
        raise SystemExit("ValueError: OddForCausalLM does not support LoRA yet.")
    from aiohttp import web

    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", Server(given).handle)
    web.run_app(
        app, host=given.host, port=int(given.port), print=None, access_log=None, handler_cancellation=True
    )


if __name__ == "__main__":
    main()
