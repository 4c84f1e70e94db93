"""Rebuilds the embedded models from a seed: `python -m textenv.embedded.build`.

Two one-thread processes train side by side, each job as soon as what it needs is done; each model is written into a temporary
directory that is renamed when it is complete.

    draft ──samples──→ scorers and critics of documents, principles   tiny-translation (needs nothing)
    tiny ──weights───→ judges of answers, and these on; preferred    at the end: statistics.json

The judges of documents learn from the mistakes of the draft, a language model that is thrown away, so that they need not wait
for tiny; the judges of answers begin with tiny's weights and learn from its mistakes. The same seed on the same machine gives
the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["JOBS", "main"]

JOBS: dict[str, tuple[str, ...]] = {  # name → the jobs that must be done before; of those that can begin the first does
    "tiny": (),
    "draft": (),
    "judges": ("tiny",),
    "tiny-reward": ("judges", "tiny"),
    "tiny-critic-answers": ("judges", "tiny"),
    "tiny-aspects": ("judges", "tiny"),
    "tiny-preferred": ("tiny",),
    "tiny-critic-sentiment": ("draft",),
    "tiny-translation": (),
    "tiny-critic-insults": ("draft",),
    "tiny-sentiment": ("draft",),
    "tiny-principles": ("draft",),
    "tiny-toxicity": ("draft",),
}
JUDGES = ("tiny-reward", "tiny-aspects", "tiny-critic-answers")  # what the job "judges" makes, in drafts; the first stays as it is
MODELS = tuple(job for job in JOBS if job not in ("judges", "draft"))
PACKAGE = Path(__file__).parent / "models"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m textenv.embedded.build",
        description="Trains the embedded models from a seed and prints how good they are.",
        epilog="examples:\n"
        "  python -m textenv.embedded.build                          everything, into the package\n"
        "  python -m textenv.embedded.build --out trial --scale .1    a quick trial with a tenth of the steps\n"
        "  python -m textenv.embedded.build --only tiny              one model\n"
        "  python -m textenv.embedded.build --measure                only the table, of models that exist",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=PACKAGE, help="default: the package's own")
    parser.add_argument("--only", nargs="+", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training steps (default 1)")
    parser.add_argument("--processes", type=int, default=2, help="trainings side by side, one thread each (default 2)")
    parser.add_argument("--measure", action="store_true", help="measure what is there, train nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="keep the drafts here, and take those that are there (default: thrown away)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds, measures and prints; returns 1 where a bar was missed, 2 where a training failed."""
    given = _arguments(arguments)
    if given.worker:
        _work(given.worker, given.seed, given.out, given.work, given.scale)
        return 0
    begun = time.monotonic()
    if not given.measure:
        given.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="textenv-build-") as work:
            if not _build(given, Path(given.work or work)):
                return 2
        print(f"trained in {(time.monotonic() - begun) / 60:.1f} min", flush=True)

    from textenv.embedded import quality

    count = max(20, round(1000 * min(1.0, given.scale)))
    measures = quality.measure(given.out, given.seed, count, given.only)
    print(quality.table(measures))
    if not given.only:
        _statistics(given.out, given.seed, max(20, count // 2))
    size = sum(f.stat().st_size for f in given.out.rglob("*") if f.is_file())
    print(f"{size / 1e6:.1f} MB in {given.out}; {(time.monotonic() - begun) / 60:.1f} min in all")
    return 0 if all(m.reached for m in measures) else 1


def _there(job: str, given: argparse.Namespace, work: Path) -> bool:
    """Whether a job that others need was done in an earlier run."""
    if job == "draft":
        return (work / "samples.json").is_file()
    if job == "judges":
        return all((work / name / "config.json").is_file() for name in JUDGES)
    return bool(given.only) and (given.out / job / "config.json").is_file()


def _build(given: argparse.Namespace, work: Path) -> bool:
    """Runs the jobs, at most `processes` at a time, each as soon as what it needs is done."""
    work.mkdir(parents=True, exist_ok=True)
    wanted = set(given.only or MODELS)
    needed = {job for name in wanted for job in JOBS[name]}
    needed = (needed | {job for name in needed for job in JOBS[name]}) - wanted
    done = {job for job in needed if _there(job, given, work)}
    waiting = [job for job in JOBS if job in (wanted | needed) - done]
    running: dict[str, subprocess.Popen[bytes]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    while waiting or running:
        ready = [job for job in waiting if done.issuperset(JOBS[job])]
        for job in ready[: given.processes - len(running)]:
            command = [sys.executable, "-m", "textenv.embedded.build", "--worker", job, "--seed", str(given.seed)]
            command += ["--out", str(given.out), "--work", str(work), "--scale", str(given.scale)]
            running[job] = subprocess.Popen(command, env=environment)
            waiting.remove(job)
        time.sleep(0.2)
        for job, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[job]
            if process.returncode:
                print(f"{job} failed with exit status {process.returncode}; its output is above", file=sys.stderr)
                for other in running.values():
                    other.terminate()
                return False
            done.add(job)
    return True


def _work(job: str, seed: int, out: Path, work: Path, scale: float) -> None:
    """One job, in a process of its own."""
    import torch

    from textenv.embedded import judging, material, networks, preferring, quality, recipes, translating, wording

    torch.set_num_threads(1)
    begun = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{job}] {line}", flush=True)

    _, tokenizer = wording.build_tokenizer(seed)
    steps = max(20, round(recipes.STEPS.get(job, 0) * scale))
    few = min(1.0, scale)
    count = max(20, round(800 * few))
    if job == "draft":
        written = recipes.draft_samples(tokenizer, seed, progress, steps, count=max(20, round(1500 * few)))
        (work / "samples.json").write_text(json.dumps(written))
        return
    samples: Any = json.loads((work / "samples.json").read_text()) if "draft" in JOBS[job] else {}
    source: Any = networks.eager(quality.load(out, "tiny")[0]) if "tiny" in JOBS[job] else None
    common = (tokenizer, seed, progress)
    if job == "judges":
        made = judging.judges(*common, steps, source, count=count)
    elif job in JUDGES:
        drafts = {name: networks.eager(quality.load(work, name)[0]).float() for name in JUDGES}
        finished = judging.finished(job, *common, steps, source, drafts, count=count) if job in recipes.STEPS else drafts[job]
        made = {job: finished}
    elif job == "tiny":
        made = {job: recipes.language_model(*common, steps)}
    elif job == "tiny-translation":
        made = {job: translating.translator(*common, steps)}
    elif job == "tiny-preferred":
        made = {job: preferring.preferred(*common, steps, source, prompts=max(20, round(500 * few)))}
    elif job == "tiny-principles":
        made = {job: judging.principles(*common, samples, steps)}
    else:
        task = "sentiment" if job.endswith("sentiment") else "insults"
        train = recipes.critic if "critic" in job else recipes.scorer
        made = {job: train(*common, task, samples[material.GENRE[task]], steps)}
    for name, model in made.items():
        _save(model, tokenizer, (work if job == "judges" else out) / name)
    progress(f"saved after {time.monotonic() - begun:.0f} s")


def _save(model: Any, tokenizer: Any, path: Path) -> None:
    from textenv.models import quiet_files
    from textenv.saving import atomic_directory

    with atomic_directory(path) as directory, quiet_files():
        model.half().save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        for file in directory.iterdir():
            file.chmod(0o644)


def _statistics(out: Path, seed: int, count: int) -> None:
    """Mean and standard deviation of each task's default score on texts of the policy, beside the models."""
    from textenv.embedded import policy_quality

    found = policy_quality.statistics(out, seed, count)
    file = (Path(__file__).parent if out.resolve() == PACKAGE.resolve() else out) / "statistics.json"
    file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"statistics of the scores in {file}")


if __name__ == "__main__":
    raise SystemExit(main())
