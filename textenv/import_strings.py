"""Objects by import string, "package.module:attribute", with errors that say which half is wrong."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

__all__ = ["load_object"]


def load_object(name: str) -> Any:
    """What stands at "module:attribute"; a module of the working directory is found too, as by `python -m`.

    >>> load_object("textenv.segments:whole")("all of it")
    [(0, 9)]

    Raises:
        ValueError: not of this form, no such module, or no such attribute in it. What the module itself raises passes through.
    """
    module, _, attribute = name.partition(":")
    if not (module and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))):
        raise ValueError(f"{name!r} is no import string; write module:attribute, e.g. my_rewards:Shouts")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name not in (module, *_parents(module)):
            raise  # a module that it imports
        found = _from_working_directory(name, module)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"{name!r}: the module {module} has no {attribute!r}") from None
    return found


def _from_working_directory(name: str, module: str) -> Any:
    here = Path.cwd()
    first = module.partition(".")[0]
    if str(here) not in sys.path and ((here / f"{first}.py").is_file() or (here / first).is_dir()):
        sys.path.append(str(here))
        importlib.invalidate_caches()
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or error.name not in (module, *_parents(module)):
                raise
    raise ValueError(f"{name!r}: there is no module {module}, neither installed nor in {here}") from None


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]
