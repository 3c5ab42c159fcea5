"""The few functions of llama.cpp's C API that scoring needs, bound with ctypes to the library inside the wheel.

Structures go by value, so a wheel with another layout would be misread without a word: the binding takes only the
version whose header it was written from, and looks before first use whether the library writes as many bytes of each
parameter structure, and the same defaults, as that header says. Source: `include/llama.h` of xllamacpp 2026.10.11549.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import logging
import platform
import sys
from collections.abc import Callable
from ctypes import (
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_float,
    c_int,
    c_int8,
    c_int32,
    c_size_t,
    c_uint32,
    c_void_p,
)
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

VERSION = "2026.10.11549"
"""Of the wheel that this layout belongs to."""

LOG_WARNING, LOG_ERROR = 3, 4
FLASH_ATTENTION_OFF = 0
TYPE_F32 = 0


class ModelParams(Structure):
    """`struct llama_model_params`."""

    _fields_ = [
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    ]


class ContextParams(Structure):
    """`struct llama_context_params`."""

    _fields_ = [
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("moe_cache_size", c_size_t),
        ("abort_callback", c_void_p),
        ("abort_callback_data", c_void_p),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    ]


class Batch(Structure):
    """`struct llama_batch`."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


class LayoutUnknown(Exception):
    """The library is not the one that this binding was written for."""


LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)

_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LogCallback, c_void_p]),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_model_has_encoder": (c_bool, [c_void_p]),
    "llama_model_is_recurrent": (c_bool, [c_void_p]),
    "llama_model_is_hybrid": (c_bool, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
    "llama_token_to_piece": (c_int32, [c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool]),
    "llama_adapter_lora_init": (c_void_p, [c_void_p, c_char_p]),
    "llama_adapter_lora_free": (None, [c_void_p]),
    "llama_set_adapters_lora": (c_int32, [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_float)]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (POINTER(c_float), [c_void_p]),
    "llama_n_batch": (c_uint32, [c_void_p]),
    "llama_n_ctx": (c_uint32, [c_void_p]),
}


def open_library(built: str = "") -> Any:
    """Returns the library with typed functions, after its layout was checked.

    Args:
        built: path of one that was compiled here from the wheel's own source; one that is not as it should be is passed
            over for the wheel's.

    Raises:
        LayoutUnknown: another version, or its structures are not those of this file; says what was found.
    """
    found = importlib.metadata.version("xllamacpp")
    if found != VERSION:
        raise LayoutUnknown(f"scoring knows xllamacpp {VERSION}, and {found} is installed")
    if built:
        try:
            return _opened(built)
        except (OSError, LayoutUnknown) as error:
            log.warning("the library that was built here is not used", extra={"reason": str(error)})
    return _opened(_path())


def _opened(path: str) -> Any:
    check_layout(ctypes.CDLL(path))  # an object of its own: the check declares two functions otherwise
    library = ctypes.CDLL(path)
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise LayoutUnknown(f"the library has no {name}") from None
        function.restype, function.argtypes = result, arguments
    return library


def _path() -> str:
    spec = importlib.util.find_spec("xllamacpp")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for path in sorted(Path(folder).glob("xllamacpp*.so")):
            return str(path)
    raise LayoutUnknown("the wheel xllamacpp holds no library that can be opened")


def check_layout(library: Any) -> None:
    """Looks whether the library's parameter structures are those of this file.

    On x86-64 with the System V ABI a function that returns a large structure gets the address to write to as a hidden
    first argument: handed a buffer of two different fillings, the last byte that it really wrote shows the size.

    Raises:
        LayoutUnknown: sizes or default values differ.
    """
    hidden = platform.machine() in ("x86_64", "AMD64") and sys.platform != "win32"
    for name, structure, spare in (
        ("llama_model_default_params", ModelParams, 2),  # two bytes of padding follow the last field
        ("llama_context_default_params", ContextParams, 0),
    ):
        function = getattr(library, name, None)
        if function is None:
            raise LayoutUnknown(f"the library has no {name}")
        size = ctypes.sizeof(structure)
        if hidden and (written := _bytes_written(function)) != size - spare:
            raise LayoutUnknown(f"{name} writes {written} bytes where {size - spare} were expected")
        function.restype, function.argtypes = structure, []
        _check_defaults(function())


def _bytes_written(function: Any) -> int:
    function.restype, function.argtypes = c_void_p, [c_void_p]
    pieces: list[bytes] = []
    for filling in (b"\xaa", b"\x55"):
        buffer = ctypes.create_string_buffer(filling * 1024, 1024)
        function(ctypes.addressof(buffer))
        pieces.append(buffer.raw)
    same = [i for i, (one, other) in enumerate(zip(*pieces, strict=True)) if one == other]
    return same[-1] + 1 if same else 0


_DEFAULTS: dict[str, int | float | bool] = {
    "n_gpu_layers": -1, "use_extra_bufts": True, "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1,
    "type_k": 1, "type_v": 1, "flash_attn_type": -1, "yarn_ext_factor": -1.0, "offload_kqv": True, "n_samplers": 0,
    "vocab_only": False, "embeddings": False,
}  # fmt: skip


def _check_defaults(params: Structure) -> None:
    for field, wanted in _DEFAULTS.items():
        got = getattr(params, field, wanted)
        if got != wanted:
            raise LayoutUnknown(f"the default of {field} is {got!r} where {wanted!r} was expected")


def keep_warnings(write: Callable[[str], object]) -> Any:
    """Returns a log callback that hands on warnings and errors; the caller keeps a reference to it."""

    def take(level: int, text: bytes | None, _: Any) -> None:
        if LOG_WARNING <= level <= LOG_ERROR and text:
            write(text.decode("utf-8", "replace"))

    return LogCallback(take)
