"""What is recorded while sampling equals what is computed afterwards, in every family; and who leaves a batch leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests import worlds
from tests.worlds import BYTES, EOS, VOCABULARY, make
from textenv.agents import LMPolicy, TokenPPO
from textenv.agents.ppo.nlpo import NLPO, MaskedPolicy
from textenv.agents.rollout import rollout, rollout_groups
from textenv.critics import CritiqueFormat, LanguageModelCritic, Section
from textenv.episode import Prompt
from textenv.generation import ActionRule, Sampled, invert, sample
from textenv.precision import casting_once

RULE = ActionRule(VOCABULARY, EOS, 12)
PROMPTS = [np.array(p) for p in ([97], [98, 99, 100, 101], [102, 103], [98, 99, 100, 101], [97])]


def qwen2() -> Any:
    """A tiny Qwen2: rotary positions, biases, two queries a key."""
    config = transformers.Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.2, bos_token_id=257, eos_token_id=258,
    )  # fmt: skip
    with worlds.seeded():
        return transformers.Qwen2ForCausalLM(config).eval()


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": worlds.gpt2, "llama": worlds.llama, "qwen2": qwen2, "gemma2": worlds.gemma2, **worlds.ENCODER_DECODERS,
}  # fmt: skip
EVERY_FAMILY = pytest.mark.parametrize("name", FAMILIES)


def policy_of(name: str = "llama", **options: Any) -> LMPolicy:
    """A policy whose values are not zero."""
    policy = LMPolicy(FAMILIES[name](), **options)
    torch.nn.init.normal_(policy.value_head.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return policy


def numbers(texts: int, length: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(texts, length, generator=torch.Generator().manual_seed(seed))


def apart(policy: LMPolicy, sampled: Sampled, rule: ActionRule = RULE) -> tuple[float, float]:
    """How far recorded log-probabilities and values are from those of `evaluate`, at most."""
    assert sampled.log_probs is not None
    assert sampled.values is not None
    with torch.no_grad():
        now = policy.evaluate(PROMPTS, sampled.tokens, rule)
    pairs = ((now.log_probs, sampled.log_probs), (now.values, sampled.values))
    first, second = (float(np.abs(a.numpy() - np.concatenate(b)).max()) for a, b in pairs)
    return first, second


# --- Recording ---------------------------------------------------------------------------------------------------------


@EVERY_FAMILY
@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
def test_recorded_numbers_equal_recomputed_ones(name: str, greedy: bool) -> None:
    policy = policy_of(name, temperature=0.7)
    rule = ActionRule(VOCABULARY, EOS, 12, min_new_tokens=3)
    assert max(apart(policy, policy.sample(PROMPTS, rule, None if greedy else numbers(5)), rule)) < 1e-5


@EVERY_FAMILY
def test_recording_changes_no_text(name: str) -> None:
    policy = policy_of(name)
    texts = policy.generate(PROMPTS, RULE, numbers(5))
    assert [t.tolist() for t in policy.sample(PROMPTS, RULE, numbers(5)).tokens] == [t.tolist() for t in texts]


def test_recorded_numbers_are_those_of_the_distribution_before_it_is_truncated() -> None:
    policy = policy_of()
    assert max(apart(policy, policy.sample(PROMPTS, RULE, numbers(5), top_k=3, top_p=0.8))) < 1e-5


def test_recorded_numbers_of_a_batch_that_is_cut_stand_at_their_texts() -> None:
    policy = policy_of()
    assert max(apart(policy, policy.sample(PROMPTS, RULE, numbers(5), batch_size=2))) < 1e-5


def test_recorded_numbers_in_bf16_are_a_few_thousandths_from_recomputed_ones() -> None:
    policy = policy_of("gpt2", precision="bf16")
    assert 0 < max(apart(policy, policy.sample(PROMPTS, RULE, numbers(5)))) < 0.1


def test_recording_leaves_no_hook_behind() -> None:
    policy = policy_of()
    policy.sample(PROMPTS, RULE, numbers(5))
    assert not policy.layout.trunk._forward_hooks


# --- Who leaves, and who is read once ----------------------------------------------------------------------------------


@EVERY_FAMILY
def test_rows_that_leave_the_batch_change_nothing_for_the_others(name: str) -> None:
    policy, uniforms = policy_of(name), numbers(24, 12)
    prompts = [PROMPTS[i % 3] for i in range(24)]
    together = policy.generate(prompts, RULE, uniforms)
    alone = [policy.generate([prompt], RULE, uniforms[i : i + 1])[0] for i, prompt in enumerate(prompts)]
    assert [t.tolist() for t in together] == [t.tolist() for t in alone]


@EVERY_FAMILY
def test_equal_prompts_are_read_once(name: str) -> None:
    policy, read = policy_of(name), []
    first = policy.model.get_encoder() if policy.model.config.is_encoder_decoder else policy.model.base_model
    first.register_forward_hook(lambda _, __, output: read.append(len(output.last_hidden_state)))
    policy.generate([PROMPTS[0]] * 6 + [PROMPTS[1]] * 2, RULE, numbers(8))
    assert read[0] == 2


def test_texts_in_order_of_their_prompts_lengths_come_back_in_the_callers() -> None:
    policy, uniforms = policy_of(), numbers(5)
    whole = policy.generate(PROMPTS, RULE, uniforms)
    assert [t.tolist() for t in policy.generate(PROMPTS, RULE, uniforms, batch_size=2)] == [t.tolist() for t in whole]


def test_frozen_weights_are_frozen_again_after_sampling_in_bf16() -> None:
    frozen = policy_of(precision="bf16").frozen_copy()
    frozen.generate(PROMPTS, RULE, numbers(5))
    assert not any(p.requires_grad for p in frozen.parameters())


def test_frozen_weights_are_cast_once() -> None:
    frozen = policy_of().frozen_copy()
    weight = frozen.model.lm_head.weight
    with torch.autocast("cpu", torch.bfloat16), casting_once(frozen.model):
        assert weight.requires_grad
    assert not weight.requires_grad


# --- What cannot be sampled ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("greedy", [False, True], ids=["sampled", "greedy"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_model_whose_logits_are_no_numbers_writes_nothing(greedy: bool, wrong: float) -> None:
    policy = policy_of(precision="fp32")
    with torch.no_grad():
        policy.model.lm_head.weight[7] = wrong
    with pytest.raises(FloatingPointError, match="the logits are NaN or infinite"):
        policy.generate(PROMPTS, RULE, None if greedy else numbers(5))


@pytest.mark.parametrize("uniforms", [torch.zeros(1), None], ids=["sampled", "greedy"])
def test_a_model_whose_logits_are_no_numbers_acts_on_nothing(uniforms: torch.Tensor | None) -> None:
    policy = policy_of(precision="fp32")
    with torch.no_grad():
        policy.model.lm_head.weight[7] = float("nan")
    observation = np.array([[-1, 97, *[-1] * RULE.max_new_tokens]])
    with pytest.raises(FloatingPointError, match="the logits are NaN or infinite"):
        policy.act(observation, RULE, uniforms)


@pytest.mark.parametrize("prompts", [[[]], [[97], []]], ids=str)
def test_a_prompt_of_no_ids_is_named(prompts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=f"prompt {len(prompts) - 1} of {len(prompts)} has no ids"):
        policy_of().generate([np.array(prompt, np.int64) for prompt in prompts], RULE, None)


def test_an_empty_text_is_a_prompt() -> None:
    episodes = rollout(make(), policy_of(), 2, torch.Generator().manual_seed(0), prompts=[Prompt(""), Prompt("ab")])
    assert [len(episode.prompt_tokens) for episode in episodes] == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_p": 1.5}, r"top_p must lie in 0\.\.1, got 1\.5"), ({"top_p": 0.0}, r"top_p must be above 0, got 0\.0"),
        ({"top_p": float("nan")}, "top_p must be above 0, got nan"), ({"top_k": -1}, "top_k must be at least 0, got -1"),
    ],
)  # fmt: skip
def test_a_truncation_that_cannot_be_meant_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy_of().generate(PROMPTS, RULE, numbers(5), **options)
    with pytest.raises(ValueError, match=message):
        rollout(make(), MaskedPolicy(policy_of(), NLPO()), 2, **options)


RECURRENT: dict[str, dict[str, Any]] = {
    "Mamba": {"state_size": 4},
    "Lfm2": {"num_attention_heads": 2, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]},
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_model_of_recurrent_layers_is_refused_when_an_agent_is_made_and_before_it_writes(kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, pad_token_id=256, **RECURRENT[kind]
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for begin in (
        lambda: TokenPPO(model, make()),
        lambda: LMPolicy(model).generate(PROMPTS, RULE, None),
        lambda: LanguageModelCritic(model, CritiqueFormat((Section("Bad", -1.0),)), tokenizer=BYTES),
    ):
        with pytest.raises(ValueError, match=rf"{kind}ForCausalLM has recurrent layers \(.+\).*give a model of attention"):
            begin()


def test_a_model_that_does_not_tell_its_body_from_its_head_is_refused() -> None:
    config = transformers.Llama4TextConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, intermediate_size_mlp=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, head_dim=16, num_local_experts=2, pad_token_id=256,
    )  # fmt: skip
    with pytest.raises(ValueError, match="its last hidden states cannot be read"):
        TokenPPO(transformers.Llama4ForCausalLM(config), make())


# --- Sampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 12, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_inverting_uniform_numbers_samples_as_multinomial_does(options: dict[str, Any], temperature: float) -> None:
    n, generator = 20_000, torch.Generator().manual_seed(3)
    logits = torch.randn(30, generator=generator) * 2 / temperature
    drawn = sample(logits.expand(n, -1), torch.rand(n, generator=generator), **options)
    kept = sample(logits.expand(n, -1), (torch.arange(n) + 0.5) / n, **options).unique()  # what the options let through
    probabilities = torch.zeros(30).scatter(0, kept, logits.softmax(0)[kept])
    for tokens in (drawn, torch.multinomial(probabilities, n, replacement=True, generator=generator)):
        assert p_value(tokens, probabilities) > 1e-3
    assert p_value(drawn, probabilities**1.2) < 1e-3  # the test can fail


def p_value(tokens: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Of the chi-square test that tokens were drawn with these probabilities."""
    expected = (probabilities / probabilities.sum() * len(tokens)).double()
    counts = torch.bincount(tokens, minlength=len(expected))
    assert not counts[expected == 0].any()
    statistic = ((counts - expected) ** 2 / expected)[expected > 0].sum()
    freedom = (expected > 0).sum() - 1
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


