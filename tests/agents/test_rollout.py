"""The batched road and the Gym road write the same texts and credit them alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests import worlds
from tests.worlds import make
from textenv.agents import LMPolicy, TokenPPO, rollout
from textenv.agents.rollout import Timing, rollout_groups
from textenv.episode import Prompt


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("payment", ["online", "end"])
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_stepping_writes_the_same_texts_token_for_token(model: str, payment: str) -> None:
    env = make(reward="critic_span", payment=payment, max_new_tokens=6)
    policy = LMPolicy(getattr(worlds, model)())
    prompts = [Prompt(text) for text in ("a", "say: ", "longer prompt")]
    batched = rollout(env, policy, 3, generator(5), prompts=prompts)
    uniforms, rule = torch.rand(3, 6, generator=generator(5)), env.get_wrapper_attr("action_rule")
    for i, prompt in enumerate(prompts):
        observation, _ = env.reset(options={"prompt": prompt})
        terminated, step, info = False, 0, {}
        while not terminated:
            (token,) = policy.act(observation[None], rule, uniforms[i, step : step + 1])
            observation, _, terminated, _, info = env.step(token)
            step += 1
        stepped = info["text_episode"]
        assert stepped.tokens.tolist() == batched[i].tokens.tolist()
        assert stepped.rewards.tobytes() == batched[i].rewards.tobytes()
        assert (stepped.score, stepped.text) == (batched[i].score, batched[i].text)


def test_predict_draws_the_same_numbers_from_the_agents_generator() -> None:
    env = make(max_new_tokens=6)
    agent = TokenPPO(worlds.llama(), env, seed=3)
    (batched,) = rollout(env, agent.policy, 1, generator(9), prompts=[Prompt("p")])
    agent.generator.manual_seed(9)
    observation, _ = env.reset(options={"prompt": "p"})
    tokens: list[int] = []
    while len(tokens) < len(batched):
        token, _ = agent.predict(observation)
        observation, *_ = env.step(token)
        tokens.append(int(token))
    assert tokens == batched.tokens.tolist()


def test_the_same_seed_writes_the_same_texts() -> None:
    env, policy = make(), LMPolicy(worlds.llama())
    first, again, other = (
        [e.tokens.tolist() for e in rollout(env, policy, 4, generator(seed), prompts=[Prompt("p")] * 4)] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_prompts_are_drawn_by_the_environment() -> None:
    env = make(prompts=[f"{i}" for i in range(100)])
    env.reset(seed=4)
    drawn = [e.prompt.text for e in rollout(env, LMPolicy(worlds.llama()), 5, generator())]
    env.reset(seed=4)
    assert drawn == [p.text for p in env.get_wrapper_attr("sample_prompts")(5)]


def test_the_global_generators_are_left_alone() -> None:
    env, policy = make(), LMPolicy(worlds.llama())
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # noqa: NPY002 - watched, not used
    rollout(env, policy, 2, generator())
    assert before == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_greedy_texts_are_the_same_every_time() -> None:
    env, policy = make(), LMPolicy(worlds.llama())
    texts = [rollout(env, policy, 1, deterministic=True)[0].tokens.tolist() for _ in range(2)]
    assert texts[0] == texts[1]


def test_the_seconds_are_counted() -> None:
    timing = Timing()
    rollout(make(), LMPolicy(worlds.llama()), 2, generator(), timing=timing)
    assert timing.sample > 0
    assert timing.score > 0


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [(0, {}, "n must be at least 1, got 0"), (2, {"prompts": [Prompt("p")]}, "n=2 episodes, but 1 prompts")],
)
def test_a_number_that_does_not_fit_is_refused(n: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(make(), LMPolicy(worlds.llama()), n, **options)


# --- Groups ------------------------------------------------------------------------------------------------------------


def counted(env: Any) -> list[int]:
    """How many texts each rollout of this environment had, from now on."""
    calls: list[int] = []
    score = env.unwrapped.task.score
    env.unwrapped.task.score = lambda episodes: calls.append(len(episodes)) or score(episodes)
    return calls


def test_a_group_is_several_texts_for_one_prompt() -> None:
    env = make(prompts=[f"{i}" for i in range(100)], max_new_tokens=6)
    env.reset(seed=0)  # three different prompts
    found = rollout_groups(env, LMPolicy(worlds.llama()), 12, generator(), group_size=4)
    assert found.groups == [0] * 4 + [1] * 4 + [2] * 4
    assert [len({e.prompt.text for e in found.episodes[at : at + 4]}) for at in (0, 4, 8)] == [1, 1, 1]
    assert len({e.prompt.text for e in found.episodes}) == 3
    assert (found.tokens, found.resampled) == (sum(map(len, found.episodes)), 0)


def test_groups_of_one_are_a_plain_rollout() -> None:
    texts = []
    for write in (rollout, lambda *a: rollout_groups(*a).episodes):
        env = make(prompts=[f"{i}" for i in range(9)], max_new_tokens=6)
        env.reset(seed=3)
        texts.append([(e.prompt.text, e.tokens.tolist()) for e in write(env, LMPolicy(worlds.llama()), 5, generator())])
    assert texts[0] == texts[1]


def test_groups_whose_scores_are_all_equal_are_sampled_again() -> None:
    """Every text of prompt "0" scores 1, of prompt "1" differently: the first are replaced until none is left."""
    env = make(
        prompts=["0", "1"], max_new_tokens=6, scorer=lambda es: [1.0 if e.prompt.text == "0" else e.tokens.sum() for e in es]
    )
    env.reset(seed=1)
    found = rollout_groups(env, LMPolicy(worlds.llama()), 12, generator(), group_size=3, rounds=20)
    assert {e.prompt.text for e in found.episodes} == {"1"}
    assert (len(found.episodes), len(set(found.groups))) == (12, 4)
    assert found.resampled > 0
    assert found.tokens > sum(map(len, found.episodes))


def test_sampling_again_stops_at_its_bound() -> None:
    env = make(prompts=["0"], max_new_tokens=6, scorer=worlds.constant_scorer(1.0))
    calls = counted(env)
    found = rollout_groups(env, LMPolicy(worlds.llama()), 6, generator(), group_size=3, rounds=2)
    assert calls == [6, 6, 6]
    assert (len(found.episodes), found.resampled) == (6, 4)  # a batch is never empty


def test_groups_that_are_still_equal_are_left_out() -> None:
    env = make(
        prompts=["0", "1"], max_new_tokens=6, scorer=lambda es: [1.0 if e.prompt.text == "0" else e.tokens.sum() for e in es]
    )
    env.reset(seed=1)
    found = rollout_groups(env, LMPolicy(worlds.llama()), 24, generator(), group_size=3, rounds=1)
    assert {e.prompt.text for e in found.episodes} == {"1"}
    assert 0 < len(found.episodes) < 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 3}, "n=4 episodes do not make groups of 3"),
        ({"group_size": 1, "rounds": 1}, "rounds=1 of sampling groups again, with group_size=1"),
    ],
)
def test_groups_that_cannot_be_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout_groups(make(), LMPolicy(worlds.llama()), 4, **options)


def test_a_policy_of_other_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="have different tokenizers"):
        rollout(make(), LMPolicy("textenv/tiny"), 2)
