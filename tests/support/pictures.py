"""Pictures made where they are needed, and a site that hands them out."""

from __future__ import annotations

import base64
import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


def picture(
    colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (40, 30), **more: object
) -> bytes:
    """Returns an image of one colour."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, kind, **more)
    return out.getvalue()


def halves(left: str, right: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Returns an image of two colours."""
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def saved(image: Image.Image, kind: str, turn: int = 0) -> bytes:
    """Returns an image in a file of a kind, with EXIF's tag that turns it (2 to 8)."""
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    out = io.BytesIO()
    image.save(out, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class PictureSite:
    """Answers `/red.png`, `/to?URL` (a redirect), `/endless` (sends for ever), `/slow` and `/page`; anything else is 404."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                path, _, query = self.path.partition("?")
                if path == "/to":
                    self._head(302, location=query)
                elif path == "/red.png":
                    self._head(200)
                    self.wfile.write(picture("red"))
                elif path == "/page":
                    self._head(200)
                    self.wfile.write(b"<!doctype html>")
                elif path in ("/endless", "/slow"):
                    self._head(200)
                    self._go_on(b"\x89" * (1 << 20 if path == "/endless" else 1))
                else:
                    self._head(404)

            def _head(self, status: int, **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def _go_on(self, piece: bytes) -> None:
                try:
                    while True:
                        self.wfile.write(piece)
                        time.sleep(0.02)
                except OSError:
                    pass

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
