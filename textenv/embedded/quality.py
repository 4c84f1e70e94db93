"""How good the embedded models are, on documents and prompts that none of them was trained on.

    print(table(measure(Path("textenv/embedded/models"))))

The bars are those of `BARS`; `python -m textenv.embedded.build` prints them beside what was reached, and tests hold the shipped
models to them with smaller samples.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textenv.critics.language_model import CritiqueError, LanguageModelCritic, parse_critique
from textenv.embedded import critique, grammar, material, truth
from textenv.embedded.measures import BARS, Measure, table
from textenv.embedded.openings import prompts
from textenv.embedded.sampling import continuations
from textenv.embedded.worlds import world
from textenv.episode import Prompt, Span
from textenv.models import quiet_files

__all__ = ["BARS", "Measure", "critic_quality", "language_model_quality", "measure", "scorer_quality", "table"]

BUCKETS = ((1, 20), (20, 40), (40, 60), (60, 80), (80, 110))  # tokens of a critic's text; the last one has no bars
SHIPPED = Path(__file__).parent / "models"
_CLASSES = {
    "tiny-sentiment": "AutoModelForSequenceClassification",
    "tiny-toxicity": "AutoModelForSequenceClassification",
    "tiny-reward": "AutoModelForSequenceClassification",
    "tiny-principles": "AutoModelForSequenceClassification",
    "tiny-aspects": "AutoModelForTokenClassification",
    "tiny-translation": "AutoModelForSeq2SeqLM",
}


def load(models: Path, name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    """A saved model in float32, and its tokenizer."""
    auto = getattr(transformers, _CLASSES.get(name, "AutoModelForCausalLM"))
    with quiet_files():
        model = auto.from_pretrained(models / name, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(models / name)


# ---------------------------------------------------------------------- language model


def language_model_quality(
    model: Any, tokenizer: PreTrainedTokenizerBase, seed: int = 0, documents: int = 1000
) -> list[Measure]:
    """The loss against the grammar's entropy, and what the samples are like."""
    rng = random.Random(f"held out documents {seed}")
    held = [grammar.sample(rng) for _ in range(documents)]
    rows = [[*ids, tokenizer.eos_token_id] for ids in tokenizer([d.text for d in held]).input_ids]
    tokens = sum(len(row) - 1 for row in rows)
    floor = -sum(d.log_probability for d in held) / tokens
    loss = sum(_nll(model, rows[i : i + 16]) for i in range(0, len(rows), 16)) / tokens
    found = [
        Measure("tiny", "loss, nats/token", "held-out documents", loss),
        Measure("tiny", "entropy of the grammar, nats/token", "the same tokens", floor),
        Measure("tiny", "loss above entropy", "the same tokens", loss - floor, next(iter(BARS))),
    ]
    generator = torch.Generator().manual_seed(seed)
    begun = [" ".join(document.text.split()[:2]) for document in held[:300]]  # from bos alone it writes texts of other tasks too
    free = continuations(model, tokenizer, begun, 120, generator, stop=True)
    share = grammar.accepted_share(free, begun)
    found.append(Measure("tiny", "sentences accepted", "whole documents from two words", share, "sentences accepted"))
    for length in (28, 72):
        everything: list[tuple[str, str]] = []
        for task in ("sentiment", "detox"):
            openings = [p.text for p in prompts(task, "test")][:documents]
            texts = continuations(model, tokenizer, openings, length, generator)
            where = f"{task} prompts, {length} tokens"
            everything += zip(texts, openings, strict=True)
            found.append(Measure("tiny", "sentences accepted", where, grammar.accepted_share(texts, openings)))
            if task == "detox":
                found.append(Measure("tiny", "toxic", where, sum(map(truth.toxicity, texts)) / len(texts)))
            else:
                verdicts = [truth.sentiment(text) for text in texts]
                found.append(Measure("tiny", "positive", where, sum(v > 0 for v in verdicts) / len(texts)))
                found.append(Measure("tiny", "neutral", where, sum(v == 0 for v in verdicts) / len(texts)))
        share = grammar.accepted_share(*map(list, zip(*everything, strict=True)))
        found.append(Measure("tiny", "sentences accepted", f"all prompts, {length} tokens", share, "sentences accepted"))
    return found


@torch.inference_mode()
def _nll(model: Any, rows: list[list[int]]) -> float:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    logits = model(ids.clamp(min=0)).logits[:, :-1]
    return float(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=-100, reduction="sum"))


# ----------------------------------------------------------------------------- scorers


def scorer_quality(
    model: Any, tokenizer: PreTrainedTokenizerBase, task: str, texts: Sequence[str], where: str
) -> list[Measure]:
    """Accuracy and calibration against the truth; a balanced or neutral text has no right label and is left out of accuracy."""
    probability = []
    with torch.inference_mode():
        for i in range(0, len(texts), 64):
            batch = tokenizer(list(texts[i : i + 64]), return_tensors="pt", padding=True)
            probability += model(**batch).logits.float().softmax(-1)[:, 1].tolist()
    name = {"insults": "tiny-toxicity", "sentiment": "tiny-sentiment"}[task]
    wanted = [material.prefix_targets(text, [len(text)], task)[0] for text in texts]
    pairs = [(p, w) for p, w in zip(probability, wanted, strict=True) if w != 0.5]
    right = sum((p > 0.5) == (w > 0.5) for p, w in pairs) / len(pairs)
    off = sum(abs(p - w) for p, w in zip(probability, wanted, strict=True)) / len(texts)
    return [
        Measure(name, "accuracy", where, right, "accuracy"),
        Measure(name, "mean |probability - wanted|", where, off),
    ]


