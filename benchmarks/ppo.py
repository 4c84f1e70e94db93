"""How fast one PPO iteration of `TokenPPO` is, from prompts to updated weights: tokens per second, seconds by phase, peak memory.

    python -m benchmarks.ppo                                             # S and M, 1 and 4 epochs
    python -m benchmarks.ppo --size S --epochs 4 --precision bf16 --threads 2
    python -m benchmarks.ppo --size S --epochs 1 --ragged                # texts end anywhere, beside texts of the mean length
    python -m benchmarks.ppo --size M --epochs 1 --vocabulary 50257 --new-tokens 512 --micro-batch-tokens 2112 --iterations 1
    python -m benchmarks.ppo --device cuda                               # GPT-2, 124 M, 64 × 128 tokens; Llama, 1.1 B, 256 × 256

The work of an iteration is `benchmarks.work_unit`'s. Medians over the undisturbed iterations (`benchmarks.stopwatch`) that follow
one warm-up; with `--ragged` the learning rate is next to nothing, since texts that may end soon learn to end earlier. Each case
runs in a process of its own, so that its peak memory is its own: resident memory with Python and torch in it; on CUDA, what torch
allocated. "working" is the peak above what was there before the first iteration (all weights), gradients and the optimizer's
moments. "score" is the reward model, the reference and, where it is separate, the value model; the reward model computes in the
precision of the case. "of bound" is the share of what arithmetic allows (`benchmarks.arithmetic`), by the best matrix product of
the same process; on CUDA it is the model FLOPs utilization, and "decode" what sampling has of the memory's bandwidth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import KVWriter, Logger

from benchmarks.arguments import count, counts, device
from benchmarks.arithmetic import Needs, copy_peak, matmul_peak
from benchmarks.processes import Result, share_of_bound
from benchmarks.stopwatch import PHASES, Stopwatch, median, peak_memory, quiet
from benchmarks.work_unit import FAMILIES, GAMMA, KL, LAMBDA, RATE, SHAPES, SIZES, Work, words
from textenv import Prompt, SequenceClassifierScorer, TextEnv
from textenv.agents import TokenPPO
from textenv.allocator import keep_freed_memory
from textenv.precision import medium, resolved
from textenv.tasks.count_letter import CountLetter
from textenv.threads import set_threads


@dataclass(frozen=True)
class Case:
    """What is measured."""

    work: Work = field(default_factory=Work)
    precision: str = "auto"
    value: str = "states"  # or "shared", "separate"
    frozen: int = 0
    micro_batch_tokens: int | None = None
    compiled: bool = False
    device: str = "cpu"
    iterations: int = 5


class Phases(KVWriter):
    """A logger's output that ends an iteration of the stopwatch when the agent logs one."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch, self.lengths, self.prepared = watch, [0], 0.0

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Called by the agent at the end of each iteration."""
        sample, score, update = (float(key_values[f"time/{phase}_seconds"]) for phase in PHASES)
        phases = {"sample": sample, "score": score + self.prepared, "update": update - self.prepared}
        self.watch.end(sum(self.lengths), phases)

    def close(self) -> None:
        """Nothing is held open."""

    def seen(self, local: dict[str, Any], _: Any) -> bool:
        """The callback: how long the texts are."""
        self.lengths = [len(episode) for episode in local["episodes"]]
        return True

    def timed(self, prepare: Any) -> Any:
        """The pass over reference and values, which the agent counts as a part of the update."""

        def run(*arguments: Any) -> Any:
            began = time.perf_counter()
            batch = prepare(*arguments)
            self.prepared = time.perf_counter() - began
            return batch

        return run


def environment(work: Work, dtype: torch.dtype, device: str) -> TextEnv:
    """Prompts of exactly so many ids, a reward model that reads them and the text; without `ragged`, EOS is not sampled."""
    tokenizer = words(work.vocabulary)
    judge = work.judge().to(dtype)
    scorer = SequenceClassifierScorer(judge, label=0, tokenizer=tokenizer, output="logit", with_prompt=True, device=device)
    prompts = [Prompt(" ".join(f"w{i}" for i in row)) for row in work.prompts(16 * work.episodes)]
    return TextEnv(
        CountLetter(max_new_tokens=work.new_tokens, prompts=prompts, scorer=scorer),  # its own score is not used
        tokenizer,
        max_prompt_tokens=work.prompt_tokens,
        max_new_tokens=work.new_tokens,
        min_new_tokens=0 if work.ragged else work.new_tokens,
        on_long_prompt="error",
    )


def measure(case: Case) -> Result:
    """Run one warm-up and `case.iterations` more."""
    keep_freed_memory()  # this process's allocator: set_threads was another's
    work, device = case.work, torch.device(case.device)
    precision = resolved(case.precision, device, torch.float32)  # type: ignore[arg-type]  # checked there
    env = environment(work, torch.bfloat16 if precision == "bf16" else torch.float32, case.device)
    agent = TokenPPO(
        work.policy(), env, precision=precision, frozen_layers=case.frozen, micro_batch_tokens=case.micro_batch_tokens,
        learning_rate=1e-12 if work.ragged else RATE, n_episodes=work.episodes, batch_size=work.minibatch, n_epochs=work.epochs,
        kl_coef=KL, gamma=GAMMA, gae_lambda=LAMBDA, value_model=None if case.value == "states" else case.value, seed=0,
        device=device,
    )  # fmt: skip
    agent.policy.compile_decoding = case.compiled
    before = _allocated(device)
    phases = Phases(Stopwatch())
    agent.prepare = phases.timed(agent.prepare)  # type: ignore[method-assign]
    agent.set_logger(Logger(None, [phases]))
    lengths = []
    with medium() if precision == "medium" else nullcontext():  # the reward model, too
        for _ in range(1 + case.iterations):
            phases.watch.begin()
            agent.learn(1, callback=phases.seen, reset_num_timesteps=False)  # one iteration
            lengths.append(phases.lengths)
    peak = peak_memory() if device.type == "cpu" else torch.cuda.max_memory_allocated(device) / 2**20
    learned = sum(p.numel() * p.element_size() for group in agent.optimizer.param_groups for p in group["params"]) / 2**20
    iterations = phases.watch.iterations[1:]
    needs = needs_of(case, agent, lengths[1:])
    return {
        "who": " ".join([
            f"textenv {precision} {case.value}", *[f"frozen {case.frozen}"] * (case.frozen > 0), *["compiled"] * case.compiled
        ]),
        "size": work.size, "family": work.family, "epochs": work.epochs, "ragged": work.ragged, "new_tokens": work.new_tokens,
        "parameters": sum(p.numel() for p in agent.policy.model.parameters()), "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "peak_mib": peak, "working_mib": peak - before - 3 * learned, "iterations": iterations,
        "flops": needs.flops, **_peaks(precision, device), **_decoding(case, needs, iterations, precision, device),
    }  # fmt: skip


def needs_of(case: Case, agent: TokenPPO, lengths: Sequence[Sequence[int]]) -> Needs:
    """Of a mean iteration."""
    work, model = case.work, agent.policy.model
    layers, width, *_ = SIZES[work.size]
    matrices = [p.numel() for name, p in model.named_parameters() if p.ndim == 2 and (".h." in name or ".layers." in name)]
    tokens = float(np.mean([sum(of) for of in lengths]))
    pairs = float(np.mean([sum((work.prompt_tokens + n) ** 2 / 2 for n in of) for of in lengths]))
    return Needs(
        sum(matrices), layers, width, work.vocabulary, work.prompt_tokens * work.episodes, round(tokens), pairs, work.epochs,
        case.value == "separate", case.frozen,
    )  # fmt: skip


def _peaks(precision: str, device: torch.device) -> Result:
    peaks = {name: matmul_peak(name, device) for name in ("fp32", "medium", "bf16")}
    return {"matmul_peaks": peaks, "peak_flops": peaks[precision]}


def _decoding(case: Case, needs: Needs, iterations: Sequence[Any], precision: str, device: torch.device) -> Result:
    if device.type != "cuda":
        return {}
    _, _, heads, shared, *_ = SIZES[case.work.size]
    ratio = shared / heads if case.work.family == "llama" else 1.0
    read = needs.decoded_bytes(case.work.episodes, case.work.new_tokens, 2 if precision == "bf16" else 4, ratio)
    return {"decode_share": read / median(quiet(list(iterations)), "sample") / copy_peak(device)}


def _allocated(device: torch.device) -> float:
    """MiB now: on CUDA by torch, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 2**10
    except OSError:  # not Linux
        return peak_memory()


