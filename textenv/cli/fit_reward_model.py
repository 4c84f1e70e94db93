"""`textenv fit-reward-model`: a reward model from preferences, labels or scores, and how far its judgement of beginnings holds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from rich.table import Table

from textenv.cli.console import Debug, console, progress, say
from textenv.cli.options import free_directory, pairs

if TYPE_CHECKING:
    import torch

    from textenv.fitting.reward_model import RewardModel
    from textenv.fitting.reward_model_loop import Objective
    from textenv.judges.reading import Reading

__all__ = ["fit_reward_model"]

Kind = Literal["pairs", "labels", "scores"]
SaveAs = Literal["fp32", "fp16", "bf16"]
SHARES = (0.25, 0.5, 0.75, 1.0)


def fit_reward_model(
    file: Annotated[str, typer.Argument(help="Preferences: .jsonl, .csv (each also .gz), .parquet.")],
    out: Annotated[Path, typer.Option(help="Directory of the reward model. Example: --out models/reward")],
    base: Annotated[str, typer.Option(help="Pretrained model to start from: directory or name. Example: --base models/lm")],
    kind: Annotated[
        str, typer.Option(help="pairs (chosen, rejected), labels (classes) or scores (numbers). Example: --kind scores")
    ] = "pairs",
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Where prompt, context, and chosen, rejected (pairs; a text or a list) or text, value (labels, scores) are. "
            "Example: --column chosen=neutral"
        ),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="Names of the classes 0, 1, ... with --kind labels. Example: --labels civil,toxic")
    ] = "negative,positive",
    template: Annotated[
        str, typer.Option(help="What is judged: {prompt}, {context}, and last {text}. Example: --template '{prompt} ### {text}'")
    ] = "{prompt}{text}",
    policy_loss_weight: Annotated[
        float,
        typer.Option(help="Weight of DPO's loss beside Bradley-Terry's (HaF-RM: 0.2); 0: none. Example: --policy-loss-weight 0.2"),
    ] = 0.0,
    tau: Annotated[float, typer.Option(help="Temperature of the policy loss. Example: --tau 0.1")] = 0.1,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest prompt and text; default: the model's positions. Example: --max-tokens 512")
    ] = None,
    on_long: Annotated[
        str, typer.Option(help="truncate (longer ones lose their left end), or error. Example: --on-long error")
    ] = "truncate",
    skip_equal: Annotated[
        bool, typer.Option("--skip-equal", help="Skip pairs whose texts are the same. Example: --skip-equal")
    ] = False,
    epochs: Annotated[float, typer.Option(help="Times through the data, at most. Example: --epochs 3")] = 2.0,
    batch_size: Annotated[int, typer.Option(help="Pairs or texts a step. Example: --batch-size 8")] = 16,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest rate; 3e-4 below 100 M weights, else 1e-5. Example: --learning-rate 5e-5")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the prompts kept for the test, 1000 at most. Example: --held-out .2")
    ] = 0.1,
    evaluations: Annotated[int, typer.Option(help="Measurements on held-out data an epoch. Example: --evaluations 8")] = 4,
    patience: Annotated[
        int, typer.Option(help="Stop after so many measurements that were no better. Example: --patience 2")
    ] = 4,
    save_as: Annotated[str, typer.Option(help="fp32, fp16 or bf16. Example: --save-as bf16")] = "fp32",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16. Example: --precision fp32")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ... Example: --device cuda")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the split, the order, new weights. Example: --seed 1")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out. Example: --overwrite")] = False,
    debug: Debug = False,
) -> None:
    """Fit a reward model. The best one so far is saved as soon as it is; stopping the command loses nothing.

    Example: textenv fit-reward-model pairs.jsonl.gz --base models/lm --out models/reward

    Example: textenv fit-reward-model detox_pairs.jsonl.gz --column chosen=neutral --column rejected=toxic --skip-equal
    --policy-loss-weight 0.2 --base models/lm --out models/polite
    """
    import torch

    from textenv.cli.language_model import autocast, seeded
    from textenv.data.preference_pairs import split_by_source
    from textenv.fitting.reward_model import load_reward_model
    from textenv.fitting.reward_model_loop import Pairs
    from textenv.fitting.reward_model_loop import fit_reward_model as fit_to
    from textenv.judges.reading import Reading
    from textenv.models import pick_device, resolve

    names = _check(kind, labels, save_as, on_long, policy_loss_weight, epochs, batch_size, held_out, evaluations, patience)
    out = free_directory(out, overwrite)
    place = pick_device(device)
    tokenizer = _tokenizer(resolve(base))
    items = _read(kind, file, pairs(column), names, skip_equal)
    generator = torch.Generator().manual_seed(seed)
    train, test = split_by_source(items, held_out, generator)
    with seeded(seed):
        model = load_reward_model(
            base, tokenizer, names if kind == "labels" else ("good",), policy_head=policy_loss_weight > 0, device=place,
            faster=autocast(precision, place),  # type: ignore[arg-type]  # checked there
        )  # fmt: skip
    reading = Reading(tokenizer, template, _limit(model, max_tokens), base)
    objective = _objective(kind, reading, train, test, names, policy_loss_weight, tau)
    _tell_long(objective, reading, on_long)
    if isinstance(objective, Pairs) and policy_loss_weight:
        with console.status("log-probabilities of the reference"):
            objective.reference(model)
    size = sum(weight.numel() for weight in model.classifier.parameters())
    rate = learning_rate or (3e-4 if size < 1e8 else 1e-5)
    steps = max(1, round(epochs * len(train) / batch_size))
    told = f"{len(train):,} {kind} to train on, {len(test):,} held out"
    say(f"{told}; {size / 1e6:.1f} M weights, at most {steps} steps, learning rate {rate:g}")
    facts: dict[str, Any] = {
        "base": base, "kind": kind, "template": template, "max_tokens": reading.max_tokens, "seed": seed, "learning_rate": rate,
        "policy_loss_weight": policy_loss_weight, "tau": tau, "steps": steps, "batch_size": batch_size,
    }  # fmt: skip
    if kind == "scores":
        facts |= {"score_mean": objective.mean, "score_deviation": objective.deviation}  # type: ignore[attr-defined]
    with progress("fit-reward-model", steps) as meter:
        best, done = fit_to(
            model, objective, generator, steps=steps, batch_size=batch_size, learning_rate=rate, patience=patience,
            every=max(1, round(len(train) / batch_size / evaluations)),
            on_best=lambda accuracy: _save(model, tokenizer, out, save_as, {**facts, "accuracy": accuracy}),
            on_step=lambda step, loss, tokens: meter.update(step, tokens=tokens, note=f"loss {loss:.3f}"),
        )  # fmt: skip
    say(f"best held-out accuracy {best:.3f}; {done} of {steps} steps taken")
    _report(objective, _saved(out, place, model), kind)
    label, output = (names[-1], "probability") if kind == "labels" else ("good", "logit")
    say(f"saved in {out}", style="bold")
    say(f"as a scorer: SequenceClassifierScorer({str(out)!r}, label={label!r}, output={output!r}, template={template!r})")


def _check(
    kind: str, labels: str, save_as: str, on_long: str, weight: float, epochs: float, batch_size: int, held_out: float,
    evaluations: int, patience: int,
) -> list[str]:  # fmt: skip
    """The names of the classes, if all options are good."""
    for option, value, known in (
        ("kind", kind, get_args(Kind)), ("save-as", save_as, get_args(SaveAs)), ("on-long", on_long, ("truncate", "error")),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"--{option} is one of {', '.join(known)}, got {value!r}")
    if weight and kind != "pairs":
        raise ValueError(f"--policy-loss-weight {weight:g} compares a chosen with a rejected text; --kind {kind} has none")
    if epochs <= 0 or batch_size < 1 or not 0 < held_out < 1 or evaluations < 1 or patience < 1:
        raise ValueError(
            f"fitting needs epochs > 0, 0 < held-out < 1, and batch-size, evaluations and patience of at least 1; got {epochs:g}, "
            f"{held_out:g}, {batch_size}, {evaluations} and {patience}"
        )
    names = [name.strip() for name in labels.split(",")]
    if kind == "labels" and (len(names) < 2 or not all(names) or len(set(names)) < len(names)):
        raise ValueError(f"--labels {labels!r} should name two or more different classes, e.g. --labels civil,toxic")
    return names


def _tokenizer(base: str) -> Any:
    from textenv.tokenization import load_tokenizer

    tokenizer = load_tokenizer(base, need_eos=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {base!r} has neither a pad nor an EOS token; set one and save it again")
    return tokenizer


def _read(kind: str, file: str, columns: dict[str, str], names: list[str], skip_equal: bool) -> list[Any]:
    from textenv.data.preference_pairs import read_pairs, read_rated

    if kind != "pairs":
        return list(read_rated(file, columns, names if kind == "labels" else None))
    found, skipped = read_pairs(file, columns, "skip" if skip_equal else "error")
    if skipped:
        say(f"{skipped:,} pairs of equal texts are skipped", style="yellow")
    return list(found)


def _limit(model: RewardModel, max_tokens: int | None) -> int:
    """The longest row."""
    config = model.classifier.config
    positions = getattr(config, "max_position_embeddings", max_tokens or 512) - (2 if "roberta" in config.model_type else 0)
    if max_tokens is not None and not 1 <= max_tokens <= positions:
        raise ValueError(f"--max-tokens {max_tokens}: the model reads 1 to {positions} tokens")
    return int(max_tokens or positions)


def _objective(
    kind: str, reading: Reading, train: list[Any], test: list[Any], names: list[str], weight: float, tau: float
) -> Objective:
    from textenv.fitting.reward_model_loop import Labels, Pairs, Scores

    with console.status("reading"):
        if kind == "pairs":
            return Pairs(reading, train, test, policy_loss_weight=weight, tau=tau)
        return Labels(reading, train, test, len(names)) if kind == "labels" else Scores(reading, train, test)


def _tell_long(objective: Objective, reading: Reading, on_long: str) -> None:
    cut = sum(length >= reading.max_tokens for length in objective.lengths)
    if not cut:
        return
    message = f"{cut:,} of {len(objective.lengths):,} examples have {reading.max_tokens} tokens or more"
    if on_long == "error":
        raise ValueError(f"{message}; raise --max-tokens, or pass --on-long truncate")
    say(f"{message}: their left end is cut", style="yellow")


def _save(model: RewardModel, tokenizer: Any, out: Path, save_as: str, facts: dict[str, Any]) -> None:
    """The classifier alone, as a directory that appears whole or not at all."""
    import torch

    from textenv.models import quiet_files
    from textenv.saving import atomic_directory

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[save_as]
    classifier = model.classifier if save_as == "fp32" else copy.deepcopy(model.classifier).to(dtype)
    with atomic_directory(out) as draft, quiet_files():
        classifier.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        (draft / "fit.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _saved(out: Path, place: torch.device, model: RewardModel) -> RewardModel:
    """What was saved, to be measured as others will find it."""
    from textenv.fitting.reward_model import RewardModel
    from textenv.models import load_sequence_classifier

    return RewardModel(load_sequence_classifier(str(out), device=place), faster=model.faster)


def _report(objective: Objective, model: RewardModel, kind: str) -> None:
    """Held-out accuracy on beginnings of the texts."""
    said = {
        "pairs": "the chosen text has the higher reward; chance .5",
        "labels": "the right class is likeliest, each class weighing alike",
        "scores": "two texts stand in the right order; chance .5",
    }[kind]
    table = Table(title=f"Held-out accuracy: {said}")
    table.add_column("share of the text's words")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % interval", justify="right")
    for share in SHARES:
        accuracy = objective.held_out(model, share).accuracy
        low, high = accuracy.interval()
        table.add_row(f"{share:.0%}", f"{accuracy:.3f}", f"{low:.3f} … {high:.3f}")
    console.print(table)
