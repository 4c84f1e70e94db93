"""Every agent on every task: the same budget of generated tokens, untuned; before and after, over five seeds.

    python -m benchmarks.agents [--agents ppo rloo grpo rest dpo treg simpo bc best_of_n args step_search]
                                [--tasks detox summarization translation] [--seeds 0 1 2 3 4] [--out runs/agents.jsonl]
    python -m benchmarks.agents --agents grpo --tasks detox --seeds 0              # one agent: before and after

A task's budget is `--episodes` × its `max_new_tokens` tokens written by the policy; settings are the library's defaults for all
tasks (rate 1e-4, β 0.1, SimPO's β 2, T-REG's α 0.25), nothing is tuned, and no checkpoint is chosen: the last policy counts.

    ppo, rloo, grpo    until the budget is written, 64 texts an iteration; each text is learned from 4 times
    rest               G = 1: one Grow step of the whole budget; G = 2: two of half of it; 8 texts a prompt; I = 0 (all that was
                       grown) … 4 (above the 0.6, 0.7, 0.8, 0.9 quantile), 200 updates each; references, filtered alike, are in D_g
    dpo, treg, simpo   5 texts a prompt written once by the untrained policy, best against worst (the same pairs for all three);
                       4 passes over the pairs
    bc                 references, as many tokens as the budget, 4 times; Detox has no references, and no cell
    best_of_n          nothing is trained: N such that the held-out texts cost the budget
    args               ARGS, greedy, 10 candidates, weight 1.5; and best-of-N at as many tokens a text, sampled and judged
    step_search        HGS-PRM by sentences, judged by what each adds to the score; and best-of-N likewise

Of held-out prompts, `TEXTS` a prompt (greedy ARGS: one): the task's own score; a measure that no agent saw ("truth"); the KL to
the untrained policy in nats a text, by the policy's own samples (best-of-N: the bound log N − (N − 1)/N; greedy ARGS: −log π_ref
of its texts, the KL of a policy that writes nothing else; step search: none is known); perplexity under the untrained policy.
Translation is scored by the reward model, which reads no reference; chrF is its truth. Decoders search by the score that is
reported: compare their truth. "generated" is what training sampled (decoders: what the held-out texts cost), "learned" counts a
token as often as it was learned from; "a text" is what one costs when it is written: sampled + judged. Seconds are of the CPU,
one thread, evaluation included.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import ablation
from benchmarks.runs import Key, key_of, run_all
from textenv import agents
from textenv.agents.decoders.best_of_n import kl_of_best_of_n

AGENTS = ("ppo", "rloo", "grpo", "rest", "dpo", "treg", "simpo", "bc", "best_of_n", "args", "step_search")
METHODS = {"rest": ("rest_1", "rest_2")}  # runs of an agent, where they are several
TASKS: dict[str, tuple[dict[str, Any], str]] = {  # arguments of the environment, the truth
    "detox": ({}, "insults"),
    "summarization": ({}, "supported_share"),
    "translation": ({"score": "reward"}, "chrf"),
}
PREFERENCES: dict[str, dict[str, Any]] = {"dpo": {}, "treg": {"treg_alpha": 0.25}, "simpo": {"loss": "simpo", "beta": 2.0}}
NO_REFERENCES = ("detox",)
RATE, KL = 1e-4, 0.1
PASSES, TEXTS, CANDIDATES, PER_PROMPT = 4, 4, 5, 8  # of the budget; a held-out prompt; a pair; a prompt of ReST
NUMBERS = ("score", "truth", "reference_kl", "perplexity", "episodes", "generated", "learned", "sampled", "judged")


class World:
    """The task of a run, its budget, and what is measured of whoever writes there."""

    def __init__(self, key: Key) -> None:
        name, self.policy, _, _ = ablation.TASKS[key["task"]]
        arguments, self.truth = TASKS[key["task"]]
        self.key, self.seed, self.budget = key, key["seed"], key["episodes"] * key["tokens"]
        arguments = {**arguments, "max_new_tokens": key["tokens"]}
        self.train, self.test = (gym.make(name, split=split, **arguments) for split in ("train", "test"))
        self.train.reset(seed=self.seed)
        self.base = agents.LMPolicy(self.policy)
        self.prompts = min(key["held_out"], len(self.test.get_wrapper_attr("task").prompts))
        self.before = self.measured("before", self.base)
        self.texts = max(1, round(self.budget / self.before["sampled"]))  # that the budget buys of the untrained policy

    def measured(self, name: str, writer: Any, kl: float | None = None, *, k: int = TEXTS, **spent: float) -> Key:
        """Held-out texts of a writer. `kl`: where it tells no probabilities; infinite: it writes nothing else."""
        found = agents.evaluate(writer, self.test, self.prompts, k=k, deterministic=k == 1, reference=self.base, seed=self.seed)
        episodes, used = found.episodes, getattr(writer, "tokens_used", None)
        read = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes], self.test.get_wrapper_attr("action_rule")
        if kl is None or kl == float("inf"):
            with torch.no_grad():
                new = 0.0 if kl else float(writer.evaluate(*read).log_probs.sum())
                kl = (new - float(self.base.evaluate(*read).log_probs.sum())) / len(episodes)
        if used is not None:
            spent = {"episodes": used.texts * getattr(writer, "n", 1), "generated": used.sampled}
        return {
            "name": name, "score": float(np.mean([e.score for e in episodes])), "reference_kl": kl,
            "truth": float(found.metrics[self.truth] if self.truth in found.metrics else self._insults(episodes)),
            "perplexity": float(found.metrics["perplexity"]), "episodes": 0, "generated": 0, "learned": 0, **spent,
            "sampled": float(np.mean([len(e) for e in episodes])) if used is None else used.sampled / used.texts,
            "judged": 0.0 if used is None else used.judged / used.texts,
        }  # fmt: skip

    def _insults(self, episodes: Sequence[Any]) -> float:
        """Share of the texts with one, by the world's word lists."""
        return float(np.mean([bool(spans) for spans in self.test.get_wrapper_attr("task").truth(episodes)]))


