"""Every estimator, aggregation and place of the KL in TokenPPO: exact at the first update, the same in parts, and it learns."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger

from tests import worlds
from tests.worlds import Memory, make
from textenv.agents import LMPolicy, TokenPPO, evaluate, rollout
from textenv.agents.ppo.aggregation import AGGREGATIONS
from textenv.agents.ppo.estimators import ESTIMATORS
from textenv.agents.ppo.kl import kl_estimate
from textenv.agents.ppo.nlpo import NLPO

BATCH: dict[str, Any] = {"n_episodes": 8, "batch_size": 4, "n_epochs": 2, "learning_rate": 1e-3}
MODES: dict[str, dict[str, Any]] = {
    **{name: {"advantage": name} for name in ESTIMATORS},
    **{f"{name} on sequences": {"advantage": name, "advantage_level": "sequence"} for name in ESTIMATORS if name != "gae"},
    **{f"{kl} in the {at}": {"kl_in": at, "kl_estimator": kl} for at in ("reward", "loss") for kl in ("k2", "k3")},
    **{mode: {"loss_aggregation": mode} for mode in AGGREGATIONS},
    "a separate value": {"value_model": "separate"},
    "clip-higher": {"clip_range_high": 0.28},
    "whitened rewards": {"whiten_rewards": "std"},
    "entropy": {"ent_coef": 0.1, "loss_aggregation": "sequence"},
    "nlpo": {"nlpo": NLPO(0.5)},
    "nlpo, grpo": {"nlpo": NLPO(0.5), "advantage": "grpo"},
    "dynamic sampling": {"advantage": "grpo", "group_size": 4, "dynamic_sampling": 2},
}
EVERY_MODE = pytest.mark.parametrize("options", MODES.values(), ids=MODES)


def environment(**arguments: Any) -> Any:
    return make(
        **{"reward": "critic_span", "payment": "end", "max_new_tokens": 6, "scorer": worlds.even_share,
           "prompts": ["a", "bb", "ccc"], **arguments}
    )  # fmt: skip


def agent(*, model: Any = None, env: Any = None, **options: Any) -> TokenPPO:
    env = environment() if env is None else env
    return TokenPPO(worlds.llama() if model is None else model, env, **{"seed": 0, **BATCH, **options})


def stopping() -> Any:
    """A model whose texts are of unequal length: a third of its probability is on EOS."""
    model = worlds.llama()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(worlds.VOCABULARY).index_fill(0, torch.tensor([worlds.EOS]), 5.0))
    return model


def logged(one: TokenPPO, timesteps: int = 1) -> list[dict[str, Any]]:
    memory = Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(timesteps)
    return memory.rows


def assert_same_policy(a: TokenPPO, b: TokenPPO) -> None:
    for (name, x), y in zip(a.policy.named_parameters(), b.policy.parameters(), strict=True):
        assert torch.allclose(x, y, atol=2e-6), name


# --- Exactness ---------------------------------------------------------------------------------------------------------


@EVERY_MODE
def test_the_first_update_has_ratio_one_in_every_mode(options: dict[str, Any]) -> None:
    (row,) = logged(agent(model=stopping(), n_epochs=1, batch_size=8, recompute_log_probs=True, **options))
    assert (row["val/ratio"], row["train/approx_kl"], row["train/clip_fraction"], row["objective/kl"]) == (1.0, 0.0, 0.0, 0.0)


@EVERY_MODE
def test_micro_batches_make_the_same_update_in_every_mode(options: dict[str, Any]) -> None:
    whole, parts = (agent(model=stopping(), batch_size=8, micro_batch_size=size, **options).learn(1) for size in (8, 3))
    assert_same_policy(whole, parts)


def test_every_token_alike_and_every_text_alike_are_different_updates() -> None:
    seen: list[int] = []

    def note(local: Any, _: Any) -> bool:
        seen.extend(map(len, local["episodes"]))
        return True

    weights = {
        mode: agent(model=stopping(), max_grad_norm=1e9, loss_aggregation=mode).learn(1, callback=note).policy
        for mode in AGGREGATIONS
    }
    assert len(set(seen)) > 2
    for a, b in itertools.combinations(AGGREGATIONS, 2):
        assert not worlds.same_weights(weights[a], weights[b])


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_redistributed_reward_cancels_on_the_level_of_sequences_and_not_of_tokens(level: str) -> None:
    """RED through the environment: r̃_t = R(x, y_≤t) − R(x, y_<t)."""
    batches = []
    for reward in ("sparse", "redistributed"):
        env = environment(reward=reward, scorer=lambda episodes: [float(np.sin(e.tokens.astype(float)).sum()) for e in episodes])
        one = agent(env=env, advantage="rloo", advantage_level=level, kl_coef=0.0)
        batches.append(one.prepare(rollout(env, one.policy, 8, torch.Generator().manual_seed(0), prompts=two_prompts(env))))
    assert torch.equal(batches[0].log_probs, batches[1].log_probs)
    assert torch.allclose(batches[0].advantages, batches[1].advantages, atol=1e-5) is (level == "sequence")


def two_prompts(env: Any) -> list[Any]:
    return [prompt for prompt in env.get_wrapper_attr("task").prompts[:2] for _ in range(4)]


def test_the_kl_in_the_reward_is_the_estimate_of_each_token_and_in_the_loss_none() -> None:
    env = environment()
    for estimator, at in itertools.product(("k1", "k2", "k3"), ("reward", "loss")):
        options = {"gae_lambda": 0.0, "normalize_advantage": False, "kl_coef": 0.5, "kl_in": at, "kl_estimator": estimator}
        if (estimator, at) == ("k1", "loss"):
            continue
        one = agent(env=env, reference=LMPolicy(worlds.llama(seed=1)), **options)
        episodes = rollout(env, one.policy, 4, torch.Generator().manual_seed(0))
        batch = one.prepare(episodes)
        credit = torch.from_numpy(np.concatenate([e.rewards for e in episodes])).float()
        penalty = 0.5 * kl_estimate(batch.log_ratio, estimator) if at == "reward" else 0.0
        assert torch.allclose(batch.advantages, credit - penalty, atol=1e-4)
        assert batch.log_ratio.any()


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_kl_in_the_loss_pulls_towards_the_reference(estimator: str) -> None:
    env = environment(reward="sparse", scorer=worlds.constant_scorer(0.0))  # nothing else pulls
    options = {
        "learning_rate": 1e-2,
        "kl_in": "loss",
        "kl_estimator": estimator,
        "advantage": "grpo",
        "n_epochs": 1,
        "kl_coef": 1.0,
    }
    reference = LMPolicy(worlds.llama(initializer_range=0.02))
    rows = logged(agent(env=env, reference=reference, n_episodes=64, batch_size=16, **options), 5_000)
    assert rows[-1]["objective/kl"] < 0.25 * rows[0]["objective/kl"]
    assert rows[-1]["train/kl_loss"] < 0.25 * rows[0]["train/kl_loss"]


def test_k1_in_the_loss_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="the gradient of k1 in the loss has mean zero"):
        agent(kl_in="loss", kl_estimator="k1")


def test_no_value_is_learned_where_texts_are_compared() -> None:
    one = agent(advantage="rloo")
    (row,) = logged(one)
    assert not one.policy.value_head.weight.any()
    assert {"train/value_loss", "train/explained_variance"} & row.keys() == set()


def test_two_texts_of_a_group_begin_with_one_prompt() -> None:
    seen: list[Any] = []
    agent(advantage="grpo", group_size=4).learn(1, callback=lambda local, _: seen.extend(local["episodes"]) is None)
    assert len(seen) == 8
    for group in (seen[:4], seen[4:]):
        assert len({e.prompt.text for e in group}) == 1
        assert len({e.tokens.tobytes() for e in group}) > 1


# --- The reference -----------------------------------------------------------------------------------------------------


def test_the_reference_becomes_the_policy_every_so_many_iterations() -> None:
    one = agent(reference_sync_every=2)
    same = []
    for _ in range(4):
        one.learn(1, reset_num_timesteps=False)
        same.append(worlds.same_weights(one.policy, one.reference))
    assert same == [False, True, False, True]


def test_a_mixed_reference_lies_between_the_old_one_and_the_policy() -> None:
    one = agent(reference_sync_every=1, reference_mixing=0.25).learn(1)
    for new, old, mixed in zip(
        one.policy.model.parameters(), worlds.llama().parameters(), one.reference.model.parameters(), strict=True
    ):
        assert torch.allclose(mixed, 0.25 * new + 0.75 * old, atol=1e-6)
    assert not any(p.requires_grad for p in one.reference.parameters())


def test_a_reference_that_was_given_is_not_written_to() -> None:
    given = LMPolicy(worlds.llama(seed=1))
    one = agent(reference=given, reference_sync_every=1, reference_mixing=0.5).learn(1)
    assert worlds.same_weights(given.model, worlds.llama(seed=1))
    assert one.reference is not given


# --- Dynamic sampling --------------------------------------------------------------------------------------------------


def test_the_tokens_of_groups_that_were_sampled_again_are_counted() -> None:
    env = environment(reward="sparse", scorer=worlds.constant_scorer(1.0))
    one, seen = agent(env=env, advantage="grpo", group_size=4, dynamic_sampling=3), []
    one.learn(1, callback=lambda local, _: seen.append(sum(map(len, local["episodes"]))) is None)
    assert one.num_timesteps > 3 * seen[0]


def test_the_share_of_groups_that_tell_nothing_is_logged() -> None:
    env = environment(reward="sparse", scorer=worlds.constant_scorer(1.0))
    (row,) = logged(agent(env=env, advantage="grpo", group_size=4))
    assert (row["rollout/frac_reward_zero_std"], row["rollout/reward_std"]) == (1.0, 0.0)
    (row,) = logged(agent(advantage="grpo", group_size=8))
    assert row["rollout/frac_reward_zero_std"] == 0.0
    assert row["rollout/reward_std"] > 0


def test_whitened_rewards_leave_whitened_advantages_without_a_value_as_they_were() -> None:
    one, other = (agent(model=stopping(), advantage="reinforce++", whiten_rewards=by) for by in (None, "std"))
    with worlds.seeded(0):
        episodes = rollout(one.env, one.policy, 8, torch.Generator().manual_seed(0))
    plain, whitened = one.prepare(episodes), other.prepare(episodes)
    torch.testing.assert_close(whitened.advantages, plain.advantages)
    rewards = plain.returns.std() / whitened.returns.std()
    torch.testing.assert_close(plain.returns / rewards, whitened.returns)
    assert rewards > 0
    assert abs(float(rewards) - 1) > 0.01


# --- Settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_left_out_is_as_in_the_estimators_paper(name: str) -> None:
    one, usual = agent(advantage=name), ESTIMATORS[name]
    assert (one.group_size, one.normalize_advantage, one.loss_aggregation, one.kl_in) == (
        usual.group_size, usual.normalize_advantage, usual.loss_aggregation, usual.kl_in,
    )  # fmt: skip
    assert one.kl_estimator == ("k3" if usual.kl_in == "loss" else "k1")


def test_a_coefficient_given_while_loading_is_the_one_that_counts(tmp_path: Path) -> None:
    agent(kl_coef=0.3).save(tmp_path)
    assert TokenPPO.load(tmp_path, environment()).kl.value == 0.3
    assert TokenPPO.load(tmp_path, environment(), kl_coef=0.05).kl.value == 0.05


@pytest.mark.parametrize("mode", ["reinforce++-baseline", "rloo on sequences", "k3 in the loss", "clip-higher", "dynamic sampling"])
def test_a_loaded_agent_goes_on_in_its_mode(tmp_path: Path, mode: str) -> None:
    options = MODES[mode]
    straight = agent(n_epochs=1, **options).learn(1)
    straight.save(tmp_path / "a")
    resumed = TokenPPO.load(tmp_path / "a", environment())
    straight.learn(1, reset_num_timesteps=False)
    resumed.learn(1, reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, resumed.policy)
    assert straight.n_trained == resumed.n_trained == 2


def test_a_synchronised_reference_comes_back_from_disk(tmp_path: Path, llama_directory: Path) -> None:
    one = agent(model=str(llama_directory), reference_sync_every=1).learn(1)
    one.save(tmp_path / "a")
    assert worlds.same_weights(TokenPPO.load(tmp_path / "a", environment()).reference.model, one.policy.model)


@pytest.mark.parametrize(
    "options",
    [
        {"value_model": "separate"},
        {"nlpo": NLPO(0.5, refresh_every=1)},
        {"reference_sync_every": 1},
        {"advantage": "grpo", "gradient_checkpointing": True},
    ],
    ids=str,
)
def test_with_lora_the_base_stays_and_a_loaded_agent_goes_on(tmp_path: Path, options: dict[str, Any]) -> None:
    straight = agent(lora=4, n_epochs=1, **options)
    before = {name: p.clone() for name, p in straight.policy.model.named_parameters() if "lora_" not in name}
    straight.learn(1).save(tmp_path / "a")
    assert all(torch.equal(p, before[name]) for name, p in straight.policy.model.named_parameters() if name in before)
    resumed = TokenPPO.load(tmp_path / "a", environment())
    for one in (straight, resumed):
        one.learn(1, reset_num_timesteps=False)
    assert worlds.same_weights(straight.policy, resumed.policy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": "ppo"}, "advantage must be one of gae, rloo, .* got 'ppo'"),
        ({"advantage_level": "word"}, "advantage_level must be one of token, sequence, got 'word'"),
        ({"advantage_level": "sequence"}, "GAE is an estimate for each token"),
        ({"advantage": "grpo", "group_size": 1}, "group_size must be at least 2, got 1"),
        ({"advantage": "grpo", "group_size": 3}, "n_episodes=8 is no multiple of group_size=3"),
        ({"dynamic_sampling": 1}, "dynamic_sampling=1 needs texts to compare"),
        ({"dynamic_sampling": -1}, "dynamic_sampling must be at least 0, got -1"),
        ({"loss_aggregation": "mean"}, "loss_aggregation must be one of token, sequence, constant, got 'mean'"),
        ({"whiten_rewards": True}, "whiten_rewards must be one of std, sqrt_std, got True"),
        ({"kl_in": "both"}, "kl_in must be one of reward, loss, got 'both'"),
        ({"kl_estimator": "k4"}, "kl_estimator must be one of k1, k2, k3, got 'k4'"),
        ({"reference_sync_every": 0}, "reference_sync_every must be at least 1, got 0"),
        ({"reference_mixing": 0.0}, r"reference_mixing must lie in \(0, 1\], got 0.0"),
        ({"reference_mixing": 0.5, "reference": LMPolicy(worlds.gpt2())}, "reference_mixing=0.5 mixes like weights"),
        ({"reference_mixing": 0.5, "lora": 4}, "reference_mixing=0.5 mixes like weights"),
        ({"value_warmup": -1}, "value_warmup must be at least 0, got -1"),
        ({"advantage": "rloo", "value_warmup": 2}, "value_warmup=2, but advantage='rloo' learns no value"),
        ({"advantage": "rloo", "value_model": "separate"}, "value_model='separate', but advantage='rloo' learns no value"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1, got 0"),
        ({"model": LMPolicy(worlds.llama()), "lora": 4}, r"lora=4.* are for a policy that is made here"),
    ],
)
def test_a_bad_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent(**options)


# --- It learns ---------------------------------------------------------------------------------------------------------

SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: ("critic_span", {"advantage": name}) for name in ESTIMATORS if name != "gae"},
    "grpo on sequences": ("sparse", {"advantage": "grpo", "advantage_level": "sequence"}),
    "nlpo": ("sparse", {"nlpo": NLPO(0.9, refresh_every=2)}),
    "a separate value": ("critic_span", {"value_model": "separate", "value_warmup": 1}),
    "whitened rewards": ("critic_span", {"whiten_rewards": "sqrt_std"}),
    "kl in the loss": ("sparse", {"kl_in": "loss", "kl_coef": 1e-3}),
    "clip-higher, every text alike": ("sparse", {"clip_range_high": 0.28, "loss_aggregation": "sequence"}),
}


@pytest.mark.parametrize(("reward", "options"), SOLVERS.values(), ids=SOLVERS)
def test_it_solves_the_smallest_world(reward: str, options: dict[str, Any]) -> None:
    env = make(reward=reward, payment="end", max_new_tokens=8)
    settings = {"n_episodes": 32, "batch_size": 16, "n_epochs": 2, "learning_rate": 1e-2, "kl_coef": 0.0, **options}
    one = TokenPPO(worlds.llama(initializer_range=0.02), env, seed=1, **settings)
    while one.num_timesteps < 40_000 and evaluate(one, env, 1, k=16).metrics["mean_score"] < 0.95:
        one.learn(2_000, reset_num_timesteps=False)
    assert evaluate(one, env, 1, k=16).metrics["mean_score"] >= 0.95
