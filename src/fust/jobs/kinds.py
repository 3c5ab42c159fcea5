"""What a kind of run needs, and who may ask for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fust.accounts.rights import Identity

Prepare = Callable[[Identity, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of run, registered with ``Jobs.register``; its function is named in ``fust.app.worker``."""

    name: str
    title: str
    """Template of the title, filled from the params."""
    prepare: Prepare
    """Returns the params, checked and completed; raises InvalidInput, or Denied when the caller may not."""
    memory_bytes: int
    """Memory that a run takes at most."""
    cores: int = 1
    resumable: bool = False
    """Whether a run that was killed is started again and continues."""
    ends_early: bool = False
    """Whether it can end before its time and give what it has by then."""
    max_attempts: int = 3
    """Processes that a resumable run gets before it counts as failed."""
    title_of: Callable[[dict[str, Any]], str] | None = None
    """Template of the title for given params, where ``title`` does not suit all."""
    memory_of: Callable[[dict[str, Any]], int] | None = None
    """Memory for given params, where runs of the kind differ; else ``memory_bytes`` holds for all."""

    def title_for(self, params: dict[str, Any]) -> str:
        """Returns the template of the title of a run with these params."""
        return self.title_of(params) if self.title_of else self.title

    def memory_for(self, params: dict[str, Any]) -> int:
        """Returns the memory that a run with these params takes at most."""
        return self.memory_of(params) if self.memory_of else self.memory_bytes
