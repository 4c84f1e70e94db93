"""Segmenters partition any text, and every segment has a token to be paid on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import ids, make
from textenv.alignment import TokenText
from textenv.episode import Episode, Prompt
from textenv.segments import (
    SEGMENTERS,
    ended,
    excerpt,
    last_token,
    lines,
    load_segmenter,
    sentences,
    settled,
    sub_sentences,
    whole,
)

ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from("ab .,;!?…\n\t\"')A。！é\u00a0\u2028"), max_size=60),
    st.lists(st.sampled_from(["Dr. ", "Hi!", " ", "e.g. ", "a, ", "the ", "end. ", "\n\n", "3.5", "“Oh?” "])).map("".join),
)


def pieces(segmenter: Any, text: str) -> list[str]:
    return [text[start:end] for start, end in segmenter(text)]


def episode_of(text: str, tokenizer: Any = worlds.BYTES, *, end: bool = True) -> Episode:
    found = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = np.array([*found, *([tokenizer.eos_token_id] if end else [])], np.int64)
    reader = TokenText(tokenizer)
    decoded = reader.decode([], tokens)
    return Episode(Prompt("p"), np.zeros(0, np.int64), tokens, decoded, reader.offsets([], tokens, decoded),
                   "stop" if end else None, float("nan"), np.zeros(len(tokens)))  # fmt: skip


@pytest.mark.parametrize("name", SEGMENTERS)
@given(text=ANY_TEXT)
def test_segments_partition_the_text(name: str, text: str) -> None:
    found = SEGMENTERS[name](text)
    assert "".join(text[start:end] for start, end in found) == text
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])][: len(found)]
    assert all(start < end for start, end in found)


@pytest.mark.parametrize("name", SEGMENTERS)
@given(text=ANY_TEXT)
def test_white_space_belongs_to_the_segment_before(name: str, text: str) -> None:
    found = SEGMENTERS[name](text)
    assert not any(text[start].isspace() for start, _ in found[1:])
    assert not text.strip() or all(text[start:end].strip() for start, end in found)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_an_empty_text_has_no_segment(name: str) -> None:
    assert list(SEGMENTERS[name]("")) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" One. Two.", [" One. ", "Two."]),
        ("He said “Go!” She went.", ["He said “Go!” ", "She went."]),
        ("Mr. Hill met J. K. Dean at 3.30 p.m.", ["Mr. Hill met J. K. Dean at 3.30 p.m."]),
        ("So am I. You too.", ["So am I. ", "You too."]),
        ("e.g. this one", ["e.g. this one"]),
        ("Title\nBody. More", ["Title\n", "Body. ", "More"]),
        ("好。吗？", ["好。", "吗？"]),
        ("Wait… what?! No", ["Wait… ", "what?! ", "No"]),
        ("no end", ["no end"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert pieces(sentences, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two three four five, one two three four five.", ["one two three four five, ", "one two three four five."]),
        ("one two three four five, one two three four.", ["one two three four five, one two three four."]),
        ("one two three four, one two three four five.", ["one two three four, one two three four five."]),
        ("a b c d e; a b c d e, a b c d e", ["a b c d e; ", "a b c d e, ", "a b c d e"]),
        ("a b c d e: a b c d e", ["a b c d e: a b c d e"]),
        ("a b c d e, a. b c d e f", ["a b c d e, a. ", "b c d e f"]),
    ],
)
def test_sub_sentences_of_fewer_than_five_words_are_not_split_off(text: str, expected: list[str]) -> None:
    assert pieces(sub_sentences, text) == expected


@given(text=ANY_TEXT)
def test_sub_sentences_refine_sentences(text: str) -> None:
    assert {end for _, end in sentences(text)} <= {end for _, end in sub_sentences(text)}


def test_lines_are_steps() -> None:
    assert pieces(lines, "a = 1\nb = 2\n\n  c\n") == ["a = 1\n", "b = 2\n\n  ", "c\n"]


# --- Tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", worlds.tokenizers())
def test_a_segment_is_paid_before_the_next_one_begins_though_a_token_holds_the_space_between(tokenizer: str) -> None:
    episode = episode_of("you are good. you are bad.", worlds.tokenizers()[tokenizer])
    first, second = (last_token(episode, end) for _, end in sentences(episode.text))
    dot, start = episode.text.index(".") + 1, episode.text.index("you", 5)
    assert episode.offsets[first, 1] >= dot
    assert episode.offsets[first, 0] < dot
    assert episode.offsets[first, 1] <= start
    assert first < second == len(episode) - 2


@given(text=st.text(min_size=1, max_size=30), kind=st.sampled_from(["bytes", "byte_level_bpe", "sentencepiece_bpe", "unigram"]))
def test_every_segment_of_any_text_has_its_token(text: str, kind: str) -> None:
    episode = episode_of(text, worlds.tokenizers()[kind])
    for name, segmenter in SEGMENTERS.items():
        at = [last_token(episode, end) for _, end in segmenter(episode.text)]
        assert at == sorted(at), name
        assert not at or episode.offsets[at[-1], 1] >= len(episode.text.rstrip())


@pytest.mark.parametrize("end", [0, 4])
def test_an_end_outside_the_text_has_no_token(end: int) -> None:
    with pytest.raises(ValueError, match=f"ends at {end} of the 3 characters"):
        last_token(episode_of("abc"), end)


def test_an_excerpt_is_an_episode_of_its_own() -> None:
    piece = excerpt(episode_of("ab. cd."), 4, 7)
    assert piece.text == "cd."
    assert piece.offsets.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert bytes(piece.tokens.tolist()) == b"cd."
    assert piece.finished
    assert not piece.rewards.any()


# --- Unfinished texts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("segmenter", "text", "expected"),
    [
        (sentences, "It was good.", True), (sentences, "It was good.  ", True), (sentences, "It was goo", False),
        (sentences, "It was by Dr.", False), (sentences, "", False), (lines, "x = 2", False), (lines, "x = 2\n", True),
        (sub_sentences, "one two three four five,", True), (sub_sentences, "one, two,", False), (whole, "Done.", False),
    ],
)  # fmt: skip
def test_a_segment_has_ended_when_nothing_that_follows_could_be_part_of_it(segmenter: Any, text: str, expected: bool) -> None:
    assert ended(text, segmenter) is expected


def test_of_an_unfinished_text_the_segment_that_may_still_grow_is_left_out() -> None:
    env = make(max_new_tokens=16).unwrapped
    assert settled(env.episode(Prompt("p"), ids("One. Tw")), sentences) == [(0, 5)]
    assert settled(env.episode(Prompt("p"), ids("One. Two.")), sentences) == [(0, 5), (5, 9)]
    assert settled(env.episode(Prompt("p"), ids("One. Tw", end=True)), sentences) == [(0, 5), (5, 7)]
    assert settled(env.episode(Prompt("p"), []), sentences) == []


# --- A segmenter of one's own ------------------------------------------------------------------------------------------


def test_a_callable_is_a_segmenter() -> None:
    halves = load_segmenter(lambda text: [(0, 2), (2, len(text))])
    assert list(halves("abcd")) == [(0, 2), (2, 4)]
    assert load_segmenter("whole") is whole
    assert load_segmenter(sentences) is sentences


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([(0, 2)], "segments end at 2 of 4 characters: 'abcd'"),
        ([(0, 2), (3, 4)], r"segment \(3, 4\) follows 2"),
        ([(0, 2), (1, 4)], r"segment \(1, 4\) follows 2"),
        ([(0, 0), (0, 4)], r"segment \(0, 0\) follows 0"),
    ],
)
def test_what_is_no_partition_is_refused(answer: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_segmenter(lambda text: answer)("abcd")


def test_an_unknown_segmenter_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="segmenter 'words': one of sentences, sub_sentences, lines, whole, or a callable"):
        load_segmenter("words")