def table(results: Sequence[Result]) -> Table:
    """One row a case."""
    out = Table(title="PPO: one iteration, medians")
    heads = ("size", "epochs", "who", "tokens/s", "/CPU s", *PHASES, "of bound", "MiB", "working", "disturbed")
    for head in heads + (("decode",) if any("decode_share" in r for r in results) else ()):
        out.add_column(head, justify="right", no_wrap=True)
    for r in results:
        kept = quiet(r["iterations"])
        rates = (f"{median(kept, name):,.0f}" for name in ("tokens/s", "tokens/cpu"))
        seconds = (f"{median(kept, phase):.3f}" for phase in PHASES)
        memory = (f"{r[name]:,.0f}" for name in ("peak_mib", "working_mib"))
        decode = (f"{r['decode_share']:.0%}",) if "decode_share" in r else ()
        name = f"{r['size']}, {r['parameters'] / 1e6:.1f} M" + (f", EOS in 1…{r['new_tokens']}" if r["ragged"] else "")
        disturbed = f"{len(r['iterations']) - len(quiet(r['iterations'], 0))} of {len(r['iterations'])}"
        share = f"{share_of_bound([r]):.0%}"
        out.add_row(name, str(r["epochs"]), r["who"], *rates, *seconds, share, *memory, disturbed, *decode)
    if results:
        peaks = ", ".join(f"{name} {peak / 1e9:,.0f}" for name, peak in results[0]["matmul_peaks"].items())
        out.caption = f"{results[0]['device']}, {results[0]['threads']} thread(s); best products in GFLOP/s: {peaks}"
    return out


