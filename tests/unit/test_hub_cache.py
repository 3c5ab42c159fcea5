"""Files on their way into the cache: who reads behind one never gets another file, whenever it ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from fust.hub.cache import CacheWriter, Follower, WholeFiles


def test_a_reader_that_comes_while_the_file_is_closed_gets_it_or_nothing(tmp_path: Path) -> None:
    cache = WholeFiles(tmp_path / "cache", 10**9)
    other = tmp_path / "other"
    other.write_bytes(b"secret")
    stop = threading.Event()

    def reuse_numbers() -> None:
        while not stop.is_set():
            os.close(os.open(other, os.O_RDONLY))

    busy = threading.Thread(target=reuse_numbers)
    busy.start()
    try:
        for i in range(400):
            writer = cache.begin_or_follow(f"{i:064x}", 5)
            assert isinstance(writer, CacheWriter)
            writer.write(b"whole")
            ending = threading.Thread(target=writer.finish if i % 2 else writer.abandon)
            ending.start()
            for _ in range(20):
                with Follower(writer) as follower:
                    if follower.ready:
                        assert follower.read(0, 100) == b"whole"
            ending.join()
            assert not writer.is_open
    finally:
        stop.set()
        busy.join()
