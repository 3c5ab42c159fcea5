"""What a pickle would import when it is loaded, read off its opcodes; nothing is ever unpickled.

Sources: Python's ``pickletools`` (opcodes, arguments, stack effects) and PyTorch's file formats (a zip archive with one
`data.pkl`, or, before 1.6, several pickles one after another and raw storages behind). Arguments of data are skipped, not
read; the stack is followed only as far as it takes to know which strings ``STACK_GLOBAL`` meets, and where that is not
sure the import counts as dangerous. A loader runs what comes before a broken opcode, so imports found up to there count.

Not seen: what harmless-looking functions do with their arguments, code that is fetched at load, other formats that run
code (Keras lambdas, custom ops). "Nothing found" is no proof of safety; safetensors is.
"""

from __future__ import annotations

import codecs
import io
import pickletools
import re
import struct
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, BinaryIO, Literal, cast

Safety = Literal["innocuous", "suspicious", "dangerous"]
SUFFIXES = frozenset(
    {
        ".bin",
        ".pt",
        ".pth",
        ".pkl",
        ".pickle",
        ".p",
        ".ckpt",
        ".joblib",
        ".dill",
        ".dat",
        ".data",
        ".npy",
        ".npz",
    }
    | {".nemo", ".mar", ".ptl", ".model", ".sav"}
)
"""Of files that may be loaded as pickles."""
MAX_OPCODES, MAX_MEMBERS, MAX_PICKLES, MAX_HELD = 5_000_000, 20_000, 64, 1_000_000
MAX_TEXT = 65_536
"""Bytes of a string that may be a name; longer ones are skipped."""
MAX_MEMBER_BYTES = 512 * 2**20
"""Bytes unpacked of one compressed member of an archive."""
MAX_IMPORTS = 500
_DEEP = 2


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_INNOCUOUS: dict[str, set[str]] = {
    "collections": {"OrderedDict", "defaultdict", "deque", "Counter"},
    "builtins": {
        "set",
        "frozenset",
        "list",
        "dict",
        "tuple",
        "int",
        "float",
        "complex",
        "bool",
        "str",
        "bytes",
    }
    | {"bytearray", "slice", "range", "object"},
    "__builtin__": {"set", "frozenset", "list", "dict", "tuple", "int", "long", "float", "complex", "unicode"}
    | {"str", "bytes", "bytearray", "object", "xrange", "slice"},
    "copy_reg": {"_reconstructor"},
    "copyreg": {"_reconstructor", "__newobj__"},
    "_codecs": {"encode"},
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID"},
    "pathlib": {"PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"},
    "argparse": {"Namespace"},
    "torch": {"Size", "device", "dtype", "FloatStorage", "HalfStorage", "DoubleStorage", "LongStorage"}
    | {"IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage", "BFloat16Storage", "Tensor"}
    | {"float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"}
    | {"ComplexFloatStorage", "ComplexDoubleStorage", "QInt8Storage", "QUInt8Storage", "QInt32Storage"},
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_qtensor"}
    | {"_rebuild_parameter_with_state", "_rebuild_sparse_tensor", "_rebuild_device_tensor_from_numpy"},
    "torch._tensor": {"_rebuild_from_type_v2"},
    "torch.nn.parameter": {"Parameter", "Buffer"},
    "torch.storage": {"UntypedStorage", "TypedStorage", "_load_from_bytes"},
    "torch.serialization": {"_get_layout"},
    "numpy": {"dtype", "ndarray", "float16", "float32", "float64", "int32", "int64", "bool_"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.numeric": {"_frombuffer"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.random": {"RandomState"},
}
# torch.storage._load_from_bytes loads a pickle out of a pickle: what is in there is not seen here.
_INNOCUOUS["torch.storage"].discard("_load_from_bytes")
_DANGEROUS_MODULES = _words(
    """os posix nt subprocess sys shutil socket pty platform runpy pickle _pickle dill cloudpickle marshal importlib imp
    code codeop pdb bdb timeit trace profile cProfile doctest pydoc webbrowser http httplib urllib urllib2 requests
    httpx aiohttp ftplib smtplib telnetlib poplib imaplib asyncio multiprocessing threading signal ctypes _ctypes cffi
    commands popen2 tempfile glob fileinput zipimport pkgutil pip setuptools distutils ensurepip venv site inspect types
    operator functools builtins __builtin__ gc weakref atexit sysconfig logging lib2to3 idlelib test tkinter
    antigravity this curses readline rlcompleter cmd shlex resource fcntl mmap select selectors ssl xmlrpc socketserver
    torch.hub torch.utils.model_zoo torch.utils.cpp_extension torch.jit torch._dynamo torch._inductor torch.storage
    torch.serialization torch.package joblib jsonpickle numpy.testing numpy.f2py numpy.distutils pandas.eval yaml
    dotenv invoke fabric paramiko docker ray tensorflow.io keras.layers.core bottle flask IPython"""
)
_DANGEROUS_NAMES = _words(
    """eval exec execfile compile open __import__ getattr setattr delattr globals locals vars input breakpoint apply
    system popen spawn fork execv execve load loads run call check_output Popen"""
)


@dataclass(frozen=True, slots=True, order=True)
class Import:
    """Something that is imported when a pickle is loaded."""

    module: str
    name: str
    safety: Safety


@dataclass(slots=True)
class Scan:
    """What was found in a file."""

    is_pickle: bool = False
    imports: set[Import] = field(default_factory=lambda: set())
    doubts: list[str] = field(default_factory=lambda: [])
    """Why not all was seen: `too long`, `broken`, `encrypted`, `unreadable`."""

    @property
    def level(self) -> Literal["safe", "caution", "suspicious", "unsafe"]:
        """The worst that was found; `caution` for what could not be read to its end."""
        found = {found.safety for found in self.imports}
        if "dangerous" in found:
            return "unsafe"
        if "suspicious" in found:
            return "suspicious"
        return "caution" if self.doubts else "safe"


def judge(module: str, name: str) -> Safety:
    """Returns how an import is looked at: what is on neither list is suspicious."""
    if name in _INNOCUOUS.get(module, ()):
        return "innocuous"
    first = name.partition(".")[
        0
    ]  # protocol 4 reaches through attributes: ("collections", "OrderedDict.fromkeys…")
    parts = module.split(".")
    if any(".".join(parts[:n]) in _DANGEROUS_MODULES for n in range(1, len(parts) + 1)):
        return "dangerous"
    last = name.rpartition(".")[2]
    if (
        first in _DANGEROUS_NAMES
        or last in _DANGEROUS_NAMES
        or "__" in name
        or (module.startswith("_") and module != "__main__")
    ):
        return "dangerous"
    return "suspicious"


def may_be_pickle(path: str) -> bool:
    """Returns whether a file's name says that it may be loaded as a pickle."""
    lower = path.lower()
    return any(lower.endswith(suffix) for suffix in SUFFIXES)


def scan(file: BinaryIO, *, seconds: float = 20.0) -> Scan:
    """Returns what a seekable file imports when it is loaded. Bounded in time and memory, whatever it holds."""
    found = Scan()
    _Scanner(found, time.monotonic() + seconds).file(file, _DEEP)
    found.doubts = sorted(set(found.doubts))
    return found


class _Over(Exception):
    """The time or the number of opcodes is used up."""


class _Broken(Exception):
    """An opcode that a loader would stop at too."""


class _Scanner:
    def __init__(self, found: Scan, deadline: float) -> None:
        self._found = found
        self._deadline = deadline
        self._left = MAX_OPCODES

    def file(self, file: BinaryIO, deep: int) -> None:
        """Looks at a file by its first bytes."""
        try:
            head = file.read(16)
            file.seek(0)
            if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
                self._archive(file, deep)
            elif head.startswith(b"\x93NUMPY"):
                self._numpy(file)
            else:
                self._pickles(file)
        except _Over:
            self._found.doubts.append("too long")
        except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, ValueError):
            self._found.doubts.append("unreadable")

    def _archive(self, file: BinaryIO, deep: int) -> None:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                self._found.doubts.append("too long")
            for member in members[:MAX_MEMBERS]:
                self._check_time()
                if member.is_dir():
                    continue
                if member.flag_bits & 0x1:
                    self._found.doubts.append("encrypted")
                    continue
                self._member(archive, member, deep)

    def _member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, deep: int) -> None:
        named = may_be_pickle(member.filename)
        try:
            with archive.open(member) as opened:
                head = opened.read(8)
                looks = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5
                nested = head.startswith(b"PK\x03\x04")
                if not (named or looks or nested):
                    return
                if nested:
                    if deep and member.file_size <= MAX_MEMBER_BYTES:
                        rest = opened.read(MAX_MEMBER_BYTES)
                        self.file(io.BytesIO(head + rest), deep - 1)
                    else:
                        self._found.doubts.append("too long")
                    return
            with archive.open(member) as opened:
                self._pickles(cast("BinaryIO", _Forward(opened, self._check_time)))
        except (
            OSError,
            zipfile.BadZipFile,
            NotImplementedError,
            EOFError,
            RuntimeError,
            ValueError,
            struct.error,
        ):
            # A lenient loader may read what a strict one does not.
            self._found.doubts.append("unreadable")

    def _numpy(self, file: BinaryIO) -> None:
        """An array of objects is a pickle behind a header (numpy.lib.format)."""
        version = file.read(8)[6]
        length = int.from_bytes(file.read(2 if version == 1 else 4), "little")
        header = file.read(min(length, MAX_TEXT))
        if re.search(rb"descr'?\s*:\s*'\|?O", header) or b"'O'" in header:
            self._pickles(file)

    def _pickles(self, file: BinaryIO) -> None:
        """One pickle, and those that follow it as in PyTorch's old format."""
        for number in range(MAX_PICKLES):
            try:
                if not self._one(file, first=number == 0):
                    return
            except _Broken:
                if number == 0 and self._found.is_pickle:
                    self._found.doubts.append("broken")
                return
        self._found.doubts.append("too long")

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise _Over

    def _add(self, module: str, name: str, safety: Safety | None = None) -> None:
        if len(self._found.imports) < MAX_IMPORTS:
            self._found.imports.add(Import(module[:200], name[:200], safety or judge(module, name)))
        elif "too long" not in self._found.doubts:
            self._found.doubts.append("too long")

    def _one(self, file: BinaryIO, *, first: bool) -> bool:
        """Reads one pickle to its end; returns whether another may follow.

        Raises:
            _Broken: where a loader would fail too.

        """
        machine = _Machine(self._add)
        seen = 0
        while True:
            code = file.read(1)
            if not code:
                if seen and machine.imported:
                    raise _Broken
                return False
            opcode = _OPCODES.get(code)
            if opcode is None:
                raise _Broken
            self._left -= 1
            if self._left <= 0:
                raise _Over
            if self._left % 2048 == 0:
                self._check_time()
            argument = _argument(file, opcode)
            machine.step(opcode, argument)
            seen += 1
            if seen == 1 and opcode.name != "PROTO" and not first:
                raise _Broken  # raw bytes behind the last pickle
            if machine.imported or opcode.name == "PROTO":
                self._found.is_pickle = True
            if opcode.name == "STOP":
                self._found.is_pickle = True
                return True


