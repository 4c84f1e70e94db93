"""What scorers and critics are taught is the truth about every prefix, and about texts of every length."""

import random

import pytest
import torch

from textenv.critics import parse_critique
from textenv.embedded import material, truth
from textenv.embedded.critique import FORMS
from textenv.tokenization import load_tokenizer


@pytest.mark.parametrize("task", ["insults", "sentiment"])
def test_the_target_of_every_prefix_is_the_truth_about_it(task: str) -> None:
    excerpts = material.Excerpts(random.Random(0), material.GENRE[task], [])
    for _ in range(200):
        text = excerpts.draw(60)
        ends = [i for i in range(len(text) + 1) if i == len(text) or not text[i].isalpha()]  # at the ends of words
        for end, target in zip(ends, material.prefix_targets(text, ends, task), strict=True):
            if task == "insults":
                assert (target > 0.5) == bool(truth.toxicity(text[:end]))
            else:
                value = truth.sentiment(text[:end])
                assert (target > 0.5, target < 0.5) == (value > 0, value < 0)


def test_a_critic_is_shown_the_question_and_the_right_answer() -> None:
    tokenizer = load_tokenizer("textenv/tiny")
    excerpts = material.Excerpts(random.Random(0), "detox", ["You are a weasel and a oaf . The the bed"])
    batches = material.critic_batches(tokenizer, excerpts, "insults", material.Curriculum(steps=100))
    for _ in range(10):
        ids, answer = next(batches)
        for row, mark in zip(ids, answer, strict=True):
            whole = tokenizer.decode(row[row != tokenizer.pad_token_id], skip_special_tokens=True)
            text, reply = whole.split("\nInsults:")
            spans, missing = parse_critique(reply, text, FORMS["insults"].sections)
            assert not missing
            assert [(s.start, s.end) for s in spans] == [(s.start, s.end) for s in truth.insult_spans(text)]
            first = int(mark.argmax())
            assert tokenizer.decode(row[first - 2 : first]) == "Insults:"


def test_texts_grow_when_answers_are_good_and_in_any_case_from_a_third_of_the_steps_on() -> None:
    good, bad = material.Curriculum(steps=100), material.Curriculum(steps=100)
    for _ in range(34):
        good.told(0.0)
        bad.told(9.0)
    for _ in range(30):
        good.next_reach(), bad.next_reach()
    assert good.loss > good.enough or good.reach == good.longest
    assert bad.reach == bad.shortest
    for _ in range(34):
        bad.told(9.0)
    assert bad.next_reach() == bad.longest


def test_the_same_seed_gives_the_same_batches() -> None:
    tokenizer = load_tokenizer("textenv/tiny")

    def first() -> torch.Tensor:
        return next(material.scorer_batches(tokenizer, material.Excerpts(random.Random(5), "sentiment", []), "sentiment"))[0]

    assert torch.equal(first(), first())
