"""The HTTP server of engines that are ours: on loopback, one key, one thread a connection, and it sees a client leave."""

from __future__ import annotations

import contextlib
import hmac
import select
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from fust.core.units import read_number
from fust.serve.engines.scored import BadRow, TooLong
from fust.wire.openai import EngineFault, EngineFaultBody

_MOST_BYTES = 64 << 20
_IDLE_S = 30.0


class Refused(Exception):
    """A request that the engine does not take."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        self.status, self.kind, self.param = status, kind, param
        super().__init__(message)


class LoopbackServer(ThreadingHTTPServer):
    """Listens on a free port of 127.0.0.1; `handler` knows the routes."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, handler: type[LoopbackHandler], api_key: str) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.bearer = f"Bearer {api_key}"


class LoopbackHandler(BaseHTTPRequestHandler):
    """Answers requests of the gateway; a subclass says what there is to GET and to POST."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _IDLE_S
    streaming = False

    def find(self, path: str) -> bytes | None:
        """Returns what there is to GET, as JSON; None when there is nothing."""
        return b'{"status":"ok"}' if path == "/health" else None

    def post(self, path: str, body: bytes) -> None:
        """Answers a POST.

        Raises:
            Refused, BadRow, msgspec.DecodeError: it is told to the client.
            InterruptedError: the client left.
        """
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answers the health check, also while the model is at work."""
        found = self.find(self.path)
        self.answer(200 if found else 404, found or b"{}")

    def do_POST(self) -> None:
        """Reads a body of known, bounded length and answers."""
        length = read_number(self.headers.get("content-length", ""))
        assert isinstance(self.server, LoopbackServer)
        self.streaming = False
        if not hmac.compare_digest(self.headers.get("authorization", ""), self.server.bearer):
            self.close_connection = True
            return self.refuse(401, "authentication_error", "the key is wrong")
        if length is None or length > _MOST_BYTES:
            self.close_connection = True
            return self.refuse(400, "invalid_request_error", "a body of known, bounded length is wanted")
        body = self.rfile.read(length)
        try:
            self.post(self.path, body)
        except TooLong as error:
            more = {"n_prompt_tokens": error.tokens, "n_ctx": error.context}
            self.refuse(400, "exceed_context_size_error", str(error), **more)
        except Refused as error:
            self.refuse(error.status, error.kind, str(error), param=error.param)
        except (BadRow, msgspec.DecodeError) as error:
            self.refuse(400, "invalid_request_error", str(error))
        except (InterruptedError, ConnectionError):
            self.close_connection = True
        except Exception as error:
            self.refuse(500, "server_error", str(error) or type(error).__name__)

    # Answers

    def answer(self, status: int, body: bytes) -> None:
        """Sends a whole answer."""
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self) -> None:
        """Sends the head of server-sent events, in chunks of HTTP/1.1."""
        self.streaming = True
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def send_event(self, event: object) -> None:
        """Sends one event: bytes as they are, else as JSON."""
        data = event if isinstance(event, bytes) else msgspec.json.encode(event)
        line = b"data: " + data + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))

    def end_stream(self) -> None:
        """Ends the events."""
        self.wfile.write(b"0\r\n\r\n")

    def refuse(self, status: int, kind: str, message: str, **more: Any) -> None:
        """Sends an error in llama.cpp's envelope; as the last event where a stream has begun."""
        fault = EngineFaultBody(EngineFault(message, kind, status, **more))
        if not self.streaming:
            return self.answer(status, msgspec.json.encode(fault))
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.send_event(fault)
            self.end_stream()

    def is_there(self) -> bool:
        """Returns whether the client still waits: one that left has closed its end."""
        if not select.select([self.connection], [], [], 0)[0]:
            return True
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def log_message(self, format: str, *args: object) -> None:
        """Keeps requests out of the log: they are the gateway's to count."""