_MARK, _DATA = object(), object()
_Add = Callable[[str, str, Safety | None], None]


class _Machine:
    """The stack and the memo of a pickle, of which only strings are known."""

    def __init__(self, add: _Add) -> None:
        self._add = add
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self.imported = False

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> None:
        """Does what an opcode does to the stack.

        Raises:
            _Broken: it takes more than there is.

        """
        name = opcode.name
        if name in ("GLOBAL", "INST"):
            module, _, what = str(argument).partition(" ")
            self._take(opcode)
            self._import(module, what)
            self._stack.append(_DATA)
        elif name == "STACK_GLOBAL":
            what, module = self._pop(), self._pop()
            if isinstance(what, str) and isinstance(module, str):
                self._import(module, what)
            else:
                self._import("?", "?", "dangerous")
            self._stack.append(_DATA)
        elif name in ("EXT1", "EXT2", "EXT4"):
            self._import("copyreg", f"extension {argument}", "suspicious")
            self._stack.append(_DATA)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._remember(argument if isinstance(argument, int) else -1)
        elif name == "MEMOIZE":
            self._remember(len(self._memo))
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo.get(argument if isinstance(argument, int) else -1, _DATA))
        elif name == "DUP":
            self._stack.append(self._stack[-1] if self._stack else _DATA)
        elif name == "MARK":
            self._stack.append(_MARK)
        elif "UNICODE" in name or "STRING" in name:
            self._stack.append(argument if isinstance(argument, str) else _DATA)
        else:
            self._take(opcode)
            self._stack.extend([_DATA] * len(opcode.stack_after))
        if len(self._stack) > MAX_HELD:
            raise _Over

    def _import(self, module: str, name: str, safety: Safety | None = None) -> None:
        self.imported = True
        self._add(module, name, safety)

    def _remember(self, at: int) -> None:
        if not self._stack:
            raise _Broken
        if len(self._memo) >= MAX_HELD and at not in self._memo:
            raise _Over
        self._memo[at] = self._stack[-1]

    def _pop(self) -> object:
        if not self._stack:
            raise _Broken
        return self._stack.pop()

    def _take(self, opcode: pickletools.OpcodeInfo) -> None:
        """Removes what an opcode takes: so many, or all down to the last mark."""
        takes = opcode.stack_before
        if pickletools.markobject in takes:
            while self._pop() is not _MARK:
                pass
            takes = takes[: takes.index(pickletools.markobject)]
        elif opcode.name == "POP" or opcode.name == "POP_MARK":
            self._pop()
            return
        for _ in takes:
            self._pop()


