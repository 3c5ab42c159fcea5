"""One family of errors, drawn three ways at the edge (problem JSON, OpenAI envelope, Hub headers).

    FustError                 500 internal
    ├── InvalidInput          400 invalid_input
    │   └── Unsupported       400 unsupported_parameter
    ├── Unauthenticated       401 unauthenticated
    ├── Denied                403 denied
    │   ├── Gated             403 gated
    │   └── LicenceBlocked    403 licence_blocked
    ├── NotFound              404 not_found
    ├── Conflict              409 conflict
    ├── TooLarge              413 too_large
    ├── RangeNotSatisfiable   416 range_not_satisfiable
    ├── RateLimited           429 rate_limited
    │   └── BudgetExceeded    429 budget_exceeded
    ├── NotOffered            501 not_offered
    ├── UpstreamFailed        502 upstream_failed
    ├── Unavailable           503 unavailable
    └── StorageFull           507 storage_full

Leaves that only one room needs stand near their code. A message names the thing, the value and the next step;
never a key, a prompt or a token.
"""

from __future__ import annotations

from fust.core.i18n import Language, fill


class FustError(Exception):
    """What went wrong (``template``), what to do next (``hint``), and a code that programs can read."""

    status = 500
    code = "internal"

    def __init__(
        self,
        template: str,
        /,
        *,
        hint: str = "",
        code: str | None = None,
        retry_after_s: float | None = None,
        **params: object,
    ) -> None:
        self.template = template
        self.hint_template = hint
        self.params = params
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(fill(template, params))

    def message(self, language: Language = "en") -> str:
        """Returns what went wrong, in the language."""
        return fill(self.template, self.params, language)

    def hint(self, language: Language = "en") -> str:
        """Returns the next step in the language, or an empty string."""
        return fill(self.hint_template, self.params, language) if self.hint_template else ""

    def sentence(self, language: Language = "en") -> str:
        """Returns message and hint as one line."""
        return " ".join(part for part in (self.message(language), self.hint(language)) if part)


class InvalidInput(FustError):
    """The request or a value in it cannot be understood."""

    status = 400
    code = "invalid_input"


class Unsupported(InvalidInput):
    """A field that would change the answer, and that the engine at hand does not offer."""

    code = "unsupported_parameter"


class Unauthenticated(FustError):
    """No key, or one that is not valid."""

    status = 401
    code = "unauthenticated"


class Denied(FustError):
    """The caller is known and may not."""

    status = 403
    code = "denied"


class Gated(Denied):
    """The repo asks for an access request first."""

    code = "gated"


class LicenceBlocked(Denied):
    """A licence does not allow what was asked."""

    code = "licence_blocked"


class NotFound(FustError):
    """There is no such thing, or the caller may not know of it."""

    status = 404
    code = "not_found"


class Conflict(FustError):
    """The thing exists already, or changed meanwhile."""

    status = 409
    code = "conflict"


class TooLarge(FustError):
    """A body, a file or a name is over its limit."""

    status = 413
    code = "too_large"


class RangeNotSatisfiable(FustError):
    """The asked bytes lie outside the file (RFC 9110, 15.5.17)."""

    status = 416
    code = "range_not_satisfiable"


class RateLimited(FustError):
    """Too many requests; ``retry_after_s`` says when."""

    status = 429
    code = "rate_limited"


class BudgetExceeded(RateLimited):
    """A key's budget is spent."""

    code = "budget_exceeded"


class NotOffered(FustError):
    """A part of a protocol that Fust does not offer."""

    status = 501
    code = "not_offered"


class UpstreamFailed(FustError):
    """An engine, another hub or a provider failed."""

    status = 502
    code = "upstream_failed"


class Unavailable(FustError):
    """Not now: loading, stopping or out of a resource."""

    status = 503
    code = "unavailable"


class StorageFull(FustError):
    """The disk has no room; nothing was kept of what was being written."""

    status = 507
    code = "storage_full"
