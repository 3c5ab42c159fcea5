"""The gateway's requests in vLLM's words, and vLLM's answers in the gateway's."""

from __future__ import annotations

from typing import Any

from fust.serve.engines.child_http import Refused
from fust.serve.engines.scored import Wanted
from fust.serve.engines.turns import is_begun
from fust.wire.scoring import Likely, ScoredRow

_SAME = frozenset({
    "messages", "prompt", "model", "stream", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "logit_bias",
    "frequency_penalty", "presence_penalty", "ignore_eos", "logprobs", "top_logprobs", "response_format", "tools", "tool_choice",
    "parallel_tool_calls", "chat_template_kwargs", "reasoning_effort", "add_generation_prompt", "n",
})  # fmt: skip
_WITHOUT_EFFECT = frozenset({"cache_prompt", "timings_per_token", "stream_options", "verbose"})
_RENAMED = {"repeat_penalty": "repetition_penalty"}
_TOKEN = "token_id:"


def request_of(body: dict[str, Any], model: str) -> dict[str, Any]:
    """Returns a chat or a completion as vLLM reads it.

    vLLM takes no notice of a field that it does not know, so one that would change the answer is refused here.

    Raises:
        Refused: it asks for what vLLM has no word for.
    """
    made: dict[str, Any] = {}
    for name, value in body.items():
        if name in _SAME:
            made[name] = value
        elif name == "lora":
            model = value  # vLLM answers with an adapter where its name stands for the model's
        elif name in _RENAMED:
            made[_RENAMED[name]] = value
        elif name == "json_schema":
            made["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": value},
            }
        elif name == "grammar":
            made["structured_outputs"] = {"grammar": value}
        elif name == "reasoning_format" and value in ("auto", "deepseek"):
            continue  # what vLLM does anyhow
        elif name not in _WITHOUT_EFFECT:
            raise Refused(400, "unsupported_parameter", f"{name} is not offered by this engine", param=name)
    made |= going_on(made)
    made["model"] = model
    if made.get("stream"):
        made["stream_options"] = {"include_usage": True}
    return made


def going_on(words: dict[str, Any]) -> dict[str, Any]:
    """Returns what tells vLLM that an answer goes on from the last message, where it does."""
    if not is_begun(words.get("messages") or []):
        return {}
    return {"add_generation_prompt": False, "continue_final_message": True}


def mend(answer: dict[str, Any]) -> None:
    """Calls the thoughts of an answer or a chunk what the gateway calls them."""
    for choice in answer.get("choices") or ():
        said = choice.get("message") or choice.get("delta")
        if isinstance(said, dict) and "reasoning" in said:
            thought: Any = said.pop("reasoning")  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
            if thought:
                said["reasoning_content"] = thought


def score_of(row: Wanted, model: str, top: int) -> dict[str, Any]:
    """Returns the completion that tells the log-probabilities of a row's tokens, and of what may follow them."""
    return {
        "model": model,
        "prompt": row.tokens,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": top,
        "logprobs": max(1, top),
        "return_tokens_as_token_ids": True,
    }


def scored_of(row: Wanted, answer: dict[str, Any], top: int) -> ScoredRow:
    """Returns what that completion says of a row.

    Raises:
        Refused: it says nothing of some token; a score is never made up.
    """
    choice: dict[str, Any] = answer["choices"][0]
    places: list[dict[str, dict[str, Any]] | None] = choice.get("prompt_logprobs") or []
    if len(places) != len(row.tokens):
        raise Refused(501, "not_supported_error", "vLLM gave no log-probabilities of the prompt")
    logprobs: list[float | None] = [None] * len(row.tokens)
    greedy: list[bool | None] = [None] * len(row.tokens)
    likely: list[list[Likely] | None] = [None] * len(row.tokens)
    for at in range(row.start, len(row.tokens)):
        place = places[at]
        own = place.get(str(row.tokens[at])) if place else None
        if place is None or own is None:
            raise Refused(501, "not_supported_error", "vLLM gave no log-probability of a token of the prompt")
        logprobs[at], greedy[at] = own["logprob"], own["rank"] == 1
        ranked = sorted(place.items(), key=lambda item: item[1]["rank"])
        likely[at] = [Likely(int(token), told["logprob"]) for token, told in ranked if told["rank"] <= top]
    after: dict[str, float] = choice["logprobs"]["top_logprobs"][0]
    ends = sorted(after.items(), key=lambda item: -item[1])
    return ScoredRow(
        row.tokens,
        logprobs,
        greedy,
        [Likely(int(token.removeprefix(_TOKEN)), logprob) for token, logprob in ends],
        likely if top else [],
    )
