"""Does it learn as well? bfloat16 against float32, and three values: on the policy's states, on a shared trunk, a model apart.

    python -m benchmarks.parity [--tasks detox summarization count_letter] [--seeds 0 1 2 3 4]
                                [--out runs/parity.jsonl] [--picture runs/parity.png]

The same agent, reward, prompts and budget; only `precision=` and `value_model=` of `TokenPPO` change; nothing is tuned. Reported
is the task's own score on held-out texts and its mean over the run, and both less those of "fp32, states" of the same seed: two
runs of one seed begin alike and part where a rounding draws another token, so a difference of zero is two samples of one
distribution, not equal texts. Intervals are those of the mean over seeds (Student's t, 95 %). Runs are kept: `benchmarks.runs`.

CountLetter is learned from scratch, by a Llama of two layers with random weights; the others by the embedded model.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import ablation
from benchmarks.runs import Key, cell_of, key_of, run_all, train

TASKS: dict[str, tuple[str, str, int, int, float, float]] = {  # environment, reward, tokens, episodes, learning rate, β
    "detox": ("textenv/Detox-v0", "critic_span", 28, 1280, 2e-4, 0.1),
    "summarization": ("textenv/Summarization-v0", "sparse", 32, 1280, 2e-4, 0.1),
    "count_letter": ("textenv/CountLetter-v0", "critic_span", 16, 1920, 3e-3, 0.0),
}
SETTINGS: dict[str, dict[str, Any]] = {
    f"{precision}, {name}": {"precision": precision, "value_model": value}
    for name, value in {"states": None, "shared": "shared", "separate": "separate"}.items()
    for precision in ("fp32", "bf16")
}
FIRST = "fp32, states"


def run(key: Key) -> Key:
    """One training run."""
    environment, reward, *_ = TASKS[key["task"]]
    with policy_of(key["task"]) as policy:
        return train(key, environment, reward, policy, **SETTINGS[key["method"]])


@contextmanager
def policy_of(task: str) -> Iterator[str]:
    """The policy that begins: the embedded model, or a directory of a random one."""
    if task != "count_letter":
        yield ablation.TASKS[task][1]
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import textenv

    tokenizer = textenv.load_tokenizer("bytes")
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=tokenizer.eos_token_id, **size)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as directory:
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        yield directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--episodes", type=int, help="texts a run (default: the task's)")
    parser.add_argument("--out", type=Path, default=Path("runs/parity.jsonl"))
    parser.add_argument("--picture", type=Path, default=Path("runs/parity.png"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    settings = list(dict.fromkeys([FIRST, *options.settings]))
    cells = [(task, TASKS[task][2], name) for task in options.tasks for name in settings]
    keys = [
        key_of(cell, *TASKS[cell[0]][4:], seed, options.episodes or TASKS[cell[0]][3]) for cell in cells for seed in options.seeds
    ]
    results = run_all(run, keys, options.out, options.processes, "parity")
    Console(width=150).print(result_table(results, cells))
    ablation.picture(results, cells, options.picture)
    print(f"learning curves: {options.picture}")


def result_table(results: Sequence[Key], cells: Sequence[tuple[str, int, str]]) -> Table:
    """A line for each task and setting; differences are within seeds."""
    numbers = ("score, held out", f"less {FIRST}", "score over the run", f"less {FIRST}", "KL", "perplexity", "s")
    table = Table("task", "setting", *numbers, title="The task's own score: mean over seeds ± half of the 95 % interval")
    for cell in cells:
        group, first = (by_seed(results, (*cell[:2], name)) for name in (cell[2], FIRST))
        columns = [cell[0], cell[2]]
        for number in (_final, _over_the_run):
            values = [number(group[seed]) for seed in group]
            apart = [number(group[seed]) - number(first[seed]) for seed in group]
            columns += [told(values), "" if cell[2] == FIRST else told(apart)]
        columns += [told([r[name] for r in group.values()]) for name in ("reference_kl", "perplexity")]
        table.add_row(*columns, f"{np.median([r['seconds'] for r in group.values()]):.0f}")
    return table


def by_seed(results: Sequence[Key], cell: tuple[Any, ...]) -> dict[int, Key]:
    """The runs of one cell."""
    return {r["seed"]: r for r in results if cell_of(r) == cell}


def _final(result: Key) -> float:
    return float(result["final"])


def _over_the_run(result: Key) -> float:
    return float(np.mean(result["curve"]))


def told(values: Sequence[float]) -> str:
    """Mean ± half of the 95 % interval, to three decimals: differences of scores in [0, 1] stand under each other."""
    mean, half = ablation.interval(values)
    return f"{mean:.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
