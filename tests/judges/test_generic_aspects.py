"""Every task has them: the verdict on each sentence, fluency, length."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import gymnasium as gym
import pytest

import textenv
from tests import worlds
from tests.worlds import ids, make
from textenv.aspects import GENERIC
from textenv.episode import Episode, Prompt
from textenv.judges.generic_aspects import Fluency, SegmentScores, generic_aspects
from textenv.metrics import negative_log_likelihood

ENV = make(max_new_tokens=24).unwrapped


def episode(text: str) -> Episode:
    return ENV.episode(Prompt("p"), ids(text, end=True))


@pytest.mark.parametrize("environment", textenv.ENVIRONMENTS)
def test_every_task_has_its_own_aspects_first_and_then_the_verdict_on_sentences(environment: str) -> None:
    names = list(gym.make(environment, tokenizer="bytes", scorer=worlds.constant_scorer(0.0)).get_wrapper_attr("task").aspects)
    generic = [name for name in names if name in GENERIC]
    assert "sentence_score" in generic
    assert names[len(names) - len(generic) :] == generic


def test_aspects_are_made_once_so_that_a_model_is_loaded_once() -> None:
    assert ENV.task.aspects["fluency"] is ENV.task.aspects["fluency"]


def test_the_verdict_on_a_sentence_is_the_scorers_on_that_sentence_alone() -> None:
    seen: list[str] = []

    def scorer(episodes: list[Episode]) -> list[float]:
        seen.extend(e.text for e in episodes)
        return [float(len(e.tokens)) for e in episodes]

    spans = SegmentScores(scorer)([episode("One. Two!"), episode(""), episode("Three")])
    assert seen == ["One. ", "Two!", "Three"]
    assert [[span.reward for span in found] for found in spans] == [[5.0, 4.0], [], [5.0]]


def test_length_counts_tokens_with_the_one_that_ends_the_text() -> None:
    assert generic_aspects(ENV.task)["length"].per_text([episode("abc")]) == [4.0]


def test_fluency_is_the_mean_log_probability_of_the_models_own_tokens() -> None:
    model = worlds.llama()
    fluency = Fluency(model, tokenizer=worlds.BYTES)
    texts = [episode("abc de"), episode("zz")]
    losses, counts = negative_log_likelihood(model, texts)
    found = [spans[0].reward for spans in fluency(texts)]
    assert found == pytest.approx((-losses / counts).tolist())
    assert fluency([episode("")]) == [[]]


def test_fluency_reads_what_the_policy_read_by_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    tokenizer = worlds.tokenizers()["byte_level_bpe"]
    model = worlds.llama(len(tokenizer), bos_token_id=1, eos_token_id=2)
    name = str(worlds.saved(model, tmp_path / "lm", tokenizer))
    asked = Fluency(name, prompt_text=lambda e: f"Say {e.prompt.text}: ")
    read = asked._as_read(episode("the lazy dog"))
    assert tokenizer.decode(read.prompt_tokens) == "Say p: "
    assert tokenizer.decode(read.tokens) == "the lazy dog"
    [[span]] = asked([episode("the lazy dog")])
    assert math.isfinite(span.reward)
    assert span.reward < 0


def test_fluency_leaves_out_the_beginning_of_what_the_model_cannot_hold() -> None:
    asked = Fluency(worlds.llama(max_position_embeddings=8), tokenizer=worlds.BYTES, prompt_text=lambda e: "a long prompt")
    read = asked._as_read(episode("abc"))
    assert bytes(read.prompt_tokens.tolist()) == b"rompt"
    assert bytes(read.tokens.tolist()) == b"abc"
    assert len(asked._as_read(episode("0123456789")).tokens) == 7


def test_a_copy_of_an_aspects_arguments_holds_no_second_model() -> None:
    fluency = Fluency(worlds.llama(), tokenizer=worlds.BYTES)
    assert copy.deepcopy(fluency) is fluency
    scores = SegmentScores(lambda episodes: [])
    assert copy.deepcopy(scores) is scores


def test_where_no_reference_fits_there_is_no_fluency() -> None:
    assert list(generic_aspects(ENV.task, reference=None)) == ["sentence_score", "length"]


def test_the_english_model_does_not_judge_german() -> None:
    env = gym.make("textenv/Translation-v0", tokenizer="bytes", scorer=worlds.constant_scorer(0.0))
    assert "fluency" not in env.get_wrapper_attr("task").aspects
