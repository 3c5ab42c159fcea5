"""A file of tensors, as safetensors reads it, hashed on its way to the disk: each byte is touched once.

Eight bytes of length, a header of JSON, then the tensors' bytes. Whole weights and their moments are gigabytes, which
nobody reads again unless the run dies: they go past the system's page cache where the file system can (O_DIRECT), in
blocks that the processor's cache holds, and cost little but their hash.
"""

# torch types its functions only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_BLOCK_BYTES = 2**22
_ALIGNED_BYTES = 4096
"""What sizes and places of direct writes are multiples of; no disk asks for more."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[int, str]:
    """Writes a new file and brings it to the disk; returns its size in bytes and its SHA-256 in hex.

    The tensors are read where they lie: they may not change before it returns.

    Raises:
        OSError: no room, or the disk does not take it; what was written stays.

    """
    # The widest first, so that each begins at a multiple of its width.
    listed = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in listed:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    with _HashedFile(path) as file:
        file.write(memoryview(len(said).to_bytes(8, "little") + said))
        for _, tensor in listed:
            if tensor.numel():
                file.write(_bytes_of(tensor))
        return file.close_synced()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Returns a tensor's own bytes; a copy's where they do not lie in a row."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


class _HashedFile:
    """Gathers bytes into a block, hashes it while it is in the processor's cache, and writes it from there."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            self._file = os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._file = os.open(path, flags, 0o644)
        self._memory = mmap.mmap(-1, _BLOCK_BYTES)
        self._block = memoryview(self._memory)
        self._held = 0
        self._size = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
        self._block.release()
        self._memory.close()

    def write(self, data: memoryview) -> None:
        """Adds bytes."""
        done = 0
        while done < len(data):
            some = data[done : done + _BLOCK_BYTES - self._held]
            self._block[self._held : self._held + len(some)] = some
            self._held += len(some)
            done += len(some)
            if self._held == _BLOCK_BYTES:
                self._put()

    def close_synced(self) -> tuple[int, str]:
        """Writes the rest and waits for the disk; returns size and hash."""
        if self._held:
            self._put()
            os.ftruncate(self._file, self._size)  # the last block was filled up
        os.fsync(self._file)
        return self._size, self._digest.hexdigest()

    def _put(self) -> None:
        self._digest.update(self._block[: self._held])
        self._size += self._held
        end = self._held + -self._held % _ALIGNED_BYTES
        done = 0
        while done < end:
            try:
                done += os.write(self._file, self._block[done:end])
            except OSError as error:
                if error.errno != errno.EINVAL or not self._write_through_the_cache():
                    raise
        self._held = 0

    def _write_through_the_cache(self) -> bool:
        """Gives direct writes up, as for a file system that does not have them; False when they were not in use."""
        direct, flags = getattr(os, "O_DIRECT", 0), fcntl.fcntl(self._file, fcntl.F_GETFL)
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~direct)
        return bool(flags & direct)
