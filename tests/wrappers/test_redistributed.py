"""RED: the identities of the method (r3hf A7, by number), its three readings, and what unfinished texts get."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import worlds
from tests.worlds import BYTES, EOS, credited, ids, make, walk
from textenv.agents import LMPolicy, TokenPPO
from textenv.agents.ppo.advantages import gae, whiten
from textenv.episode import Episode, Prompt
from textenv.judges.scorers import SequenceClassifierScorer
from textenv.reward import RewardWrapper
from textenv.wrappers import RedistributedReward

READINGS = ("subtract", "keep", "zero_first")
PROMPT = "p: "


def judge(kind: str = "llama", **options: Any) -> SequenceClassifierScorer:
    """A reward model with a score of the empty text that is not 0."""
    options = {"label": "toxic", "output": "logit", "with_prompt": True, **options}
    return SequenceClassifierScorer(worlds.classifier(kind), tokenizer=BYTES, **options)


def red(scorer: Any, *, inside: Any = (), budget: int = 32, **options: Any) -> Any:
    with worlds.seeded():
        return make(reward=[*inside, lambda env: RedistributedReward(env, **options)], payment="end", max_new_tokens=budget,
                    max_prompt_tokens=16, scorer=scorer)  # fmt: skip


def quiet(scorer: Any, prompt_term: str, **options: Any) -> Any:
    """Any reading, without its warning."""
    if prompt_term != "zero_first":
        return red(scorer, prompt_term=prompt_term, **options)
    with pytest.warns(UserWarning, match="the objective is not the task's"):
        return red(scorer, prompt_term=prompt_term, **options)


def phi(scorer: Any, tokens: Sequence[int], prompt: str = PROMPT) -> np.ndarray[Any, Any]:
    """Φ_1 … Φ_{T+1} of byte tokens, from the texts so far."""
    texts = [bytes(t for t in tokens[:n] if t < 256).decode("utf-8", "replace") for n in range(len(tokens) + 1)]
    return np.array(scorer.score_texts([prompt + text for text in texts]))


TEXTS = [ids("some text", end=True), ids("b", end=True), [EOS], ids("a text of thirty-two characters!")]
JUDGE = judge()


# --- Identities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [0.3, 1.0])
@pytest.mark.parametrize("tokens", TEXTS)
def test_differences_telescope_to_the_sum_of_their_reading(mix: float, tokens: list[int]) -> None:  # 1
    values = phi(JUDGE, tokens)
    lost = {"subtract": values[0], "keep": 0.0, "zero_first": values[1]}
    for prompt_term, offset in lost.items():
        episode = credited(quiet(JUDGE, prompt_term, mix=mix), tokens)
        assert episode.score == pytest.approx(values[-1], abs=1e-5)
        assert episode.rewards.sum() == pytest.approx(episode.score - mix * offset, abs=1e-5)


@given(values=st.lists(st.floats(-50, 50), min_size=2, max_size=9), mix=st.floats(0, 1))
def test_any_potential_telescopes(values: list[float], mix: float) -> None:  # 1
    env = red(lambda episodes: [values[len(e)] for e in episodes], mix=mix)
    tokens = ids("x" * (len(values) - 2), end=True)
    rewards = credited(env, tokens).rewards
    assert rewards.sum() == pytest.approx(values[-1] - mix * values[0], abs=1e-9)


@pytest.mark.parametrize("tokens", TEXTS)
def test_the_return_to_go_is_the_sparse_one_less_the_score_so_far(tokens: list[int]) -> None:  # 2
    rewards = credited(red(JUDGE), tokens).rewards
    to_go = rewards[::-1].cumsum()[::-1]
    values = phi(JUDGE, tokens)
    assert to_go == pytest.approx(values[-1] - values[:-1], abs=1e-5)


def exact_gradient(theta: torch.Tensor, credit: Any) -> torch.Tensor:
    """E[ Σ_t ∇ log π(y_t | y_<t) · return-to-go_t ] over all texts of two binary tokens."""
    logits = theta.detach().requires_grad_(True)
    total = torch.zeros(())
    for first, second in itertools.product((0, 1), repeat=2):
        steps = [logits[0].log_softmax(-1)[first], logits[1 + first].log_softmax(-1)[second]]
        rewards = torch.tensor(credit(first, second))
        weight = (steps[0] + steps[1]).exp().detach()
        total = total + weight * sum(step * rewards[t:].sum() for t, step in enumerate(steps))
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


def test_the_exact_policy_gradient_is_that_of_the_sparse_reward() -> None:  # 2
    theta = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    scorer = judge(with_prompt=False)
    sparse, dense = make(scorer=scorer, max_new_tokens=2, payment="end"), red(scorer, budget=2)
    gradients = [
        exact_gradient(theta, lambda a, b, env=env: credited(env, [97 + a, 97 + b]).rewards.tolist()) for env in (sparse, dense)
    ]
    assert torch.allclose(*gradients, atol=1e-6)
    assert gradients[0].abs().max() > 1e-3


def group(env: Any, texts: Sequence[Sequence[int]] = TEXTS, prompt: str = PROMPT) -> np.ndarray[Any, Any]:
    """The return of each text of one prompt."""
    make_episode = env.get_wrapper_attr("episode")
    return np.array([e.rewards.sum() for e in env.get_wrapper_attr("credit")([make_episode(Prompt(prompt), t) for t in texts])])


def rloo(returns: Any) -> Any:
    return returns - (returns.sum() - returns) / (len(returns) - 1)


def grpo(returns: Any) -> Any:
    return (returns - returns.mean()) / returns.std()


@pytest.mark.parametrize("estimator", [rloo, grpo, lambda returns: returns - returns.mean()])
@pytest.mark.parametrize("mix", [0.4, 1.0])
def test_sequence_level_advantages_do_not_see_it(estimator: Any, mix: float) -> None:  # 3
    sparse = estimator(group(make(scorer=JUDGE, max_new_tokens=32)))
    for prompt_term in ("subtract", "keep"):
        assert estimator(group(red(JUDGE, mix=mix, prompt_term=prompt_term))) == pytest.approx(sparse, abs=1e-5)


def test_sequence_level_advantages_see_reading_c() -> None:  # 3
    sparse, shaped = group(make(scorer=JUDGE, max_new_tokens=32)), group(quiet(JUDGE, "zero_first"))
    assert abs(rloo(shaped) - rloo(sparse)).max() > 1e-2


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_gae_with_a_critic_less_the_potential_gives_the_sparse_advantages(gae_lambda: float) -> None:  # 4
    sparse, dense = make(scorer=JUDGE, max_new_tokens=32), red(JUDGE)
    for tokens in TEXTS:
        values = torch.randn(len(tokens), generator=torch.Generator().manual_seed(len(tokens)), dtype=torch.float64)
        potential = torch.tensor(phi(JUDGE, tokens)[:-1])
        plain, _ = gae(torch.tensor(credited(sparse, tokens).rewards), values, [len(tokens)], gae_lambda=gae_lambda)
        shaped, _ = gae(torch.tensor(credited(dense, tokens).rewards), values - potential, [len(tokens)], gae_lambda=gae_lambda)
        assert torch.allclose(plain, shaped, atol=1e-5)


def test_an_untrained_critic_under_it_is_the_potential_as_critic() -> None:  # 5
    tokens = TEXTS[0]
    potential = torch.tensor(phi(JUDGE, tokens)[:-1])
    dense, _ = gae(torch.tensor(credited(red(JUDGE), tokens).rewards), torch.zeros_like(potential), [len(tokens)])
    sparse = credited(make(scorer=JUDGE, max_new_tokens=32), tokens).rewards
    assert torch.allclose(dense, gae(torch.tensor(sparse), potential, [len(tokens)])[0], atol=1e-5)


@pytest.mark.parametrize("prompt_term", READINGS)
def test_without_mix_it_is_the_sparse_reward_to_the_bit(prompt_term: str) -> None:  # 6
    sparse = make(scorer=JUDGE, max_new_tokens=32)
    for tokens in [*TEXTS, ids("un")]:
        assert credited(quiet(JUDGE, prompt_term, mix=0.0), tokens).rewards.tobytes() == credited(sparse, tokens).rewards.tobytes()


def test_a_score_that_never_changes_pays_nothing() -> None:  # 7
    assert not credited(red(worlds.constant_scorer(0.7)), TEXTS[0]).rewards.any()


class Additive(torch.nn.Module):
    """A decoder whose score is a constant and a number for each byte that it has read: c + Σ g."""

    def __init__(self) -> None:
        super().__init__()
        self.gains = torch.randn(worlds.VOCABULARY, generator=torch.Generator().manual_seed(0))
        self.config = BYTES_CONFIG
        self.score = torch.nn.Linear(1, 1)
        torch.nn.init.ones_(self.score.weight)
        torch.nn.init.constant_(self.score.bias, 3.0)
        self.device = torch.device("cpu")

    @property
    def base_model(self) -> Any:
        def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
            states = (self.gains[input_ids] * attention_mask).cumsum(1)[..., None]
            return type("Output", (), {"last_hidden_state": states})

        return forward


BYTES_CONFIG = worlds.classifier("llama", ["good"]).config


@pytest.mark.parametrize("template", ["{text}", "{prompt}{text}", "{prompt}{prompt} says:{text}"])
def test_an_additive_reward_model_pays_each_token_its_own_number(template: str) -> None:  # 8
    model = Additive()
    scorer = SequenceClassifierScorer(model, label=0, tokenizer=BYTES, output="logit", template=template)
    for text in ("some text", "a"):
        rewards = credited(red(scorer), ids(text, end=True)).rewards
        gains = model.gains.numpy()[ids(text)]
        if template == "{text}":  # nothing stands before the text: a byte of padding is read instead
            gains[0] -= model.gains[BYTES.pad_token_id]
        assert rewards == pytest.approx([*gains, 0.0], abs=1e-4)


def test_two_models_add_their_differences() -> None:  # 9
    reward, cost, alpha = judge(), judge("gpt2"), -1.0

    def both(episodes: Sequence[Episode]) -> list[float]:
        return [0.5 * (r + alpha * c) for r, c in zip(reward(episodes), cost(episodes), strict=True)]

    for tokens in TEXTS:
        r, c = phi(reward, tokens), phi(cost, tokens)
        expected = 0.5 * ((r[-1] - r[0]) + alpha * (c[-1] - c[0]))
        assert credited(red(both), tokens).rewards.sum() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("alpha", [-1.0, 1.0, 0.3])
@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
def test_a_cost_model_and_its_weight_add_their_differences(alpha: float, mix: float) -> None:  # 9
    reward, cost = judge(), judge("gpt2")
    env = red(reward, cost_model=cost, alpha=alpha, mix=mix)

    def both(episodes: Sequence[Episode]) -> list[float]:
        return [0.5 * (r + alpha * c) for r, c in zip(reward(episodes), cost(episodes), strict=True)]

    for tokens in TEXTS:
        r, c = phi(reward, tokens), phi(cost, tokens)
        found = credited(env, tokens)
        expected = 0.5 * ((r[-1] - mix * r[0]) + alpha * (c[-1] - mix * c[0]))
        assert found.rewards.sum() == pytest.approx(expected, abs=1e-4)
        assert found.rewards == pytest.approx(credited(red(both, mix=mix), tokens).rewards, abs=1e-4), "as one scorer of both"
        assert found.score == pytest.approx(r[-1], abs=1e-5), "the task's score is the reward model's still"
        so_far = credited(env, tokens[:-1])
        assert so_far.rewards == pytest.approx(found.rewards[:-1], abs=1e-4)


def test_the_paper_leaves_the_weight_of_the_cost_open_so_it_must_be_given() -> None:
    for options in ({"cost_model": JUDGE}, {"alpha": -1.0}, {"cost_model": JUDGE, "alpha": float("nan")}):
        with pytest.raises(ValueError, match=r"cost_model= and alpha= come together, got .*; alpha=-1 subtracts the cost"):
            red(JUDGE, **options)


def test_a_cost_changes_the_objective_takes_the_score_and_is_logged() -> None:
    env = red(JUDGE, cost_model=worlds.constant_scorer(0.25), alpha=-1.0, mix=0.0, prompt_term="keep")
    wrapper: Any = env
    while not isinstance(wrapper, RedistributedReward):
        wrapper = wrapper.env
    assert (wrapper.keeps_return, wrapper.takes_score) == (False, True)
    credited(env, ids("bd", end=True))
    assert env.get_wrapper_attr("credit_metrics")()["credit/cost"] == 0.25
    assert env.get_wrapper_attr("credit_metrics")()["credit/cost"] == 0.0
    assert "credit/cost" not in red(JUDGE).get_wrapper_attr("credit_metrics")()


@pytest.mark.parametrize("reward", ["sparse", "redistributed"])
def test_the_kl_penalty_stays_on_its_own_token(reward: str) -> None:  # 10
    env = make(reward=reward, payment="end", max_new_tokens=32, max_prompt_tokens=16, scorer=JUDGE)
    reference = LMPolicy(worlds.llama(seed=1), tokenizer="bytes", device="cpu")
    policy = LMPolicy(worlds.llama(), tokenizer="bytes", device="cpu")
    agent = TokenPPO(policy, env, reference=reference, kl_coef=0.5, gae_lambda=1.0, gamma=1.0)
    episode = credited(env, TEXTS[0])
    batch = agent.prepare([episode])  # values are 0 at first, so that a return is the reward-to-go
    rewards = batch.returns - torch.cat([batch.returns[1:], torch.zeros(1)])
    log_probs = [
        p.evaluate([episode.prompt_tokens], [episode.tokens], env.get_wrapper_attr("action_rule")).log_probs.detach()
        for p in (policy, reference)
    ]
    penalty = torch.from_numpy(episode.rewards) - rewards
    assert torch.allclose(penalty.float(), 0.5 * (log_probs[0] - log_probs[1]), atol=1e-4)
    assert penalty.abs().min() > 1e-4


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_a_batch_is_credited_as_its_texts_one_by_one_in_one_call(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:  # 12
    scorer, calls = judge(kind), list[int]()
    read = scorer.prefix_scores
    monkeypatch.setattr(scorer, "prefix_scores", lambda asked, **k: calls.append(len(asked)) or read(asked, **k))
    env = red(scorer)
    episodes = [env.get_wrapper_attr("episode")(Prompt(PROMPT), tokens) for tokens in TEXTS]
    together = env.get_wrapper_attr("credit")(episodes)
    assert calls == [len(TEXTS)]
    for episode, tokens in zip(together, TEXTS, strict=True):
        assert episode.rewards == pytest.approx(credited(env, tokens).rewards, abs=1e-5)


def test_whitening_over_prompts_sees_reading_a_and_not_b() -> None:  # 13
    prompts = [PROMPT, "another: "]
    returns = {
        name: whiten(torch.tensor(np.concatenate([group(env, prompt=prompt) for prompt in prompts])))
        for name, env in {
            "sparse": make(scorer=JUDGE, max_new_tokens=32),
            "a": red(JUDGE),
            "b": red(JUDGE, prompt_term="keep"),
        }.items()
    }
    assert torch.allclose(returns["b"], returns["sparse"], atol=1e-5)
    assert not torch.allclose(returns["a"], returns["sparse"], atol=1e-2)


def test_the_return_to_go_gradient_is_unbiased_where_uniform_credit_is_not() -> None:  # B7, 6
    theta = torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    scorer = judge(with_prompt=False)
    gradients = {
        name: exact_gradient(
            theta,
            lambda a, b, name=name: credited(
                make(reward=name, scorer=scorer, max_new_tokens=2, payment="end"), [97 + a, 97 + b]
            ).rewards.tolist(),
        )
        for name in ("sparse", "redistributed", "uniform")
    }
    assert torch.allclose(gradients["sparse"], gradients["redistributed"], atol=1e-6)
    assert not torch.allclose(gradients["sparse"], gradients["uniform"], atol=1e-3)


# --- The discount, other wrappers, other reward models -----------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
def test_under_a_discount_the_discounted_return_loses_the_prompt_term_alone(gamma: float) -> None:
    for tokens in TEXTS:
        episode = credited(red(JUDGE, gamma=gamma, mix=0.7), tokens)
        discounts = gamma ** np.arange(len(tokens))
        expected = discounts[-1] * episode.score - 0.7 * phi(JUDGE, tokens)[0]
        assert (discounts * episode.rewards).sum() == pytest.approx(expected, abs=1e-5)


class Vowels(RewardWrapper):
    """0.1 for each vowel."""

    keeps_return, causal = False, True

    def rewards(self, episodes: Sequence[Episode]) -> list[Any]:
        return [e.rewards + 0.1 * np.isin(e.tokens, list(b"aeiou")) for e in episodes]


@pytest.mark.parametrize("tokens", TEXTS)
def test_what_other_wrappers_paid_stays_where_it_is(tokens: list[int]) -> None:
    alone = credited(red(JUDGE), tokens).rewards
    within = credited(red(JUDGE, inside=[Vowels]), tokens).rewards
    assert within - alone == pytest.approx(0.1 * np.isin(tokens, list(b"aeiou")), abs=1e-12)


@pytest.mark.parametrize("mix", [0.5, 1.0])
def test_another_reward_model_shapes_and_the_objective_stays_the_tasks(mix: float) -> None:
    env = red(worlds.constant_scorer(5.0), reward_model=JUDGE, mix=mix)
    for tokens in TEXTS:
        values = phi(JUDGE, tokens)
        rewards = credited(env, tokens).rewards
        assert rewards.sum() == pytest.approx(5.0 - mix * values[0], abs=1e-5)
        assert rewards[:-1] == pytest.approx(mix * np.diff(values)[:-1], abs=1e-5)


def test_a_reward_model_may_be_named(tmp_path: Path) -> None:
    import gymnasium as gym

    directory = worlds.saved(worlds.classifier("llama"), tmp_path)
    env = gym.make("textenv/Detox-v0", tokenizer="bytes", reward=("redistributed", {"reward_model": str(directory)}))
    judge = SequenceClassifierScorer(directory, label="toxic", complement=True)
    (episode,) = env.get_wrapper_attr("credit")([env.get_wrapper_attr("episode")(Prompt("p"), ids("abc"))])
    assert episode.rewards == pytest.approx(np.diff(judge.score_texts(["", "a", "ab", "abc"])), abs=1e-5)


# --- Unfinished texts, payment, declarations ---------------------------------------------------------------------------


@pytest.mark.parametrize("prompt_term", READINGS)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_credit_does_not_depend_on_what_follows(prompt_term: str, kind: str) -> None:
    env = quiet(judge(kind), prompt_term, mix=0.6)
    assert env.get_wrapper_attr("causal")
    whole = credited(env, TEXTS[0]).rewards
    for t in range(1, len(TEXTS[0])):
        assert credited(env, TEXTS[0][:t]).rewards == pytest.approx(whole[:t], abs=1e-5)


def test_each_step_pays_its_own_difference() -> None:
    env = make(reward="redistributed", scorer=JUDGE, prompts=[PROMPT], max_new_tokens=32)
    paid, episode = walk(env, TEXTS[0])
    assert episode is not None
    assert paid == pytest.approx(episode.rewards.tolist(), abs=1e-5)
    assert paid == pytest.approx(np.diff(phi(JUDGE, TEXTS[0])).tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_stepping_delivers_the_credit_of_the_batch_bit_for_bit(kind: str) -> None:
    env = make(reward="redistributed", scorer=judge(kind), prompts=[PROMPT], max_new_tokens=32)
    for tokens in TEXTS:
        paid, stepped = walk(env, tokens)
        assert stepped is not None
        assert stepped.rewards.tobytes() == credited(env, tokens).rewards.tobytes()
        assert sum(paid) == pytest.approx(stepped.rewards.sum(), abs=1e-9)


def test_each_reading_declares_whether_it_keeps_the_return() -> None:
    declared = {term: quiet(JUDGE, term).get_wrapper_attr("keeps_return") for term in READINGS}
    assert declared == {"subtract": False, "keep": True, "zero_first": False}
    assert not red(JUDGE, prompt_term="keep", gamma=0.9).get_wrapper_attr("keeps_return")
    assert red(JUDGE, mix=0.0).get_wrapper_attr("keeps_return")


def test_a_reward_model_with_another_tokenizer_is_not_called_causal() -> None:
    model, tokenizer = worlds.classifier("llama"), worlds.tokenizers()["byte_level_bpe"]
    model.resize_token_embeddings(len(tokenizer))
    other = SequenceClassifierScorer(model, label=1, tokenizer=tokenizer)
    assert not red(other).get_wrapper_attr("causal")
    assert red(worlds.constant_scorer(0.0)).get_wrapper_attr("causal")


def test_the_log_says_which_reading_ran_and_what_the_return_lost() -> None:
    for term, lost in {"subtract": 0, "zero_first": 1}.items():
        env = quiet(JUDGE, term, mix=0.5)
        values = phi(JUDGE, TEXTS[0])
        credited(env, TEXTS[0])
        metrics = env.get_wrapper_attr("credit_metrics")()
        assert metrics[f"credit/redistributed_{term}"] == 1.0
        assert metrics["credit/return_shift"] == pytest.approx(0.5 * values[lost], abs=1e-5)
        assert metrics["credit/reward_model_seconds"] > 0
        assert set(env.get_wrapper_attr("credit_metrics")().values()) == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": 1.5}, r"mix must lie in 0\.\.1"),
        ({"mix": float("nan")}, r"mix must lie in 0\.\.1"),
        ({"prompt_term": "drop"}, "prompt_term must be one of subtract, keep, zero_first, got 'drop'"),
        ({"gamma": 0.0}, "gamma must lie above 0"),
        ({"gamma": 1.1}, "gamma must lie above 0"),
    ],
)
def test_a_bad_argument_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        red(JUDGE, **options)


def test_a_score_of_a_prefix_that_is_not_finite_is_an_error() -> None:
    env = red(lambda episodes: [1.0 if e.finished else float("nan") for e in episodes])
    with pytest.raises(ValueError, match="a score must be finite"):
        credited(env, TEXTS[0])