class Count:
    """A callback that counts what is generated."""

    episodes = generated = 0

    def __call__(self, local: dict[str, Any], _: Any) -> bool:
        for episode in local.get("episodes") or ():
            self.episodes, self.generated = self.episodes + 1, self.generated + len(episode)
        return True

    @property
    def spent(self) -> dict[str, int]:
        return {"episodes": self.episodes, "generated": self.generated}


def run(key: Key) -> Key:
    """One agent trained, or one decoder asked: before, and a row for each policy that is reported."""
    torch.set_num_threads(1)
    began, world = time.process_time(), World(key)
    others = {
        "rest_1": _rest, "rest_2": _rest, "bc": _clone, "best_of_n": _best_of_n, "args": _args, "step_search": _step_search,
    }  # fmt: skip
    rows = list(others.get(key["method"], _preferences if key["method"] in PREFERENCES else _policy_gradient)(world))
    return {**key, "truth": world.truth, "before": world.before, "rows": rows, "seconds": time.process_time() - began}


def _policy_gradient(world: World) -> Iterator[Key]:
    name, count = world.key["method"], Count()
    settings: Key = {"advantage": "gae" if name == "ppo" else name, "kl_coef": world.key["kl"], "n_epochs": PASSES}
    agent = agents.TokenPPO(world.policy, world.train, learning_rate=world.key["rate"], seed=world.seed, **settings)
    agent.learn(world.budget, count, 10**9)
    yield world.measured(name, agent.policy, **count.spent, learned=PASSES * count.generated)


def _rest(world: World) -> Iterator[Key]:
    """The Improve steps after the last Grow step."""
    grows, count, rows = int(world.key["method"][-1]), Count(), []

    def after(local: dict[str, Any], given: Any) -> bool:
        count(local, given)
        step = local["improved"]
        if step and step["grow"] == grows:
            learned = agent.num_timesteps - count.generated
            row = world.measured(f"rest G={grows} I={step['improve']}", agent.policy, **count.spent, learned=learned)
            rows.append({**row, "kept_share": step["kept_share"], "threshold": step["threshold"]})
        return True

    agent = agents.ReST(
        world.policy, world.train, grow_steps=grows, thresholds=(None, 0.6, 0.7, 0.8, 0.9), samples_per_prompt=PER_PROMPT,
        n_prompts=max(1, round(world.texts / grows / PER_PROMPT)), learning_rate=world.key["rate"], seed=world.seed,
        updates=world.key["updates"],
    )  # fmt: skip
    agent.learn(callback=after)
    yield from rows


def _preferences(world: World) -> Iterator[Key]:
    prompts, generator = max(1, round(world.texts / CANDIDATES)), torch.Generator().manual_seed(world.seed)
    found = agents.sample_pairs(world.train, world.base, prompts, CANDIDATES, generator)
    settings = {"beta": world.key["kl"], "learning_rate": world.key["rate"], **PREFERENCES[world.key["method"]]}
    agent = agents.PreferenceLearner(world.policy, world.train, found.pairs, seed=world.seed, **settings)
    agent.learn(PASSES * sum(map(len, found.pairs)), log_interval=10**9)
    spent = {"episodes": len(found.episodes), "generated": sum(map(len, found.episodes)), "learned": agent.num_timesteps}
    yield world.measured(world.key["method"], agent.policy, **spent)


