"""Log-probabilities of given tokens under frozen models: those of the policy, whatever the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import BYTES, EOS, make
from textenv.agents import LMPolicy
from textenv.judges import token_log_probs as module
from textenv.judges.token_log_probs import load_frozen, token_log_probs
from textenv.reward import NotApplicable

PROMPTS = [np.array(list(b"some prompt")), np.array(list(b"b")), np.array(list(b"xyz")), np.array(list(b"p"))]
TEXTS = [np.array([*b"a text", EOS]), np.array([*b"longer than that"]), np.array([EOS]), np.zeros(0, np.int64)]
RULE = make().get_wrapper_attr("action_rule")
MODELS = {"llama": worlds.llama, "gpt2": worlds.gpt2, "gemma2": worlds.gemma2, "t5": worlds.t5, "bart": worlds.bart}


@pytest.mark.parametrize("kind", MODELS)
def test_they_are_those_of_a_policy_of_the_same_weights(kind: str) -> None:
    model = MODELS[kind]()
    found = token_log_probs(model, PROMPTS, TEXTS, RULE)
    expected = LMPolicy(model, tokenizer=BYTES, device="cpu").evaluate(PROMPTS[:3], TEXTS[:3], RULE).log_probs.detach()
    assert np.concatenate(found) == pytest.approx(expected.numpy(), abs=1e-5)
    assert [len(values) for values in found] == [len(text) for text in TEXTS]


@pytest.mark.parametrize("kind", MODELS)
def test_neighbours_and_chunks_do_not_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[kind]()
    together = token_log_probs(model, PROMPTS, TEXTS, RULE)
    for limit, size in ((1, 64), (1 << 25, 2)):
        monkeypatch.setattr(module, "MAX_LOGITS", limit)
        for a, b in zip(token_log_probs(model, PROMPTS, TEXTS, RULE, batch_size=size), together, strict=True):
            assert a == pytest.approx(b, abs=1e-5)


def test_a_prefix_has_the_log_probabilities_of_its_text() -> None:
    model = worlds.llama()
    (whole,) = token_log_probs(model, PROMPTS[:1], TEXTS[:1], RULE)
    for t in range(1, len(TEXTS[0])):
        assert token_log_probs(model, PROMPTS[:1], [TEXTS[0][:t]], RULE)[0] == pytest.approx(whole[:t], abs=1e-5)


def test_logits_are_made_at_generated_positions_alone_and_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = worlds.llama(), list[int]()
    token_log_probs(model, PROMPTS, TEXTS, RULE)  # the first time, the head is checked
    monkeypatch.setattr(module, "MAX_LOGITS", 16 * RULE.vocabulary)
    model.get_output_embeddings().register_forward_hook(lambda _, __, output: sizes.append(output.shape[:-1].numel()))
    token_log_probs(model, PROMPTS, TEXTS, RULE)
    assert sum(size for size in sizes if size > 1) == sum(map(len, TEXTS))  # 1: each pass over a model reads its head once
    assert max(sizes) <= 16


def test_a_text_beyond_the_positions_of_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match="need 130 positions; the model has 128"):
        token_log_probs(worlds.llama(), [np.zeros(126, np.int64)], [np.zeros(4, np.int64)], RULE)


def test_no_gradient_reaches_a_frozen_model() -> None:
    model = worlds.llama()
    token_log_probs(load_frozen(make(), model, "model"), PROMPTS, TEXTS, RULE)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not torch.is_inference_mode_enabled()


def test_models_that_cannot_read_the_policys_tokens_are_refused(tmp_path: Any) -> None:
    other = worlds.tokenizers()["unigram"]
    directory = worlds.saved(worlds.llama(len(other)), tmp_path, other)
    with pytest.raises(NotApplicable, match=r"has another tokenizer \(\d+ ids\) than the environment \(259 ids\).*pass reference="):
        load_frozen(make(), str(directory), "reference")
    with pytest.raises(NotApplicable, match="model= knows 100 ids, the environment's tokenizer 259"):
        load_frozen(make(), worlds.llama(100, bos_token_id=1, eos_token_id=2), "model")


def test_those_who_name_a_model_share_it(llama_directory: Any) -> None:
    assert load_frozen(make(), str(llama_directory), "model") is load_frozen(make(), llama_directory, "model")
