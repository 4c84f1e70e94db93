"""`textenv pretrain`: a small language model and its tokenizer, from text files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textenv.cli.console import Debug, console, plain, progress, say
from textenv.cli.options import free_directory, pairs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["pretrain"]

HELD_OUT_TOKENS = 100_000  # enough for a loss to two decimals; more only takes time


def pretrain(
    files: Annotated[list[str], typer.Argument(help="Text to learn from: .txt, .jsonl, .csv (each also .gz), .parquet.")],
    out: Annotated[Path, typer.Option(help="Directory of the model and its tokenizer. Example: --out models/lm")],
    column: Annotated[
        list[str] | None, typer.Option(help="Where a data file holds its text. Example: --column text=prompt.text")
    ] = None,
    unit: Annotated[
        str, typer.Option(help="What a document is in a .txt: line, paragraph or file. Example: --unit paragraph")
    ] = "line",
    tokenizer: Annotated[
        str | None, typer.Option(help="Use this tokenizer; otherwise one is trained. Example: --tokenizer models/lm")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the trained tokenizer. Example: --vocab-size 4096")] = 8192,
    family: Annotated[str, typer.Option(help="Architecture: qwen3 or llama. Example: --family llama")] = "qwen3",
    hidden: Annotated[int, typer.Option(help="Hidden size, a multiple of 64. Example: --hidden 320")] = 256,
    layers: Annotated[int, typer.Option(help="Number of layers. Example: --layers 6")] = 4,
    context: Annotated[int, typer.Option(help="Longest text in tokens. Example: --context 256")] = 128,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps; by default as many as --minutes allow. Example: --steps 2000")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Length of the training. Example: --minutes 5")] = 12.0,
    batch_size: Annotated[int, typer.Option(help="Blocks of --context tokens a step. Example: --batch-size 32")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate. Example: --learning-rate 1e-3")] = 2e-3,
    held_out: Annotated[float, typer.Option(help="Share of documents kept for the test. Example: --held-out .05")] = 0.02,
    precision: Annotated[
        str, typer.Option(help="auto, fp32 or bf16 (float32 weights in each case). Example: --precision fp32")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ... Example: --device cuda")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and order. Example: --seed 1")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace --out. Example: --overwrite")] = False,
    debug: Debug = False,
) -> None:
    """Train a small language model and its tokenizer on text files; any Hugging Face tool reads the result.

    Example: textenv pretrain books.txt.gz tweets.jsonl.gz --out models/lm --minutes 12
    """
    import torch

    from textenv.cli.language_model import autocast, check_shape, held_out_loss, new_model, next_token_loss, seconds_per_step
    from textenv.data.corpus import block_batches
    from textenv.fitting.training import fit
    from textenv.models import pick_device, quiet_files
    from textenv.saving import atomic_directory

    _check(steps, minutes, context, batch_size, held_out)
    check_shape(family, hidden, layers)
    out = free_directory(out, overwrite)
    place = pick_device(device)
    faster = autocast(precision, place)  # type: ignore[arg-type]  # checked there
    generator = torch.Generator().manual_seed(seed)
    train, test = _documents(files, pairs(column), unit, held_out, generator)
    words = _tokenizer(tokenizer, train, vocab_size)
    blocks, held_out_blocks = _blocks(words, train, test, context)

    model = new_model(
        family,  # type: ignore[arg-type]  # checked there
        vocab_size=len(words), hidden=hidden, layers=layers, context=context, tokenizer=words, seed=seed,
    ).to(place)  # fmt: skip
    batches = (batch.to(place) for batch in block_batches(blocks, batch_size, generator))

    def loss(module: Any, batch: Tensor) -> Tensor:
        with faster:
            return next_token_loss(module, batch)

    if steps is None:
        seconds = seconds_per_step(model, [next(batches) for _ in range(6)], loss)
        steps = max(1, int(60 * minutes / seconds))
    size, a_step = sum(weight.numel() for weight in model.parameters()), batch_size * context
    say(
        f"{family}, {size / 1e6:.2f} M weights, {len(words)} tokens in the vocabulary; {steps} steps of {a_step} tokens "
        f"= {steps * batch_size / len(blocks):.1f} times the text; products in {'bf16' if faster._enabled else 'fp32'}"
    )
    with progress("pretrain", steps) as meter:
        fit(
            model, batches, loss, steps=steps, learning_rate=learning_rate, weight_decay=0.1,
            on_step=lambda step, value: meter.update(step, tokens=step * a_step, note=f"loss {value:.3f}"),
        )  # fmt: skip
    with faster:
        final = held_out_loss(model, held_out_blocks, batch_size)
    with atomic_directory(out) as draft, quiet_files():
        model.save_pretrained(draft)
        words.save_pretrained(draft)
    _report(final, words, held_out_blocks, model, place, generator)
    say(f"saved in {out}", style="bold")


def _check(steps: int | None, minutes: float, context: int, batch_size: int, held_out: float) -> None:
    if (steps is not None and steps < 1) or minutes <= 0:
        raise ValueError(f"nothing to train: steps={steps}, minutes={minutes:g}; both should be positive")
    if context < 2 or batch_size < 1:
        raise ValueError(f"a step needs context >= 2 and batch-size >= 1, got {context} and {batch_size}")
    if not 0 < held_out < 1:
        raise ValueError(f"held-out is a share between 0 and 1, got {held_out:g}")


def _documents(
    files: list[str], columns: dict[str, str], unit: str, held_out: float, generator: Any
) -> tuple[list[str], list[str]]:
    """All documents, shuffled, without those that are held out, and these."""
    import torch

    from textenv.data.corpus import read_documents

    documents = []
    for file in files:
        texts = read_documents(file, columns, unit)  # type: ignore[arg-type]  # checked there
        documents += texts
        say(f"{file}: {len(texts):,} documents, {sum(map(len, texts)):,} characters")
    if len(documents) < 2:
        raise ValueError("one document cannot be split in training and held-out text; try --unit line")
    order = torch.randperm(len(documents), generator=generator).tolist()
    count = min(max(1, round(held_out * len(documents))), len(documents) - 1)
    return [documents[index] for index in order[count:]], [documents[index] for index in order[:count]]


def _tokenizer(name: str | None, documents: list[str], vocab_size: int) -> Any:
    from textenv.tokenization import fast_tokenizer, load_tokenizer, train_sentencepiece

    if name is not None:
        return load_tokenizer(name)
    with console.status("training the tokenizer"):
        return fast_tokenizer(train_sentencepiece(documents, vocab_size))


def _blocks(tokenizer: Any, train: list[str], test: list[str], context: int) -> tuple[Tensor, Tensor]:
    from textenv.data.corpus import encode, pack

    blocks, held_out = pack(encode(tokenizer, train), context), pack(encode(tokenizer, test), context)
    for name, part in (("training", blocks), ("held-out", held_out)):
        if not len(part):
            raise ValueError(f"the {name} text is shorter than one block of {context} tokens; give more, or less context")
    say(f"{blocks.numel():,} tokens to train on, {held_out.numel():,} held out")
    return blocks, held_out[: max(1, HELD_OUT_TOKENS // context)]


def _report(loss: float, tokenizer: Any, blocks: Tensor, model: Any, device: Any, generator: Any) -> None:
    """Held-out loss per token and per byte (which no tokenizer can flatter), and a text of its own."""
    import torch

    from textenv.generation import generate, sample

    texts = tokenizer.batch_decode(blocks.tolist(), skip_special_tokens=True)
    per_byte = loss * blocks.numel() / sum(len(text.encode()) for text in texts) / math.log(2)
    say(f"held-out loss {loss:.3f} nats a token (perplexity {math.exp(loss):.1f}), {per_byte:.3f} bits a byte", "bold")
    start = blocks[0, : min(8, blocks.shape[1] // 2)].numpy()
    (tokens,) = generate(
        model,
        [start],
        max_new_tokens=min(40, model.config.max_position_embeddings - len(start)),
        eos_token_id=tokenizer.eos_token_id,
        choose=lambda logits, rows, step: sample(logits, torch.rand(len(rows), generator=generator).to(device), top_p=0.9),
    )
    say(f"a held-out beginning: {plain(tokenizer.decode(start))}")
    say(f"continued: {plain(tokenizer.decode(tokens, skip_special_tokens=True))}")
