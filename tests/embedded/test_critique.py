"""The critique format: what is asked, what a perfect critic answers, how an answer is read."""

import random
import warnings
from typing import Any

import gymnasium as gym
import pytest

from textenv.critics import parse_critique
from textenv.embedded import grammar, truth
from textenv.embedded.critique import FORMS, critique_answer, critique_prompt
from textenv.episode import Prompt
from textenv.tokenization import load_tokenizer

TRUTH = {"insults": truth.insult_spans, "sentiment": truth.sentiment_spans}


@pytest.mark.parametrize("task", ["insults", "sentiment"])
def test_the_right_answer_is_read_back_as_the_right_spans(task: str) -> None:
    rng = random.Random(0)
    for _ in range(1500):
        text = grammar.sample(rng).text
        text = text[rng.randrange(40) : rng.randrange(60, 700)]
        spans = TRUTH[task](text)
        found, missing = parse_critique(critique_answer(text, spans, task), text, FORMS[task].sections)
        assert not missing
        assert [(s.start, s.end, s.reward) for s in found] == [(s.start, s.end, s.reward) for s in spans]


def test_newlines_of_the_text_become_spaces() -> None:
    assert critique_prompt("You\noaf.", "insults") == "You oaf.\nInsults:"


def test_empty_lists_are_none() -> None:
    assert critique_answer("The bed came.", [], "insults") == " none"


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="insults, long_form, sentiment, summarization, translation"):
        critique_prompt("x", "grammar")


@pytest.mark.parametrize("task", ["insults", "sentiment"])
def test_the_question_is_a_prefix_of_question_and_answer_in_tokens(task: str) -> None:
    tokenizer, rng = load_tokenizer(f"textenv/tiny-critic-{task}"), random.Random(0)
    for _ in range(200):
        text = grammar.sample(rng).text[: rng.randrange(1, 300)]
        asked = critique_prompt(text, task)
        question = tokenizer(asked).input_ids
        whole = tokenizer(asked + critique_answer(text, TRUTH[task](text), task)).input_ids
        assert whole[: len(question)] == question


@pytest.mark.parametrize("rude", [" idiot", " You idiot", " weasel", " childish weasel"])
def test_who_says_an_insult_again_pays_no_less_for_it(rude: str) -> None:
    env: Any = gym.make("textenv/Detox-v0", reward="critic_span", payment="end")
    tokenizer, made = env.get_wrapper_attr("tokenizer"), env.get_wrapper_attr("episode")
    texts = [tokenizer(rude * n, add_special_tokens=False)["input_ids"] for n in range(1, 15)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the critic cannot count, and is said to have failed
        done = env.get_wrapper_attr("credit")([made(Prompt("Hello."), ids) for ids in texts if len(ids) <= 28])
    once, *more = [episode.rewards.sum() - (episode.score if episode.finished else 0.0) for episode in done]
    assert len(more) >= 11
    assert once <= -0.5
    assert max(more) <= once
