"""Runs that are the same whoever starts them: a test in its own process, or torchrun several times side by side.

    python -m torch.distributed.run ... -m tests.agents.distributed.runs DIRECTORY NAME/STRATEGY ...

Each rank begins with other random weights than the first, which must not matter.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from stable_baselines3.common.logger import Logger

from tests import worlds
from textenv.agents import LMPolicy, TokenPPO
from textenv.agents.distributed.sharding import whole
from textenv.agents.distributed.world import join
from textenv.episode import Episode

RANK = int(os.environ.get("RANK", "0"))
PPO: dict[str, Any] = {"kl_coef": 0.05, "target_kl": 10.0, "ent_coef": 0.01}
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": PPO,  # GAE on a learned value, the KL in the reward
    "recomputed": {**PPO, "recompute_log_probs": True},
    "separate": {**PPO, "value_model": "separate", "value_learning_rate": 5e-4, "reference_sync_every": 1, "reference_mixing": 0.5},
    "grpo": {"advantage": "grpo", "group_size": 3, "kl_coef": 0.05, "dynamic_sampling": 1},
    "nlpo": {**PPO, "nlpo": {"top_p": 0.9, "refresh_every": 1}},
    "lora": {**PPO, "lora": 2},
    "frozen": {**PPO, "frozen_layers": 1},
    "t5": PPO,
    "bf16": {**PPO, "precision": "bf16", "gradient_checkpointing": True},
}


def environment(scorer: Any = worlds.even_share) -> Any:
    return worlds.make(prompts=["a", "bb", "ccc dd"], max_new_tokens=6, scorer=scorer, reward="critic_span")


def agent(name: str = "ppo", strategy: str = "auto", *, scorer: Any = worlds.even_share, **more: Any) -> TokenPPO:
    """Nine texts an iteration, of unequal lengths; the last minibatch is one text, so that a rank has none."""
    model = worlds.t5(seed=RANK) if name == "t5" else worlds.gpt2(seed=RANK)
    if name != "t5":
        with torch.no_grad():
            model.transformer.ln_f.bias.copy_(3.0 * model.transformer.wte.weight[worlds.EOS])  # texts end at any length
    settings = {"n_episodes": 9, "batch_size": 4, "micro_batch_size": 2, "n_epochs": 2, "learning_rate": 3e-4, "seed": 0}
    with worlds.seeded(RANK):
        return TokenPPO(model, environment(scorer), distributed=strategy, **{**settings, **SETTINGS[name], **more})


def learned(made: TokenPPO, iterations: int = 2) -> dict[str, torch.Tensor]:
    """All that a run leaves: rewards, what was logged, weights."""
    memory = worlds.Memory()
    made.set_logger(Logger(None, [memory]))
    rewards: list[float] = []
    for _ in range(iterations):
        made.learn(1, callback=lambda now, _: bool(rewards.extend(float(e.rewards.sum()) for e in now["episodes"])) or True)
    found = {"rewards": torch.tensor(rewards, dtype=torch.float64)}
    for row, logged in enumerate(memory.rows):
        numbers = {key: value for key, value in logged.items() if isinstance(value, (int, float))}
        found.update({f"{row}.{key}": torch.tensor(float(value)) for key, value in numbers.items()})
    for name, network in {"policy": made.policy, "reference": made.reference, "value_model": made.value_model}.items():
        if network is not None:
            found.update({f"{name}.{key}": weight.detach().clone() for key, weight in whole(network).named_parameters()})
    observation, _ = made.env.reset(seed=1)
    found["predicted"] = torch.tensor(made.predict(observation, deterministic=True)[0])
    assert len({tuple(of) for of in made.world.everyones(rewards)}) == 1
    return found


def _failing(episodes: Sequence[Episode]) -> list[float]:
    if RANK == 1:
        raise ZeroDivisionError("the scorer of rank 1 is broken")
    return worlds.even_share(episodes)


def _silent(episodes: Sequence[Episode]) -> list[float]:
    time.sleep(200.0 * RANK)
    return worlds.even_share(episodes)


def main(directory: Path, name: str, strategy: str) -> None:
    """One run, and what it leaves in the directory, by its name."""
    place = directory / f"{name}-{strategy}"
    if name == "failing":
        agent(scorer=_failing).learn(1)
    elif name == "silent":
        join("cpu", timeout=5.0)
        agent(scorer=_silent).learn(1)
    elif name == "loud":
        made = agent(strategy=strategy, verbose=1, tensorboard_log=str(place))
        made.learn(1, progress_bar=True)
    elif name == "refused":
        for option in ({"lora": 2}, {"frozen_layers": 1}, {"nlpo": {"top_p": 0.9}}, {"engine": LMPolicy(worlds.gpt2())}):
            try:
                agent(strategy=strategy, **option)
            except ValueError as error:
                print(error)
    elif name == "unseeded":
        learned(agent(strategy=strategy, seed=None))
    else:
        resumed = name == "resumed"
        made = TokenPPO.load(directory / "saved", environment(), distributed=strategy) if resumed else agent(name, strategy)
        found = learned(made)
        made.save(place)
        if made.world.first:
            save_file(found, directory / f"{name}-{strategy}.safetensors")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(240.0, exit=True)  # a rank that waits for ever says where, and ends
    torch.set_num_threads(1)
    for asked in sys.argv[2:]:
        main(Path(sys.argv[1]), *asked.split("/"))
