"""`textenv fit-scorer`: a small sequence classifier from labelled text, which scores texts or judges a trained policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textenv.cli.console import Debug, console, progress, say
from textenv.cli.options import free_directory

if TYPE_CHECKING:
    import torch

    from textenv.data.labelled import Example

__all__ = ["fit_scorer"]


def fit_scorer(
    file: Annotated[str, typer.Argument(help="Labelled text: .jsonl, .csv (each also .gz), .parquet.")],
    out: Annotated[Path, typer.Option(help="Directory of the classifier. Example: --out models/toxicity")],
    text: Annotated[str, typer.Option(help="Column of the text. Example: --text comment.body")] = "text",
    label: Annotated[
        str, typer.Option(help="Column of the label: number, name, true/false, or a list. Example: --label toxic")
    ] = "label",
    labels: Annotated[str, typer.Option(help="Names of the classes 0, 1, ... Example: --labels civil,toxic")] = "negative,positive",
    sentences: Annotated[
        bool,
        typer.Option("--sentences", help="Cut into sentences; a label lists the offsets of class 1. Example: --sentences"),
    ] = False,
    base: Annotated[str | None, typer.Option(help="Pretrained language model to start from. Example: --base models/lm")] = None,
    balance: Annotated[bool, typer.Option(help="Weigh classes alike, however many texts each has. Example: --no-balance")] = True,
    context: Annotated[int, typer.Option(help="Longest text in tokens; its end is kept. Example: --context 64")] = 96,
    epochs: Annotated[float, typer.Option(help="Times through the text. Example: --epochs 3")] = 2.0,
    batch_size: Annotated[int, typer.Option(help="Texts a step. Example: --batch-size 32")] = 32,
    learning_rate: Annotated[
        float | None, typer.Option(help="Highest learning rate; 3e-4 with --base, else 1e-3. Example: --learning-rate 5e-4")
    ] = None,
    hidden: Annotated[int, typer.Option(help="Hidden size without --base. Example: --hidden 128")] = 128,
    layers: Annotated[int, typer.Option(help="Layers without --base. Example: --layers 2")] = 2,
    vocab_size: Annotated[int, typer.Option(help="Vocabulary without --base. Example: --vocab-size 8192")] = 4096,
    held_out: Annotated[float, typer.Option(help="Share of texts kept for the test. Example: --held-out .2")] = 0.1,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16. Example: --precision fp32")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ... Example: --device cuda")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and order. Example: --seed 1")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out. Example: --overwrite")] = False,
    debug: Debug = False,
) -> None:
    """Train a small sequence classifier on labelled text.

    Example: textenv fit-scorer tweets.jsonl.gz --label toxic --labels civil,toxic --base models/lm --out models/toxicity
    """
    import torch

    from textenv.data.labelled import balanced_weights, read_labelled
    from textenv.models import pick_device, quiet_files
    from textenv.saving import atomic_directory

    names = _names(labels, sentences)
    if epochs <= 0 or batch_size < 1 or context < 1 or not 0 < held_out < 1:
        raise ValueError(
            f"a classifier needs epochs > 0, batch-size >= 1, context >= 1 and 0 < held-out < 1, got {epochs:g}, "
            f"{batch_size}, {context} and {held_out:g}"
        )
    out = free_directory(out, overwrite)
    _check_model(base, hidden, layers, context)
    examples = read_labelled(file, text, label, names, by_sentence=sentences)
    counts = [sum(index == number for _, index in examples) for number in range(len(names))]
    say(f"{file}: {', '.join(f'{count:,} {name}' for count, name in zip(counts, names, strict=True))}")
    generator = torch.Generator().manual_seed(seed)
    train, test = _split(examples, held_out, generator)
    place = pick_device(device)
    tokenizer, model = _model(base, [words for words, _ in train], names, vocab_size, hidden, layers, context, seed)
    weights = balanced_weights((index for _, index in train), len(names)) if balance else [1.0] * len(names)
    trainer = _Trainer(tokenizer, model.to(place), torch.tensor(weights, dtype=torch.float32), context, precision)
    rate = learning_rate or (3e-4 if base else 1e-3)
    trainer.fit(train, max(1, round(epochs * len(train) / batch_size)), batch_size, rate, generator)
    with atomic_directory(out) as draft, quiet_files():
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    _report(trainer.probabilities(test), [index for _, index in test], weights, names)
    say(f"saved in {out}", style="bold")


def _names(labels: str, sentences: bool) -> list[str]:
    names = [name.strip() for name in labels.split(",")]
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise ValueError(f"--labels {labels!r} should name two or more different classes, e.g. --labels civil,toxic")
    if sentences and len(names) != 2:
        raise ValueError(f"--sentences knows two classes, but --labels {labels!r} names {len(names)}")
    return names


def _check_model(base: str | None, hidden: int, layers: int, context: int) -> None:
    """Raise where the model cannot be made, or cannot read so long a text; asked before the data is read."""
    from textenv.cli.language_model import check_shape
    from textenv.models import open_config

    if base is None:
        check_shape("qwen3", hidden, layers)
        return
    limit = getattr(open_config(base), "max_position_embeddings", context)
    if context > limit:
        raise ValueError(f"context {context} is longer than the {limit} positions of the model; give --context {limit}")


def _split(examples: list[Example], held_out: float, generator: torch.Generator) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples; each class gives the same share, and at least one, to the held-out ones."""
    import torch

    train: list[Example] = []
    test: list[Example] = []
    for number in sorted({index for _, index in examples}):
        own = [example for example in examples if example[1] == number]
        order = torch.randperm(len(own), generator=generator).tolist()
        count = max(1, round(held_out * len(own)))
        if count == len(own):
            raise ValueError(f"class {number} has {len(own)} texts, too few to hold some out; give more")
        test += [own[index] for index in order[:count]]
        train += [own[index] for index in order[count:]]
    return train, test


