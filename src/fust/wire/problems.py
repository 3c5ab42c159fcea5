"""Errors as the two JSON surfaces draw them: RFC 9457 problem details and the OpenAI envelope."""

from __future__ import annotations

import msgspec

from fust.core.errors import FustError
from fust.core.i18n import Language

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    429: "rate_limit_error",
}
_OPENAI_CODES = {401: "invalid_api_key"}


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457 problem details with our code, hint and request id."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str = ""
    request_id: str = ""


def draw_problem(error: FustError, language: Language, request_id: str) -> tuple[int, bytes]:
    """Returns status and body (`application/problem+json`)."""
    body = Problem(
        type=f"urn:fust:error:{error.code}",
        title=error.code.replace("_", " "),
        status=error.status,
        detail=error.message(language),
        code=error.code,
        hint=error.hint(language),
        request_id=request_id,
    )
    return error.status, msgspec.json.encode(body)


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def draw_anthropic(error: FustError, language: Language, request_id: str) -> tuple[int, bytes]:
    """Returns status and body in Anthropic's envelope (docs.anthropic.com/en/api/errors); our code stands beside its type."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    param = error.params.get("param")
    fault = {
        "type": kind,
        "message": error.sentence(language),
        "code": error.code,
        "param": param if isinstance(param, str) else None,
    }
    return error.status, msgspec.json.encode({"type": "error", "error": fault, "request_id": request_id})


def draw_openai(error: FustError, language: Language, request_id: str) -> tuple[int, bytes]:
    """Returns status and body in OpenAI's envelope (platform.openai.com/docs/guides/error-codes)."""
    kind = _OPENAI_TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    param = error.params.get("param")
    body = {
        "error": {
            "message": error.sentence(language),
            "type": kind,
            "param": param if isinstance(param, str) else None,
            "code": _OPENAI_CODES.get(error.status, error.code),
            "request_id": request_id,
        }
    }
    return error.status, msgspec.json.encode(body)
