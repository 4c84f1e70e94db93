"""A word list marks words and phrases at their boundaries, in any script, and names the line that is wrong."""

from __future__ import annotations

import copy
import gzip
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import make
from textenv.critics import LexiconCritic, load_critic
from textenv.critics.language_model import CritiqueFormat, Section
from textenv.episode import Prompt


def found(critic: LexiconCritic, text: str) -> list[str]:
    return [text[span.start : span.end] for span in critic.spans(text)]


# --- Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_holds_an_entry_a_line(tmp_path: Path, packed: bool) -> None:
    data = b"weasel\r\n\n  old goat \n"
    path = tmp_path / ("words.txt.gz" if packed else "words.txt")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert found(LexiconCritic(path), "you weasel, you old goat") == ["weasel", "old goat"]


def test_the_second_column_is_the_reward_and_further_ones_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "vader.txt"
    path.write_text("good\t1.9\t0.5\t[2, 1]\nbad\t-2.5\nodd\n")
    spans = LexiconCritic(path, reward=-0.25, label="vader").spans("good, bad, odd")
    assert [(span.reward, span.label) for span in spans] == [(1.9, "vader"), (-2.5, "vader"), (-0.25, "vader")]


def test_an_entry_worth_nothing_marks_nothing() -> None:
    assert LexiconCritic(["the\t0", "bad\t-1"]).spans("the the") == []


@pytest.mark.parametrize("column", ["x", "nan", "inf", "1,5"])
def test_a_reward_that_is_no_number_names_file_and_line(tmp_path: Path, column: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text(f"good\t1\nbad\t{column}\n")
    with pytest.raises(ValueError, match=rf"words\.txt, line 2: the second column must be .*got '{column}'"):
        LexiconCritic(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no word list at .*none\.txt"):
        LexiconCritic(tmp_path / "none.txt")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_list_without_entries_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "words.txt").write_text(content)
    with pytest.raises(ValueError, match="holds no entries; write one word or phrase a line"):
        LexiconCritic(tmp_path / "words.txt")


@pytest.mark.parametrize(
    ("name", "data"), [("words.txt", b"caf\xe9"), ("words.txt.gz", b"not packed"), ("words.txt.gz", b"\x1f\x8b\x08")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match="is no readable UTF-8 word list"):
        LexiconCritic(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_the_first_entry(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes("\ufeffbad\n".encode())
    assert found(LexiconCritic(tmp_path / "words.txt"), "bad") == ["bad"]


def test_a_critic_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("bad\n")
    critic = load_critic(f"lexicon:{tmp_path / 'words.txt'}", CritiqueFormat((Section("x", 1.0),)))
    assert isinstance(critic, LexiconCritic)
    assert copy.deepcopy(critic) is critic


def test_a_file_may_stand_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.txt").write_text("bad\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    critic = load_critic("lexicon:~/words.txt", CritiqueFormat((Section("x", 1.0),)))
    assert isinstance(critic, LexiconCritic)
    assert found(critic, "a bad day") == ["bad"]


def test_an_environment_takes_a_word_list_by_name(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("bad\n")
    env = make(reward="critic_span", critic=f"lexicon:{tmp_path / 'words.txt'}", max_new_tokens=4)
    (episode,) = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(Prompt("p"), list(b"bad"))])
    assert episode.rewards.tolist() == [-0.25] * 3


# --- Words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "text", "expected"),
    [
        ("weasel", "Weasel WEASEL weasel", ["Weasel", "WEASEL", "weasel"]),
        ("weasel", "weasels bweasel weasel_ we-weasel!", ["weasel"]),
        ("old goat", "old  goat, old\ngoat, oldgoat", ["old  goat", "old\ngoat"]),
        (":(", "no:( no :(", [":(", ":("]),
        ("don't", "Don't do", ["Don't"]),
        ("c++", "c++ c+++", ["c++", "c++"]),
        (".", "a.b", ["."]),
        ("été", "L'ÉTÉ, étés", ["ÉTÉ"]),
        ("глупый", "Глупый глупыйх", ["Глупый"]),
        ("Straße", "Straße, STRAßE", ["Straße", "STRAßE"]),
        ("ΟΔΟΣ", "οδος", ["οδος"]),
        ("cafe", "cafe\u0301 cafe", ["cafe"]),
        ("हिन", "हिन्दी हिन", ["हिन"]),
        ("मूर्ख", "मूर्खता मूर्ख", ["मूर्ख"]),
        ("बुरी", "बुरीक बुरी", ["बुरी"]),
    ],
)
def test_words_are_found_at_their_boundaries_in_any_case(entry: str, text: str, expected: list[str]) -> None:
    assert found(LexiconCritic([entry]), text) == expected


def test_of_entries_that_overlap_the_longest_that_begins_first_is_marked() -> None:
    critic = LexiconCritic(["goat", "old goat", "old"])
    assert found(critic, "old goat, old, goat") == ["old goat", "old", "goat"]


@given(words=st.lists(st.text(st.characters(categories=["L"]), min_size=1, max_size=5), min_size=1, max_size=5))
def test_every_entry_is_found_as_it_was_written(words: list[str]) -> None:
    critic = LexiconCritic(words)
    for word in words:
        assert found(critic, f"a, {word}!")[-1:] == [word]


@given(words=st.lists(st.text(max_size=4).filter(str.strip), min_size=1, max_size=4), text=st.text(max_size=30))
def test_any_list_reads_any_text_and_marks_spans_in_order(words: list[str], text: str) -> None:
    entries = [word for word in words if "\t" not in word]
    if not entries:
        return
    spans = LexiconCritic(entries).spans(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
