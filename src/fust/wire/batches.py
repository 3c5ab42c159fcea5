"""Requests of OpenAI's Batch API as Fust reads them (platform.openai.com/docs/api-reference/batch, openai 3.54)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from fust.wire.body import Body

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]


class ExpiresAfter(Body):
    """How long the output is kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class BatchRequest(Body):
    """`POST /v1/batches`."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | UnsetType | None = UNSET
    output_expires_after: ExpiresAfter | UnsetType | None = UNSET


class BatchLine(Body):
    """One line of a batch's input."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: dict[str, Any]
