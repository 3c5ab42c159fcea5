"""Images of requests: kind and size from their headers, where URLs may lead, what is too much."""

from __future__ import annotations

import asyncio
import base64
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from fust.accounts.rights import SYSTEM
from fust.core.errors import FustError
from fust.gateway import images
from fust.gateway.image_header import Size, is_turned, read_size
from fust.gateway.images import Images, Pictures, check_image, fetch, read_data_url
from fust.hub.reach import Internal
from tests.support.pictures import PictureSite, data_url, halves, picture, saved

NOBODY = Internal(())
HERE = Internal(("127.0.0.1",))


@pytest.fixture(scope="module")
def site() -> Iterator[PictureSite]:
    site = PictureSite()
    yield site
    site.close()


NO_FILES: Any = None


def bring(*urls: str, detail: str | None = None) -> list[bytes]:
    """Returns what engines would be given."""
    pictures = Pictures()
    for i, url in enumerate(urls):
        pictures.put(url, f"messages[0].content[{i}].image_url.url", detail)
    asyncio.run(Images(("127.0.0.1",), NO_FILES).bring(pictures.found, SYSTEM))
    held = [found.part.image_url for found in pictures.found]
    assert all(type(item).__name__ == "ImageURL" for item in held)
    return [base64.b64decode(str(getattr(item, "url", "")).partition(",")[2]) for item in held]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_size_is_read_from_the_header(kind: str) -> None:
    assert read_size(picture("red", kind, (123, 45))) == Size(kind.lower(), 123, 45)


def test_size_of_other_forms() -> None:
    assert read_size(picture("red", "WEBP", (321, 5), lossless=True)) == Size("webp", 321, 5)
    assert read_size(picture("red", "JPEG", (77, 99), progressive=True)) == Size("jpeg", 77, 99)
    photo = picture("red", "JPEG", (7, 9))
    assert read_size(photo[:2] + b"\xff\xe1\x00\x06Exif" + photo[2:]) == Size("jpeg", 7, 9)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\x0f\x00\x00" + b"\x07\x00\x00"
    assert read_size(b"RIFF" + struct.pack("<I", 22) + b"WEBP" + canvas) == Size("webp", 16, 8)


def test_what_is_no_image_has_no_size() -> None:
    for data in (b"", b"BM" + bytes(60), b"<svg/>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9", b"GIF89a\0\0\0\0", b"RIFF1234WAVE" + bytes(40)):  # fmt: skip
        assert read_size(data) is None


