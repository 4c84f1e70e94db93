"""How fast one PPO iteration is, from prompts to updated weights: tokens per second, seconds by phase, peak memory.

    python -m benchmarks.ppo                                   # both sizes, 1 and 4 epochs, one CPU thread
    python -m benchmarks.ppo --size S --epochs 4 --threads 2
    python -m benchmarks.ppo --device cuda --json

The work of an iteration: 64 texts of exactly 32 tokens from prompts of exactly 16 (EOS is not sampled), scored by a
reward model of the policy's size that reads prompt and text, a KL penalty to a frozen copy of the policy, minibatches
of 16 texts. Policies are GPT-2s with random weights over 4,096 ids: S is 4 layers × 256 (4.2 M parameters), M is
8 × 512 (27.4 M).

Medians over the iterations that follow one warm-up. Each case runs in a process of its own, so that its peak memory is
its own (resident memory with Python and torch in it; on CUDA, what torch allocated). "update" holds the passes over
policy and reference before the first epoch, too. Tokens per CPU second tell what a busy neighbour cannot distort.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import KVWriter, Logger
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, PreTrainedTokenizerFast

from textenv import Prompt, SequenceClassifierScorer, TextEnv
from textenv.agents import TokenPPO
from textenv.tasks.count_letter import CountLetter

SIZES = {"S": {"n_layer": 4, "n_head": 4, "n_embd": 256}, "M": {"n_layer": 8, "n_head": 8, "n_embd": 512}}
SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
VOCABULARY, PROMPT_TOKENS, NEW_TOKENS, EPISODES, MINIBATCH = 4096, 16, 32, 64, 16
PHASES = ("sample", "score", "update")


@dataclass(frozen=True)
class Measurement:
    """One case. Seconds are medians per iteration; memory is in MiB."""

    size: str
    parameters: int
    epochs: int
    device: str
    threads: int
    iterations: int
    tokens_per_second: float
    tokens_per_cpu_second: float
    seconds: float
    sample_seconds: float
    score_seconds: float
    update_seconds: float
    peak_mib: float


class Stopwatch(KVWriter):
    """A logger's output that keeps, for each iteration, its phases and what passed on the clock and on the CPU."""

    def __init__(self) -> None:
        self.iterations: list[dict[str, float]] = []
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Called by the agent at the end of each iteration."""
        wall, cpu = time.perf_counter(), time.process_time()
        phases = {phase: float(key_values[f"time/{phase}_seconds"]) for phase in PHASES}
        self.iterations.append({**phases, "wall": wall - self._wall, "cpu": cpu - self._cpu})
        self._wall, self._cpu = wall, cpu

    def close(self) -> None:
        """Nothing is held open."""

    def median(self, name: str) -> float:
        """Over all iterations but the first."""
        return statistics.median(iteration[name] for iteration in self.iterations[1:])


def tokenizer() -> PreTrainedTokenizerFast:
    """4,096 ids: the special ones, then the words w4 … w4095, one id each."""
    words = [(f"▁w{i}", -8.0) for i in range(len(SPECIAL), VOCABULARY)]
    backend = Tokenizer(models.Unigram([(token, 0.0) for token in SPECIAL] + words, unk_id=SPECIAL.index("<unk>")))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    pad, eos, bos, unk = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, eos_token=eos, bos_token=bos, unk_token=unk, padding_side="left"
    )


def prompts(n: int, seed: int = 0) -> list[Prompt]:
    """n prompts of exactly 16 ids."""
    ids = np.random.default_rng(seed).integers(len(SPECIAL), VOCABULARY, (n, PROMPT_TOKENS))
    return [Prompt(" ".join(f"w{i}" for i in row)) for row in ids]


def config(size: str, **options: Any) -> GPT2Config:
    """Both models of a size; without dropout."""
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=128,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **SIZES[size],
        **options,
    )


def measure(size: str, epochs: int, device: str, threads: int, iterations: int) -> Measurement:
    """Run one warm-up and `iterations` more."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    words = tokenizer()
    judge = GPT2ForSequenceClassification(config(size, num_labels=1)).eval()
    scorer = SequenceClassifierScorer(judge, label=0, tokenizer=words, output="logit", with_prompt=True, device=device)
    task = CountLetter(max_new_tokens=NEW_TOKENS, prompts=prompts(1024), scorer=scorer)  # its own score is not used
    env = TextEnv(
        task,
        words,
        max_prompt_tokens=PROMPT_TOKENS,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        on_long_prompt="error",
    )
    model = GPT2LMHeadModel(config(size))
    agent = TokenPPO(
        model,
        env,
        learning_rate=1e-5,
        n_episodes=EPISODES,
        batch_size=MINIBATCH,
        n_epochs=epochs,
        kl_coef=0.05,
        seed=0,
        device=device,
    )
    watch = Stopwatch()
    agent.set_logger(Logger(None, [watch]))
    tokens = EPISODES * NEW_TOKENS
    agent.learn((1 + iterations) * tokens)
    if agent.num_timesteps != (1 + iterations) * tokens:
        raise RuntimeError(f"{agent.num_timesteps} tokens instead of {(1 + iterations) * tokens}: a text ended early")
    return Measurement(
        size=size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        epochs=epochs,
        device=torch.cuda.get_device_name() if agent.policy.device.type == "cuda" else "cpu",
        threads=threads,
        iterations=iterations,
        tokens_per_second=tokens / watch.median("wall"),
        tokens_per_cpu_second=tokens / watch.median("cpu"),
        seconds=watch.median("wall"),
        sample_seconds=watch.median("sample"),
        score_seconds=watch.median("score"),
        update_seconds=watch.median("update"),
        peak_mib=peak_memory(agent.policy.device),
    )


def peak_memory(device: torch.device) -> float:
    """MiB: allocated by torch on CUDA, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def table(results: Sequence[Measurement]) -> Table:
    """One row a case."""
    out = Table(title=f"PPO, {EPISODES} texts × {NEW_TOKENS} tokens an iteration")
    for head in ("size", "epochs", "tokens/s", "/CPU s", "sample s", "score s", "update s", "MiB"):
        out.add_column(head, justify="right", no_wrap=True)
    for r in results:
        rates = f"{r.tokens_per_second:,.0f}", f"{r.tokens_per_cpu_second:,.0f}"
        seconds = (f"{s:.3f}" for s in (r.sample_seconds, r.score_seconds, r.update_seconds))
        size = f"{r.size}, {r.parameters / 1e6:.1f} M"
        out.add_row(size, str(r.epochs), *rates, *seconds, f"{r.peak_mib:,.0f}")
    if results:
        out.caption = f"{results[0].device}, {results[0].threads} thread(s), medians of {results[0].iterations} iterations"
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ppo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=[*SIZES, "both"], default="both", help="of policy, reference and reward model")
    parser.add_argument("--epochs", default="1,4", help="PPO epochs, separated by commas")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--iterations", type=int, default=5, help="measured iterations, after one warm-up")
    parser.add_argument("--json", action="store_true", help="one JSON object a case, instead of the table")
    given = parser.parse_args(arguments)
    sizes = list(SIZES) if given.size == "both" else [given.size]
    cases = [(size, int(epochs)) for size in sizes for epochs in given.epochs.split(",")]
    results = []
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for size, epochs in cases:
            result = pool.submit(measure, size, epochs, given.device, given.threads, given.iterations).result()
            results.append(result)
            if given.json:
                print(json.dumps(asdict(result)), flush=True)
    if not given.json:
        Console().print(table(results))


if __name__ == "__main__":
    main()
