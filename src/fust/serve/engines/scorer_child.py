"""The scoring engine's process: `python -m fust.serve.engines.scorer_child` answers `POST /score` (`fust.wire.scoring`)."""

from __future__ import annotations

import hmac
import select
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from fust.core.units import read_number
from fust.serve.engines.child_main import ChildConfig, run_child
from fust.serve.engines.scorer import BadRow, Scorer, TooLong, Wanted
from fust.wire.openai import EngineFault, EngineFaultBody
from fust.wire.scoring import MOST_ROWS, MOST_TOP, ScoreAnswer, ScoredRow, ScoreRequest

_MOST_BYTES = 64 << 20
_IDLE_S = 30.0


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, scorer: Scorer, api_key: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scorer, self.bearer = scorer, f"Bearer {api_key}"
        self.turn = threading.Lock()  # the model serves one request at a time


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _IDLE_S

    @property
    def _of(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def do_GET(self) -> None:
        """Answers the health check, also while the model is at work."""
        found = self.path == "/health"
        self._answer(200 if found else 404, b'{"status":"ok"}' if found else b"{}")

    def do_POST(self) -> None:
        """Scores what is asked for."""
        length = read_number(self.headers.get("content-length", ""))
        if not hmac.compare_digest(self.headers.get("authorization", ""), self._of.bearer):
            self.close_connection = True
            return self._refuse(401, "authentication_error", "the key is wrong")
        if self.path != "/score" or length is None or length > _MOST_BYTES:
            self.close_connection = True
            return self._refuse(
                400, "invalid_request_error", "POST /score takes a body of known, bounded length"
            )
        body = self.rfile.read(length)
        try:
            self._answer(200, msgspec.json.encode(self._score(body)))
        except TooLong as error:
            self._refuse(
                400,
                "exceed_context_size_error",
                str(error),
                n_prompt_tokens=error.tokens,
                n_ctx=error.context,
            )
        except (BadRow, msgspec.DecodeError) as error:
            self._refuse(400, "invalid_request_error", str(error))
        except InterruptedError:
            self.close_connection = True
        except Exception as error:
            self._refuse(500, "server_error", str(error) or type(error).__name__)

    def _score(self, body: bytes) -> ScoreAnswer:
        request = msgspec.json.decode(body, type=ScoreRequest)
        if not 0 <= request.top <= MOST_TOP or not 0 < len(request.rows) <= MOST_ROWS:
            raise BadRow(f"top goes from 0 to {MOST_TOP}, and 1 to {MOST_ROWS} rows are scored at once")
        scorer = self._of.scorer
        with self._of.turn:
            rows = [
                Wanted(
                    row.tokens if row.tokens is not None else scorer.tokenize(row.text or ""),
                    max(1, row.start),
                )
                for row in request.rows
            ]
            scorer.use(request.adapter)
            scored = scorer.score(rows, request.top, self._is_there)
            named = _named(scored) if request.pieces else ()
            return ScoreAnswer(scored, {token: scorer.piece(token) for token in named})

    def _is_there(self) -> bool:
        """Returns whether the client still waits: one that left has closed its end."""
        if not select.select([self.connection], [], [], 0)[0]:
            return True
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _refuse(self, status: int, kind: str, message: str, **more: int) -> None:
        self._answer(status, msgspec.json.encode(EngineFaultBody(EngineFault(message, kind, status, **more))))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps requests out of the log: they are the gateway's to count."""


def _named(rows: list[ScoredRow]) -> set[int]:
    """Returns every token that an answer names."""
    named = {token for row in rows for token in row.tokens}
    for row in rows:
        for places in (*row.top, row.next):
            named |= {likely.token for likely in places or ()}
    return named


def _start(config: ChildConfig) -> int:
    scorer = Scorer(Path(config.path), config.context, config.threads)
    server = _Server(scorer, config.api_key)
    threading.Thread(target=server.serve_forever, name="fust-score", daemon=True).start()
    return int(server.server_address[1])


if __name__ == "__main__":
    sys.exit(run_child(_start))
