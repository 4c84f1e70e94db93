"""A whole training against a critic behind a server that is killed and started again midway: nothing is lost.

    python examples/server_critic.py [--total-timesteps 17920] [--seed 0]        (extras: critic, serve)

`transformers serve` answers on loopback with the embedded critic; vLLM, llama.cpp or a paid API take its place by their
address. Half-way it is killed and stays away for some seconds; with `on_error="retry_forever"` the training waits. Then the
same training is run with the same model in process, and the weights of the two policies are compared, bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import gymnasium as gym
import torch
from stable_baselines3.common.logger import configure

from textenv import embedded
from textenv.agents import TokenPPO
from textenv.critics import CritiqueFormat, Patience, ServerCritic
from textenv.tasks.detox import CRITIQUE

MODEL = str(embedded.path("textenv/tiny-critic-insults"))
COUNTED = ("critic_texts", "critic_requests", "critic_cache_hits", "critic_retries", "critic_failures", "critic_skipped")
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--total-timesteps", type=int, default=17_920, help="generated tokens (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()


def serve(port: int) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).with_name("transformers")), "serve", MODEL, "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=quiet, stderr=quiet)


def outage(servers: list[subprocess.Popen[bytes]], port: int, critic: ServerCritic, after: int) -> None:
    while len(critic.cache) < after:
        time.sleep(0.05)
    servers[0].kill()
    time.sleep(3.0)
    servers.append(serve(port))


def train(critic: ServerCritic | None, log: Path) -> tuple[torch.nn.Module, dict[str, float]]:
    env = gym.make("textenv/Detox-v0", reward="critic_span", critic=critic)
    agent = TokenPPO("textenv/tiny", env, learning_rate=2e-4, kl_coef=0.1, n_episodes=64, batch_size=16, seed=options.seed)
    agent.set_logger(configure(str(log), ["csv"]))
    agent.learn(options.total_timesteps)
    agent.logger.close()
    rows = list(csv.DictReader((log / "progress.csv").read_text().splitlines()))  # one an iteration
    return agent.policy, {name: sum(float(row.get(f"credit/{name}") or 0) for row in rows) for name in COUNTED}


with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    free = probe.getsockname()[1]
with tempfile.TemporaryDirectory() as folder:
    judge = ServerCritic(
        f"http://127.0.0.1:{free}/v1/completions#{MODEL}",  # completions: a base model, without a chat template
        CritiqueFormat(CRITIQUE.sections),  # the bare form, which the embedded critics were trained on
        on_error="retry_forever",
        patience=Patience(timeout=30.0, backoff=0.2, longest=1.0),
        cache=f"{folder}/answers.sqlite")  # fmt: skip
    running = [serve(free)]
    threading.Thread(target=outage, args=(running, free, judge, options.total_timesteps // 28 // 2), daemon=True).start()
    try:
        first, counted = train(judge, Path(folder) / "server")
    finally:
        for server in running:
            server.kill()
            server.wait()
    second, plain = train(None, Path(folder) / "process")

print(f"server started {len(running)} times;", ", ".join(f"{counted[name]:.0f} {name}" for name in COUNTED))
same = all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
print(f"texts judged in process: {plain['critic_texts']:.0f}; the two trained policies are {'equal' if same else 'NOT equal'}")
lost = counted["critic_failures"] + counted["critic_skipped"] + abs(counted["critic_texts"] - plain["critic_texts"])
sys.exit(int(not same or lost > 0 or len(running) != 2))
