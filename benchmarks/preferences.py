"""T-REG against DPO at equal data: the same pairs, steps and learning rate; only the loss changes; paired over seeds.

    python -m benchmarks.preferences [--task detox] [--methods dpo treg treg_shuffled] [--seeds 0 1 2 3 4]
    python -m benchmarks.preferences --pairs detox_pairs.jsonl.gz --chosen neutral --rejected toxic --policy runs/language_model
                                     --prompts-file detox_prompts.jsonl.gz --scorer runs/toxicity [--methods dpo treg treg_dpo]
                                     --contrast "A kind reply: {prompt}" "A rude, insulting reply: {prompt}"

Without `--pairs`, the policy writes `--samples` texts for each of `--prompts` prompts once a seed, and the task's score ranks
them; with it, each seed takes `--prompts` pairs of the file at random. An eighth of the pairs is held out. Reported of held-out
prompts, 4 texts each: the task's own score, the KL to the reference (nats a text, by the policy's own samples), perplexity under
the reference, length; and the share of held-out pairs whose chosen text has the higher implicit reward. Differences to the
first method are within seeds. Intervals: Student's t over seeds, 95 %. A run that is found in `--out` is not repeated.
"""

from __future__ import annotations

import argparse
import os
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.ablation import TASKS, interval
from benchmarks.runs import Key, run_all

METHODS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "treg": {"treg_alpha": 0.25},
    "treg_0.5": {"treg_alpha": 0.5},
    "treg_shuffled": {"treg_alpha": 0.25, "shuffled": True},  # the rewards of T-REG, at other tokens of the same text
    "treg_static": {"treg_alpha": 0.25, "treg_weight": "static"},
    "treg_dpo": {"treg_alpha": 0.25, "teacher": True},  # the source is a DPO model, trained on the same pairs
    "simpo": {"loss": "simpo"},
    "simpo_treg": {"loss": "simpo", "treg_alpha": 0.25},
    "tdpo1": {"loss": "tdpo1"},
    "tdpo2": {"loss": "tdpo2"},
}
BATCH, TEXTS = 16, 4
MEASURES = ("score", "reference_kl", "perplexity", "length", "held_out_pairs", "contrast")


def run(key: Key) -> Key:
    """All methods on the pairs of one seed."""
    import torch

    from textenv.agents import LMPolicy

    torch.set_num_threads(1)
    began, env, held_out = time.perf_counter(), *environments(key)
    train, test = pairs_of(key, env, LMPolicy(key["policy"]))
    results: dict[str, Any] = {"none": measured(LMPolicy(key["policy"]), key["policy"], held_out, key["held_out"])}
    for method in key["method"].split("+"):
        agent = trained(key, env, train, **METHODS[method])
        found = measured(agent.policy, key["policy"], held_out, key["held_out"])
        told = agent.compare(test)["rewards/accuracies"]
        results[method] = {**found, "held_out_pairs": told, "contrast": contrast(agent)}
    return {**key, "pairs": len(train), "results": results, "seconds": time.perf_counter() - began}


def environments(key: Key) -> tuple[gym.Env[Any, Any], gym.Env[Any, Any]]:
    """Where pairs are read or ranked, and where held-out prompts are continued."""
    if key["file"] is None:
        return tuple(gym.make(TASKS[key["task"]][0], split=split) for split in ("train", "test"))  # type: ignore[return-value]
    scorer = key["scorer"] or (lambda episodes: [0.0] * len(episodes))
    common = {"tokenizer": key["policy"], "scorer": scorer, "max_prompt_tokens": 64, "max_new_tokens": key["tokens"]}
    made = [
        gym.make("textenv/Detox-v0", prompts=key["prompts_file"] or ["I think that"] * 8, split=split, min_new_tokens=0, **common)
        for split in ("train", "test")
    ]
    return made[0], made[1]