def cases(given: argparse.Namespace) -> list[Case]:
    """The command line's. `--ragged` goes beside fixed texts of half the budget, about the mean length."""
    pair = ["S", "M"] if given.device == "cpu" else ["124M", "1.1B"]
    found = []
    for size in pair if given.size == "both" else [given.size]:
        episodes, tokens = SHAPES[size]
        budget = given.new_tokens or (128 if given.ragged else tokens)
        for epochs in given.epochs:
            family = given.family or ("llama" if size == "1.1B" else "gpt2")
            work = Work(size, epochs, family, given.episodes or episodes, new_tokens=budget, ids=given.vocabulary)
            case = Case(
                work, given.precision, given.value, given.frozen_layers, given.micro_batch_tokens, given.compile_decoding,
                given.device, given.iterations,
            )  # fmt: skip
            ragged = [replace(case, work=replace(work, new_tokens=n, ragged=n == budget)) for n in (budget // 2, budget)]
            found += ragged if given.ragged else [case]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ppo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--size", choices=[*SIZES, "both"], default="both", help="of the models; both: S, M; on a GPU 124M, 1.1B"
    )
    parser.add_argument("--family", choices=list(FAMILIES), help="default: gpt2, of 1.1B llama")
    parser.add_argument("--epochs", type=counts, default=[1, 4], help="PPO epochs, separated by commas (default: 1,4)")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "medium"], default="auto")
    parser.add_argument("--value", choices=["states", "shared", "separate"], default="states", help="TokenPPO's value_model")
    parser.add_argument("--frozen-layers", type=int, default=0, help="lower blocks that are not learned")
    parser.add_argument("--micro-batch-tokens", type=count, help="tokens a forward pass at most; default: a minibatch")
    parser.add_argument("--compile-decoding", action="store_true", help="texts are decoded by compiled programs (textenv.compiled)")
    parser.add_argument("--episodes", type=count, help="texts an iteration; default: the size's")
    parser.add_argument("--new-tokens", type=count, help="tokens a text; default: the size's, with --ragged at most 128")
    parser.add_argument("--vocabulary", type=count, help="ids; default: the size's")
    parser.add_argument("--ragged", action="store_true", help="EOS at each length with the same probability (gpt2 alone)")
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=count, help="torch threads; default: textenv.threads")
    parser.add_argument("--iterations", type=count, default=5, help="measured iterations, after one warm-up")
    parser.add_argument("--json", action="store_true", help="one JSON object a case, instead of the table")
    given = parser.parse_args(arguments)
    if given.ragged and (given.family == "llama" or given.size == "1.1B"):
        parser.error("--ragged is made of GPT-2's position embeddings; leave --family out")
    set_threads(given.threads)
    results = []
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for case in cases(given):
            results.append(pool.submit(measure, case).result())
            if given.json:
                print(json.dumps(results[-1]), flush=True)
    if not given.json:
        Console(width=190).print(table(results))


if __name__ == "__main__":
    main()
