"""Group estimators against their formulas, and what becomes of dense credit on either level."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from textenv.agents.ppo.advantages import gae, whiten
from textenv.agents.ppo.estimators import ESTIMATORS, group_advantages, returns_to_go

NUMBER = st.floats(-10, 10)
GROUPED = ("rloo", "grpo", "dr_grpo", "reinforce++-baseline")
FREE = [name for name in ESTIMATORS if name != "gae"]
LEVELS = ("token", "sequence")


def sparse(scores: Tensor, lengths: list[int]) -> Tensor:
    """All credit on the last token."""
    return torch.cat([torch.cat([torch.zeros(n - 1, dtype=scores.dtype), s[None]]) for s, n in zip(scores, lengths, strict=True)])


def texts(n: int, seed: int = 0, low: int = 1) -> tuple[list[int], Tensor]:
    """Lengths of n texts, and generator-made credit for their tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, 7, (n,), generator=generator).tolist()
    return lengths, torch.randn(sum(lengths), generator=generator, dtype=torch.float64)


def first(advantages: Tensor, lengths: list[int]) -> Tensor:
    """The advantage of each text's first token."""
    return torch.stack([text[0] for text in advantages.split(lengths)])


def of(name: str, rewards: Tensor, lengths: list[int], groups: list[int], **options: Any) -> Tensor:
    return group_advantages(rewards, lengths, groups, advantage=name, **options)


# --- Formulas ----------------------------------------------------------------------------------------------------------


@given(scores=st.lists(NUMBER, min_size=2, max_size=6))
def test_rloo_is_the_return_less_the_mean_of_the_others_which_is_g_over_g_minus_one_times_the_centred_return(
    scores: list[float],
) -> None:
    n, r = len(scores), torch.tensor(scores, dtype=torch.float64)
    got = of("rloo", r, [1] * n, [0] * n)
    others = torch.stack([torch.cat([r[:i], r[i + 1 :]]).mean() for i in range(n)])
    assert torch.allclose(got, r - others, atol=1e-9)
    assert torch.allclose(got, n / (n - 1) * (r - r.mean()), atol=1e-9)


def test_dr_grpo_is_rloo_times_g_minus_one_over_g() -> None:
    lengths, rewards = texts(5)
    assert torch.allclose(of("dr_grpo", rewards, lengths, [0] * 5), 4 / 5 * of("rloo", rewards, lengths, [0] * 5))


