"""Images that come with a request: brought, bounded and checked before an engine sees a byte of them.

What an image is decides its first bytes, never its name; how large it is decides its header, before anything is
decoded (PNG: w3.org/TR/png-3 §11.2.1; JPEG: ITU-T T.81 annex B; GIF89a §18; WebP: RFC 9649). A URL of the web is
fetched here and never by an engine: no private address, few redirects, each judged like the first (`hub.reach`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urljoin, urlsplit

from fust.accounts.rights import Identity
from fust.core.errors import InvalidInput, NotFound, TooLarge
from fust.gateway.files import Files
from fust.gateway.image_header import Size, is_turned, read_size
from fust.gateway.recode import recode
from fust.hub.reach import Fault, Internal, NotReached, reach
from fust.wire.openai import ImageURL, Part

MOST_BYTES = 20 * 2**20
"""Of one image."""
MOST_PIXELS = 24_000_000
"""Of one image: an engine decodes all of them, at up to ten bytes each."""
MOST_IMAGES = 64
_MOST_PIXELS_TOGETHER = 2 * MOST_PIXELS
_LOW_SIDE = 512
_FETCH_S = 20.0
_HOPS = 3
_AT_ONCE = 4
"""Images of one request that are brought at the same time."""
_THREADS = 16
_DATA = re.compile(r"data:[^,;]{0,100}(?:;[^,;]{1,100}){0,4}?;base64,", re.IGNORECASE)
_MOVED = frozenset({301, 302, 303, 307, 308})


@dataclass(slots=True)
class Picture:
    """An image of a request, which `Images.bring` puts into its place."""

    part: Part
    """Where the engine will find it."""
    url: str
    param: str
    low: bool = False
    file_id: str = ""
    """In the place of a URL: a file that the caller uploaded."""


@dataclass(slots=True)
class Pictures:
    """The images of a request in order."""

    found: list[Picture] = field(default_factory=lambda: [])

    def put(self, url: str, param: str, detail: object = None, *, file_id: str = "") -> Part:
        """Returns the part of a message that is to hold an image."""
        if len(self.found) == MOST_IMAGES:
            raise InvalidInput("A request takes at most {limit} images.", limit=MOST_IMAGES, param=param)
        part = Part("image_url", image_url=ImageURL(""))
        self.found.append(Picture(part, url, param, detail == "low", file_id))
        return part

    def put_bytes(self, data: str, param: str) -> Part:
        """Returns the same for base64 without a URL around it."""
        return self.put(f"data:image;base64,{data}", param)


class Images:
    """Brings the images of requests."""

    def __init__(self, hosts: tuple[str, ...], files: Files) -> None:
        self._files = files
        self._internal = Internal(hosts)
        self._pool = ThreadPoolExecutor(_THREADS, "fust-image")  # slow sites keep nothing else waiting

    async def bring(self, pictures: Sequence[Picture], identity: Identity) -> None:
        """Puts every image into its place, as a `data:` URL that holds what it says; files are the caller's own.

        Raises:
            InvalidInput: one that is none, is too large, or cannot be fetched; names its place.
        """
        if not pictures:
            return
        loop = asyncio.get_running_loop()
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(picture: Picture) -> int:
            async with gate:
                return await loop.run_in_executor(self._pool, self._bring, picture, identity)

        pixels = sum(await asyncio.gather(*(one(picture) for picture in pictures)))
        if pixels > _MOST_PIXELS_TOGETHER:
            raise _too_many_pixels(pixels, _MOST_PIXELS_TOGETHER, pictures[0].param)

    def _bring(self, picture: Picture, identity: Identity) -> int:
        """Brings one; returns its pixels."""
        data = self._read(picture, identity) if picture.file_id else read_data_url(picture.url, picture.param)
        if data is None:
            data = fetch(picture.url, picture.param, self._internal)
        size = check_image(data, picture.param)
        low = picture.low and max(size.width, size.height) > _LOW_SIDE
        if size.kind == "webp" or low or is_turned(data, size.kind):
            data = recode(data, size.kind, _LOW_SIDE if low else 0, picture.param)
            size = check_image(data, picture.param)
        encoded = base64.b64encode(data).decode("ascii")
        picture.part.image_url = ImageURL(f"data:image/{size.kind};base64,{encoded}")
        return size.width * size.height

    def _read(self, picture: Picture, identity: Identity) -> bytes:
        """Returns the bytes of a file of `/v1/files`."""
        try:
            row = self._files.get(identity, picture.file_id)
            if row.size_bytes > MOST_BYTES:
                raise _too_many_bytes(picture.param)
            return self._files.path(row.id).read_bytes()
        except (NotFound, FileNotFoundError):
            raise InvalidInput(
                "There is no file {id!r}.",
                hint="GET /v1/files lists yours.",
                id=picture.file_id[:100],
                param=picture.param,
                code="file_not_found",
            ) from None


def read_data_url(url: str, param: str) -> bytes | None:
    """Returns what a `data:` URL (RFC 2397) holds; None for another kind of URL."""
    if url[:5].lower() != "data:":
        return None
    match = _DATA.match(url)
    try:
        if match is None:
            raise ValueError
        return base64.b64decode(url[match.end() :], validate=True)
    except (ValueError, binascii.Error):
        raise InvalidInput(
            "{param} is not base64.", hint="It looks like data:image/png;base64,iVBORw0…", param=param
        ) from None


def check_image(data: bytes, param: str) -> Size:
    """Returns the kind and the size of an image, from its header.

    Raises:
        InvalidInput: none of the kinds that are read, or one whose header does not say its size.
        TooLarge: too many bytes or pixels.
    """
    if len(data) > MOST_BYTES:
        raise _too_many_bytes(param)
    size = read_size(data)
    if size is None:
        raise InvalidInput(
            "{param} is not an image that is read here.",
            hint="Send PNG, JPEG, GIF or WebP.",
            param=param,
            code="invalid_image",
        )
    if size.width * size.height > MOST_PIXELS:
        raise _too_many_pixels(size.width * size.height, MOST_PIXELS, param)
    return size


def _too_many_bytes(param: str) -> TooLarge:
    return TooLarge(
        "{param} is larger than {limit} MiB.",
        hint="Send a smaller image.",
        limit=MOST_BYTES >> 20,
        param=param,
    )


def _too_many_pixels(pixels: int, limit: int, param: str) -> InvalidInput:
    return InvalidInput(
        "{param} has {pixels} megapixels, and {limit} are the most.",
        hint="Send a smaller image; models see about one megapixel of it.",
        pixels=round(pixels / 1e6),
        limit=round(limit / 1e6),
        param=param,
        code="image_too_large",
    )


def fetch(url: str, param: str, internal: Internal) -> bytes:
    """Returns what a URL of the web leads to.

    Raises:
        InvalidInput: it leads to a private address, elsewhere, or nowhere.
        TooLarge: to more than an image may be.
    """
    until = time.monotonic() + _FETCH_S
    for _ in range(_HOPS + 1):
        _check_url(url, param)
        try:
            with reach(url, timeout_s=max(0.1, until - time.monotonic()), internal=internal) as line:
                answer = line.ask("GET", {"accept": "image/*", "user-agent": "fust"})
                if answer.status in _MOVED:
                    url = urljoin(url, answer.getheader("location", ""))
                    continue
                if answer.status != 200:
                    raise _not_fetched(param, "status", answer.status)
                data = answer.read(MOST_BYTES + 1)
        except NotReached as error:
            raise _not_fetched(param, error.fault) from None
        if len(data) > MOST_BYTES:
            raise _too_many_bytes(param)
        return data
    raise _not_fetched(param, "redirects")


def _check_url(url: str, param: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url or len(url) > 8000:
        raise InvalidInput(
            "{param} is not the URL of an image.",
            hint="Send an http(s) URL, or the image itself as data:image/png;base64,…",
            param=param,
        )


def _not_fetched(param: str, word: Fault | Literal["status", "redirects"], status: int = 0) -> InvalidInput:
    """Returns the error for an image that could not be had; says no more of a private network than that it is one."""
    hint = "Send the image itself: data:image/png;base64,…"
    code = "image_not_fetched"
    match word:
        case "private_address":
            return InvalidInput(
                "{param} leads to a private address, which is not asked.",
                hint="Send the image itself as data:image/png;base64,… or let an administrator set gateway.image_hosts.",
                param=param,
                code="private_address",
            )
        case "status":
            return InvalidInput(
                "{param} answered with status {status}.", hint=hint, param=param, status=status, code=code
            )
        case "timeout":
            return InvalidInput("{param} did not answer in time.", hint=hint, param=param, code=code)
        case "redirects":
            return InvalidInput(
                "{param} leads on and on, from one address to the next.", hint=hint, param=param, code=code
            )
        case _:
            return InvalidInput("{param} cannot be reached.", hint=hint, param=param, code=code)