def cut_documents(tokenizer: PreTrainedTokenizerBase, genre: str, length: int, count: int, seed: int = 0) -> list[str]:
    """Held-out documents cut anywhere to exactly `length` tokens."""
    rng = random.Random(f"cut documents {seed} {genre} {length}")
    texts: list[str] = []
    while len(texts) < count:
        ids = tokenizer(grammar.sample(rng, genre).text, add_special_tokens=False).input_ids
        while len(ids) < length:
            ids += tokenizer(grammar.sample(rng, genre).text, add_special_tokens=False).input_ids
        begin = rng.randint(0, len(ids) - length)
        texts.append(str(tokenizer.decode(ids[begin : begin + length])))
    return texts


# ----------------------------------------------------------------------------- critics


def critic_quality(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    texts: Sequence[str],
    where: str,
    *,
    asked: Sequence[Prompt] | None = None,
    name: str = "",
    bar: str = "",
) -> list[Measure]:
    """F1 of exact spans (pooled over the texts), the share of answers that parse, and the speed.

    Args:
        asked: what each text answers, for the critics of answers.
        name: of the model; default: "tiny-critic-" and the task.
        bar: of the F1.
    """
    form = critique.FORMS[task]
    critic = LanguageModelCritic(model, form, tokenizer=tokenizer, batch_size=128, max_new_tokens=96)
    begun = time.process_time()  # of this thread alone, whatever else the machine does
    replies = critic.answers(texts, asked)
    speed = len(texts) / (time.process_time() - begun)
    hit = named = real = parsed = exact = 0
    for i, (text, reply) in enumerate(zip(texts, replies, strict=True)):
        wanted = {(s.start, s.end, s.reward > 0) for s in _true_spans(task, asked[i] if asked else Prompt(""), text)}
        got: set[tuple[int, int, bool]] = set()
        answer, complete = reply if reply is not None else ("", False)
        try:
            spans, missing = parse_critique(answer, text, form.sections, complete=complete)
        except CritiqueError:
            spans, missing = [], [answer]
        if complete and not missing:
            got = {(s.start, s.end, s.reward > 0) for s in spans}
            parsed += 1
        hit, named, real = hit + len(wanted & got), named + len(got), real + len(wanted)
        exact += wanted == got
    name = name or f"tiny-critic-{task}"
    return [
        Measure(name, "span F1", where, 2 * hit / max(1, named + real), bar),
        Measure(name, "answers that parse", where, parsed / len(texts)),
        Measure(name, "answers exactly right", where, exact / len(texts)),
        Measure(name, "episodes/s of one core", where, speed, "episodes/s" if where.endswith("exactly 32 tokens") else ""),
    ]


def _true_spans(task: str, prompt: Prompt, text: str) -> Sequence[Span]:
    if task in material.GENRE:
        return truth.insult_spans(text) if task == "insults" else truth.sentiment_spans(text)
    return world(task).errors(prompt, text)


def _critic_texts(samples: Sequence[str], task: str, low: int, high: int, count: int, seed: int) -> list[str]:
    rng = random.Random(f"critic texts {seed} {task} {low}")
    excerpts = material.Excerpts(rng, material.GENRE[task], samples, sampled=0.5, shuffled=0.0, foreign=0.1)
    return [excerpts.draw(high, low) for _ in range(count)]


# ---------------------------------------------------------------------------- together


def measure(models: Path, seed: int = 0, count: int = 1000, only: Sequence[str] | None = None) -> list[Measure]:
    """All numbers of the models in a directory (or of some of them); `count` texts for each.

    Judges also read samples of the language model: the one beside them, or else the one that is shipped.
    """
    from textenv.embedded.judge_quality import measure as judges  # these stand on this module
    from textenv.embedded.policy_quality import measure as policies

    everything = [directory.name for directory in sorted(models.iterdir()) if (directory / "config.json").exists()]
    wanted = set(everything if only is None else only)
    policy, tokenizer = load(models if "tiny" in everything else SHIPPED, "tiny")
    found = language_model_quality(policy, tokenizer, seed, count) if "tiny" in wanted else []
    generator = torch.Generator().manual_seed(seed + 1)
    for task, genre in material.GENRE.items():
        openings = [p.text for p in prompts(genre, "test")]
        sampled = {n: continuations(policy, tokenizer, (openings * 9)[:count], n, generator) for n in (28, 72, 110)}
        name = {"insults": "tiny-toxicity", "sentiment": "tiny-sentiment"}[task]
        if name in wanted:
            model, own = load(models, name)
            for n in (28, 72):
                cut = cut_documents(tokenizer, genre, n, count, seed)
                found += scorer_quality(model, own, task, cut, f"documents cut to {n} tokens")
                found += scorer_quality(model, own, task, sampled[n], f"samples of {n} tokens")
        if f"tiny-critic-{task}" in wanted:
            model, own = load(models, f"tiny-critic-{task}")
            for low, high in BUCKETS:
                texts = _critic_texts(sampled[110], task, low, high, count, seed)
                bar = f"span F1, {task}" if high <= 80 else ""
                found += critic_quality(model, own, task, texts, f"{low}-{high} tokens", bar=bar)
            parsed = [m.value for m in found if m.model == f"tiny-critic-{task}" and m.what == "answers that parse"][:4]
            name = f"tiny-critic-{task}"
            found.append(Measure(name, "answers that parse", "1-80 tokens", sum(parsed) / 4, "answers that parse"))
            exact = cut_documents(tokenizer, genre, 32, count, seed)
            found += critic_quality(model, own, task, exact, "documents cut to exactly 32 tokens", bar=f"span F1, {task}")
    return found + policies(models, seed, count, wanted) + judges(models, seed, count, wanted)
