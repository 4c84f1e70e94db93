"""The score of a text while it is being written: any callable, and the alignment of two tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import EOS, ids, make
from textenv.episode import Episode, Prompt
from textenv.judges.prefixes import is_causal, prefix_scores
from textenv.judges.retokenized import boundaries, complete_ends, spread

UNICODE = st.text(st.sampled_from("aé😀\u0301 \ufffdß▁") | st.characters(exclude_categories=["Cs"]), max_size=12)
KINDS = ["bytes", "byte_level_bpe", "unigram", "sentencepiece_bpe"]


def written(tokens: Sequence[int], tokenizer: Any = "bytes", prompt: str = "p: ", budget: int = 64) -> Episode:
    env = make(tokenizer=tokenizer, max_new_tokens=budget, max_prompt_tokens=32)
    episode: Episode = env.get_wrapper_attr("episode")(Prompt(prompt), tokens)
    return episode


class Asked:
    """The number of "a"s; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        self.calls.append([e.text for e in episodes])
        return [float(e.text.count("a")) for e in episodes]


# --- Any callable ------------------------------------------------------------------------------------------------------


def test_a_callable_is_asked_about_every_prefix_of_every_episode_in_one_call() -> None:
    scorer = Asked()
    found = prefix_scores(scorer, [written(ids("aba")), written(ids("b", end=True))])
    assert [values.tolist() for values in found] == [[0.0, 1.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    assert scorer.calls == [["", "a", "ab", "aba", "", "b", "b"]]


def test_only_the_prefixes_that_are_wanted_are_asked_about() -> None:
    scorer = Asked()
    found = prefix_scores(scorer, [written(ids("aabaa")), written(ids("aa"))], [[2, 5], []])
    assert [values.tolist() for values in found] == [[2.0, 4.0], []]
    assert scorer.calls == [["aa", "aabaa"]]


@pytest.mark.parametrize(("ends", "message"), [([[3]], r"ends \[3\] of an episode of 2 tokens"), ([], "ends for 0 episodes")])
def test_a_prefix_that_does_not_exist_is_refused(ends: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prefix_scores(Asked(), [written(ids("aa"))], ends)


def test_no_episodes_have_no_scores() -> None:
    assert prefix_scores(Asked(), []) == []


def test_a_score_that_is_not_finite_is_named_with_its_prefix() -> None:
    with pytest.raises(ValueError, match="text 'a'"):
        prefix_scores(lambda episodes: [float("nan") if e.text == "a" else 0.0 for e in episodes], [written(ids("ab"))])


def test_a_prefix_that_ends_inside_a_character_has_the_score_before_it() -> None:
    scorer = Asked()
    found = prefix_scores(scorer, [written([*"aéa😀".encode(), EOS])])
    assert found[0].tolist() == [0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert scorer.calls == [["", "a", "aé", "aéa", "aéa😀", "aéa😀"]]


def test_the_last_prefix_of_a_finished_text_is_the_text_itself() -> None:
    reasons: list[Any] = []

    def scorer(episodes: Sequence[Episode]) -> list[float]:
        reasons.extend(e.finish_reason for e in episodes)
        return [0.0 for _ in episodes]

    prefix_scores(scorer, [written(ids("a", end=True))])
    assert reasons == [None, None, "stop"]


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
def test_what_a_callable_says_of_a_prefix_does_not_depend_on_what_follows(name: str, data: Any) -> None:
    tokenizer = worlds.tokenizers()[name]
    tokens = data.draw(st.lists(st.integers(4, len(tokenizer) - 4), max_size=8))
    if name != "bytes":  # SentencePiece shows a whole run of bytes as unreadable, where one of them is
        pieces = tokenizer.convert_ids_to_tokens(tokens)
        tokens = [t for t, piece in zip(tokens, pieces, strict=True) if name == "byte_level_bpe" or not piece.startswith("<0x")]
    tokens = [t for t in tokens if t not in tokenizer.all_special_ids]

    def scorer(episodes: Sequence[Episode]) -> list[float]:
        return [float(sum(map(ord, e.text))) for e in episodes]

    (whole,) = prefix_scores(scorer, [written(tokens, tokenizer)])
    for t in range(len(tokens)):
        assert prefix_scores(scorer, [written(tokens[:t], tokenizer)])[0].tolist() == whole[: t + 1].tolist()


def test_a_scorer_that_reads_prefixes_itself_is_asked_once() -> None:
    class Judge:
        def __call__(self, episodes: Sequence[Episode]) -> list[float]:
            raise AssertionError

        def prefix_scores(self, episodes: Sequence[Episode], *, tokenizer: Any) -> list[list[float]]:
            assert tokenizer == "the policy's"
            return [[float(t) for t in range(len(e) + 1)] for e in episodes]

    found = prefix_scores(Judge(), [written(ids("aaa"))], [[1, 3]], tokenizer="the policy's")
    assert found[0].tolist() == [1.0, 3.0]
    assert not is_causal(Judge(), None)


def test_a_callable_is_causal() -> None:
    assert is_causal(Asked(), None)


# --- Two tokenizers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@given(text=UNICODE)
def test_characters_are_complete_when_their_last_byte_is_there(name: str, text: str) -> None:
    tokenizer = worlds.tokenizers()[name]
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"][:64]
    episode = written(tokens, tokenizer)
    ends = complete_ends(episode)
    assert (np.diff(ends) >= 0).all()
    for t, end in enumerate(ends):
        held = {c for begin, stop in episode.offsets[t + 1 :] for c in range(begin, stop)}
        assert not held & set(range(end)), "a later token holds a part of a character that is said to be complete"
    if len(tokens) and not episode.text.endswith("\ufffd"):
        assert ends[-1] == len(episode.text)


def test_unreadable_bytes_count_as_not_yet_written() -> None:
    assert complete_ends(written([0xC3, 0x41, 0xC3])).tolist() == [0, 2, 2]
    assert complete_ends(written([0xE2, 0x82, 0xAC])).tolist() == [0, 0, 1]


@given(
    ends=st.lists(st.integers(0, 20), min_size=1, max_size=8).map(sorted),
    reader=st.lists(st.integers(0, 20), max_size=8),
)
def test_the_reader_has_read_all_its_tokens_that_end_within_the_text_so_far(ends: list[int], reader: list[int]) -> None:
    for end, at in zip(ends, boundaries(reader, ends), strict=True):
        assert all(stop <= end for stop in reader[: at + 1])
        assert at + 1 == len(reader) or max(reader[: at + 2]) > end


@pytest.mark.parametrize(("policy", "reader"), [("bytes", "unigram"), ("unigram", "byte_level_bpe"), ("byte_level_bpe", "bytes")])
@given(text=UNICODE)
def test_shares_are_kept_across_tokenizers(policy: str, reader: str, text: str) -> None:
    episode = written(worlds.tokenizers()[policy](text, add_special_tokens=False)["input_ids"][:64], worlds.tokenizers()[policy])
    intervals = np.array(
        worlds.tokenizers()[reader](episode.text, return_offsets_mapping=True)["offset_mapping"], np.int64
    ).reshape(-1, 2)
    values = np.arange(1.0, len(intervals) + 1) * (intervals[:, 0] < intervals[:, 1])
    found = spread(intervals, values, episode)
    assert found.sum() == pytest.approx(values.sum())
    assert (found[episode.offsets[:, 0] == episode.offsets[:, 1]] == 0).all()


def test_a_token_of_the_reader_is_split_by_characters() -> None:
    episode = written([*"aé b".encode(), EOS])  # tokens: a, two bytes of é, space, b, EOS
    found = spread([(-2, 0), (0, 2), (2, 4), (4, 4)], [5.0, 1.0, 0.5, 9.0], episode)
    assert found.tolist() == [0.5, 0.25, 0.25, 0.25, 0.25, 0.0]
    assert spread([(-1, 1)], [1.0], episode).tolist() == [0.5, 0.0, 0.0, 0.0, 0.0, 0.0]  # half of it lies in the prompt
