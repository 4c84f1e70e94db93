"""ETPO: the soft Bellman equations in a world small enough to write out, and an agent that keeps to them."""

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
from textenv.agents import LMPolicy, evaluate, rollout
from textenv.agents.etpo import etpo
from textenv.agents.etpo.etpo import ETPO
from textenv.agents.etpo.soft_q import soft_optimal, soft_targets, soft_values

BATCH: dict[str, Any] = {"n_episodes": 8, "batch_size": 4, "learning_rate": 1e-3}
NEVER = float("-inf")


def agent(model: Any = None, env: Any = None, *, seed: int = 0, **options: Any) -> ETPO:
    env = make(prompts=["a", "bb", "ccc"], max_new_tokens=6, scorer=worlds.even_share) if env is None else env
    return ETPO(worlds.llama() if model is None else model, env, seed=seed, **{**BATCH, **options})


def disturbed(policy: LMPolicy, seed: int) -> LMPolicy:
    """The policy with other weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in policy.parameters():
            if p.requires_grad or not policy.adapted:
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return policy


# --- A world of three tokens and three steps, written out --------------------------------------------------------------

VOCABULARY, END, LENGTH, BETA = 3, 2, 3, 0.3


class Tree:
    """All texts over two letters and an end, of at most three tokens; ρ and the rewards are random."""

    def __init__(self, *, gamma: float = 1.0, dense: bool = False, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.gamma, inner = gamma, [p for n in range(LENGTH) for p in itertools.product((0, 1), repeat=n)]
        self.rho = {s: torch.randn(VOCABULARY, generator=generator, dtype=torch.float64).log_softmax(-1) for s in inner}
        steps = [(*s, w) for s in inner for w in range(VOCABULARY)]
        drawn = torch.randn(len(steps), generator=generator, dtype=torch.float64)
        self.reward = {y: float(r) if dense or self.ended(y) else 0.0 for y, r in zip(steps, drawn, strict=True)}
        self.texts = [y for y in steps if self.ended(y)]
        self.q: dict[tuple[int, ...], torch.Tensor] = {}
        self.pi: dict[tuple[int, ...], torch.Tensor] = {}
        self.value: dict[tuple[int, ...], float] = {}
        for state in sorted(inner, key=len, reverse=True):  # soft policy iteration is exact from the leaves upwards
            self.q[state] = torch.stack([self.target((*state, w)) for w in range(VOCABULARY)])
            self.pi[state] = soft_optimal(self.rho[state][None], self.q[state][None], BETA)[0]
            self.value[state] = float(soft_values(self.pi[state][None], self.rho[state][None], self.q[state][None], BETA))

    @staticmethod
    def ended(text: tuple[int, ...]) -> bool:
        return bool(text) and (text[-1] == END or len(text) == LENGTH)

    def target(self, text: tuple[int, ...]) -> torch.Tensor:
        """Q of the last token of a text, by the library's targets of one step."""
        steps = 1 if self.ended(text) else 2
        rewards = torch.tensor([self.reward[text], 0.0][:steps], dtype=torch.float64)
        values = torch.tensor([0.0, self.value.get(text, 0.0)][:steps], dtype=torch.float64)
        zeros = torch.zeros(steps, dtype=torch.float64)
        return soft_targets(rewards, values, zeros, [steps], beta=BETA, gamma=self.gamma)[0]

    def along(self, text: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        """Rewards, values, log π*/ρ and Q* of each token of a text."""
        rows = [(text[: t + 1], text[:t], w) for t, w in enumerate(text)]
        numbers = [
            (self.reward[y], self.value[s], float(self.pi[s][w] - self.rho[s][w]), float(self.q[s][w])) for y, s, w in rows
        ]
        return tuple(torch.tensor(numbers, dtype=torch.float64).unbind(1))

    def action_value(self) -> float:
        """β log Σ_y ρ(y) exp(R(y) / β): the text as one action."""
        scores = []
        for text in self.texts:
            log_rho = sum(float(self.rho[text[:t]][w]) for t, w in enumerate(text))
            scores.append(log_rho + sum(self.reward[text[: t + 1]] for t in range(len(text))) / BETA)
        return BETA * float(torch.tensor(scores, dtype=torch.float64).logsumexp(0))


@pytest.mark.parametrize("dense", [False, True])
def test_soft_bellman_consistency(dense: bool) -> None:
    tree = Tree(dense=dense)
    for text in tree.texts:
        _, values, log_ratio, q = tree.along(text)
        assert torch.allclose(values, q - BETA * log_ratio, atol=1e-12), "V* = Q* − β log π*/ρ for every token of every text"


@pytest.mark.parametrize("dense", [False, True])
def test_without_discount_inside_it_the_tokens_give_the_value_of_the_whole_action(dense: bool) -> None:
    tree = Tree(dense=dense)
    assert tree.value[()] == pytest.approx(tree.action_value(), abs=1e-12)


def test_with_a_discount_inside_it_they_do_not() -> None:
    tree = Tree(gamma=0.9)
    assert abs(tree.value[()] - tree.action_value()) > 0.02


@pytest.mark.parametrize("td_lambda", [0.0, 0.5, 1.0])
def test_at_the_optimum_targets_of_any_number_of_steps_are_the_q_values(td_lambda: float) -> None:
    tree = Tree(dense=True)
    parts = [tree.along(text) for text in tree.texts]
    rewards, values, log_ratio, q = (torch.cat(column) for column in zip(*parts, strict=True))
    got = soft_targets(rewards, values, log_ratio, [len(text) for text in tree.texts], beta=BETA, td_lambda=td_lambda)
    assert torch.allclose(got, q, atol=1e-12)


# --- One state, in closed form -----------------------------------------------------------------------------------------

LOG_RHO, Q = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[1.0, 0.0]])