def test_probabilities_need_not_sum_to_one() -> None:
    assert invert(torch.tensor([[1.0, 3.0]]).expand(2, 2), torch.tensor([0.2, 0.3])).tolist() == [0, 1]


# --- On the way to the learner -----------------------------------------------------------------------------------------


def test_a_rollout_hands_on_what_was_recorded() -> None:
    policy, found = policy_of(), []
    episodes = rollout(make(), policy, 6, torch.Generator().manual_seed(0), recorded=found)
    (recorded,) = found
    assert [t.tolist() for t in recorded.tokens] == [e.tokens.tolist() for e in episodes]
    assert [len(row) for row in recorded.values] == [len(e) for e in episodes]


def test_groups_that_are_sampled_again_keep_their_own_numbers() -> None:
    env = make()
    found = rollout_groups(env, policy_of(), 12, torch.Generator().manual_seed(0), group_size=3, rounds=3)
    assert found.resampled
    assert [t.tolist() for t in found.sampled.tokens] == [e.tokens.tolist() for e in found.episodes]


def test_a_batch_of_recorded_numbers_is_the_batch_of_recomputed_ones_to_rounding() -> None:
    agent = TokenPPO(policy_of(), make(), n_episodes=8, batch_size=4, normalize_advantage=False, seed=0)
    found = rollout_groups(agent.env, agent.sampler, 8, agent.generator)
    recorded, computed = agent.prepare(found.episodes, found.groups, found.sampled), agent.prepare(found.episodes, found.groups)
    for name in ("log_probs", "values", "log_ratio", "advantages", "returns"):
        assert torch.allclose(getattr(recorded, name), getattr(computed, name), atol=1e-5), name


@pytest.mark.parametrize("again", [False, True])
def test_the_batch_is_read_again_only_where_that_is_asked_for(again: bool) -> None:
    agent = TokenPPO(LMPolicy(worlds.llama(), BYTES), make(), n_episodes=4, batch_size=4, n_epochs=1, recompute_log_probs=again)
    passes, evaluate = [], agent.policy.evaluate

    def counted(*arguments: Any, **options: Any) -> Any:
        passes.append(torch.is_grad_enabled())
        return evaluate(*arguments, **options)

    agent.policy.evaluate = counted  # type: ignore[method-assign]
    agent.learn(1)
    assert (False in passes) == again
