"""Imports point one way, files stay short, and nothing names the machine it was written on."""

import ast
import re

import pytest

from tests.repository import ROOT, files, library_modules

LIBRARY = library_modules()
COMPOSITION_ROOTS = ("textenv.registration", "textenv.cli", "textenv.__main__")  # may know wrappers and agents
CODE = (".py", ".toml", ".txt", ".md", ".yml", ".yaml", ".cfg", ".in", ".sh")


def imported_modules(path: str) -> set[str]:
    """Absolute names of all that a file imports, also inside functions; `from a import b` gives `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import absolutely, from textenv…, not relatively"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def reaches(names: set[str], package: str) -> set[str]:
    return {name for name in names if name == package or name.startswith(package + ".")}


WORLD = [m for m in LIBRARY if not m.startswith(("textenv.wrappers", "textenv.agents", *COMPOSITION_ROOTS))]


@pytest.mark.parametrize("module", WORLD)
def test_the_world_imports_neither_wrappers_nor_agents(module: str) -> None:
    names = imported_modules(LIBRARY[module])
    assert not reaches(names, "textenv.wrappers") | reaches(names, "textenv.agents")


@pytest.mark.parametrize("module", [m for m in LIBRARY if m.startswith("textenv.wrappers")])
def test_wrappers_do_not_import_agents(module: str) -> None:
    assert not reaches(imported_modules(LIBRARY[module]), "textenv.agents")


@pytest.mark.parametrize("module", [m for m in LIBRARY if m.startswith("textenv.agents")])
def test_agents_do_not_import_wrappers(module: str) -> None:
    assert not reaches(imported_modules(LIBRARY[module]), "textenv.wrappers")


def test_no_file_of_ours_uses_the_top_level_names_that_belong_to_others() -> None:
    for path in files("textenv", "wrappers", "agents", "examples", "benchmarks"):
        if path.endswith(".py"):
            names = imported_modules(path)
            assert not reaches(names, "agents") | reaches(names, "wrappers"), f"{path}: write textenv.agents, …"


def test_no_module_is_longer_than_350_lines() -> None:
    long = {
        path: lines
        for path in files("textenv", "wrappers", "agents", "examples", "benchmarks")
        if path.endswith(".py") and (lines := len((ROOT / path).read_text(encoding="utf-8").splitlines())) > 350
    }
    assert not long, f"split these: {long}"


def test_no_file_names_a_place_on_the_machine_it_was_written_on() -> None:
    place = re.compile(r"(?<![\w.])/(?:" + "|".join(["tmp", "work", "root", "home", "Users", "opt", "mnt"]) + r")/\w")
    for path in files():
        if path.endswith(CODE) or path in ("Makefile", ".ci/run"):
            found = place.search((ROOT / path).read_text(encoding="utf-8"))
            assert not found, f"{path}: {found.group() if found else ''}"