def gradient(log_pi: torch.Tensor, q: torch.Tensor, beta: float = 0.5) -> torch.Tensor:
    """Of the policy's loss, with respect to its logits."""
    logits = log_pi.clone().requires_grad_()
    (-soft_values(logits.log_softmax(-1), LOG_RHO, q, beta).sum()).backward()
    assert logits.grad is not None
    return logits.grad


def test_the_best_policy_is_the_reference_tilted_by_q() -> None:
    best = soft_optimal(LOG_RHO, Q, 0.5)
    tilted = torch.tensor([[0.25 * np.exp(2.0), 0.75]]).float()
    assert torch.allclose(best.exp(), tilted / tilted.sum())
    assert torch.allclose(gradient(best, Q), torch.zeros(1, 2), atol=1e-6)
    assert gradient(LOG_RHO, Q).abs().max() > 0.1


def test_a_strong_penalty_leaves_the_reference_and_a_weak_one_takes_the_best_token() -> None:
    assert torch.allclose(soft_optimal(LOG_RHO, Q, 1e6), LOG_RHO, atol=1e-5)
    assert torch.allclose(soft_optimal(LOG_RHO, Q, 1e-3).exp(), torch.tensor([[1.0, 0.0]]))


def test_the_gradient_of_the_policy_changes_with_q() -> None:  # that of the released code does not
    assert not torch.allclose(gradient(LOG_RHO, Q), gradient(LOG_RHO, -Q))
    assert torch.allclose(gradient(LOG_RHO, Q), gradient(LOG_RHO, Q + 5.0), atol=1e-6), "but not with a constant in it"


def test_a_forbidden_token_has_no_part_in_a_value_or_its_gradient() -> None:
    log_pi, q = torch.tensor([[0.0, NEVER, -1.0]]).log_softmax(-1), torch.tensor([[1.0, 0.0, 0.0]])
    log_rho = torch.tensor([[0.0, NEVER, 0.0]]).log_softmax(-1)
    pair = [x[:, [0, 2]] for x in (log_pi, log_rho, q)]
    assert soft_values(log_pi, log_rho, q, 0.5).item() == pytest.approx(soft_values(*pair, 0.5).item())
    logits = torch.tensor([[0.0, NEVER, -1.0]], requires_grad=True)
    soft_values(logits.log_softmax(-1), log_rho, q, 0.5).sum().backward()
    assert torch.isfinite(logits.grad).all()


# --- The agent ---------------------------------------------------------------------------------------------------------


def logits_of(policy: LMPolicy, episode: Any) -> torch.Tensor:
    """(T, V) by one plain forward pass."""
    ids = torch.from_numpy(np.concatenate([episode.prompt_tokens, episode.tokens]))[None]
    return policy.model(ids).logits[0, len(episode.prompt_tokens) - 1 : -1]