def test_headers_of_strangers_raise_nothing() -> None:
    chance = random.Random(0)
    seeds = [picture("red", kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")]
    for _ in range(4000):
        data = bytearray(chance.choice(seeds)[: chance.randrange(1, 400)])
        for _ in range(chance.randrange(8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        found = read_size(bytes(data))
        assert found is None or min(found.width, found.height) > 0


def bomb(width: int, height: int) -> bytes:
    """Returns a PNG of a few bytes that says it is huge."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(FustError, match="megapixels") as refused:
        check_image(bomb(60_000, 60_000), "messages[0]")
    assert (refused.value.status, refused.value.code) == (400, "image_too_large")
    assert refused.value.message("zh") != refused.value.message("en")
    with pytest.raises(FustError, match="megapixels"):
        bring(*[data_url(bomb(4000, 5000))] * 3)
    with pytest.raises(FustError) as large:
        check_image(bytes(images.MOST_BYTES + 1), "x")
    assert large.value.status == 413


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_turn_is_read_and_hostile_exif_is_none(kind: str) -> None:
    turned = saved(halves("red", "blue"), kind, 6)
    assert is_turned(turned, kind.lower()) and not is_turned(
        saved(halves("red", "blue"), kind, 1), kind.lower()
    )
    at = turned.index(b"Exif\0\0" if kind == "JPEG" else b"eXIf")
    for cut in range(2, min(len(turned), at + 80)):  # cut anywhere, and with any byte of it wrong
        is_turned(turned[:cut], kind.lower())
        for byte in (0, 0x7F, 0xFF):
            is_turned(turned[:cut] + bytes([byte]) + turned[cut + 1 :], kind.lower())


def test_data_urls() -> None:
    assert read_data_url("https://example.org/a.png", "x") is None
    assert read_data_url("DATA:image/png;name=a;base64,eA==", "x") == b"x"
    for url in ("data:image/png,x", "data:image/png;base64,?", "data:" + "a" * 500):
        with pytest.raises(FustError, match="not base64"):
            read_data_url(url, "x")
    with pytest.raises(FustError, match="not an image") as refused:
        bring("data:image/png;base64,eA==")
    assert refused.value.params["param"] == "messages[0].content[0].image_url.url"


def test_an_image_goes_on_as_it_is_under_its_true_name() -> None:
    photo = picture("red", "JPEG")
    pictures = Pictures()
    part = pictures.put(data_url(photo, "image/png"), "x")
    asyncio.run(Images((), NO_FILES).bring(pictures.found, SYSTEM))
    assert getattr(part.image_url, "url", "") == data_url(photo, "image/jpeg")


def test_webp_and_low_detail_become_small_png() -> None:
    (made,) = bring(data_url(picture("blue", "WEBP", (64, 48))))
    assert read_size(made) == Size("png", 64, 48)
    (small,) = bring(data_url(picture("blue", "JPEG", (1024, 256))), detail="low")
    assert read_size(small) == Size("png", 512, 128)
    little = picture("blue", "PNG", (512, 512))
    assert bring(data_url(little), detail="low") == [little]
    with pytest.raises(FustError, match="damaged"):
        bring(data_url(picture("blue", "WEBP")[:60]))


def test_no_more_than_so_many() -> None:
    pictures = Pictures()
    for _ in range(images.MOST_IMAGES):
        pictures.put("data:,", "x")
    with pytest.raises(FustError, match="at most 64"):
        pictures.put("data:,", "x")


def test_urls_of_private_addresses_are_not_asked(site: PictureSite) -> None:
    before = list(site.asked)
    for url in (site.url + "/red.png", site.url.replace("127.0.0.1", "localhost"), "http://[::1]/x", "http://169.254.169.254/"):  # fmt: skip
        with pytest.raises(FustError) as refused:
            fetch(url, "x", NOBODY)
        assert (refused.value.status, refused.value.code) == (400, "private_address"), url
    with pytest.raises(FustError) as led:
        fetch(site.url + "/to?http://127.0.0.2:1/", "x", HERE)
    assert led.value.code == "private_address"
    assert site.asked == [*before, "/to?http://127.0.0.2:1/"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "//x", "http://", "http://a b/", "http://[x", "x"])  # fmt: skip
def test_what_is_no_url_of_the_web(url: str) -> None:
    with pytest.raises(FustError, match="not the URL of an image"):
        fetch(url, "x", HERE)


def test_urls_are_followed_a_few_times(site: PictureSite, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch(site.url + "/red.png", "x", HERE) == picture("red")
    assert fetch(site.url + "/to?/to?/red.png", "x", HERE) == picture("red")
    assert bring(site.url + "/red.png") == [picture("red")]
    for path, word in (
        ("/gone", "status 404"),
        ("/to?" * 5, "leads on"),
        ("/to?file:///etc/passwd", "not the URL"),
    ):
        with pytest.raises(FustError, match=word):
            fetch(site.url + path, "x", HERE)
    with pytest.raises(FustError, match="not an image"):
        bring(site.url + "/page")
    with pytest.raises(FustError, match="cannot be reached"):
        fetch("http://127.0.0.1:1/", "x", HERE)
    monkeypatch.setattr(images, "_FETCH_S", 0.3)
    with pytest.raises(FustError, match="in time"):
        fetch(site.url + "/slow", "x", HERE)
    monkeypatch.setattr(images, "_FETCH_S", 20.0)
    monkeypatch.setattr(images, "MOST_BYTES", 2 << 20)
    with pytest.raises(FustError) as endless:
        fetch(site.url + "/endless", "x", HERE)
    assert endless.value.status == 413