def test_grpo_is_the_standard_score_of_the_return() -> None:
    r = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    expected = (r - r.mean()) / (r.std() + 1e-4)
    got = of("grpo", sparse(r, [3, 1, 2]), [3, 1, 2], [4, 4, 4])
    assert torch.allclose(first(got, [3, 1, 2]), expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("score", [0.0, 0.1, -3.7, 1e6])
def test_grpo_with_equal_rewards_is_zero(level: str, score: float) -> None:
    rewards = sparse(torch.full((3,), score), [2, 4, 1])
    assert not of("grpo", rewards, [2, 4, 1], [0, 0, 0], level=level).any()


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("level", LEVELS)
def test_a_text_alone_in_its_group_teaches_nothing(name: str, level: str) -> None:
    assert of(name, torch.tensor([1.0, 2.0]), [2], [0], level=level).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", GROUPED)
def test_the_advantages_of_a_group_sum_to_zero(name: str) -> None:
    lengths, rewards = texts(6)
    got = first(of(name, rewards, lengths, [0, 1] * 3), lengths)
    assert got[::2].sum().item() == pytest.approx(0, abs=1e-9)
    assert got[1::2].sum().item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("level", LEVELS)
def test_a_constant_added_to_the_scores_of_one_prompt_changes_nothing(name: str, level: str) -> None:
    scores, lengths = torch.tensor([1.0, 4.0, 2.0, 8.0], dtype=torch.float64), [3, 2, 1, 4]
    shifted = scores + torch.tensor([5.0, 5.0, 0.0, 0.0])
    a, b = (of(name, sparse(s, lengths), lengths, [0, 0, 1, 1], level=level) for s in (scores, shifted))
    assert torch.allclose(a, b)


def test_a_positive_scale_changes_rloo_and_not_grpo() -> None:
    lengths, rewards = texts(4)
    assert torch.allclose(of("rloo", 3 * rewards, lengths, [0] * 4), 3 * of("rloo", rewards, lengths, [0] * 4))
    assert torch.allclose(of("grpo", 3 * rewards, lengths, [0] * 4), of("grpo", rewards, lengths, [0] * 4), atol=1e-3)


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("level", LEVELS)
def test_groups_are_told_by_their_numbers_not_by_their_places(name: str, level: str) -> None:
    lengths, rewards = texts(6, seed=3)
    groups, order = [0, 0, 0, 9, 9, 4], [5, 1, 3, 0, 4, 2]
    parts = list(of(name, rewards, lengths, groups, level=level).split(lengths))
    credit = rewards.split(lengths)
    shuffled = of(name, torch.cat([credit[i] for i in order]), [lengths[i] for i in order], [groups[i] for i in order], level=level)
    assert torch.allclose(shuffled, torch.cat([parts[i] for i in order]))


def test_reinforce_plus_plus_is_the_return_to_go_and_its_first_is_the_penalised_return() -> None:
    credit, kl, beta = torch.tensor([0.0, 0.0, 2.0, 1.0]), torch.tensor([0.5, -0.1, 0.2, 0.3]), 0.1
    got = of("reinforce++", credit - beta * kl, [3, 1], [0, 1])
    assert got[0].item() == pytest.approx(2.0 - beta * 0.6)
    assert got[3].item() == pytest.approx(1.0 - beta * 0.3)
    whitened = whiten(got)
    assert whitened.mean().item() == pytest.approx(0, abs=1e-6)
    assert whitened.std().item() == pytest.approx(1, abs=1e-5)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), gamma=st.floats(0, 1), data=st.data())
def test_returns_to_go_are_discounted_sums_of_what_follows(lengths: list[int], gamma: float, data: Any) -> None:
    n = sum(lengths)
    rewards = torch.tensor(data.draw(st.lists(NUMBER, min_size=n, max_size=n)), dtype=torch.float64)
    expected = [
        sum(gamma ** (s - t) * float(text[s]) for s in range(t, len(text)))
        for text in rewards.split(lengths)
        for t in range(len(text))
    ]
    assert torch.allclose(returns_to_go(rewards, lengths, gamma), torch.tensor(expected, dtype=torch.float64))


# --- Tokens and sequences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FREE)
def test_with_all_credit_on_the_last_token_both_levels_are_the_same(name: str) -> None:
    lengths, _ = texts(6, seed=1)
    rewards = sparse(torch.randn(6, generator=torch.Generator().manual_seed(2)), lengths)
    token, sequence = (of(name, rewards, lengths, [0, 0, 0, 1, 1, 1], level=level) for level in LEVELS)
    assert torch.allclose(token, sequence, atol=1e-5)


@pytest.mark.parametrize("name", FREE)
def test_the_sequence_level_gives_every_token_of_a_text_the_same(name: str) -> None:
    lengths, rewards = texts(6, low=2)
    for text in of(name, rewards, lengths, [0, 0, 0, 1, 1, 1], level="sequence").split(lengths):
        assert torch.equal(text, text[:1].expand(len(text)))


def test_rloo_subtracts_at_each_token_what_the_others_have_still_to_come() -> None:
    rewards, lengths = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], dtype=torch.float64), [3, 1, 2]
    to_go = [[7.0, 6.0, 4.0], [8.0, 8.0, 8.0], [48.0, 32.0, 32.0]]  # a text that has ended counts with its last
    expected = [to_go[i][t] - sum(to_go[j][t] for j in range(3) if j != i) / 2 for i in range(3) for t in range(lengths[i])]
    assert of("rloo", rewards, lengths, [0, 0, 0]).tolist() == pytest.approx(expected)


