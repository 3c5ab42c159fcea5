"""A hub of Hugging Face form that behaves as badly as it is told."""

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SHA = "a" * 40


@dataclass
class Bad:
    """What goes wrong with a file; each field is one misbehaviour."""

    cut_after: int = 0
    """Close the connection after so many bytes of each answer."""
    cuts: int = 10**9
    """How often that happens."""
    announced_size: int | None = None
    """Size in the listing, instead of the true one."""
    announced_sha256: str = ""
    send_instead: bytes | None = None
    stall_s: float = 0
    redirect: str = ""
    statuses: list = field(default_factory=list)
    """(status, headers) of the first answers."""
    no_ranges: bool = False
    endless: bool = False
    no_length: bool = False
    encoding: str = ""
    """Content-Encoding that the answer claims."""
    pause_s: float = 0
    """Wait so long after each 64 KiB."""


class BadHub:
    def __init__(self, files, *, lfs=(), bad=None, address="127.0.0.1"):
        self.files = files
        self.lfs = set(lfs)
        self.bad = bad or {}
        self.sha = SHA
        self.history = {}
        """Commit -> files that it had, for commits that are not the newest."""
        self.info = {}
        self.info_statuses = []
        self.info_headers = {}
        """Path of an API answer -> headers that it has besides."""
        self.info_bodies = {}
        """Path of an API answer -> other bytes, or a function that writes to the socket."""
        self.requests = []
        self.sent_bytes = 0
        self.lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, with_body=False)

            def do_GET(self):
                hub.answer(self, with_body=True)

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://{address}:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def revision_info(self):
        return {"id": "org/model", "sha": self.sha, "private": False, "gated": False, **self.info}

    def tree(self, revision=""):
        entries = []
        for path, data in self.history.get(revision, self.files).items():
            bad = self.bad.get(path, Bad())
            size = len(data) if bad.announced_size is None else bad.announced_size
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "path": path, "size": size, "oid": oid}
            if path in self.lfs:
                sha = bad.announced_sha256 or hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": sha, "size": size, "pointerSize": 130}
            entries.append(entry)
        return entries

    def answer(self, handler, *, with_body):
        path = unquote(urlsplit(handler.path).path)
        self.requests.append((handler.command, path, handler.headers.get("Range"), dict(handler.headers)))
        try:
            if path.startswith("/api/"):
                self.answer_info(handler, path)
            else:
                self.answer_file(handler, path.split("/resolve/", 1)[1].split("/", 1)[1], with_body)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True

    def answer_info(self, handler, path):
        status, headers, body = 200, {}, self.info_body(path)
        if self.info_statuses:
            status, headers = self.info_statuses.pop(0)
            body = b"{}"
        if callable(body):
            self.head(handler, 200, {"content-type": "application/json", "connection": "close"})
            handler.close_connection = True
            body(handler.wfile)
            return
        headers = {**self.info_headers.get(path, {}), **headers}
        self.head(
            handler, status, {"content-type": "application/json", "content-length": len(body), **headers}
        )
        handler.wfile.write(body)

    def info_body(self, path):
        """Bytes, or what writes them."""
        if path in self.info_bodies:
            return self.info_bodies[path]
        if "/tree/" in path:
            return json.dumps(self.tree(path.partition("/tree/")[2].split("/")[0])).encode()
        asked = path.partition("/revision/")[2]
        sha = asked if asked in self.history else self.sha
        return json.dumps({**self.revision_info(), "sha": sha}).encode()

    def answer_file(self, handler, path, with_body):
        bad = self.bad.get(path, Bad())
        if bad.statuses:
            status, headers = bad.statuses.pop(0)
            self.head(handler, status, {"content-length": 0, **headers})
            return
        if bad.redirect:
            self.head(handler, 302, {"location": bad.redirect, "content-length": 0})
            return
        data = self.files[path] if bad.send_instead is None else bad.send_instead
        asked = handler.headers.get("Range")
        ranged = bool(asked) and not bad.no_ranges
        start, stop = 0, len(data)
        if ranged:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(len(data), int(last) + 1 if last else len(data))
        if start and start >= len(data):
            self.head(handler, 416, {"content-range": f"bytes */{len(data)}", "content-length": 0})
            return
        headers = {"etag": '"x"', "x-repo-commit": SHA}
        if bad.endless or bad.no_length:
            headers["connection"] = "close"
        else:
            headers["content-length"] = stop - start
        if ranged:
            headers["content-range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        if bad.encoding:
            headers["content-encoding"] = bad.encoding
        self.head(handler, 206 if ranged else 200, headers)
        if not with_body:
            return
        if bad.stall_s:
            handler.wfile.write(data[start : start + 10])
            handler.wfile.flush()
            time.sleep(bad.stall_s)
            handler.close_connection = True
            return
        while bad.endless:
            handler.wfile.write(b"x" * 65536)
        end = stop
        if bad.cut_after and bad.cuts > 0:
            bad.cuts -= 1
            end = min(end, start + bad.cut_after)
            handler.close_connection = True
        if bad.no_length:
            handler.close_connection = True
        step = 65536 if bad.pause_s else max(1, end - start)
        for position in range(start, end, step):
            piece = data[position : min(end, position + step)]
            handler.wfile.write(piece)
            handler.wfile.flush()
            with self.lock:
                self.sent_bytes += len(piece)
            time.sleep(bad.pause_s)

    def head(self, handler, status, headers):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, str(value))
        handler.end_headers()
