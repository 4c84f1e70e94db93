"""The public surface: every exported name exists, and importing it stays light."""

import ast
import importlib
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

from tests.repository import ROOT

OPTIONAL = ("openai", "peft", "datasets", "matplotlib", "pandas")
HEAVY = ("torch", "transformers", "stable_baselines3", "tokenizers", "scipy")
PACKAGES = ["textenv", "textenv.wrappers", "textenv.agents"]


def imported_by(code: str, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that a fresh Python has imported after running `code`."""
    code = (
        f"import atexit, sys\natexit.register(lambda: print(*[n for n in {names!r} if n in sys.modules], file=sys.stderr))\n{code}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stderr.split()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_name_exists(package: str) -> None:
    module = importlib.import_module(package)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing
    assert len(set(module.__all__)) == len(module.__all__), "a name is exported twice"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_exported_class_and_function_says_what_it_is(package: str) -> None:
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    said = {name: inspect.getdoc(value) for name, value in public.items() if inspect.isclass(value) or inspect.isroutine(value)}
    bare = [name for name, doc in said.items() if not doc]
    assert not bare, f"no docstring: {bare}"


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_exported_is_what_type_checkers_read(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(inspect.getsource(module))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(module.__all__) == imported - {"TYPE_CHECKING", "export_lazily"} | (set(module.__all__) & {"__version__"})


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_lists_its_names_before_they_are_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) <= set(dir(module))


def test_a_name_that_a_package_does_not_export_is_an_attribute_error() -> None:
    import textenv

    with pytest.raises(AttributeError, match="'textenv' has no attribute 'TokenDQN'"):
        textenv.TokenDQN  # type: ignore[attr-defined]  # noqa: B018


def test_an_exported_function_is_not_hidden_by_the_module_of_its_name() -> None:
    code = "import textenv.agents.rollout, textenv.agents, sys; print(callable(textenv.agents.rollout), file=sys.stderr)"
    assert imported_by(code, ()) == ["True"]


def test_a_package_can_be_given_a_module_under_a_name_that_it_does_not_export(monkeypatch: pytest.MonkeyPatch) -> None:
    import textenv

    own = ModuleType("own")
    monkeypatch.setattr(textenv, "own", own, raising=False)
    assert textenv.own is own  # type: ignore[attr-defined]


def test_importing_the_library_imports_no_optional_dependency() -> None:
    assert not imported_by("import textenv, textenv.agents; from textenv.agents import *", OPTIONAL)


def test_importing_the_library_leaves_torch_and_transformers_alone() -> None:
    assert not imported_by("import textenv, textenv.agents, textenv.wrappers", HEAVY)


def test_importing_the_library_registers_its_environments() -> None:
    code = "import gymnasium, sys, textenv; print(*gymnasium.registry, file=sys.stderr)"
    assert "textenv/Detox-v0" in imported_by(code, ())


def test_the_help_of_the_command_line_leaves_torch_and_transformers_alone() -> None:
    assert not imported_by("import sys; sys.argv = ['textenv', '--help']\nfrom textenv.cli import main\nmain()", HEAVY)
