"""The lower part of a decoder frozen: the same numbers and upper gradients, one copy in memory, and it never moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests import worlds
from tests.worlds import EOS, VOCABULARY, make
from textenv.agents import LMPolicy, TokenPPO, rollout
from textenv.generation import ActionRule

RULE = ActionRule(VOCABULARY, EOS, 8)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101], [102, 103])]
TEXTS = [np.array(t) for t in ([1, 2, 3, EOS], [4], [5, 6, 7, 8, 9, 10, 11, 12])]


def qwen2() -> Any:
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.2, pad_token_id=256, bos_token_id=257,
        eos_token_id=258, tie_word_embeddings=False,
    )  # fmt: skip
    with worlds.seeded():
        return transformers.Qwen2ForCausalLM(config).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: worlds.gpt2(n_layer=3), "llama": lambda: worlds.llama(num_hidden_layers=3), "qwen2": qwen2,
    "gemma2": worlds.gemma2,
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", MODELS)


def gradients(policy: LMPolicy, lower: Any = None) -> dict[str, torch.Tensor]:
    torch.nn.init.ones_(policy.value_head.weight)
    out = policy.evaluate(PROMPTS, TEXTS, RULE, entropy=True, lower=lower)
    policy.zero_grad()
    (out.log_probs.mean() + 0.1 * out.values.mean() + out.entropy.mean()).backward()
    return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@EVERY
@pytest.mark.parametrize("again", [False, True])
def test_going_on_from_frozen_layers_is_the_full_forward_and_its_upper_gradients(name: str, again: bool) -> None:
    whole, half = LMPolicy(MODELS[name]()), LMPolicy(MODELS[name](), frozen_layers=1, gradient_checkpointing=again)
    lower = half.lower_states(PROMPTS, TEXTS, RULE)
    assert [len(states) for states in lower] == [len(p) + len(t) for p, t in zip(PROMPTS, TEXTS, strict=True)]
    order = [2, 0, 1]  # another batch, other padding
    asked = [PROMPTS[i] for i in order], [TEXTS[i] for i in order], RULE
    expected, got = whole.evaluate(*asked), half.evaluate(*asked, lower=[lower[i] for i in order])
    assert torch.allclose(got.log_probs, expected.log_probs, atol=1e-6)
    all_of_it, upper = gradients(whole), gradients(half, lower)
    frozen = set(half.frozen.names)  # type: ignore[union-attr]
    assert upper.keys() == {key for key in all_of_it if key.removeprefix("model.") not in frozen}
    for key, gradient in upper.items():
        assert (gradient - all_of_it[key]).abs().max() <= 1e-6 * max(1.0, float(gradient.abs().max())), key


@EVERY
def test_embeddings_and_lower_blocks_are_frozen_and_no_more(name: str) -> None:
    policy = LMPolicy(MODELS[name](), frozen_layers=1)
    model = policy.model
    blocks = model.get_decoder().h if name == "gpt2" else model.get_decoder().layers
    expected = {id(p) for p in [model.get_input_embeddings().weight, *blocks[0].parameters()]}
    if name == "gpt2":
        expected.add(id(model.transformer.wpe.weight))
    assert {id(p) for p in model.parameters() if not p.requires_grad} == expected


@EVERY
def test_the_lower_blocks_are_run_once_and_not_again(name: str) -> None:
    policy = LMPolicy(MODELS[name](), frozen_layers=2)
    lower = policy.lower_states(PROMPTS, TEXTS, RULE)
    policy.evaluate(PROMPTS, TEXTS, RULE, lower=lower)
    norms = [m for m in policy.model.modules() if "Norm" in type(m).__name__]
    calls: list[int] = []
    norms[0].register_forward_hook(lambda *_: calls.append(1))
    policy.evaluate(PROMPTS, TEXTS, RULE, lower=lower)
    assert calls == []
    policy.lower_states(PROMPTS, TEXTS, RULE)
    assert calls == [1]


@EVERY
def test_copies_hold_the_frozen_weights_in_common_and_the_others_apart(name: str) -> None:
    policy = LMPolicy(MODELS[name](), frozen_layers=1)
    for copied in (policy.copy(), policy.frozen_copy()):
        mine, theirs = (dict(p.named_parameters()) for p in (policy, copied))
        common = {key for key in mine if mine[key] is theirs[key]}
        assert common == {key for key in mine if not mine[key].requires_grad}
        assert policy.shares_base(copied)
    assert {key for key, p in policy.copy().requires_grad_(True).named_parameters() if not p.requires_grad} == common


def agent(model: Any = None, *, frozen_layers: int = 1, **options: Any) -> TokenPPO:
    env = make(reward="critic_span", payment="end", max_new_tokens=6, scorer=worlds.even_share)
    given = {"n_episodes": 8, "batch_size": 4, "n_epochs": 2, "learning_rate": 1e-2, "seed": 0, **options}
    return TokenPPO(worlds.gpt2(n_layer=3) if model is None else model, env, frozen_layers=frozen_layers, **given)


def weights(policy: LMPolicy, *, frozen: bool) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.model.named_parameters() if p.requires_grad is not frozen}


@pytest.mark.parametrize(
    "options", [{}, {"value_model": "separate"}, {"reference_sync_every": 1, "reference_mixing": 0.5}], ids=str
)
def test_the_lower_weights_never_move_and_the_upper_ones_learn(options: dict[str, Any]) -> None:
    one = agent(**options)
    frozen, learned = weights(one.policy, frozen=True), weights(one.policy, frozen=False)
    one.learn(100)
    assert all(torch.equal(frozen[name], p) for name, p in weights(one.policy, frozen=True).items())
    assert not any(torch.equal(learned[name], p) for name, p in weights(one.policy, frozen=False).items())
    assert one.policy.frozen is not None
    assert one.policy.frozen.shared(one.policy.model, one.reference.model)
    if one.value_model is not None:
        assert one.policy.frozen.shared(one.policy.model, one.value_model.reader.model)


def test_an_update_is_that_of_a_policy_whose_lower_layers_are_computed_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = agent(value_model="separate").learn(1)
    monkeypatch.setattr(TokenPPO, "_lower", lambda *_: None)
    whole = agent(value_model="separate").learn(1)
    for (name, a), b in zip(kept.policy.named_parameters(), whole.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


def test_a_reference_of_other_weights_is_read_whole() -> None:
    one, other = agent(reference=LMPolicy(worlds.gpt2(n_layer=3, seed=1))), LMPolicy(worlds.gpt2(n_layer=3, seed=1))
    episodes = rollout(one.env, one.policy, 4, one.generator)
    expected = other.evaluate([e.prompt_tokens for e in episodes], [e.tokens for e in episodes], one.rule).log_probs
    assert torch.allclose(one.prepare(episodes).ref_log_probs, expected, atol=1e-5)


def test_a_saved_agent_goes_on_with_its_layers_frozen_and_shared(tmp_path: Path) -> None:
    straight, one = agent().learn(1).learn(1, reset_num_timesteps=False), agent().learn(1)
    one.save(tmp_path / "agent")
    again = TokenPPO.load(tmp_path / "agent", one.env)
    assert again.policy.frozen == one.policy.frozen
    assert again.policy.frozen.shared(again.policy.model, again.reference.model)  # type: ignore[union-attr]
    again.learn(1, reset_num_timesteps=False)
    for (name, a), b in zip(straight.policy.named_parameters(), again.policy.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (worlds.llama, {"frozen_layers": 3}, r"frozen_layers must lie in 1\.\.2, the blocks of LlamaForCausalLM; got 3"),
        (worlds.llama, {"frozen_layers": -1}, r"frozen_layers must lie in 1\.\.2, .*; got -1"),
        (worlds.t5, {"frozen_layers": 1}, "frozen_layers is for decoders, and T5ForConditionalGeneration has an encoder too"),
        (worlds.llama, {"frozen_layers": 1, "lora": 4}, "LoRA freezes the whole base: leave out frozen_layers=1"),
    ],
)
def test_what_cannot_be_frozen_is_named(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LMPolicy(model(), **options)


def test_freezing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    LMPolicy(worlds.gpt2().train(), frozen_layers=1)
    assert torch.equal(before, torch.get_rng_state())