def _clone(world: World) -> Iterator[Key]:
    agent = agents.BehaviourCloning(world.policy, world.train, learning_rate=world.key["rate"], seed=world.seed)
    yield world.measured("bc", agent.learn(PASSES * world.budget).policy, learned=agent.num_timesteps)


def _best_of_n(world: World) -> Iterator[Key]:
    yield _best(world, max(1, world.texts // (world.prompts * TEXTS)), "best of")


def _args(world: World) -> Iterator[Key]:
    search = agents.RewardGuidedSearch(world.base, world.test)
    yield from _beside_best(world, world.measured("args", search, float("inf"), k=1))


def _step_search(world: World) -> Iterator[Key]:
    search = agents.StepSearch(world.base, world.test, segmenter="sentences")
    yield from _beside_best(world, world.measured("step search", search, float("nan")))


def _beside_best(world: World, row: Key) -> Iterator[Key]:
    """A decoder's row, and best-of-N at as many tokens: a sample is written once and judged once."""
    n = (row["sampled"] + row["judged"]) / (2 * world.before["sampled"])
    yield row
    yield _best(world, max(1, round(n)), f"best of, as {row['name']}:")


def _best(world: World, n: int, name: str) -> Key:
    return {**world.measured(name, agents.BestOfN(world.base, world.test, n), kl_of_best_of_n(n)), "n": n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--episodes", type=int, default=1280, help="budget, in texts of full length (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=200, help="of an Improve step (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=64, help=f"prompts, {TEXTS} texts each (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/agents.jsonl"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    methods = [method for agent in options.agents for method in METHODS.get(agent, (agent,))]
    cells = [(task, ablation.TASKS[task][2], method) for task in options.tasks for method in methods]
    cells = [cell for cell in cells if cell[2] != "bc" or cell[0] not in NO_REFERENCES]
    if not cells:
        parser.error(f"bc learns references, and {', '.join(options.tasks)} has none; name another task or agent")
    own = {"held_out": options.held_out, "updates": options.updates}
    keys = [{**key_of(cell, RATE, KL, seed, options.episodes), **own} for cell in cells for seed in options.seeds]
    results = run_all(run, keys, options.out, options.processes, "agents")
    if any(result[name] != value for result in results for name, value in own.items()):
        parser.error(f"{options.out} holds runs with another --held-out or --updates; name another --out")
    Console(width=180).print(result_table(results))
    if len(options.agents) == len(options.seeds) == 1:
        print("\n".join(line for result in results for line in before_and_after(result)))


def before_and_after(result: Key) -> Iterator[str]:
    """One line a row: what training, or search, has changed."""
    before = result["before"]
    for row in result["rows"]:
        numbers = (f"{name} {before[key]:.3f} → {row[key]:.3f}" for name, key in (("score", "score"), (result["truth"], "truth")))
        yield f"{result['task']}, {row['name']}: {', '.join(numbers)}, KL {row['reference_kl']:.2f}, {result['seconds']:.0f} s"


def result_table(results: Sequence[Key]) -> Table:
    """A line for each task and policy: means over seeds ± half of the 95 % interval."""
    heads = ("task", "agent", "score", "truth", "reference KL", "perplexity", "episodes", "generated", "learned", "a text", "s")
    table = Table(*heads, title="Held-out texts: mean over seeds ± half of the 95 % interval")
    for task in dict.fromkeys(result["task"] for result in results):
        group = [result for result in results if result["task"] == task]
        untrained = {r["seed"]: r["before"] for r in group}
        lines = {"untrained": [(row, 0.0) for row in untrained.values()]}
        for run_of, row in ((r, row) for r in group for row in r["rows"]):
            lines.setdefault(row["name"], []).append((row, run_of["seconds"]))
        for name, pairs in lines.items():
            of = {number: [row[number] for row, _ in pairs] for number in NUMBERS}
            shown = name + (f" {np.mean([row['n'] for row, _ in pairs]):.0f}" if "n" in pairs[0][0] else "")
            table.add_row(
                task, shown, told(of["score"]), f"{told(of['truth'])} {group[0]['truth']}", told(of["reference_kl"]),
                told(of["perplexity"]), *(f"{np.mean(of[n]):,.0f}" for n in ("episodes", "generated", "learned")),
                f"{np.mean(of['sampled']):,.0f} + {np.mean(of['judged']):,.0f}", f"{np.mean([s for _, s in pairs]):.0f}",
            )  # fmt: skip
    return table


def told(values: Sequence[float]) -> str:
    mean, half = ablation.interval(values)
    if np.isnan(mean):
        return "–"
    return f"{mean:.3f}" if np.isnan(half) else f"{mean:.3f} ± {half:.2g}"


if __name__ == "__main__":
    main()