_SIZES = {pickletools.TAKEN_FROM_ARGUMENT1: (1, False), pickletools.TAKEN_FROM_ARGUMENT4: (4, True)} | {
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}


def _argument(file: BinaryIO, opcode: pickletools.OpcodeInfo) -> object:
    """Reads an opcode's argument: strings and numbers, the rest is passed over."""
    kind = opcode.arg
    if kind is None:
        return None
    if kind.n == pickletools.UP_TO_NEWLINE:
        line = _line(file)
        if opcode.name in ("GLOBAL", "INST"):
            return f"{line} {_line(file)}"
        if opcode.name in ("PUT", "GET"):
            return int(line) if line.isascii() and line.isdigit() else -1
        return _text_of(opcode.name, line)
    if kind.n >= 0:
        data = file.read(kind.n)
        if len(data) != kind.n:
            raise _Broken
        return int.from_bytes(data, "little")
    width, signed = _SIZES[kind.n]
    size = int.from_bytes(file.read(width), "little", signed=signed)
    if size < 0:
        raise _Broken
    if size > MAX_TEXT or not ("UNICODE" in opcode.name or "STRING" in opcode.name):
        file.seek(size, io.SEEK_CUR)
        return None
    data = file.read(size)
    if len(data) != size:
        raise _Broken
    return data.decode("utf-8", "surrogateescape")


