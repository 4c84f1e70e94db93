"""Models by name: what was saved with its head, and nothing that would be filled with random numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
import transformers

from tests import worlds
from textenv.agents import LMPolicy
from textenv.critics import CritiqueFormat, LanguageModelCritic, Section, load_critic
from textenv.judges.aspect_models import TokenClassifierJudge
from textenv.judges.loading import load_scorer
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.models import (
    headless,
    load_causal_lm,
    load_language_model,
    load_sequence_classifier,
    load_token_classifier,
    refuse_model,
)
from textenv.tokenization import load_tokenizer
from textenv.wrappers.process import StepClassifier

FORM = CritiqueFormat((Section("Insults", -1.0),))


def token_classifier(kind: str = "llama") -> Any:
    """A tiny token classifier that tells "fine" from "bad"."""
    names = {"id2label": {0: "fine", 1: "bad"}, "label2id": {"fine": 0, "bad": 1}}
    config = worlds.classifier(kind).config
    config.update(names)
    with worlds.seeded():
        return getattr(transformers, f"{kind.title()}ForTokenClassification")(config).eval()


@pytest.mark.parametrize("load", [load_causal_lm, load_language_model])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_classifier_is_no_language_model(load: Any, kind: str, tmp_path: Path) -> None:
    directory = worlds.saved(worlds.classifier(kind), tmp_path)
    with pytest.raises(ValueError, match=r"Classification\) has no (lm_head|cls).*random numbers; name a language model"):
        load(directory)


def test_a_classifier_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no lm_head\.weight"):
        LMPolicy(str(worlds.saved(worlds.classifier("llama"), tmp_path)))


def test_the_trunk_of_a_classifier_can_be_had_for_its_states(tmp_path: Path) -> None:
    model = worlds.classifier("llama")
    directory = worlds.saved(model, tmp_path)
    with headless():
        trunk = load_causal_lm(directory, device="cpu", shared=True).model
    assert worlds.same_weights(trunk, model.model)
    with pytest.raises(ValueError, match="has no lm_head"):  # what was loaded so is nobody else's
        load_causal_lm(directory, device="cpu", shared=True)


def test_a_trunk_that_is_not_there_is_refused_headless_too(tmp_path: Path) -> None:
    model = worlds.llama()
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1." not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    with headless(), pytest.raises(ValueError, match=r"has no model\.layers\.1\..*, …, which LlamaForCausalLM would fill"):
        load_causal_lm(tmp_path)


@pytest.mark.parametrize("make", [worlds.llama, worlds.gpt2, worlds.gemma2, *worlds.ENCODER_DECODERS.values()])
def test_a_tied_head_is_there(make: Any, tmp_path: Path) -> None:
    model = make()
    loaded = load_language_model(worlds.saved(model, tmp_path), device="cpu")
    assert worlds.same_weights(loaded, model)


@pytest.mark.parametrize(
    ("load", "make", "message"),
    [
        (load_token_classifier, lambda: worlds.classifier("bert"), "saved as BertForSequenceClassification; name a token"),
        (load_token_classifier, lambda: worlds.classifier("llama"), "saved as LlamaForSequenceClassification; name a token"),
        (load_token_classifier, worlds.llama, r"has no score\.bias, score\.weight, which LlamaForTokenClassification would fill"),
        (load_sequence_classifier, token_classifier, "saved as LlamaForTokenClassification; name a sequence classifier"),
        (load_sequence_classifier, worlds.llama, r"LlamaForCausalLM\) has no score\.weight"),
    ],
)
def test_a_model_with_another_head_or_none_is_refused(load: Any, make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(worlds.saved(make(), tmp_path))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_token_classifier_is_loaded_with_its_head(kind: str, tmp_path: Path) -> None:
    model = token_classifier(kind)
    assert worlds.same_weights(load_token_classifier(worlds.saved(model, tmp_path), device="cpu"), model)


# --- Names and files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load",
    [
        load_language_model, load_causal_lm, load_sequence_classifier, load_tokenizer, LMPolicy,
        lambda name: load_scorer(name, label=("toxic",)), lambda name: load_critic(name, FORM),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["nosuch", "no/such", "no such"])
def test_a_name_that_is_nowhere_is_named(load: Any, name: str) -> None:
    message = f"^'{name}' is no directory and no embedded model \\('textenv/...'\\), and could not be had from the hub"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        load(name)
    assert isinstance(caught.value.__cause__, OSError), "what transformers said of it"


@pytest.mark.parametrize(
    ("load", "make"),
    [
        (load_language_model, worlds.llama),
        (load_sequence_classifier, worlds.classifier),
        (lambda path: SequenceClassifierScorer(path, label=0), worlds.llama),
    ],
    ids=["language model", "classifier", "value head"],
)
def test_weights_that_are_damaged_are_named(load: Any, make: Any, tmp_path: Path) -> None:
    (worlds.saved(make(), tmp_path) / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=f"the weights of {tmp_path} are damaged or not whole .*save or download them again"):
        load(tmp_path)


def test_a_scorer_with_fewer_ids_than_its_tokenizer_is_refused_when_the_environment_is_made(tmp_path: Path) -> None:
    name = str(worlds.saved(worlds.classifier("bert"), tmp_path, worlds.byte_level_bpe()))
    with pytest.raises(ValueError, match=f"{tmp_path} knows 259 ids, its tokenizer .*: they do not belong together"):
        gym.make("textenv/Detox-v0", scorer=name)


def test_a_scorer_at_hand_with_fewer_ids_than_its_tokenizer_is_refused() -> None:
    model = load_sequence_classifier(worlds.classifier("llama"), device="cpu")
    with pytest.raises(ValueError, match="knows 259 ids, its tokenizer"):
        SequenceClassifierScorer(model, label=0, tokenizer=worlds.byte_level_bpe(), device="cpu")


def test_a_critic_with_fewer_ids_than_its_tokenizer_is_refused_when_the_environment_is_made(tmp_path: Path) -> None:
    name = str(worlds.saved(worlds.llama(), tmp_path, worlds.byte_level_bpe()))
    with pytest.raises(ValueError, match=f"{tmp_path} knows 259 ids, its tokenizer .*: they do not belong together"):
        worlds.make(reward="critic_span", critic=name)


def test_judges_of_tokens_and_of_steps_with_fewer_ids_than_their_tokenizers_are_refused() -> None:
    bpe = worlds.byte_level_bpe()
    with pytest.raises(ValueError, match="knows 259 ids, its tokenizer"):
        TokenClassifierJudge(token_classifier(), "bad", tokenizer=bpe, device="cpu")
    with pytest.raises(ValueError, match="knows 259 ids, its tokenizer"):
        StepClassifier(worlds.classifier("llama"), tokenizer=bpe, device="cpu")


# --- Critics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])  # GPT-2's head is tied: it would run
def test_a_classifier_of_texts_is_no_critic(kind: str, tmp_path: Path) -> None:
    name = str(worlds.saved(worlds.classifier(kind), tmp_path))
    with pytest.raises(ValueError, match=r"ForSequenceClassification, which answers no questions .* pass it as scorer="):
        load_critic(name, FORM)


def test_a_classifier_of_tokens_as_a_critic_is_told_how_to_be_one(tmp_path: Path) -> None:
    name = str(worlds.saved(token_classifier(), tmp_path))
    with pytest.raises(ValueError, match=r"labels tokens; .* critic=TokenClassifierJudge\('.*', label=.*scale=\(0\.0, -1\.0\)\)"):
        load_critic(name, FORM)


def test_what_the_message_says_is_a_critic(tmp_path: Path) -> None:
    name = str(worlds.saved(token_classifier(), tmp_path))
    critic = TokenClassifierJudge(name, label="bad", granularity="token", scale=(0.0, -1.0))
    env = worlds.make(reward=("critic_span", {"negative": -0.25}), critic=critic, payment="end", max_new_tokens=16)
    _, episode = worlds.walk(env, worlds.ids("some text", end=True))
    assert episode is not None
    (spans,) = critic([episode])
    marked = sum(span.end - span.start for span in spans)
    assert marked
    assert {span.reward for span in spans} == {-1.0}
    assert episode.rewards.sum() - episode.score == pytest.approx(-0.25 * marked)


# --- Bare models in the arguments of rewards ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (("redistributed", {"reward_model": None}), "scorer= got a model .*SequenceClassifierScorer"),
        (("attention", {"reward_model": None}), "scorer= got a model .*SequenceClassifierScorer"),
        (("delta", {"scorer": None}), "scorer= got a model .*SequenceClassifierScorer"),
        (("critic_span", {"critic": None}), "critic= got a model .*LanguageModelCritic"),
        (("critic_token", {"critic": None}), "critic= got a model .*LanguageModelCritic"),
        (("principles", {"model": None}), r"model= got a model .*callable \(episodes, principles\)"),
        (("process", {"model": None}), "model= got a model .*StepClassifier"),
    ],
)
@pytest.mark.parametrize("environment", ["CountLetter", "Detox", "LongFormQA"])
def test_a_bare_model_in_an_argument_of_a_reward_is_refused_when_the_environment_is_made(
    environment: str, reward: Any, message: str
) -> None:
    model = torch.nn.Linear(2, 1)
    name, arguments = reward
    with pytest.raises(TypeError, match=message):
        gym.make(
            f"textenv/{environment}-v0", reward=[(name, dict.fromkeys(arguments, model)), "length_penalty"],
            scorer=worlds.constant_scorer(0.0),
        )  # fmt: skip


def test_every_refusal_says_what_to_pass() -> None:
    with pytest.raises(TypeError, match=r"^scorer= got a model \(Linear\); say how .*: scorer=SequenceClassifierScorer\("):
        refuse_model("scorer", torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"^critic= got a model \(Linear\); say how .*: critic=LanguageModelCritic\("):
        worlds.make(reward="critic_span", critic=torch.nn.Linear(1, 1))
    refuse_model("scorer", worlds.even_share)


def test_critics_of_other_kinds_pass() -> None:
    critic = LanguageModelCritic(worlds.llama(), FORM, tokenizer=worlds.BYTES)
    assert load_critic(critic, FORM) is critic


# --- Paths and lists ---------------------------------------------------------------------------------------------------


def test_a_step_classifier_may_be_a_path(tmp_path: Path) -> None:
    directory = worlds.saved(worlds.classifier("llama", ("positive", "neutral", "negative")), tmp_path)
    paid = []
    for model in (directory, str(directory)):
        env = worlds.make(reward=("process", {"model": model}), payment="end", max_new_tokens=8)
        _, episode = worlds.walk(env, worlds.ids("a\nb", end=True))
        assert episode is not None
        paid.append(episode.rewards.tolist())
    assert paid[0] == paid[1]
    assert any(paid[0][:-1])


def test_a_model_that_reads_principles_may_be_a_path(tmp_path: Path) -> None:
    directory = worlds.saved(worlds.classifier("llama", ["good"]), tmp_path)
    env = worlds.make(reward=("principles", {"model": directory, "principles": {"a": "many a"}}), payment="end", max_new_tokens=4)
    _, episode = worlds.walk(env, worlds.ids("ab", end=True))
    assert episode is not None
    assert episode.rewards[-1] != episode.score


@pytest.mark.parametrize("reward", [("delta", "length_penalty"), ("delta",), ("uniform", "noise", "length_penalty"), ()])
def test_a_tuple_where_a_list_is_meant_is_refused(reward: Any) -> None:
    with pytest.raises(ValueError, match=r"a tuple is one reward and its arguments, \(name, \{\.\.\.\}\); use a list for several"):
        worlds.make(reward=reward)


def test_a_tuple_within_a_list_needs_its_arguments() -> None:
    with pytest.raises(ValueError, match="use a list for several"):
        worlds.make(reward=["uniform", ("delta", "length_penalty")])
