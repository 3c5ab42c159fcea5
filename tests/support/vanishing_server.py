"""Stands in for a `llama-server` that goes away between two chats, and whose next process hangs in its chat template.

Its first argument is a folder. The first process answers "vanish", listens no more, and ends when a file `go` lies there: so
the next chat finds nobody at a port that Fust still believes in. Later processes hang with "open sesame", in the chat and in the template
alone, and are well otherwise. Each chat is noted in its file `chats`, with the number of the process.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(sys.argv[1])
_HANGS = {"/v1/chat/completions", "/apply-template"}


def answer(text: str) -> dict[str, Any]:
    """Returns a chat's answer as llama.cpp gives it."""
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


class Handler(BaseHTTPRequestHandler):
    """Closes every connection behind its answer, so that the next request needs a new one."""

    number = 0

    def do_GET(self) -> None:
        self._say({"/props": {}, "/slots": [], "/health": {"status": "ok"}}.get(self.path, {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = str(body.get("messages", [{}])[-1].get("content", ""))
        if self.path == "/v1/chat/completions":
            with (FOLDER / "chats").open("a") as file:
                file.write(f"{self.number} {text}\n")
        while "open sesame" in text and self.path in _HANGS:
            time.sleep(1)
        vanish = self.number == 1 and "vanish" in text
        if vanish:
            self.server.socket.shutdown(
                socket.SHUT_RDWR
            )  # it listens no more from here on; closing would take a while
        self._say(answer("hello"))
        while vanish:
            if (FOLDER / "go").exists():
                os._exit(1)
            time.sleep(0.005)

    def _say(self, told: object) -> None:
        raw = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def main() -> int:
    """Serves until it is ended."""
    if "--help" in sys.argv:
        return 0
    starts = FOLDER / "starts"
    with starts.open("a") as file:
        file.write("x")
    Handler.number = starts.stat().st_size
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    sys.exit(main())
