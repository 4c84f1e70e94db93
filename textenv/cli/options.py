"""Options that several commands read the same way."""

from __future__ import annotations

from pathlib import Path

__all__ = ["free_directory", "pairs"]


def free_directory(path: Path, overwrite: bool = False) -> Path:
    """The path, if a directory may be written there; asked before training, not after.

    Raises:
        FileExistsError: something is there already (with `overwrite`, only a file is refused).
        NotADirectoryError: a part of the path is a file.
    """
    target = path.expanduser()
    if target.is_file():
        raise FileExistsError(f"{target} is a file; choose another name for a directory")
    if target.is_dir() and not overwrite and any(target.iterdir()):
        raise FileExistsError(f"{target} holds something already; choose another directory, or --overwrite")
    for parent in target.parents:
        if parent.is_file():
            raise NotADirectoryError(f"{target} cannot be written: {parent} is a file")
    return target


def pairs(options: list[str] | None, name: str = "column") -> dict[str, str]:
    """`["text=prompt.text"]` as a dictionary.

    Raises:
        ValueError: an option without "=".
    """
    found = {}
    for option in options or []:
        key, equals, value = option.partition("=")
        if not (key and equals and value):
            raise ValueError(f"--{name} {option!r} should be NAME=VALUE, e.g. --{name} text=prompt.text")
        found[key] = value
    return found
