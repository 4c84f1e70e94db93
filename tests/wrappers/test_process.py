"""Steps are rewarded at their ends, by a classifier or by an aspect."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import EOS, CountedCritic, constant_scorer, credited, ids, make, walk
from textenv.aspects import Aspect
from textenv.episode import Episode, Prompt, Span
from textenv.segments import lines
from textenv.wrappers.process import ProcessReward, StepClassifier

LABELS = ("negative", "neutral", "positive")
WORTH = np.array([-1.0, 0.0, 1.0])


def judge(episodes: Sequence[Episode]) -> list[list[Span]]:
    return [[Span(*at, 1.0 if "b" in e.text[slice(*at)] else -1.0) for at in lines(e.text)] for e in episodes]


def process(model: Any = judge, score: float = 0.25, **options: Any) -> Any:
    arguments = {"model": model, **options}
    return make(reward=("process", arguments), scorer=constant_scorer(score), payment="end", max_new_tokens=24)


def episode(text: str, prompt: str = "Q: ", *, end: bool = True) -> Episode:
    return make(max_new_tokens=24).unwrapped.episode(Prompt(prompt, context=("C",)), ids(text, end=end))


def test_each_step_is_paid_on_its_last_token_beside_the_score() -> None:
    assert credited(process(), ids("ab\nc\n\nb", end=True)).rewards.tolist() == [0, 1, 0, -1, 0, 0, 1, 0.25]
    assert credited(process(keep_score=False), ids("ab\nc", end=True)).rewards.tolist() == [0, 1, 0, -1, 0]
    assert credited(process(weight=0.5), ids("ab", end=True)).rewards.tolist() == [0, 0.5, 0.25]
    assert credited(process(), [EOS]).rewards.tolist() == [0.25]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("read", ["argmax", "expected"])
def test_a_step_is_worth_what_the_classifier_says_of_the_text_up_to_its_end(kind: str, read: Any) -> None:
    model = worlds.classifier(kind, LABELS, seed=5)
    asked = StepClassifier(model, tokenizer=worlds.BYTES, read=read, template="{context}|{prompt}{text}")
    texts = [episode("ab\ncd\n e f"), episode("zz"), episode("")]
    found = asked(texts)
    assert [[(s.start, s.end) for s in spans] for spans in found] == [[(0, 3), (3, 7), (7, 10)], [(0, 2)], []]
    for text, spans in zip(texts, found, strict=True):
        for span in spans:
            row = torch.tensor([ids("C|Q: " + text.text[: span.end].rstrip())])
            with torch.inference_mode():
                shares = model(input_ids=row, attention_mask=torch.ones_like(row)).logits.softmax(-1)[0].double().numpy()
            expected = WORTH[shares.argmax()] if read == "argmax" else shares @ WORTH
            assert span.reward == pytest.approx(expected, abs=1e-5)
            assert span.label == LABELS[shares.argmax()]


def test_the_classifier_reads_nothing_after_the_step() -> None:
    asked = StepClassifier(worlds.classifier("llama", LABELS, seed=5), tokenizer=worlds.BYTES, read="expected")
    first = [asked([episode("ab\n" + rest)])[0][0].reward for rest in ("", "c", "zzz\nzz")]
    assert first[0] == pytest.approx(first[1], abs=1e-6) == pytest.approx(first[2], abs=1e-6)


def test_a_classifier_by_name_is_given_its_options(tmp_path: Path) -> None:
    name = str(worlds.saved(worlds.classifier("llama", LABELS, seed=5), tmp_path / "prm"))
    env = process(name, segmenter="sentences", values={"POSITIVE": 2.0, "neutral": 0.0, "negative": -2.0}, read="expected")
    found = credited(env, ids("ab. cd.", end=True)).rewards
    assert np.flatnonzero(found).tolist() == [2, 6, 7]
    asked = StepClassifier(name, segmenter="sentences", read="expected")
    read = env.get_wrapper_attr("episode")(Prompt("p: "), ids("ab. cd.", end=True))
    assert found[[2, 6]].tolist() == pytest.approx([2 * span.reward for span in asked([read])[0]], abs=1e-6)


def test_long_inputs_lose_their_left_end() -> None:
    asked = StepClassifier(worlds.classifier("llama", LABELS), tokenizer=worlds.BYTES, max_tokens=4, template="{prompt}{text}")
    assert bytes(asked._rows([(episode("abcdef"), "abcdef")])[0]) == b"cdef"


def test_an_aspect_or_its_name_is_a_judge_of_steps_too() -> None:
    aspect = Aspect("errors", judge, "sentence", lower_is_better=True)
    assert credited(process(aspect), ids("ab", end=True)).rewards.tolist() == [0, -1, 0.25]
    found = credited(process("sentence_score"), ids("a. b.", end=True)).rewards
    assert found.tolist() == [0, 0.25, 0, 0, 0.25, 0.25]


def test_by_default_the_first_aspect_that_judges_sentences_judges_steps() -> None:
    env = make(reward="process", payment="end")
    assert credited(env, ids("aa. b.", end=True)).rewards.tolist() == [0, 0, 2 / 16, 0, 0, 0, 2 / 16]


def test_a_step_is_paid_when_it_has_ended_while_the_text_goes_on() -> None:
    model = worlds.classifier("llama", LABELS, seed=5)
    asked = CountedCritic(StepClassifier(model, tokenizer=worlds.BYTES))
    env = make(reward=("process", {"model": asked}), scorer=constant_scorer(0.0), pay_every="token", max_new_tokens=24)
    rewards, last = walk(env, ids("ab\ncd", end=True))
    assert last is not None
    assert sum(rewards[:3]) == pytest.approx(last.rewards[1])
    assert sum(rewards) == pytest.approx(last.rewards.sum())


def test_steps_and_their_values_are_logged() -> None:
    env = process()
    credited(env, ids("ab\nc", end=True))
    credited(env, ids("b", end=True))
    assert env.get_wrapper_attr("credit_metrics")() == pytest.approx({"credit/steps": 1.5, "credit/step_value": 1 / 3})
    assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}


def test_a_copy_of_its_arguments_holds_no_second_model() -> None:
    asked = StepClassifier(worlds.classifier("llama", LABELS), tokenizer=worlds.BYTES)
    assert copy.deepcopy(asked) is asked


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda m: StepClassifier(m), ValueError, "needs its tokenizer"),
        (lambda m: StepClassifier(m, tokenizer=worlds.BYTES, values={"positive": 1.0}), ValueError,
         r"values tell nothing of the labels \['negative', 'neutral'\]; the model's are"),
        (lambda m: StepClassifier(m, tokenizer=worlds.BYTES, template="{prompt}"), ValueError, "needs the field {text}"),
        (lambda m: StepClassifier(m, tokenizer=worlds.BYTES, read="mean"), ValueError, 'read must be "argmax" or "expected"'),
        (lambda m: StepClassifier(m, tokenizer=worlds.BYTES, segmenter="words"), ValueError, "segmenter 'words'"),
        (lambda m: ProcessReward(make(), m), TypeError, "say how it is to be asked: model=StepClassifier"),
        (lambda m: ProcessReward(make(), 3), TypeError, "model= got int"),
        (lambda m: ProcessReward(make(), judge, segmenter="lines"), ValueError, r"no arguments \['segmenter'\] beside model"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(make_it: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_it(worlds.classifier("llama", LABELS))