def _text_of(opcode: str, line: str) -> str | None:
    """Returns the string that protocol 0 writes in a line, its escapes undone as a loader does; None: no string."""
    raw = line.encode("utf-8", "surrogateescape")
    try:
        if opcode == "UNICODE":
            return raw.decode("raw-unicode-escape")
        if opcode == "STRING" and len(raw) >= 2 and raw[:1] == raw[-1:] and raw[:1] in b"'\"":
            return codecs.escape_decode(raw[1:-1])[0].decode("utf-8", "surrogateescape")
    except (ValueError, UnicodeError):
        return None
    return line


def _line(file: BinaryIO) -> str:
    line = file.readline(MAX_TEXT)
    if not line.endswith(b"\n"):
        raise _Broken if len(line) < MAX_TEXT else _Over
    return line[:-1].decode("utf-8", "surrogateescape").strip("\r")


class _Forward:
    """A member of an archive as a file that is only read forward: what is passed over is unpacked and dropped."""

    def __init__(self, inner: IO[bytes], check: Callable[[], None]) -> None:
        self._check = check
        self._buffer = io.BufferedReader(cast("io.RawIOBase", inner), 65_536)
        self._read = 0

    def _count(self, size: int) -> None:
        self._read += size
        if self._read > MAX_MEMBER_BYTES:
            raise _Over

    def read(self, size: int) -> bytes:
        data = self._buffer.read(size)
        self._count(len(data))
        return data

    def readline(self, size: int) -> bytes:
        line = self._buffer.readline(size)
        self._count(len(line))
        return line

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_CUR
        while offset > 0:
            piece = self._buffer.read(min(offset, 2**20))
            if not piece:
                raise _Broken
            self._count(len(piece))
            self._check()
            offset -= len(piece)
        return self._read
