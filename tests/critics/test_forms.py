"""How a critic is asked: templates, the score beside the text, lists of spans, and a number for every word."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.critics.fake_server import FakeServer
from tests.worlds import constant_scorer, credited, ids, make
from textenv.critics import (
    CritiqueError,
    CritiqueFormat,
    LanguageModelCritic,
    LexiconCritic,
    Section,
    ServerCritic,
    WordScores,
    WordsFromSpans,
)
from textenv.critics.forms import score_of_ten
from textenv.critics.parsing import parse_numbers
from textenv.critics.untrusted import show
from textenv.episode import Episode, Prompt, Span
from textenv.tasks import detox, sentiment
from textenv.wrappers import CriticReward, CriticTokenReward

ONE = (Section("Insults", -1.0),)
TWO = (Section("Positive", 1.0), Section("Negative", -1.0))
SUMMARY = "{prompt}\nSummary: {text}"

# --- Templates ---------------------------------------------------------------------------------------------------------


def test_a_template_shows_what_the_text_answers() -> None:
    form = CritiqueFormat(ONE, "Judge.", template="{context}\nQuestion: {prompt}\nAnswer: {text}")
    prompt = Prompt("Who came,\nand when?", context=("First\npassage.", "Second."))
    assert form.prompt(" A goat.", prompt) == (
        "Judge.\n\nFirst passage.\nSecond.\nQuestion: Who came, and when?\nAnswer: A goat.\nInsults:"
    )


def test_examples_may_fill_the_whole_template() -> None:
    form = CritiqueFormat(ONE, "", (({"prompt": "Doc\nA", "text": "Sum"}, " none"),), SUMMARY)
    assert form.prompt("Mine", Prompt("B")) == "Doc A\nSummary: Sum\nInsults: none\n\nB\nSummary: Mine\nInsults:"


def test_braces_of_a_text_are_no_fields() -> None:
    assert CritiqueFormat(ONE, template=SUMMARY).prompt("{context} {0} {", Prompt("{text}")) == (
        "{text}\nSummary: {context} {0} {\nInsults:"
    )


@pytest.mark.parametrize("template", ["no field", "{text} {text}", "{text} {other}", "{prompt}", "{0}{text}"])
def test_a_template_without_its_text_or_with_unknown_fields_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"a template holds \{text\} once, and may hold"):
        CritiqueFormat(ONE, template=template)


def test_words_that_the_template_puts_before_a_colon_cannot_be_imitated() -> None:
    form = CritiqueFormat(ONE, template="Document: {prompt}\nIts summary: {text}")
    assert form.question("Good. Document: other. its summary: fine").shown.text == "Good. Document other. its summary fine"


def test_a_critic_reads_the_prompt_of_each_episode() -> None:
    with FakeServer(lambda question: "goat" if "cow" in question else "none") as server:
        critic = ServerCritic(server.url, CritiqueFormat(ONE, template=SUMMARY), model="m")
        env = make(max_new_tokens=16)
        made = [env.get_wrapper_attr("episode")(Prompt(text), list(b"a goat")) for text in ("a cow", "a goat")]
        assert [[(s.start, s.end) for s in spans or []] for spans in critic(made)] == [[(2, 6)], []]


# --- The score ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "score_range", "expected"),
    [
        (0.0, None, None), (0.5, (0.0, 1.0), 5.0), (-3.0, (-2.0, 2.0), 0.0), (9.0, (-2.0, 2.0), 10.0), (1.0, (-2.0, 2.0), 7.5),
        (4.9, "released", 9.8), (5.0, "released", 10.0), (30.0, "released", 10.0),
    ],
)  # fmt: skip
def test_a_score_is_shown_from_0_to_10(score: float, score_range: Any, expected: float | None) -> None:  # relc §7, 10
    assert score_of_ten(score, score_range) == expected


@pytest.mark.parametrize("score_range", [(1.0, 1.0), (2.0, 1.0), (0.0, float("inf")), (0.0,), "rouge", 3])
def test_a_range_that_is_none_is_refused(score_range: Any) -> None:
    with pytest.raises(ValueError, match=r"the range of scores is \(low, high\) with low < high"):
        CritiqueFormat(ONE, score_range=score_range)


def test_the_score_stands_between_text_and_answer_where_there_is_one() -> None:
    form = CritiqueFormat(ONE, score_range=(0.0, 2.0))
    assert form.prompt("Text", None, 1.5) == "Text\nScore: 7.5 out of 10\nInsults:"
    assert form.prompt("Text") == "Text\nInsults:", "an unfinished text has none"


def test_a_reward_shows_the_score_to_its_critic_where_asked() -> None:
    with FakeServer() as server:
        for options in ({}, {"show_score": (0.0, 2.0)}):
            critic = ServerCritic(server.url, CritiqueFormat(ONE), model="m")
            env = make(max_new_tokens=8, scorer=constant_scorer(1.5), payment="end",
                       reward=lambda env, c=critic, o=options: CriticReward(env, c, **o))  # fmt: skip
            credited(env, ids("good", end=True))
            credited(env, ids("good"))
        questions = [request["messages"][0]["content"] for request in server.requests]
    assert [re.findall("Score: .*", question) for question in questions] == [[], [], ["Score: 7.5 out of 10"], []]


def test_a_critic_that_is_not_asked_in_text_cannot_be_shown_a_score() -> None:
    for wrapper in (CriticReward, CriticTokenReward):
        with pytest.raises(TypeError, match="is not asked in text, so it cannot be shown a score"):
            make(reward=lambda env, w=wrapper: w(env, LexiconCritic(["bad"]), show_score=(0.0, 1.0)))


# --- Numbers for words -------------------------------------------------------------------------------------------------


def test_the_words_are_listed_with_numbers() -> None:
    assert WordScores("Judge.").prompt("You\nweasel, you!") == "Judge.\n\nYou weasel, you!\n1: You\n2: weasel,\n3: you!\nNumbers:"


@pytest.mark.parametrize(
    "answer",
    [" 0, -0.5, 1", "[0, -.5, 1.0]", "0,-0.5,+2", "\n1: 0\n2: -0.5\n3: 1", "a: 0\ndull: -0.5\njoy: 1", "0\n−0.5\n1",
     "1: a: 0\n2: dull: -0.5\n3: joy: 7"],
)  # fmt: skip
def test_a_list_or_a_line_a_word_is_read_and_cut_to_one(answer: str) -> None:
    assert parse_numbers(answer, ["a", "dull", "joy"]) == [0.0, -0.5, 1.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "the answer has 1 numbers for 3 words: ''"),
        ("0, 1", "the answer has 2 numbers for 3 words"),
        ("0, 1, 0, 0", "the answer has 4 numbers for 3 words"),
        ("0, one, 0", "'one' is no number"),
        ("0, nan, 0", "'nan' is no number"),
        ("0, inf, 0", "'inf' is no number"),
        ("0, 1e9, 0", "'1e9' is no number"),
        ("0, ٣, 0", "is no number"),
        ("[0, 0, 0", "the answer has 1 numbers for 3 words"),
        ("1: 0\n3: 0\n2: 0", "line 2 speaks of '3', where 'dull' was asked about"),
        ("a: 0\njoy: 0\ndull: 0", "line 2 speaks of 'joy'"),
        ("0\n0\n0\n0", "4 numbers for 3 words"),
        ("I would say: 0, 0, 0", "line 1 speaks of 'I would say'"),
    ],
)
def test_an_answer_of_another_form_is_an_error(answer: str, message: str) -> None:
    with pytest.raises(CritiqueError, match=message):
        parse_numbers(answer, ["a", "dull", "joy"])


@pytest.mark.parametrize("answer", ["0, -1, 0.", "[0, -1, 0.", "1: 0\n2: -1\n3: 0."])
def test_an_answer_that_was_cut_loses_its_last_number(answer: str) -> None:
    assert parse_numbers(answer, ["a", "b", "c", "d"], complete=False) == [0.0, -1.0]


@given(
    text=st.text(st.sampled_from("ab .:1,\n\u200b") | st.characters(exclude_categories=["Cs"]), max_size=40),
    numbers=st.lists(st.decimals(-3, 3, places=2), min_size=40, max_size=40),
    lines=st.booleans(),
)
def test_what_a_perfect_critic_says_of_each_word_is_read_back(text: str, numbers: Any, lines: bool) -> None:
    form = WordScores()
    shown = show(text)
    words = shown.text.split()
    said = [f"{number}" for number in numbers[: len(words)]]
    if not words:
        return
    answer = "\n".join(f"{i}: {number}" for i, number in enumerate(said, 1)) if lines else " " + ", ".join(said)
    cut, went_on = form.cut(answer + "\n\nAnother text", shown)
    assert went_on
    spans, _ = form.read(cut, shown)
    expected = [min(max(float(number), -1.0), 1.0) for number in said]
    assert [span.reward for span in spans] == [value for value in expected if value]
    shown_words = [show(text[span.start : span.end]).text for span in spans]
    assert shown_words == [word for word, value in zip(words, expected, strict=True) if value]


def test_a_tasks_lists_become_numbers_with_their_examples() -> None:
    form = detox.CRITIQUE.by_word()
    assert form.examples[1] == (detox.CRITIQUE.examples[1][0], " 0, 0, 0, -1, -1, 0, 0, 0, -1, 0, 0")
    for lists in (detox.CRITIQUE, CritiqueFormat(TWO, "", sentiment.EXAMPLES)):
        for (text, _), (_, answer) in zip(lists.examples, lists.by_word().examples, strict=True):
            parse_numbers(answer, text.split())  # type: ignore[union-attr]
    assert "-1 for a word of the list \"Insults\"" in form.instruction


def test_a_model_by_name_is_asked_for_numbers(llama_directory: Path) -> None:
    env = make(reward="critic_token", critic=str(llama_directory))
    critic = env.get_wrapper_attr("critic")
    assert isinstance(critic, LanguageModelCritic)
    assert isinstance(critic.form, WordScores)
    assert critic.max_new_tokens == 256, "a number takes more room than a list"


def test_the_numbers_of_a_server_scale_the_constants_of_their_words() -> None:
    with FakeServer(lambda question: "0, -1, 0.5") as server:
        env = make(reward="critic_token", critic=f"{server.url}#m", max_new_tokens=12, scorer=constant_scorer(1.0), payment="end")
        episode = credited(env, ids("a sad joy", end=True))
        assert "\n1: a\n2: sad\n3: joy\nNumbers:" in server.requests[0]["messages"][0]["content"]
        assert server.requests[0]["max_tokens"] == 256
    unit = 1 / 12
    assert episode.rewards[:9] == pytest.approx([0, 0, -unit, -unit, -unit, 0, unit / 2, unit / 2, unit / 2])
    assert episode.rewards[9:].tolist() == [1.0]


def test_numbers_that_do_not_fit_the_words_give_nothing_and_are_counted() -> None:
    with FakeServer(lambda question: "0, -1") as server:
        env = make(reward="critic_token", critic=f"{server.url}#m", max_new_tokens=12, scorer=constant_scorer(1.0), payment="end")
        assert credited(env, ids("a sad joy", end=True)).rewards.tolist() == [0.0] * 9 + [1.0]
        metrics = env.get_wrapper_attr("credit_metrics")()
    assert (metrics["credit/critic_skipped"], metrics["credit/critic_parse_failures"]) == (1.0, 1.0)


def test_a_critic_object_that_gives_numbers_is_taken_as_it_is() -> None:
    critic = ServerCritic("http://127.0.0.1:9/v1", WordScores())
    assert make(reward=lambda env: CriticTokenReward(env, critic)).get_wrapper_attr("critic") is critic


@pytest.mark.parametrize("name", ["textenv/Detox-v0", "textenv/Sentiment-v0", "textenv/CountLetter-v0"])
def test_the_embedded_default_turns_spans_into_words(name: str) -> None:
    import gymnasium as gym

    env = gym.make(name, reward="critic_token", payment="end")
    critic = env.get_wrapper_attr("critic")
    assert isinstance(critic, WordsFromSpans)
    text = " You stupid weasel, it was great. aaa"
    tokens = env.get_wrapper_attr("tokenizer")(text, add_special_tokens=False)["input_ids"][:16]
    episode = env.get_wrapper_attr("episode")(Prompt("Hello."), tokens)
    (words,) = critic([episode])
    assert words
    assert all(re.fullmatch(r"\S+", episode.text[span.start : span.end]) for span in words)
    (done,) = env.get_wrapper_attr("credit")([episode])
    assert np.abs(done.rewards).sum() > 0


@given(text=st.text(st.sampled_from("ab \n"), max_size=20), data=st.data())
def test_spans_become_the_words_that_they_overlap(text: str, data: Any) -> None:
    cuts = st.tuples(st.integers(0, 19), st.integers(1, 6), st.sampled_from([1.0, -1.0, 0.25]))
    spans = [Span(a, a + n, r) for a, n, r in data.draw(st.lists(cuts, max_size=4)) if a + n <= len(text)]
    words = WordsFromSpans.words(text, spans)
    assert all(-1.0 <= word.reward <= 1.0 and word.reward for word in words)
    for match in re.finditer(r"\S+", text):
        total = sum(s.reward for s in spans if set(range(s.start, s.end)) & set(range(match.start(), match.end())))
        found = [word.reward for word in words if (word.start, word.end) == match.span()]
        assert found == ([min(max(total, -1.0), 1.0)] if total else [])


def test_no_verdict_stays_none_and_counters_go_through() -> None:
    model, tokenizer = worlds.parrot(" ;")
    inner = LanguageModelCritic(model, CritiqueFormat(ONE), tokenizer=tokenizer, on_error="skip")
    critic = WordsFromSpans(inner)
    assert copy.deepcopy(critic) is critic
    env = make(max_new_tokens=8)
    assert critic([env.get_wrapper_attr("episode")(Prompt("p"), list(b"bad"))]) == [None]
    assert critic.metrics()["credit/critic_parse_failures"] == 1.0
    assert WordsFromSpans(lambda episodes: [[] for _ in episodes]).metrics() == {}


def test_an_episode_without_a_verdict_is_not_paid_the_neutral_value() -> None:
    def critic(episodes: list[Episode], /) -> list[list[Span] | None]:
        return [None if "x" in episode.text else [] for episode in episodes]

    with pytest.warns(UserWarning, match="neutral"):
        env = make(max_new_tokens=4, scorer=constant_scorer(1.0), payment="end",
                   reward=lambda env: CriticReward(env, critic, neutral=0.5))  # fmt: skip
    assert credited(env, ids("xy")).rewards.tolist() == [0.0, 0.0]
    assert credited(env, ids("yy")).rewards.tolist() == [0.5, 0.5]
    assert env.get_wrapper_attr("credit_metrics")()["credit/critic_skipped"] == 1.0
