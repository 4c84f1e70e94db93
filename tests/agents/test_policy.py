"""A language model as a policy: what it samples is what it says it samples, for any model and any rule."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import BYTES, EOS, VOCABULARY, make
from textenv.agents import LMPolicy, TokenPPO
from textenv.generation import ActionRule

RULE = ActionRule(VOCABULARY, EOS, 8)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101], [102, 103])]
TEXTS = [np.array(t) for t in ([1, 2, 3, EOS], [4], [5, 6, 7, 8, 9, 10, 11, 12])]
MODELS: dict[str, Callable[[], Any]] = {
    "llama": worlds.llama, "gpt2": worlds.gpt2, "gemma2": worlds.gemma2,
    "tied llama": lambda: worlds.llama(tie_word_embeddings=True),
    "llama of few key heads and much room": lambda: worlds.llama(300),
}  # fmt: skip


def direct(model: Any, prompt: Any, text: Any, rule: ActionRule = RULE, temperature: float = 1.0) -> torch.Tensor:
    """(T, V) logits after the rule, from one plain forward pass of one text."""
    logits = model(torch.from_numpy(np.concatenate([prompt, text]))[None]).logits[0, len(prompt) - 1 : -1]
    return rule.restrict(logits.float() / temperature, torch.arange(len(text)))


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_are_those_of_the_models_own_forward(name: str) -> None:
    model = MODELS[name]()
    policy = LMPolicy(model)
    got = policy.evaluate(PROMPTS, TEXTS, RULE).log_probs
    expected = [
        direct(model, p, t).log_softmax(-1).gather(1, torch.from_numpy(t)[:, None]).squeeze(1)
        for p, t in zip(PROMPTS, TEXTS, strict=True)
    ]
    assert torch.allclose(got, torch.cat(expected), atol=1e-5)


def test_what_a_head_does_beside_projecting_is_in_every_log_probability() -> None:
    capped, free = worlds.gemma2(), worlds.gemma2()
    free.config.final_logit_softcapping = None
    one, other = (LMPolicy(model).evaluate(PROMPTS, TEXTS, RULE).log_probs for model in (capped, free))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_the_head_runs_at_generated_positions_and_one_more(name: str) -> None:
    policy = LMPolicy(MODELS[name]())
    policy.evaluate(PROMPTS, TEXTS, RULE)  # the first time, the head is checked
    shapes = []
    policy.model.get_output_embeddings().register_forward_hook(lambda _, __, output: shapes.append(output.shape[:-1].numel()))
    policy.evaluate(PROMPTS, TEXTS, RULE)
    policy.act(np.array([[-1, 97, 5], [98, 99, 6]]), ActionRule(VOCABULARY, EOS, 1), None)
    assert shapes == [1, sum(map(len, TEXTS)), 1, 2]


@pytest.mark.parametrize("fails", [False, True])
def test_reading_leaves_no_hook_behind(fails: bool) -> None:
    policy = LMPolicy(worlds.llama())
    prompts = [np.array([10_000])] * 3 if fails else PROMPTS
    with pytest.raises(IndexError) if fails else contextlib.nullcontext():
        policy.evaluate(prompts, TEXTS, RULE)
    assert not policy.layout.trunk._forward_hooks
    assert "forward" not in vars(policy.layout.trunk)


@pytest.mark.parametrize("name", MODELS)
def test_the_likelihood_has_a_gradient_for_every_parameter(name: str) -> None:
    policy = LMPolicy(MODELS[name]())
    out = policy.evaluate(PROMPTS, TEXTS, RULE, entropy=True)
    (out.log_probs.sum() + out.values.sum() + out.entropy.sum()).backward()
    assert [n for n, p in policy.named_parameters() if p.grad is None] == []


def test_values_begin_at_zero_and_are_those_of_the_state_before_the_token() -> None:
    model = worlds.llama()
    policy = LMPolicy(model)
    assert not policy.evaluate(PROMPTS, TEXTS, RULE).values.any()
    torch.nn.init.ones_(policy.value_head.weight)
    hidden = model.base_model(torch.tensor([[97, 1, 2, 3]])).last_hidden_state[0]
    assert torch.allclose(policy.evaluate(PROMPTS[:1], TEXTS[:1], RULE).values, hidden.sum(-1), atol=1e-5)


def test_entropy_is_that_of_the_distribution_under_the_rule() -> None:
    rule = ActionRule(200, 10, 8, min_new_tokens=3)
    model = worlds.llama()
    texts = [np.array([1, 2, 3, 4])]
    got = LMPolicy(model).evaluate(PROMPTS[:1], texts, rule, entropy=True).entropy
    expected = torch.distributions.Categorical(logits=direct(model, PROMPTS[0], texts[0], rule)).entropy()
    assert torch.allclose(got, expected, atol=1e-5)


def test_entropy_is_computed_on_demand_alone() -> None:
    assert LMPolicy(worlds.llama()).evaluate(PROMPTS, TEXTS, RULE).entropy is None


def test_the_temperature_enters_sampling_and_log_probabilities_alike() -> None:
    model = worlds.llama()
    policy = LMPolicy(model, temperature=0.5)
    got = policy.evaluate(PROMPTS[:1], TEXTS[:1], RULE).log_probs
    expected = direct(model, PROMPTS[0], TEXTS[0], temperature=0.5).log_softmax(-1)
    assert torch.allclose(got, expected.gather(1, torch.from_numpy(TEXTS[0])[:, None]).squeeze(1), atol=1e-5)
    n = 500
    first = policy.generate([PROMPTS[0]] * n, ActionRule(VOCABULARY, EOS, 1), ((torch.arange(n) + 0.5) / n)[:, None])
    counts = np.bincount([int(text[0]) for text in first], minlength=VOCABULARY) / n
    assert np.allclose(counts, expected[0].exp().detach().numpy(), atol=2 / n)


def test_the_end_is_not_sampled_before_the_least_length() -> None:
    model = worlds.llama()
    with torch.no_grad():
        model.lm_head.weight[EOS] *= 20  # EOS is likely, or very unlikely
    rule = ActionRule(VOCABULARY, EOS, 8, min_new_tokens=5)
    policy, uniforms = LMPolicy(model), torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    prompts = [PROMPTS[0]] * 64
    free = policy.generate(prompts, RULE, uniforms)
    bound = policy.generate(prompts, rule, uniforms)
    assert min(map(len, free)) <= 5
    assert all(EOS not in text[:5] for text in bound)
    assert torch.isfinite(policy.evaluate(prompts, bound, rule).log_probs).all()


def test_embedding_rows_above_the_tokenizer_are_never_sampled_and_carry_no_probability() -> None:
    model = worlds.llama(320)
    with torch.no_grad():
        model.lm_head.weight[VOCABULARY:] *= 100
    policy = LMPolicy(model, BYTES)
    texts = policy.generate([PROMPTS[0]] * 32, RULE, torch.rand(32, 8))
    assert max(int(text.max()) for text in texts) < VOCABULARY
    every = [np.array([token]) for token in range(VOCABULARY)]
    total = policy.evaluate([PROMPTS[0]] * VOCABULARY, every, RULE).log_probs.exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_acting_on_observations_chooses_what_generating_does(name: str) -> None:
    policy, uniforms = LMPolicy(MODELS[name]()), torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    texts = policy.generate(PROMPTS, RULE, uniforms)
    for dtype in (np.int64, np.float32):
        rows = np.full((3, 6 + 8), -1, dtype)
        for i, prompt in enumerate(PROMPTS):
            rows[i, 6 - len(prompt) : 6] = prompt
        for t in range(min(map(len, texts))):
            assert policy.act(rows, RULE, uniforms[:, t]).tolist() == [int(text[t]) for text in texts]
            rows[:, 6 + t] = [text[t] for text in texts]


def test_greedy_texts_need_no_numbers() -> None:
    policy = LMPolicy(worlds.llama())
    assert [t.tolist() for t in policy.generate(PROMPTS, RULE, None)] == [t.tolist() for t in policy.generate(PROMPTS, RULE, None)]


def test_a_text_does_not_depend_on_how_the_batch_is_cut() -> None:
    policy, uniforms = LMPolicy(worlds.gpt2()), torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
    whole = policy.generate(PROMPTS, RULE, uniforms)
    cut = policy.generate(PROMPTS, RULE, uniforms, batch_size=2)
    assert [t.tolist() for t in whole] == [t.tolist() for t in cut]


def test_dropout_is_off_after_training_mode() -> None:
    policy = LMPolicy(worlds.gpt2())
    policy.train()
    policy.generate(PROMPTS, RULE, None)
    assert not policy.model.training


def test_a_frozen_copy_does_not_follow_its_original() -> None:
    policy = LMPolicy(worlds.llama())
    frozen = policy.frozen_copy()
    with torch.no_grad():
        next(policy.parameters()).add_(1)
    assert not worlds.same_weights(frozen, policy)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in policy.parameters())


def test_a_model_object_is_used_as_it_is_and_not_copied() -> None:
    model = worlds.llama()
    assert LMPolicy(model).model is model


def test_a_directory_is_read_with_its_tokenizer(llama_directory: Path) -> None:
    policy = LMPolicy(llama_directory)
    assert worlds.same_weights(policy.model, worlds.llama())
    assert policy.tokenizer.get_vocab() == BYTES.get_vocab()


# --- What does not fit together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_of_nothing_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0"):
        LMPolicy(worlds.llama(), temperature=temperature)


def test_a_policy_with_fewer_ids_than_the_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"200 ids, the environment's tokenizer.* 259"):
        TokenPPO(worlds.llama(200, bos_token_id=1, eos_token_id=2), make())


def test_a_policy_with_another_tokenizer_is_refused() -> None:
    other = worlds.tokenizers()["byte_level_bpe"]
    with pytest.raises(ValueError, match="tokenizer"):
        TokenPPO(LMPolicy(worlds.llama(len(other)), other), make())


def test_the_same_tokenizer_loaded_twice_is_no_other(llama_directory: Path) -> None:
    agent = TokenPPO(str(llama_directory), make(tokenizer=copy.deepcopy(BYTES)))
    assert agent.policy.tokenizer is not agent.env.get_wrapper_attr("tokenizer")


def test_texts_longer_than_the_models_positions_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"need 140 positions; the model has 128"):
        TokenPPO(worlds.llama(), make(max_prompt_tokens=70, max_new_tokens=70))


def test_a_directory_without_tokenizer_is_named(tmp_path: Path) -> None:
    worlds.saved(worlds.llama(), tmp_path, tokenizer=None)
    with pytest.raises(ValueError, match="holds no tokenizer"):
        LMPolicy(tmp_path)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        LMPolicy(tmp_path / "none")