def pairs_of(key: Key, env: gym.Env[Any, Any], policy: Any) -> tuple[list[Any], list[Any]]:
    """Pairs to learn from, and held-out ones of other prompts (or rows)."""
    import torch

    from textenv.agents.preferences.pairs import load_pairs, read_for, sample_pairs
    from textenv.data.preference_pairs import split_by_source

    generator = torch.Generator().manual_seed(key["seed"])
    if key["file"] is None:
        env.reset(seed=key["seed"])
        found = sample_pairs(env, policy, key["episodes"], key["samples"], generator).pairs
        names = list(dict.fromkeys(pair.chosen.prompt.text for pair in found))
        test = set(names[: max(1, len(names) // 8)])
        return tuple([p for p in found if (p.chosen.prompt.text in test) is side] for side in (False, True))  # type: ignore[return-value]
    texts, _ = load_pairs(key["file"], {"chosen": key["chosen"], "rejected": key["rejected"]})
    order = torch.randperm(len(texts), generator=generator).tolist()
    train, held = split_by_source([texts[i] for i in order[: key["episodes"]]], 1 / 8, generator)
    return tuple(read_for(part, None, env, policy, None)[1] for part in (train, held))  # type: ignore[return-value]


def trained(
    key: Key, env: gym.Env[Any, Any], pairs: list[Any], *, shuffled: bool = False, teacher: bool = False, **settings: Any
) -> Any:
    """An agent after `steps` steps. A teacher is a DPO agent, trained alike beforehand."""
    from textenv.agents import LMPolicy
    from textenv.agents.preferences.learner import PreferenceLearner
    from textenv.agents.preferences.token_regularization import ShuffledSource, load_token_source

    source: Any = ("contrastive", {"prompts": tuple(key["contrast"])}) if key["contrast"] else "contrastive"
    if teacher:
        source = "dpo", {"model": trained(key, env, pairs).policy.model}
    if shuffled:
        source = ShuffledSource(load_token_source(source, env, LMPolicy(key["policy"])), key["seed"])
    beta = None if settings.get("loss") == "simpo" else key["kl"]
    agent = PreferenceLearner(
        key["policy"], env, pairs, beta=beta, token_source=source, learning_rate=key["rate"], batch_size=BATCH, seed=key["seed"],
        **settings,
    )  # fmt: skip
    return agent.learn(round(key["steps"] * BATCH * np.mean([len(pair) for pair in pairs])))


def measured(policy: Any, reference: str, env: gym.Env[Any, Any], prompts: int) -> dict[str, float]:
    """What a policy writes for held-out prompts."""
    import torch

    from textenv.agents import LMPolicy, evaluate

    base, rule = LMPolicy(reference), env.get_wrapper_attr("action_rule")
    found = evaluate(policy, env, min(prompts, len(env.get_wrapper_attr("task").prompts)), k=TEXTS, reference=base, seed=1)
    episodes, total = found.episodes, 0.0
    with torch.no_grad():
        for at in range(0, len(episodes), 64):
            part = episodes[at : at + 64]
            read = [e.prompt_tokens for e in part], [e.tokens for e in part], rule
            total += float((policy.evaluate(*read).log_probs - base.evaluate(*read).log_probs).sum())
    metrics = {name: float(value) for name, value in found.metrics.items()}
    return {
        "score": float(np.mean([e.score for e in episodes])), "reference_kl": total / len(episodes),
        "perplexity": metrics["perplexity"], "length": metrics["mean_length"], "metrics": metrics,  # type: ignore[dict-item]
    }  # fmt: skip


def contrast(agent: Any) -> float:
    """Mean |r̂| of the tokens that were learned from; NaN where there was no regularizer."""
    if not agent.treg_alpha:
        return float("nan")
    return float(np.mean([np.abs(values).mean() for one in agent._prepared or () for values in one.rewards]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=list(TASKS), default="detox")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=["dpo", "treg", "treg_shuffled"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--prompts", type=int, default=256, help="prompts, or pairs of a file, a seed (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=5, help="texts a prompt (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=64, help=f"of {BATCH} pairs each (default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--held-out", type=int, default=64, help=f"prompts, {TEXTS} texts each (default: %(default)s)")
    parser.add_argument("--pairs", help="a file of pairs, in place of the task's")
    parser.add_argument("--chosen", default="chosen", help="its column (default: %(default)s)")
    parser.add_argument("--rejected", default="rejected", help="its column (default: %(default)s)")
    parser.add_argument("--policy", help="a name or a directory (default: the task's)")
    parser.add_argument(
        "--contrast", nargs=2, metavar=("BETTER", "WORSE"), help="T-REG's requests with {prompt}, {text} (default: the task's)"
    )
    parser.add_argument("--prompts-file", help="held-out prompts, with --pairs")
    parser.add_argument("--scorer", help="who judges, with --pairs (default: nobody)")
    parser.add_argument("--tokens", type=int, default=48, help="budget of a text, with --pairs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/preferences.jsonl"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    o = parser.parse_args()
    if o.pairs and not o.policy:
        parser.error("--pairs needs --policy, a language model that was pretrained on such text")
    common = {
        "task": "pairs" if o.pairs else o.task, "policy": o.policy or TASKS[o.task][1],
        "tokens": o.tokens if o.pairs else TASKS[o.task][2], "method": "+".join(o.methods), "rate": o.learning_rate, "kl": o.beta,
        "episodes": o.prompts, "samples": o.samples, "steps": o.steps, "file": o.pairs, "chosen": o.chosen, "rejected": o.rejected,
        "prompts_file": o.prompts_file, "scorer": o.scorer, "contrast": o.contrast, "held_out": o.held_out,
    }  # fmt: skip
    # What names a run there does not tell all of these settings apart: each has a file of its own.
    out = o.out.with_stem(f"{o.out.stem}-{zlib.crc32(repr(common).encode()):08x}")
    results = run_all(run, [{**common, "seed": seed} for seed in o.seeds], out, o.processes, "seeds")
    Console(width=150).print(result_table(results, o.methods))


def result_table(results: Sequence[Key], methods: Sequence[str]) -> Table:
    first = results[0]
    what = f"{first['pairs']} pairs, {first['steps']} steps of {BATCH}, {len(results)} seeds"
    title = f"{first['task']}: {what}; mean ± half of the 95 % interval"
    table = Table(
        "method", *(name.replace("_", " ") for name in MEASURES), f"score − {methods[0]}", f"KL − {methods[0]}", title=title
    )
    for method in ("none", *methods):
        rows = [r["results"][method] for r in results]
        cells = [told([row[name] for row in rows]) if name in rows[0] else "" for name in MEASURES]
        if method in ("none", methods[0]):
            table.add_row(method, *cells, "", "")
            continue
        base = [r["results"][methods[0]] for r in results]
        gaps = [told([a[name] - b[name] for a, b in zip(rows, base, strict=True)], sign=True) for name in MEASURES[:2]]
        table.add_row(method, *cells, *gaps)
    return table


def told(values: Sequence[float], *, sign: bool = False) -> str:
    mean, half = interval(values)
    if np.isnan(mean):
        return ""
    return f"{mean:+.4f} ± {half:.3f}" if sign else f"{mean:.3f} ± {half:.2g}"


if __name__ == "__main__":
    main()
