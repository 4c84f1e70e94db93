"""Directories that appear whole or not at all: a run stopped while it saves leaves the last checkpoint as it was."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["atomic_directory"]

_FILES = (
    "config.json", "generation_config.json", "adapter_config.json", "agent.json", "actor_critic.json", "grown.jsonl",
    "*.safetensors", "*.index.json", "pytorch_model*.bin", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "*.model", "*chat_template*",
)  # fmt: skip
_MODELS = ("reference", "base")
"""What one save writes and the next one may not: an adapter that is left beside a plain model would be read with it."""


@contextmanager
def atomic_directory(path: str | os.PathLike[str], *, keep: bool = False) -> Iterator[Path]:
    """A fresh directory to write into, which takes the place of `path` when the block ends without an error.

    An error inside leaves what stood at `path` as it was. What stood there steps aside by one rename and the new one
    comes in by another; should the process die between the two, the old one stands whole beside it, `.NAME.previous`.

    Args:
        path: where the directory is to stand in the end.
        keep: whatever is there that is no part of a saved model or agent (notes, logs) stays; else all of it goes.

    Raises:
        FileExistsError: `path` is a file.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} is a file; a directory is to be written there")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    previous = target.with_name(f".{target.name}.previous")
    try:
        scratch.chmod(0o777 & ~_umask())
        yield scratch
        if target.exists():
            _clear(previous, target, keep)  # of a process that died
            target.rename(previous)
        scratch.rename(target)
        _clear(previous, target, keep)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _clear(previous: Path, target: Path, keep: bool) -> None:
    """Remove a directory that stepped aside; with `keep`, what no save has written moves into the one in its place."""
    for file in list(previous.iterdir()) if keep and previous.is_dir() else ():
        if not _is_saved(file) and not (target / file.name).exists():
            file.rename(target / file.name)
    shutil.rmtree(previous, ignore_errors=True)


def _is_saved(file: Path) -> bool:
    """Whether it is part of a saved model or agent; a directory is, which holds a model."""
    if file.is_dir():
        return file.name in _MODELS and any((file / mark).is_file() for mark in ("config.json", "adapter_config.json"))
    return any(fnmatch(file.name, pattern) for pattern in _FILES)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