def test_the_baseline_of_a_text_does_not_depend_on_the_text() -> None:
    rewards, lengths = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], dtype=torch.float64), [3, 1, 2]
    before = returns_to_go(rewards, lengths) - of("rloo", rewards, lengths, [0, 0, 0])
    changed = torch.cat([torch.tensor([-5.0, 9.0], dtype=torch.float64), rewards[3:]])  # shorter, and paid otherwise
    after = returns_to_go(changed, [2, 1, 2]) - of("rloo", changed, [2, 1, 2], [0, 0, 0])
    assert torch.allclose(before[:2], after[:2])


class Shaped:
    """Sparse scores of the texts of two prompts, and the same redistributed by a potential Φ (RED, Eq. 6)."""

    def __init__(self) -> None:
        self.lengths, potential = texts(6, seed=5, low=2)
        self.groups = [0, 0, 0, 1, 1, 1]
        self.scores = torch.randn(6, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
        self.sparse = sparse(self.scores, self.lengths)
        before, self.red, self.first_unpaid = [], [], []
        for i, phi in enumerate(potential.split(self.lengths)):
            phi = torch.cat([torch.full((1,), 0.3 + self.groups[i], dtype=torch.float64), phi[1:]])  # Φ_1 is the prompt's
            steps = torch.cat([phi[1:], self.scores[i : i + 1]]) - phi
            before.append(phi)
            self.red.append(steps)
            self.first_unpaid.append(torch.cat([torch.zeros(1, dtype=torch.float64), steps[1:]]))  # reading (c)
        self.potential = torch.cat(before)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_a_potential_cancels_exactly_in_sequence_level_returns(name: str, mix: float) -> None:
    it = Shaped()
    mixed = mix * torch.cat(it.red) + (1 - mix) * it.sparse
    a, b = (of(name, rewards, it.lengths, it.groups, level="sequence") for rewards in (mixed, it.sparse))
    assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("name", GROUPED)
def test_what_depends_on_the_first_token_does_not_cancel(name: str) -> None:
    it = Shaped()
    a, b = (of(name, r, it.lengths, it.groups, level="sequence") for r in (torch.cat(it.first_unpaid), it.sparse))
    assert not torch.allclose(a, b, atol=1e-2)


@pytest.mark.parametrize("name", GROUPED)
def test_a_potential_does_not_cancel_in_returns_to_go(name: str) -> None:
    it = Shaped()
    a, b = (of(name, r, it.lengths, it.groups) for r in (torch.cat(it.red), it.sparse))
    assert not torch.allclose(a, b, atol=1e-2)


def test_the_return_to_go_of_a_potential_is_the_sparse_one_less_the_potential() -> None:
    it = Shaped()
    got = returns_to_go(torch.cat(it.red), it.lengths)
    assert torch.allclose(got, returns_to_go(it.sparse, it.lengths) - it.potential)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_of_a_potential_with_the_value_less_the_potential_is_gae_of_the_sparse_reward(lam: float) -> None:
    it = Shaped()
    values = torch.randn(len(it.sparse), generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    a = gae(torch.cat(it.red), values - it.potential, it.lengths, gae_lambda=lam)[0]
    assert torch.allclose(a, gae(it.sparse, values, it.lengths, gae_lambda=lam)[0])


def test_whitening_over_several_prompts_sees_the_prompts_own_potential() -> None:
    it = Shaped()
    a, b = (whiten(of("reinforce++", r, it.lengths, it.groups, level="sequence")) for r in (torch.cat(it.red), it.sparse))
    assert not torch.allclose(a, b, atol=1e-2)


@pytest.mark.parametrize("name", GROUPED)
def test_the_sequence_level_sees_totals_alone_wherever_they_are_placed(name: str) -> None:
    lengths, scores = [3, 2, 4, 1], torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    uniform = torch.cat([(s / n).expand(n) for s, n in zip(scores, lengths, strict=True)])
    a, b = (of(name, r, lengths, [0, 0, 0, 0], level="sequence") for r in (uniform, sparse(scores, lengths)))
    assert torch.allclose(a, b)


# --- The expected gradient ---------------------------------------------------------------------------------------------


class Toy:
    """Every text of at most three tokens (0 stops) under a tabular policy that decides when to stop, with causal credit."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        paths = [[a, b, c] for a in range(3) for b in range(3) for c in range(3)]
        cut = {tuple(p[: p.index(0) + 1] if 0 in p else p) for p in paths}
        self.texts = sorted(cut)
        states = sorted({text[:t] for text in self.texts for t in range(len(text))})
        self.logits = torch.randn(len(states), 3, generator=generator, dtype=torch.float64).requires_grad_()
        place = {state: i for i, state in enumerate(states)}
        credit = {
            p: torch.randn((), generator=generator, dtype=torch.float64) for p in sorted({t[:n] for t in cut for n in (1, 2, 3)})
        }
        log_p = self.logits.log_softmax(-1)
        self.log_probs = [torch.stack([log_p[place[x[:t]], x[t]] for t in range(len(x))]) for x in self.texts]
        self.credit = [torch.stack([credit[x[: t + 1]] for t in range(len(x))]) for x in self.texts]
        self.probabilities = torch.stack([x.sum() for x in self.log_probs]).exp()

    def true_gradient(self) -> Tensor:
        """∇ Σ_y π(y) R(y)."""
        value = (self.probabilities * torch.stack([c.sum() for c in self.credit])).sum()
        return torch.autograd.grad(value, self.logits, retain_graph=True)[0]

    def expected_gradient(self, name: str, level: str) -> Tensor:
        """E over pairs of independent texts of Σ_t A_t ∇log π(y_t): every pair is a group."""
        n = len(self.texts)
        pairs = [(i, j) for i in range(n) for j in range(n)]
        flat = [k for pair in pairs for k in pair]
        lengths, groups = [len(self.texts[k]) for k in flat], [g for g in range(len(pairs)) for _ in (0, 1)]
        advantages = of(name, torch.cat([self.credit[k] for k in flat]), lengths, groups, level=level).split(lengths)
        weight = self.probabilities.detach()
        total = sum(weight[i] * weight[j] * (advantages[2 * g] * self.log_probs[i]).sum() for g, (i, j) in enumerate(pairs))
        return torch.autograd.grad(total, self.logits, retain_graph=True)[0]


@pytest.mark.parametrize("level", LEVELS)
def test_rloo_has_the_true_gradient_in_expectation_also_where_the_policy_decides_when_to_stop(level: str) -> None:
    it = Toy()
    assert torch.allclose(it.expected_gradient("rloo", level), it.true_gradient(), atol=1e-10)


def test_dr_grpo_has_g_minus_one_over_g_of_it_and_grpo_another() -> None:
    it = Toy()
    assert torch.allclose(it.expected_gradient("dr_grpo", "token"), it.true_gradient() / 2, atol=1e-10)
    grpo, true = it.expected_gradient("grpo", "token").flatten(), it.true_gradient().flatten()
    assert torch.cosine_similarity(grpo, true, dim=0) < 0.999


# --- Errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": "gae"}, "advantage must be one of rloo, grpo, .* got 'gae'"),
        ({"advantage": "rloo", "level": "word"}, "advantage_level must be one of token, sequence, got 'word'"),
        ({"advantage": "rloo", "groups": [0]}, "2 texts, but 1 groups"),
    ],
)
def test_what_cannot_be_compared_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_advantages(torch.ones(2), [1, 1], **{"groups": [0, 0], **options})
