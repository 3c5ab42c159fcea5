"""Secrets of known shapes in text: what kind, which line. The secret itself leaves this module in no form."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BYTES = 2**20
"""Bytes of a file that are looked at."""
MAX_FOUND = 20
"""Findings told of one file."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Where something lies that looks like a secret."""

    path: str
    kind: str
    line: int
    """From 1."""


# What must stand in the bytes for the pattern to be worth asking, the pattern, and what it is called.
_SHAPES: tuple[tuple[bytes, bytes, str], ...] = (
    (b"hf_", rb"\bhf_[A-Za-z0-9]{30,}\b", "Hugging Face token"),
    (b"fust_", rb"\bfust_[A-Za-z0-9]{32}\b", "Fust key"),
    (b"A", rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b", "AWS access key"),
    (b"aws_secret", rb"(?i)aws_secret_access_key\W{1,6}[A-Za-z0-9/+]{40}\b", "AWS secret key"),
    (b"gh", rb"\bgh[pousr]_[A-Za-z0-9]{36,}\b", "GitHub token"),
    (b"github_pat_", rb"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{40,}\b", "GitHub token"),
    (b"glpat-", rb"\bglpat-[A-Za-z0-9_-]{20,}", "GitLab token"),
    (b"sk-", rb"\bsk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{40,}", "API key of a model provider"),
    (b"xox", rb"\bxox[abprs]-[A-Za-z0-9-]{20,}", "Slack token"),
    (b"AIza", rb"\bAIza[A-Za-z0-9_-]{35}\b", "Google API key"),
    (
        b"PRIVATE KEY",
        rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----\s+[A-Za-z0-9+/=:,\s-]{64}",
        "private key",
    ),
)
_COMPILED = tuple((mark, re.compile(pattern), kind) for mark, pattern, kind in _SHAPES)
_SAMPLE = re.compile(rb"(.)\1{11}|EXAMPLE|(?i:xxxx|your[-_]?token)")
"""In documentation a secret is a row of the same letter, or says that it is an example."""


def find_secrets(path: str, data: bytes) -> list[Secret]:
    """Returns where secrets seem to lie in a file, by line."""
    part = data[:MAX_BYTES]
    found: dict[tuple[str, int], Secret] = {}
    for mark, pattern, kind in _COMPILED:
        if mark not in part:
            continue
        for match in pattern.finditer(part):
            if _SAMPLE.search(match[0]):
                continue
            line = part.count(b"\n", 0, match.start()) + 1
            found.setdefault((kind, line), Secret(path, kind, line))
            if len(found) >= MAX_FOUND:
                break
    return sorted(found.values(), key=lambda secret: (secret.line, secret.kind))