def test_the_targets_are_those_of_the_equations() -> None:
    one = agent(kl_coef=0.2, td_lambda=0.0, gamma=0.9)
    disturbed(one.policy, 1)
    disturbed(one.target, 2)
    episodes = rollout(one.env, one.policy, 3, one.generator)
    batch = one.prepare(episodes)
    values, targets = [], []
    with torch.no_grad():
        for e in episodes:
            pi, rho, z = (logits_of(p, e) for p in (one.policy, one.reference, one.target))
            hidden = one.target.distributions([e.prompt_tokens], [e.tokens], one.rule)[0]
            q = one.target.value_head(hidden) + z - rho
            log_ratio = pi.log_softmax(-1) - rho.log_softmax(-1)
            v = (pi.softmax(-1) * (q - 0.2 * log_ratio)).sum(-1)
            values.append(v)
            targets.append(torch.from_numpy(e.rewards).float() + 0.9 * torch.cat([v[1:], v.new_zeros(1)]))
    assert torch.allclose(batch.values, torch.cat(values), atol=1e-4)
    assert torch.allclose(batch.returns, torch.cat(targets), atol=1e-4)


def test_q_begins_at_zero_and_the_policy_at_its_optimum() -> None:
    one = agent(td_lambda=0.0)
    batch = one.prepare(rollout(one.env, one.policy, 4, one.generator))
    assert not batch.values.any()
    assert not batch.log_ratio.any()


def test_errors_above_and_below_weigh_the_same() -> None:  # in the released code one of them is zero
    one = agent(huber_delta=10.0)
    batch = one.prepare(rollout(one.env, one.policy, 4, one.generator))
    losses = [one._minibatch(batch._replace(returns=torch.full_like(batch.returns, y)))["critic_loss"] for y in (20.0, -20.0)]
    assert losses == pytest.approx([150.0, 150.0])


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_of_any_size_make_the_same_update(micro: int) -> None:
    whole, parts = (agent(batch_size=8, micro_batch_size=m, n_epochs=3) for m in (8, micro))
    whole.learn(1)
    parts.learn(1)
    for one, other in ((whole.policy, parts.policy), (whole.critic, parts.critic), (whole.target, parts.target)):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_no_more_logits_stand_in_memory_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    one, seen = agent(micro_batch_size=4), []
    monkeypatch.setattr(etpo, "MAX_LOGITS", 13 * one.rule.vocabulary)  # two texts of six tokens
    for network in (one.policy, one.reference, one.critic, one.target):
        network.layout.head.register_forward_hook(lambda _, __, output: seen.append(output.numel()))
    episodes = rollout(one.env, one.policy, 8, one.generator)
    seen.clear()
    one.train(one.prepare(episodes))
    assert 6 * one.rule.vocabulary < max(seen) <= 13 * one.rule.vocabulary


def test_what_stays_between_the_passes_is_a_few_numbers_a_token() -> None:
    one = agent()
    batch = one.prepare(rollout(one.env, one.policy, 4, one.generator))
    tokens = sum(map(len, batch.episodes))
    assert {tuple(x.shape) for x in batch if isinstance(x, torch.Tensor)} == {(tokens,)}


def test_the_slow_critic_takes_its_share_of_the_fast_one() -> None:
    one = agent(tau=0.25)
    before = [p.clone() for p in one.target.parameters()]
    disturbed(one.critic, 1)
    one._follow()
    for old, slow, fast in zip(before, one.target.parameters(), one.critic.parameters(), strict=True):
        assert torch.allclose(slow, 0.75 * old + 0.25 * fast, atol=1e-6)


def test_tokens_that_the_rule_forbids_do_no_harm() -> None:
    one = agent(env=make(prompts=["a"], max_new_tokens=6, min_new_tokens=4)).learn(60)
    assert all(torch.isfinite(p).all() for network in (one.policy, one.critic) for p in network.parameters())


def test_training_leaves_the_reference_as_it_was() -> None:
    one = agent().learn(60)
    assert worlds.same_weights(one.reference.model, worlds.llama())
    assert not worlds.same_weights(one.policy.model, worlds.llama())
    assert not worlds.same_weights(one.critic.model, worlds.llama())


def test_two_runs_of_one_seed_are_equal_and_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state().tolist()
    runs = [agent(seed=7).learn(100) for _ in range(2)]
    assert worlds.same_weights(runs[0].policy, runs[1].policy)
    assert torch.get_rng_state().tolist() == before


@pytest.mark.parametrize("lora", [None, 4])
def test_a_loaded_agent_goes_on_as_if_it_had_never_stopped(tmp_path: Path, lora: int | None) -> None:
    straight = agent(lora=lora, tau=0.5, kl_coef=0.3).learn(1)
    straight.save(tmp_path / "a")
    straight.learn(60, reset_num_timesteps=False)
    env = make(prompts=["a", "bb", "ccc"], max_new_tokens=6, scorer=worlds.even_share)
    resumed = ETPO.load(tmp_path / "a", env)
    assert (resumed.kl_coef, resumed.tau) == (0.3, 0.5)
    resumed.learn(60, reset_num_timesteps=False)
    for one, other in ((straight.policy, resumed.policy), (straight.critic, resumed.critic), (straight.target, resumed.target)):
        assert worlds.same_weights(one, other)


