"""What a vocabulary of 50,257 tokens costs Stable-Baselines3 at each step, beside the model itself.

    python -m benchmarks.vocabulary                        # one CPU thread
    python -m benchmarks.vocabulary --layers 2 --width 128 --vocabulary 50257 --envs 8 --steps 32

Milliseconds of CPU time (what a busy neighbour cannot distort) per vector step, each the median over collections:

    model                one token a row through a random GPT-2 with a KV cache, logits and all: the cost nobody avoids
    PPO                  `LanguageModelActorCritic`: a whole step of SB3's collection (sampling, environment, buffer)
    PPO, no cache        the same, every text read whole at every step
    Categorical          SB3's own distribution on the same logits: build, sample, log-probability; ours beside it
    MaskablePPO          the same agent with masks, in SB3's buffer and in `PackedMaskBuffer`
    top k                MaskablePPO among 64 offered tokens: a language model, and an MLP; beside an MLP over all tokens
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import textenv  # noqa: F401 - registers the environments
from textenv.agents.sb3.actor_critic import LanguageModelActorCritic, MaskableLanguageModelActorCritic
from textenv.agents.sb3.vocabulary import PackedMaskBuffer, VecTopKActions
from textenv.generation import sample
from textenv.states import PrefixCache


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """`size` words."""
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size - 1)} | {"</s>": size - 1}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="w0")


def collect(agent: Any) -> float:
    """Milliseconds of a vector step, by SB3's own collection."""
    agent.set_logger(Logger(None, []))
    _, callback = agent._setup_learn(10**9)
    times = []
    for _ in range(4):
        began = time.process_time()
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
        times.append((time.process_time() - began) / agent.n_steps * 1000)
    return statistics.median(times[1:])


def repeat(call: Callable[[], Any], n: int = 30) -> float:
    """Milliseconds of a call."""
    times = []
    for _ in range(n):
        began = time.process_time()
        call()
        times.append((time.process_time() - began) * 1000)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 4), ("width", 256), ("vocabulary", 50_257), ("envs", 8), ("steps", 32), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    words, k, n = tokenizer(options.vocabulary), 64, options.envs
    config = GPT2Config(
        vocab_size=options.vocabulary, n_embd=options.width, n_layer=options.layers, n_head=4, n_positions=128,
        bos_token_id=None, eos_token_id=options.vocabulary - 1,
    )  # fmt: skip
    prompts = [" ".join(f"w{i + j}" for j in range(4 + i % 9)) for i in range(50)]

    def envs(reference: Any = None) -> Any:
        arguments: dict[str, Any] = {"tokenizer": words, "prompts": prompts, "max_new_tokens": options.steps}
        made = make_vec_env(lambda: gym.make("textenv/CountLetter-v0", **arguments), n, seed=0)
        return made if reference is None else VecTopKActions(made, k, reference)

    def agent(algorithm: Any, policy: Any, reference: Any = None, *, model: Any = config, **more: Any) -> Any:
        kwargs = None if isinstance(policy, str) else {"model": model, "cache": more.pop("cache", True)}
        shape = {"n_steps": options.steps, "batch_size": options.steps * n}
        return algorithm(policy, envs(reference), policy_kwargs=kwargs, seed=0, device="cpu", **shape, **more)

    model = GPT2LMHeadModel(config).eval()
    rows = [np.arange(20 + i) for i in range(n)]
    cache = PrefixCache(model)

    def forward() -> None:
        for i in range(n):
            rows[i] = np.append(rows[i], 5)
        cache.read(rows)

    forward()
    alone = repeat(forward)
    logits = torch.randn(n, options.vocabulary)

    def theirs() -> None:
        distribution = CategoricalDistribution(options.vocabulary).proba_distribution(logits)
        distribution.log_prob(distribution.sample())

    def ours() -> None:
        chosen = sample(logits, torch.rand(n))
        logits.gather(1, chosen[:, None]).squeeze(1) - logits.logsumexp(-1)

    lines = {"model": alone, "SB3's Categorical": repeat(theirs), "ours": repeat(ours)}
    lines["PPO"] = collect(agent(PPO, LanguageModelActorCritic))
    lines["PPO, no cache"] = collect(agent(PPO, LanguageModelActorCritic, cache=False))
    masked = {"MaskablePPO, SB3's buffer": {}, "MaskablePPO, packed": {"rollout_buffer_class": PackedMaskBuffer}}
    for name, more in masked.items():
        one = agent(MaskablePPO, MaskableLanguageModelActorCritic, **more)
        lines[f"{name} ({one.rollout_buffer.action_masks.nbytes / 2**20:.0f} MiB of masks)"] = collect(one)
    lines[f"MaskablePPO, top {k}, language model"] = collect(agent(MaskablePPO, MaskableLanguageModelActorCritic, model))
    lines[f"MaskablePPO, top {k}, MLP"] = collect(agent(MaskablePPO, "MlpPolicy", model))
    lines["MaskablePPO, all tokens, MLP"] = collect(agent(MaskablePPO, "MlpPolicy"))
    for name, value in lines.items():
        print(f"{name:50s} {value:8.2f} ms  {value / alone:5.2f} × the model")


if __name__ == "__main__":
    main()
