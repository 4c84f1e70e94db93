"""Judges in bfloat16: half the memory, scores in float32, verdicts as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import BYTES
from textenv.critics import LanguageModelCritic
from textenv.judges.aspect_models import TokenClassifierJudge
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.models import pick_dtype
from textenv.tasks.detox import Detox

TEXTS = ["You are a moron.", "The chair was wide.", "I like the tea, you old goat, and the chair."]


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_scores_are_those_of_float32_to_two_digits(kind: str, tmp_path: Path) -> None:
    name = worlds.saved(worlds.classifier(kind), tmp_path)
    whole, half = (SequenceClassifierScorer(name, label=1, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert half.model.dtype == torch.bfloat16
    assert half.score_texts(TEXTS) == pytest.approx(whole.score_texts(TEXTS), abs=0.03)


def test_a_reward_is_no_multiple_of_what_bfloat16_can_tell(tmp_path: Path) -> None:
    name = worlds.saved(worlds.classifier("llama"), tmp_path)
    scores = torch.tensor(SequenceClassifierScorer(name, label=1, output="logit", dtype=torch.bfloat16).score_texts(TEXTS))
    assert not torch.equal(scores, scores.bfloat16().float())


def test_the_embedded_scorer_judges_alike() -> None:
    whole, half = (
        SequenceClassifierScorer("textenv/tiny-toxicity", label="toxic", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.score_texts(TEXTS) == pytest.approx(whole.score_texts(TEXTS), abs=0.01)


def test_the_embedded_aspects_judge_alike() -> None:
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        judge = TokenClassifierJudge("textenv/tiny-aspects", "supported", "text", output="probability", dtype=dtype)
        rows = [encoded.ids for encoded in _read(judge)]
        found.append(np.concatenate([judge._probability(logits) for logits in judge._logits([tuple(row) for row in rows])]))
    assert found[1] == pytest.approx(found[0], abs=0.05)


def test_the_embedded_critic_gives_the_same_answers() -> None:
    form = Detox().load_critic(None).form  # type: ignore[attr-defined]
    answers = [
        LanguageModelCritic("textenv/tiny-critic-insults", form, dtype=dtype).answers(TEXTS)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert answers[0] == answers[1]


def test_auto_is_the_rule_of_a_policy_and_a_name_is_itself() -> None:
    assert pick_dtype("auto", "cpu") == torch.float32
    assert pick_dtype(torch.bfloat16, "cpu") == torch.bfloat16
    judge = SequenceClassifierScorer("textenv/tiny-toxicity", label="toxic", dtype="auto", device="cpu")
    assert judge.model.dtype == torch.float32


def _read(judge: TokenClassifierJudge) -> Any:
    from textenv.judges.encodings import encode

    return encode(judge.tokenizer, TEXTS)


def test_a_model_object_keeps_its_own_dtype() -> None:
    judge = SequenceClassifierScorer(worlds.classifier().bfloat16(), label=1, tokenizer=BYTES)
    assert judge.model.dtype == torch.bfloat16
    assert np.isfinite(judge.score_texts(TEXTS)).all()