def test_with_adapters_all_four_networks_hold_one_base() -> None:
    one = agent(lora=4).learn(60)
    for network in (one.critic, one.target, one.reference):
        assert network.shares_base(one.policy)
    assert worlds.same_weights(one.policy.base().model, worlds.llama())
    assert not worlds.same_weights(one.critic.model, one.target.model)


def test_its_numbers_are_logged() -> None:
    one, memory = agent(), Memory()
    one.set_logger(Logger(None, [memory]))
    one.learn(1)
    expected = (
        "train/critic_loss train/policy_loss train/q_values train/learning_rate train/n_updates objective/kl objective/scores "
        "rollout/ep_rew_mean time/total_timesteps"
    )
    assert set(expected.split()) - set(memory.rows[0]) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_episodes": 0}, "n_episodes must be at least 1, got 0"),
        ({"micro_batch_size": 0}, "micro_batch_size must be at least 1, got 0"),
        ({"kl_coef": 0.0}, "kl_coef must be above 0, got 0.0"),
        ({"gamma": 1.1}, r"gamma must lie in 0\.\.1, got 1\.1"),
        ({"td_lambda": -0.1}, r"td_lambda must lie in 0\.\.1"),
        ({"tau": 2.0}, r"tau must lie in 0\.\.1"),
    ],
)
def test_a_bad_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent(**options)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        agent(learning_rate=1e30, max_grad_norm=1e30).learn(500)


# --- It learns ---------------------------------------------------------------------------------------------------------

SOLVER: dict[str, Any] = {"n_episodes": 32, "batch_size": 16, "learning_rate": 1e-2, "tau": 0.1}


def solved(one: ETPO, timesteps: int = 30_000) -> bool:
    while one.num_timesteps < timesteps and evaluate(one, one.env, 1, k=16).metrics["mean_score"] < 0.95:
        one.learn(2_000, reset_num_timesteps=False)
    return bool(evaluate(one, one.env, 1, k=16).metrics["mean_score"] >= 0.95)


@pytest.mark.parametrize("reward", ["sparse", "critic_span"])
def test_it_solves_the_smallest_world(reward: str) -> None:
    env = make(reward=reward, payment="end", max_new_tokens=8)
    assert solved(agent(worlds.llama(initializer_range=0.02), env, **SOLVER))


def test_it_does_not_where_the_critic_learns_nothing() -> None:
    env = make(reward="critic_span", payment="end", max_new_tokens=8)
    assert not solved(agent(worlds.llama(initializer_range=0.02), env, **SOLVER, critic_learning_rate=0.0), 8_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_decoder_solves_it_too(name: str) -> None:
    env = make(reward="critic_span", payment="end", max_new_tokens=8, tokenizer=worlds.closing())
    model = worlds.t5() if name == "t5" else worlds.bart(init_std=0.02)
    assert solved(agent(model, env, **{**SOLVER, "learning_rate": 3e-3, "n_epochs": 2}))


@pytest.mark.slow
def test_an_adapter_solves_it_too() -> None:
    env = make(reward="critic_span", payment="end", max_new_tokens=8)
    policy = LMPolicy(worlds.llama(initializer_range=0.05), lora={"r": 8, "modules_to_save": ["lm_head"]})
    assert solved(agent(policy, env, **SOLVER))


def test_it_ends_at_the_soft_optimum_and_not_at_the_greedy_one() -> None:
    env = make(prompts=["a"], max_new_tokens=1, scorer=lambda episodes: [float(e.tokens[0] < 100) for e in episodes])
    options = {"n_episodes": 256, "batch_size": 64, "learning_rate": 1e-2, "tau": 1.0, "kl_coef": 0.5}
    one = agent(worlds.llama(initializer_range=0.05), env, **options).learn(256 * 30)
    with torch.no_grad():
        log_rho, log_pi = (
            p.distributions([np.array([97])], [np.array([1])], one.rule)[1].log_softmax(-1) for p in (one.reference, one.policy)
        )
    reward = (torch.arange(log_rho.shape[1]) < 100).float()[None]
    best = soft_optimal(log_rho, reward, 0.5)
    assert (log_pi.exp() * (log_pi - best)).sum().item() < 0.02, "KL(π ‖ π*)"
    share = [x.exp()[0, :100].sum().item() for x in (log_rho, best, log_pi)]
    assert share == pytest.approx([0.39, 0.83, 0.83], abs=0.03), "of the rewarded tokens: before, at the optimum, learned"
