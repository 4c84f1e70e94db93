"""Rebuilds the embedded models from a seed: `python -m textenv.embedded.build`.

Two one-thread processes train side by side; each writes into a temporary directory that is renamed when it is complete.

    draft ──samples──→ critic-sentiment, critic-insults, toxicity, sentiment        tiny (needs nothing)

Scorers and critics learn from the mistakes of the draft, a language model that is thrown away, so that neither depends on when
the other is ready. The same seed on the same machine gives the same files.
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

__all__ = ["main"]

JOBS: dict[str, str] = {  # name → the job that must be done before, longest first
    "draft": "",
    "tiny": "",
    "tiny-critic-sentiment": "draft",
    "tiny-critic-insults": "draft",
    "tiny-sentiment": "draft",
    "tiny-toxicity": "draft",
}
_TASK = {"tiny-sentiment": "sentiment", "tiny-toxicity": "insults"}
_TASK |= {"tiny-critic-insults": "insults", "tiny-critic-sentiment": "sentiment"}


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
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "models", help="default: the package's own")
    parser.add_argument("--only", nargs="+", choices=[j for j in JOBS if j != "draft"], metavar="MODEL", help=", ".join(JOBS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the training steps (default 1)")
    parser.add_argument("--processes", type=int, default=2, help="trainings side by side, one thread each (default 2)")
    parser.add_argument("--measure", action="store_true", help="measure what is there, train nothing")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
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
            if not _build(given, Path(work)):
                return 2
        print(f"trained in {(time.monotonic() - begun) / 60:.1f} min", flush=True)

    from textenv.embedded import quality

    measures = quality.measure(given.out, given.seed, max(20, round(1000 * min(1.0, given.scale))), given.only)
    print(quality.table(measures))
    size = sum(f.stat().st_size for f in given.out.rglob("*") if f.is_file())
    print(f"{size / 1e6:.1f} MB in {given.out}; {(time.monotonic() - begun) / 60:.1f} min in all")
    return 0 if all(m.reached for m in measures) else 1


def _build(given: argparse.Namespace, work: Path) -> bool:
    """Runs the jobs, at most `processes` at a time, each as soon as what it needs is done."""
    wanted = set(given.only or [job for job in JOBS if job != "draft"])
    wanted |= {JOBS[job] for job in wanted} - {""}
    waiting = [job for job in JOBS if job in wanted]
    running: dict[str, subprocess.Popen[bytes]] = {}
    done: set[str] = {""}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    while waiting or running:
        for job in [job for job in waiting if JOBS[job] in done][: given.processes - len(running)]:
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

    from textenv.embedded import material, recipes, wording
    from textenv.models import quiet_files
    from textenv.saving import atomic_directory

    torch.set_num_threads(1)
    begun = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{job}] {line}", flush=True)

    _, tokenizer = wording.build_tokenizer(seed)
    steps = max(20, round(recipes.STEPS[job] * scale))
    if job == "draft":
        samples = recipes.draft_samples(tokenizer, seed, progress, steps, count=max(20, round(1500 * min(1.0, scale))))
        (work / "samples.json").write_text(json.dumps(samples))
        return
    if job == "tiny":
        model = recipes.language_model(tokenizer, seed, progress, steps)
    else:
        task = _TASK[job]
        samples = json.loads((work / "samples.json").read_text())[material.GENRE[task]]
        train = recipes.critic if "critic" in job else recipes.scorer
        model = train(tokenizer, seed, progress, task, samples, steps)
    with atomic_directory(out / job) as directory, quiet_files():
        model.half().save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        for file in directory.iterdir():
            file.chmod(0o644)
    progress(f"saved after {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    raise SystemExit(main())
