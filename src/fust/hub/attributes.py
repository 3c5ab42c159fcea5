"""`.gitattributes` and `.gitignore`: which files git-lfs keeps, which are left out (gitattributes(5), gitignore(5))."""

from __future__ import annotations

import re
from functools import lru_cache

_LFS = "filter=lfs diff=lfs merge=lfs -text"
_EVERYWHERE = [
    "*.7z",
    "*.arrow",
    "*.bin",
    "*.bz2",
    "*.ckpt",
    "*.ftz",
    "*.gz",
    "*.h5",
    "*.joblib",
    "*.lfs.*",
    "*.mlmodel",
    "*.model",
    "*.msgpack",
    "*.npy",
    "*.npz",
    "*.onnx",
    "*.ot",
    "*.parquet",
    "*.pb",
    "*.pickle",
    "*.pkl",
    "*.pt",
    "*.pth",
    "*.rar",
    "*.safetensors",
    "saved_model/**/*",
    "*.tar.*",
    "*.tar",
    "*.tflite",
    "*.tgz",
    "*.wasm",
    "*.xz",
    "*.zip",
    "*.zst",
    "*tfevents*",
    "*.gguf",
]
_DATASETS = [
    "*.lz4",
    "*.mds",
    "*.pcm",
    "*.sam",
    "*.raw",
    "*.aac",
    "*.flac",
    "*.mp3",
    "*.ogg",
    "*.wav",
    "*.bmp",
    "*.gif",
    "*.png",
    "*.tiff",
    "*.jpg",
    "*.jpeg",
    "*.webp",
    "*.mp4",
    "*.webm",
]


def initial_attributes(repo_type: str) -> bytes:
    """Returns the `.gitattributes` that a new repo starts with, as on the Hugging Face Hub."""
    patterns = _EVERYWHERE + (_DATASETS if repo_type == "dataset" else [])
    return "".join(f"{pattern} {_LFS}\n" for pattern in patterns).encode()


def lfs_line(path: str) -> str:
    """Returns a line that gives exactly one path to git-lfs."""
    escaped = re.sub(r"([*?\[\]\\])", r"\\\1", path)
    escaped = re.sub(r"\s", "[[:space:]]", escaped)
    return f"{escaped} {_LFS}\n"


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    """Returns a regular expression for one pattern; without a slash it matches the last part only."""
    pattern = pattern.replace("[[:space:]]", "\\ ")
    anchored = "/" in pattern.rstrip("/")
    body = pattern.strip("/")
    out = ""
    i = 0
    while i < len(body):
        c = body[i]
        if body.startswith("**/", i):
            out += "(?:.*/)?"
            i += 3
            continue
        if body.startswith("**", i):
            out += ".*"
            i += 2
            continue
        if c == "*":
            out += "[^/]*"
        elif c == "?":
            out += "[^/]"
        elif c == "\\" and i + 1 < len(body):
            i += 1
            out += re.escape(body[i])
        elif c == "[" and "]" in body[i + 1 :]:
            end = body.index("]", i + 1)
            inner = body[i + 1 : end].replace("\\", "\\\\")
            out += f"[{'^' + inner[1:] if inner[:1] == '!' else inner}]" if inner else re.escape("[]")
            i = end
        else:
            out += re.escape(c)
        i += 1
    try:
        return re.compile(("^" if anchored else "(?:^|/)") + out + "$")
    except re.error:
        return re.compile(r"(?!)")


def is_lfs(attributes: str, path: str) -> bool:
    """Returns whether the last matching line gives the path to git-lfs."""
    answer = False
    for line in attributes.splitlines():
        words = line.split()
        if len(words) < 2 or words[0].startswith("#"):
            continue
        if _compile(words[0]).search(path):
            for word in words[1:]:
                if word == "filter=lfs":
                    answer = True
                elif word.startswith(("filter=", "-filter", "!filter")):
                    answer = False
    return answer


def is_ignored(ignore: str, path: str) -> bool:
    """Returns whether `.gitignore` leaves the path, or a folder above it, out."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        here = "/".join(parts[:depth])
        answer = False
        for raw in ignore.splitlines():
            line = raw.rstrip()
            if not line or line.startswith("#"):
                continue
            negated = line.startswith("!")
            pattern = line[1:] if negated else line
            if pattern.endswith("/") and depth == len(parts):
                continue
            if _compile(pattern).search(here):
                answer = not negated
        if answer:
            return True
    return False