def _model(
    base: str | None, texts: list[str], names: list[str], vocab_size: int, hidden: int, layers: int, context: int, seed: int
) -> tuple[Any, Any]:
    """Tokenizer and classifier: from a pretrained model, or both new."""
    import torch
    from transformers import AutoModelForSequenceClassification, Qwen3Config, Qwen3ForSequenceClassification
    from transformers.utils import logging

    from textenv.cli.language_model import seeded
    from textenv.models import opening, quiet_files, resolve
    from textenv.tokenization import fast_tokenizer, load_tokenizer, train_sentencepiece

    settings: dict[str, Any] = {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    if base is not None:
        base = resolve(base)
        tokenizer = load_tokenizer(base, need_eos=False)
    else:
        with console.status("training the tokenizer"):
            tokenizer = fast_tokenizer(train_sentencepiece(texts, vocab_size))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {base!r} has neither a pad nor an EOS token; set one and save it again")
    settings["pad_token_id"] = tokenizer.pad_token_id
    with seeded(seed):
        if base is not None:
            with quiet_files(), opening(base):
                verbosity = logging.get_verbosity()
                logging.set_verbosity_error()  # that the head is new is why it is trained
                model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32, **settings)
                logging.set_verbosity(verbosity)
            return tokenizer, model
        settings |= {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers, "head_dim": 64}
        settings |= {"num_attention_heads": hidden // 64, "num_key_value_heads": hidden // 64}
        settings |= {"vocab_size": len(tokenizer), "max_position_embeddings": max(context, 512)}
        return tokenizer, Qwen3ForSequenceClassification(Qwen3Config(**settings))


class _Trainer:
    """A classifier with its tokenizer and the weights of its classes."""

    def __init__(self, tokenizer: Any, model: Any, weights: torch.Tensor, context: int, precision: str) -> None:
        from textenv.cli.language_model import autocast

        self.tokenizer, self.model, self.device = tokenizer, model, model.device
        self.weights = weights.to(model.device)
        self.faster = autocast(precision, model.device)  # type: ignore[arg-type]  # checked there
        self.context = context

    def rows(self, examples: list[Example]) -> list[list[int]]:
        """Ids of each text, its last `context`."""
        ids = self.tokenizer([words for words, _ in examples])["input_ids"]
        return [row[-self.context :] or [self.tokenizer.pad_token_id] for row in ids]

    def logits(self, rows: list[list[int]]) -> torch.Tensor:
        """(B, classes) of rows padded on the right."""
        import torch

        width = max(map(len, rows))
        ids = torch.tensor([row + [self.tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        with self.faster:
            output = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        logits: torch.Tensor = output.logits.float()
        return logits

    def fit(self, examples: list[Example], steps: int, batch_size: int, learning_rate: float, generator: torch.Generator) -> None:
        """Weighted cross-entropy over batches of similar length."""
        import torch

        from textenv.fitting.reward_model_loop import batches_by_length
        from textenv.fitting.training import fit

        rows, classes = self.rows(examples), torch.tensor([index for _, index in examples])
        seen = 0

        def loss(module: Any, batch: list[int]) -> torch.Tensor:
            nonlocal seen
            seen += sum(len(rows[index]) for index in batch)
            targets = classes[batch].to(self.device)
            losses = torch.nn.functional.cross_entropy(self.logits([rows[index] for index in batch]), targets, reduction="none")
            return (losses * self.weights[targets]).mean()

        with progress("fit-scorer", steps) as meter:
            fit(
                self.model, batches_by_length([len(row) for row in rows], batch_size, generator), loss, steps=steps,
                learning_rate=learning_rate, weight_decay=0.1,
                on_step=lambda step, value: meter.update(step, tokens=seen, note=f"loss {value:.3f}"),
            )  # fmt: skip

    def probabilities(self, examples: list[Example], batch_size: int = 128) -> Any:
        """(B, classes) float64, in the order of the examples."""
        import torch

        rows = self.rows(examples)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        result = torch.zeros(len(rows), self.model.config.num_labels, dtype=torch.float64)
        with torch.inference_mode():
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size]
                result[chosen] = self.logits([rows[index] for index in chosen]).double().softmax(-1).cpu()
        return result.numpy()


def _report(probabilities: Any, classes: list[int], weights: Any, names: list[str]) -> None:
    """Held-out accuracy (of each class, so that a large one hides nothing), area under the curve, calibration."""
    import numpy as np

    from textenv.data.labelled import area_under_curve, calibration_error

    truth = np.array(classes)
    right = probabilities.argmax(1) == truth
    recalls = [right[truth == index].mean() for index in range(len(names))]
    say(
        f"held out: {len(truth):,} texts; accuracy {right.mean():.3f}, balanced {np.mean(recalls):.3f} "
        f"({', '.join(f'{name} {recall:.3f}' for name, recall in zip(names, recalls, strict=True))})",
        style="bold",
    )
    of_text = np.asarray(weights)[truth]
    for index in range(1, len(names)):
        p, positive = probabilities[:, index], truth == index
        say(
            f"P({names[index]}): area under the curve {area_under_curve(p, positive):.3f}, calibration error "
            f"{calibration_error(p, positive, of_text):.3f}, mean {p[positive].mean():.3f} where true, "
            f"{p[~positive].mean():.3f} where not",
            style="bold",
        )
