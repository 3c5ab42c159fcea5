"""Logs: JSON lines in files, plain lines in a terminal. Nothing is configured at import."""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET = re.compile(
    r"(fust_[A-Za-z0-9]{8})[A-Za-z0-9]+|(hf_[A-Za-z0-9]{4})[A-Za-z0-9]+|([?&]code=)[^&\s\"]+"
)


def redact(text: str) -> str:
    """Returns ``text`` with what looks like a key or a sign-in code cut short."""
    return _SECRET.sub(lambda match: (match[1] or match[2] or match[3]) + "…", text)


class JSONLines(logging.Formatter):
    """One JSON object a record: time, level, logger, message, then the record's ``extra`` fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as one line."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return redact(json.dumps(entry, ensure_ascii=False, default=str))


class PlainLines(logging.Formatter):
    """`12:34:56 warning fust.serve: message key=value` for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as one line, its trace below when there is one."""
        extra = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        stamp = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{stamp} {record.levelname.lower()} {record.name}: {record.getMessage()} {extra}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


def configure_logs(level: str, file: Path | None = None, *, terminal: bool = True) -> None:
    """Sends records of ``level`` and above to a rotating JSON file and, when asked, to standard error."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for handler in list(root.handlers):
        root.removeHandler(handler)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = logging.handlers.RotatingFileHandler(
            file, maxBytes=10_000_000, backupCount=3, encoding="utf-8"
        )
        lines.setFormatter(JSONLines())
        root.addHandler(lines)
    if terminal:
        stream = logging.StreamHandler(sys.stderr)
        stream.setLevel(max(logging.WARNING, root.level))
        stream.setFormatter(PlainLines())
        root.addHandler(stream)
