"""A text-in, text-out agent behind an API: an OpenAI-compatible server plays the environment and is measured.

    python examples/api_agent.py [--url http://127.0.0.1:8000/v1 --model NAME --chat] [--texts 4] [--prompts 16]
        (extras: critic, serve)

Without `--url`, `transformers serve` answers on loopback with the embedded policy (greedily: it samples where a model's
generation_config.json says `do_sample`); vLLM, llama.cpp or a paid API (its key in OPENAI_API_KEY) take its place by their
address. `TextActions` makes the whole response one action: the reward is what its tokens earned, and `info["text_episode"]`
tells which. `evaluate` takes the same function and reports the task's metrics.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym
import openai
from rich.console import Console

from textenv import embedded
from textenv.agents import evaluate
from textenv.agents.text_actions import TextActions, TextPolicy
from textenv.render import render_episode

EMBEDDED = str(embedded.path("textenv/tiny"))
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--env", default="textenv/Detox-v0")
parser.add_argument("--reward", default="critic_span", help="what places the credit that is shown (default: %(default)s)")
parser.add_argument("--url", help="of the server, up to /v1 (default: one is started here)")
parser.add_argument("--model", help="default: the one that the server lists")
parser.add_argument("--chat", action="store_true", help="ask by chat completions, not by completions")
parser.add_argument("--temperature", type=float, default=1.0)
parser.add_argument("--texts", type=int, default=4, help="texts played and shown (default: %(default)s)")
parser.add_argument("--prompts", type=int, default=16, help="held-out prompts that are measured (default: %(default)s)")
parser.add_argument("--concurrency", type=int, default=8, help="questions at a time (default: %(default)s)")


@contextmanager
def serving(model: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", model, "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=quiet, stderr=quiet)
    try:
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def writer(client: openai.OpenAI, chat: bool, **request: object) -> Callable[[str], str]:
    def complete(prompt: str) -> str:
        return client.completions.create(prompt=prompt, **request).choices[0].text

    def answer(prompt: str) -> str:
        said = client.chat.completions.create(messages=[{"role": "user", "content": prompt}], **request)
        return said.choices[0].message.content or ""

    return answer if chat else complete


def play(url: str, model: str | None, options: argparse.Namespace) -> None:
    key = os.environ.get("OPENAI_API_KEY", "none")
    with openai.OpenAI(base_url=url, api_key=key, timeout=60.0, max_retries=5) as client:
        model = model or client.models.list().data[0].id
        env = TextActions(gym.make(options.env, reward=options.reward, payment="end", split="test"))
        budget = env.get_wrapper_attr("action_rule").max_new_tokens  # of our tokens: what is longer is cut
        write = writer(client, options.chat, model=model, max_tokens=budget, temperature=options.temperature)
        env.reset(seed=0)
        console = Console(highlight=False, soft_wrap=True)
        for _ in range(options.texts):
            prompt, _ = env.reset()
            _, reward, _, _, info = env.step(write(prompt))
            episode = info["text_episode"]
            console.print(f"reward {reward:+.2f}  score {episode.score:.2f}  ends by {episode.finish_reason}")
            print(render_episode(episode))
        policy = TextPolicy(write, env, concurrency=options.concurrency)
        for name, value in evaluate(policy, env, options.prompts).metrics.items():
            console.print(f"{name:24} {float(value):.3f}")


if __name__ == "__main__":
    given = parser.parse_args()
    if given.url:
        play(given.url, given.model, given)
    else:
        with serving(EMBEDDED) as address:
            play(address, EMBEDDED, given)
