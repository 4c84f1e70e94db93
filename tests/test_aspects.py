"""An aspect's values stand on the tokens that its granularity says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.worlds import ids, make
from textenv.aspects import Aspect, own_aspects, pick_aspects, pick_weights
from textenv.episode import Episode, Prompt, Span
from textenv.segments import sentences

ENV = make(max_new_tokens=16).unwrapped


def episode(text: str, *, end: bool = True) -> Episode:
    return ENV.episode(Prompt("p"), ids(text, end=end))


def by_sentence(*values: float) -> Any:
    def judge(episodes: Sequence[Episode]) -> list[list[Span]]:
        return [[Span(*at, value) for at, value in zip(sentences(e.text), values, strict=False)] for e in episodes]

    return judge


def test_a_sentence_is_worth_something_on_its_last_visible_token_alone() -> None:
    [(where, values)] = Aspect("a", by_sentence(0.5, -0.5), "sentence").placed([episode("ab.  cd.")])
    assert values.tolist() == [0, 0, 0.5, 0, 0, 0, 0, -0.5, 0]
    assert where.tolist() == [value != 0 for value in values]


def test_a_value_of_zero_is_placed_too() -> None:
    [(where, values)] = Aspect("a", by_sentence(0.0), "sentence").placed([episode("ab.")])
    assert where.tolist() == [False, False, True, False]
    assert not values.any()


def test_the_whole_text_is_judged_on_its_last_token_as_the_score_is() -> None:
    [(where, values)] = Aspect("a", lambda es: [[Span(0, 2, 1.0)]], "text").placed([episode("ab")])
    assert values.tolist() == [0, 0, 1]
    assert where.tolist() == [False, False, True]


def test_every_token_has_a_value_where_tokens_are_judged() -> None:
    [(where, values)] = Aspect("a", lambda es: [[Span(1, 3, -1.0)]], "token").placed([episode("abcd")])
    assert where.all()
    assert values.tolist() == [0, -1, -1, 0, 0]


def test_pieces_that_end_on_one_token_add_up() -> None:
    [(_, values)] = Aspect("a", lambda es: [[Span(0, 2, 1.0), Span(1, 2, 0.5)]], "sub_sentence").placed([episode("ab")])
    assert values.tolist() == [0, 1.5, 0]


def test_the_mean_over_pieces_is_a_rate_and_the_sum_grows_with_them() -> None:
    aspect = Aspect("a", by_sentence(1.0, 0.0, 1.0), "sentence")
    texts = [episode("a. b. c."), episode("a."), episode("")]
    assert aspect.per_text(texts) == pytest.approx([2 / 3, 1.0, 0.0])
    assert aspect.per_text(texts, "sum") == [2.0, 1.0, 0.0]
    assert aspect.per_text(texts, empty=0.5)[2] == 0.5


def test_an_error_rate_is_the_share_of_tokens() -> None:
    assert Aspect("a", lambda es: [[Span(0, 1, 1.0)]], "token").per_text([episode("abc")]) == [0.25]


@pytest.mark.parametrize(
    ("granularity", "text", "placed"),
    [
        ("sentence", "a. b", [1, 0]), ("sentence", "a. b.", [1, 1]), ("sub_sentence", "a. b", [1, 0]), ("text", "a. b.", [0, 0]),
    ],
)  # fmt: skip
def test_of_an_unfinished_text_what_may_still_grow_is_not_settled(granularity: Any, text: str, placed: list[int]) -> None:
    aspect = Aspect("a", by_sentence(1.0, 1.0), granularity)
    so_far = episode(text, end=False)
    [(where, _)] = aspect.placed([so_far], settled=True)
    assert where.sum() == sum(placed)
    [(everything, _)] = aspect.placed([so_far])
    assert everything.any()
    [(finished, _)] = aspect.placed([episode(text)], settled=True)
    assert finished.sum() == (1 if granularity == "text" else 2)


def test_one_call_of_the_judge_for_all_texts_and_none_for_no_text() -> None:
    calls: list[int] = []

    def judge(episodes: Sequence[Episode]) -> list[list[Span]]:
        calls.append(len(episodes))
        return [[] for _ in episodes]

    aspect = Aspect("a", judge)
    assert aspect.placed([]) == []
    aspect.placed([episode("a"), episode("b")])
    assert calls == [2]


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda es: [], "aspect 'a' judged 0 texts of 1"),
        (lambda es: [[Span(0, 9, 1.0)]], r"aspect 'a': Span\(start=0, end=9, .* ends beyond its text 'ab'"),
    ],
)
def test_a_judge_that_answers_nonsense_is_named(judge: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Aspect("a", judge).placed([episode("ab")])


def test_an_unknown_granularity_is_refused() -> None:
    with pytest.raises(ValueError, match=r"aspect 'a': granularity is one of \('text', .* got 'word'"):
        Aspect("a", by_sentence(), "word")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='reduce must be "mean" or "sum", got \'max\''):
        Aspect("a", by_sentence()).per_text([], "max")  # type: ignore[arg-type]


# --- Choosing ----------------------------------------------------------------------------------------------------------

A, B = Aspect("a", by_sentence()), Aspect("b", by_sentence())
GENERIC = {"sentence_score": Aspect("sentence_score", by_sentence()), "length": Aspect("length", by_sentence())}


def test_a_tasks_own_aspects_are_meant_and_without_any_the_verdict_on_sentences() -> None:
    assert own_aspects({"a": A, "b": B, **GENERIC}) == [A, B]
    assert own_aspects(GENERIC) == [GENERIC["sentence_score"]]
    with pytest.raises(ValueError, match=r"no aspects; pass aspects=\[Aspect"):
        own_aspects({})


def test_aspects_are_picked_by_name_or_given() -> None:
    own = Aspect("own", by_sentence())
    assert pick_aspects({"a": A, "b": B}, ["b", own]) == [B, own]
    assert pick_aspects({"a": A}, "a") == pick_aspects({"a": A}, A) == pick_aspects({"a": A}, None) == [A]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("c", "no aspect 'c'; the task's are a, b"), ([], "name at least one"), (["a", A], "each once")],
)
def test_a_wrong_choice_of_aspects_is_refused(wanted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick_aspects({"a": A, "b": B}, wanted)


def test_weights_are_one_for_all_or_a_list_or_by_name() -> None:
    assert pick_weights([A, B], None) == [1, 1]
    assert pick_weights([A, B], 2) == [2, 2]
    assert pick_weights([A, B], [1, 3]) == [1, 3]
    assert pick_weights([A, B], {"b": 0.5}) == [1, 0.5]


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0], "finite number for each"), ({"c": 1.0}, r"weights for \['c'\]"), ([1.0, float("nan")], "finite number for each")],
)
def test_weights_that_do_not_fit_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pick_weights([A, B], weights)
