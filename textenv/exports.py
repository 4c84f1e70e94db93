"""Packages whose names are imported when they are asked for: `import textenv` is quick and leaves torch alone.

A package writes the imports of its public names where type checkers and editors read them, and says that they can wait:

    if TYPE_CHECKING:
        from textenv.env import TextEnv
    __all__ = ["TextEnv"]
    export_lazily(__name__)

The first `textenv.TextEnv` or `from textenv import TextEnv` imports `textenv.env`. It is a module class (as Python's data model
describes them beside PEP 562's `__getattr__`) for one more reason: importing a submodule binds its name in the package, and the
function `textenv.agents.rollout` should stay the function, whoever imports the module `textenv.agents.rollout`.
"""

from __future__ import annotations

import ast
import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["export_lazily"]


def export_lazily(package: str) -> None:
    """Give a package the names that the `if TYPE_CHECKING:` block of its `__init__` imports, each when it is asked for.

    Raises:
        ImportError: its source is not there to be read.
    """
    module = sys.modules[package]
    homes = _homes(package, module)

    class Package(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name not in homes:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            value = getattr(importlib.import_module(homes[name]), name)
            self.__dict__[name] = value  # asked for once
            return value

        def __setattr__(self, name: str, value: Any) -> None:
            if not (name in homes and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return sorted({*self.__dict__, *homes})

    module.__class__ = Package


def _homes(package: str, module: ModuleType) -> dict[str, str]:
    """Name → the module that it is imported from."""
    loader: Any = module.__spec__.loader if module.__spec__ else None
    source = loader.get_source(package) if hasattr(loader, "get_source") else None
    if source is None:
        raise ImportError(f"{package} reads its own source to know its names, and there is none at {module.__file__}")
    return {
        alias.asname or alias.name: statement.module or ""
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
