"""TokenPPO whose texts are sampled by a vLLM server, which follows the policy's weights; and how far the two are apart.

1. Write the model that the server starts with:      python examples/vllm_rollouts.py --save policy
2. Start the server (vLLM in an environment of its own; keep the port private, the development mode has no lock):

    VLLM_SERVER_DEV_MODE=1 vllm serve policy --host 127.0.0.1 --port 8000 \\
        --logprobs-mode processed_logprobs --generation-config vllm

3. Train:                                            python examples/vllm_rollouts.py --url http://127.0.0.1:8000/v1

Each iteration hands the weights over as a directory of safetensors, which the server must see under the same name
(`--weights`; /dev/shm/policy keeps it in memory). "gap" is |log π − log π_server| per token: about 1e-6 nats where both compute
in float32, about 0.01 with a server in bfloat16; more means other weights, or log-probabilities of another distribution. A
server in lower precision than the policy is what `--is-cap 2` is for: truncated importance weights.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
from stable_baselines3.common.logger import KVWriter, Logger

from textenv.agents import LMPolicy, TokenPPO, VLLMEngine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", help="of the server, http://127.0.0.1:8000/v1")
parser.add_argument("--save", metavar="DIRECTORY", help="write the model to start the server with, and end")
parser.add_argument("--model", default="textenv/tiny", help="a causal model (default: %(default)s)")
parser.add_argument("--env", default="textenv/Detox-v0")
parser.add_argument("--reward", default="critic_span")
parser.add_argument("--weights", metavar="DIRECTORY", help="where weights are handed over (default: a temporary directory)")
parser.add_argument("--lora", type=int, metavar="RANK", help="train an adapter; it is merged into what is handed over")
parser.add_argument("--is-cap", type=float, metavar="C", help="weight each token by min(π / π_server, C)")
parser.add_argument("--n-episodes", type=int, default=64, help="texts an iteration (default: %(default)s)")
parser.add_argument("--total-timesteps", type=int, default=17_920, help="generated tokens (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()
if (options.url is None) == (options.save is None):
    parser.error("give --save DIRECTORY first, then --url of the server that was started with it")


class Table(KVWriter):
    """One line an iteration."""

    COLUMNS = (("score", "objective/scores"), ("kl", "objective/kl"), ("gap mean", "engine/logprob_diff_mean"),
               ("gap max", "engine/logprob_diff_max"), ("ratio max", "engine/ratio_max"), ("sample s", "time/sample_seconds"),
               ("update s", "time/update_seconds"))  # fmt: skip

    def __init__(self) -> None:
        print("  tokens  " + "".join(f"{name:>11}" for name, _ in self.COLUMNS))

    def write(self, key_values: dict[str, Any], key_excluded: Any, step: int = 0) -> None:
        print(f"{step:8d}  " + "".join(f"{key_values[name]:11.3g}" for _, name in self.COLUMNS), flush=True)

    def close(self) -> None:
        pass


policy = LMPolicy(options.model, lora=options.lora)
if options.save is not None:
    (policy.base() if policy.adapted else policy).save_pretrained(options.save)
    print(f"written: {options.save}")
else:
    env = gym.make(options.env, reward=options.reward)
    engine = VLLMEngine(options.url, directory=options.weights)
    settings = {"engine": engine, "engine_is_cap": options.is_cap, "n_episodes": options.n_episodes, "seed": options.seed}
    agent = TokenPPO(policy, env, learning_rate=2e-4, **settings)
    agent.set_logger(Logger(None, [Table()]))
    began = time.perf_counter()
    agent.learn(options.total_timesteps)
    seconds = time.perf_counter() - began
    print(f"{agent.num_timesteps} tokens in {seconds:.1f} s; weights handed over {engine.version} times")
