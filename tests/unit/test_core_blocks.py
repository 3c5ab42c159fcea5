"""Large files are written in whole blocks: what the kernel keeps as large pages, engines read faster."""

from __future__ import annotations

import io
from pathlib import Path

from fust.core.files import BLOCK_BYTES, BlockWriter
from fust.hub.pulling.parts import Extent, Part


class _Noted(io.FileIO):
    """A file that notes what is written to it, and takes no more than a million bytes at once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x")
        self.writes: list[tuple[int, int]] = []

    def write(self, data: object) -> int:
        at = self.tell()
        done = super().write(memoryview(data)[:1_000_000])  # type: ignore[arg-type]
        self.writes.append((at, done))
        return done


def test_blocks_begin_at_their_multiples_and_hold_every_byte(tmp_path: Path) -> None:
    data = bytes(range(251)) * 30_000
    with _Noted(tmp_path / "file") as file:
        blocks = BlockWriter(file)
        for at in range(0, len(data), 65_537):
            blocks.write(data[at : at + 65_537])
            assert blocks.written % BLOCK_BYTES == 0
        assert blocks.written == len(data) // BLOCK_BYTES * BLOCK_BYTES
        blocks.flush()
        assert blocks.written == len(data)
        begun = {at // BLOCK_BYTES * BLOCK_BYTES for at, _ in file.writes}
    assert (tmp_path / "file").read_bytes() == data
    assert begun <= {at for at, _ in file.writes}  # each block began in a write of its own


def test_an_extent_from_the_middle_is_cut_where_blocks_end(tmp_path: Path) -> None:
    data = bytes(range(251)) * 40_000
    part = Part(tmp_path / "f.part", len(data))
    extent = Extent(part, 1_000_000)
    for at in range(1_000_000, len(data), 70_001):
        extent.write(data[at : at + 70_001])
    assert part.missing() == [(0, 1_000_000), (len(data) // BLOCK_BYTES * BLOCK_BYTES, len(data))]
    assert extent.position == len(data) and extent.unrecorded == len(data) % BLOCK_BYTES
    extent.flush()
    part.close()
    again = Part(tmp_path / "f.part", len(data))  # reads what was recorded, and believes what has its hash
    assert again.missing() == [(0, 1_000_000)]
    again.close()
    assert (tmp_path / "f.part").read_bytes()[1_000_000:] == data[1_000_000:]
