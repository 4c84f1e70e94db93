"""The public surface: every exported name exists, and importing it stays light."""

import importlib
import inspect
import subprocess
import sys

import pytest

from tests.repository import ROOT

OPTIONAL = ("openai", "peft", "datasets", "matplotlib", "pandas")


@pytest.mark.parametrize("package", ["textenv", "textenv.wrappers", "textenv.agents"])
def test_every_exported_name_exists(package: str) -> None:
    module = importlib.import_module(package)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing
    assert len(set(module.__all__)) == len(module.__all__), "a name is exported twice"


@pytest.mark.parametrize("package", ["textenv", "textenv.wrappers", "textenv.agents"])
def test_every_exported_class_and_function_says_what_it_is(package: str) -> None:
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    said = {
        name: inspect.getdoc(value)
        for name, value in public.items()
        if inspect.isclass(value) or inspect.isroutine(value)
    }
    bare = [name for name, doc in said.items() if not doc]
    assert not bare, f"no docstring: {bare}"


def test_importing_the_library_imports_no_optional_dependency() -> None:
    code = f"import sys, textenv; print(*[name for name in {OPTIONAL!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.split()
