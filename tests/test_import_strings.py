"""Objects by import string, and errors that say which half is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from textenv.episode import Prompt
from textenv.import_strings import load_object
from textenv.segments import sentences


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules of the user's; forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_an_attribute_of_a_module() -> None:
    assert load_object("textenv.segments:sentences") is sentences
    assert load_object("textenv.episode:Episode.prefix").__name__ == "prefix"


def test_a_module_of_the_working_directory_is_found(here: Path) -> None:
    (here / "my_own_rewards.py").write_text("value = 3\n")
    (here / "my_package").mkdir()
    (here / "my_package" / "inner.py").write_text("value = 4\n")
    assert load_object("my_own_rewards:value") == 3
    assert load_object("my_package.inner:value") == 4


@pytest.mark.parametrize("name", ["no-module:x", ":x", "module:", "a b:c", "C:\\x"])
def test_what_is_no_import_string_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no import string; write module:attribute"):
        load_object(name)


def test_a_missing_module_is_named_with_where_it_was_looked_for(here: Path) -> None:
    with pytest.raises(ValueError, match="'nothing_here:x': there is no module nothing_here, neither installed nor in"):
        load_object("nothing_here:x")
    with pytest.raises(ValueError, match=r"there is no module textenv\.nothing"):
        load_object("textenv.nothing:x")


def test_a_missing_attribute_is_named(here: Path) -> None:
    with pytest.raises(ValueError, match=r"the module textenv\.segments has no 'words'"):
        load_object("textenv.segments:words")


def test_what_the_module_itself_lacks_is_its_own_error(here: Path) -> None:
    (here / "my_broken.py").write_text("import surely_not_installed\n")
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        load_object("my_broken:x")


def test_a_scorer_may_be_named_by_an_import_string_of_a_function_or_a_class(here: Path) -> None:
    (here / "my_scorers.py").write_text(
        "def length(episodes):\n    return [float(len(e.text)) for e in episodes]\n\n\n"
        "class Halved:\n    def __call__(self, episodes):\n        return [len(e.text) / 2 for e in episodes]\n\n\nnumber = 3\n"
    )
    import gymnasium as gym

    import textenv  # noqa: F401 - its ids

    for name, wanted in (("length", 2.0), ("Halved", 1.0)):
        env = gym.make("textenv/CountLetter-v0", scorer=f"my_scorers:{name}")
        written = [97, 98, env.get_wrapper_attr("action_rule").eos_token_id]
        (episode,) = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(Prompt("a"), written)])
        assert episode.score == wanted
    with pytest.raises(TypeError, match="scorer='my_scorers:number' is a int; it should name a function of episodes"):
        gym.make("textenv/CountLetter-v0", scorer="my_scorers:number")
