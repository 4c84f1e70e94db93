"""A text is tokenized once, however many ask about it, and remembered within a bound."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests import worlds
from tests.worlds import BYTES, EOS
from textenv.episode import Prompt
from textenv.judges.encodings import encode
from textenv.judges.remembered import Remembered
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.tokenization import load_tokenizer

TEXTS = ["a", "a longer one", "", "é\nü", "a"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, str]]:
    """How often each text was tokenized, by tokenizer and text."""
    counts: Counter[tuple[int, str]] = Counter()
    call = PreTrainedTokenizerFast.__call__

    def counted(self: Any, text: Any, *arguments: Any, **options: Any) -> Any:
        counts.update((id(self), one) for one in ([text] if isinstance(text, str) else text))
        return call(self, text, *arguments, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    return counts


@given(st.lists(st.text(max_size=8), max_size=6))
def test_a_text_is_read_as_its_tokenizer_reads_it_alone(texts: list[str]) -> None:
    for text, (ids, offsets) in zip(texts, encode(BYTES, texts), strict=True):
        alone = BYTES(text, return_offsets_mapping=True)
        assert ids == alone["input_ids"]
        assert offsets is not None
        assert [tuple(o) for o in offsets] == alone["offset_mapping"]


def test_a_text_is_tokenized_once(asked: Counter[tuple[int, str]]) -> None:
    tokenizer = worlds.byte_tokenizer()
    asked.clear()
    for _ in range(2):
        encode(tokenizer, TEXTS)
    encode(tokenizer, ["a", "new"])
    assert sorted(asked.items()) == sorted(((id(tokenizer), text), 1) for text in {*TEXTS, "new"})


def test_credit_tokenizes_each_text_once_for_all_who_ask(asked: Counter[tuple[int, str]]) -> None:
    """The score, the attention that fell on the text and its score after every token are read off one text."""
    tokenizer = worlds.byte_tokenizer()
    judge = SequenceClassifierScorer(worlds.classifier("llama"), label="civil", tokenizer=tokenizer)
    other = SequenceClassifierScorer(worlds.classifier("llama", seed=1), label="civil", tokenizer=tokenizer)
    env = gym.make(
        "textenv/CountLetter-v0", scorer=judge, max_new_tokens=16, reward=["attention", ("redistributed", {"reward_model": other})]
    )
    texts = ["a text", "another one", "é"]
    episodes = [env.get_wrapper_attr("episode")(Prompt("p"), [*text.encode(), EOS]) for text in texts]
    asked.clear()
    env.get_wrapper_attr("credit")(episodes)
    counted = {text: n for (who, text), n in asked.items() if who == id(tokenizer)}
    assert {text: counted[text] for text in texts} == dict.fromkeys(texts, 1)
    assert max(counted.values()) == 1


def test_judges_of_one_model_read_with_one_tokenizer() -> None:
    one, other = (load_tokenizer("textenv/tiny-aspects", shared=True) for _ in range(2))
    assert one is other
    assert load_tokenizer("textenv/tiny-aspects") is not one


def test_a_tokenizer_goes_with_what_was_remembered_of_it() -> None:
    tokenizer = worlds.byte_tokenizer()
    (encoded,) = encode(tokenizer, ["a text that nobody else reads"])
    seen = weakref.ref(encoded.offsets)
    del tokenizer, encoded
    gc.collect()
    assert seen() is None


class Owner:
    """Somebody."""


def test_what_was_used_last_stays_longest() -> None:
    owner = Owner()
    kept: Remembered[str, int] = Remembered(6, lambda key, _: len(key))
    kept.put(owner, {"aaa": 1, "bbb": 2})
    kept.get(owner, ["aaa"])
    kept.put(owner, {"ccc": 3})
    assert kept.get(owner, ["aaa", "bbb", "ccc"]) == {"aaa": 1, "ccc": 3}


@given(st.lists(st.text("ab", max_size=5), max_size=30))
def test_what_is_remembered_stays_within_its_bound(keys: list[str]) -> None:
    owner = Owner()
    kept: Remembered[str, int] = Remembered(8, lambda key, _: len(key))
    for key in keys:
        kept.put(owner, {key: 0})
        found = kept.get(owner, keys)
        assert key in found
        assert sum(map(len, found)) <= 8


def test_owners_have_their_own() -> None:
    one, other = Owner(), Owner()
    kept: Remembered[str, np.float64] = Remembered(8, lambda key, _: 1)
    kept.put(one, {"a": np.float64(1)})
    assert kept.get(other, ["a"]) == {}
