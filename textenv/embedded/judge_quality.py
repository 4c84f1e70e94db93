"""How good the judges of answers are: reward model, aspects, principles, critics, against the truth on prompts of their own.

What they judge are samples of the language model (or of the translator), references, and both damaged (`answers`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from textenv.embedded import principles, quality
from textenv.embedded.answers import Answers
from textenv.embedded.build import JUDGES
from textenv.embedded.material import padded
from textenv.embedded.measures import Measure
from textenv.embedded.policy_quality import held_out, translations, written
from textenv.embedded.verdicts import LABELS, aspect_marks, encoded, excerpts_of
from textenv.embedded.worlds import ANSWERS, world

__all__ = ["judged_answers", "logits", "measure"]

SHARES = (0.25, 0.5, 0.75, 1.0)
_CLOSE = 0.05  # of two qualities: too close to call


@torch.inference_mode()
def logits(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[float]]:
    """The logits of a sequence classifier for each text, (B, labels)."""
    rows = tokenizer(list(texts)).input_ids
    return [values[-1] for values in token_logits(model, rows)]


@torch.inference_mode()
def token_logits(model: Any, rows: Sequence[Sequence[int]]) -> list[list[list[float]]]:
    """The logits at every token of every row, (B, L_b, labels)."""
    out: list[list[list[float]]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for at in range(0, len(order), 64):
        some = order[at : at + 64]
        hidden = model.base_model(padded([rows[i] for i in some], 0), use_cache=False).last_hidden_state
        for i, values in zip(some, model.score(hidden).float().tolist(), strict=True):
            out[i] = values[: len(rows[i])]
    return out


def judged_answers(models: Path, seed: int, count: int) -> dict[str, Answers]:
    """For each answer task a source of answers to held-out prompts, two samples of the policy among them."""
    beside = (models / "tiny" / "config.json").exists()
    policy, tokenizer = quality.load(models if beside else quality.SHIPPED, "tiny")
    found = {}
    for task in ANSWERS:
        prompts = held_out(task, seed + 2, count)
        if task == "translation" and (models / "tiny-translation" / "config.json").exists():
            both = [translations(*quality.load(models, "tiny-translation"), prompts, seed + n) for n in (0, 1)]
        else:
            both = [written(policy, tokenizer, task, prompts, seed + n) for n in (0, 1)]
        drafts = [(p, [t for t in texts if t]) for p, *texts in zip(prompts, *both, strict=True)]
        found[task] = Answers(world(task), random.Random(f"judged {task} {seed}"), drafts, drafted=1.0)
    return found


def measure(models: Path, seed: int, count: int, wanted: set[str]) -> list[Measure]:
    """The numbers of the judges that are wanted."""
    found: list[Measure] = []
    if wanted & set(JUDGES):
        sources = judged_answers(models, seed, count)
        if "tiny-reward" in wanted:
            found += _reward(*quality.load(models, "tiny-reward"), sources, count)
        if "tiny-aspects" in wanted:
            found += _aspects(*quality.load(models, "tiny-aspects"), sources, count)
        if "tiny-critic-answers" in wanted:
            name = "tiny-critic-answers"
            model, tokenizer = quality.load(models, name)
            for task, source in sources.items():
                asked, texts = zip(*(source.one() for _ in range(count)), strict=True)
                found += quality.critic_quality(model, tokenizer, task, texts, task, asked=asked, name=name, bar="span F1, answers")
    if "tiny-principles" in wanted:
        found += _principles(*quality.load(models, "tiny-principles"), seed, count)
    return found


def _reward(model: Any, tokenizer: PreTrainedTokenizerBase, sources: dict[str, Answers], count: int) -> list[Measure]:
    """Of two answers to one prompt, is the better one scored higher? After a share of the tokens: the better so far."""
    found = []
    right: dict[float, list[bool]] = {share: [] for share in SHARES}
    for task, source in sources.items():
        own: dict[float, list[bool]] = {share: [] for share in SHARES}
        for _ in range(count // 4):
            drawn = source.draw(4)
            asked = [source.world.prompt_text(drawn.prompt)] * len(drawn.texts)
            rows = list(encoded(tokenizer, asked, drawn.texts))
            scores = token_logits(model, [ids for ids, *_ in rows])
            for share in SHARES:
                at = [max(0, round(share * len(ends)) - 1) for *_, ends in rows]
                good = [
                    source.world.quality(drawn.prompt, text[: ends[i]])
                    for text, (*_, ends), i in zip(drawn.texts, rows, at, strict=True)
                ]
                score = [values[first + i][0] for values, (_, first, _), i in zip(scores, rows, at, strict=True)]
                for a, b in combinations(range(len(at)), 2):
                    if abs(good[a] - good[b]) > _CLOSE:
                        own[share].append((score[a] > score[b]) == (good[a] > good[b]))
        for share in SHARES:
            right[share] += own[share]
            value = sum(own[share]) / max(1, len(own[share]))
            found.append(Measure("tiny-reward", "pair accuracy", f"{task}, {share:.0%} of the text", value))
    for share in SHARES:
        value = sum(right[share]) / max(1, len(right[share]))
        bar = "pair accuracy" if share == 1 else ""
        found.append(Measure("tiny-reward", "pair accuracy", f"all, {share:.0%} of the text", value, bar))
    return found


def _aspects(model: Any, tokenizer: PreTrainedTokenizerBase, sources: dict[str, Answers], count: int) -> list[Measure]:
    """The share of marks on the right side of ½; a share itself ("complete" of a part) is right within ¼."""
    found = []
    for task, source in sources.items():
        pairs = [source.one() for _ in range(count)]
        asked = [source.world.prompt_text(prompt) for prompt, _ in pairs]
        rows = list(encoded(tokenizer, asked, [text for _, text in pairs]))
        values = token_logits(model, [ids for ids, *_ in rows])
        right: dict[str, list[tuple[float, bool]]] = {label: [] for label in LABELS}
        for (prompt, text), (_, first, ends), row in zip(pairs, rows, values, strict=True):
            for token, label, wanted in aspect_marks(task, prompt, text, ends):
                p = float(torch.tensor(row[first + token][label]).sigmoid())
                good = abs(p - wanted) < 0.25 if LABELS[label] == "complete" else (p > 0.5) == (wanted > 0.5)
                right[LABELS[label]].append((wanted, good))
        for name, marks in right.items():
            if marks:
                accuracy = sum(good for _, good in marks) / len(marks)
                found.append(Measure("tiny-aspects", f"{name}, accuracy", task, accuracy, "aspect accuracy"))
                bad = [good for wanted, good in marks if wanted < 0.5]
                found.append(Measure("tiny-aspects", f"{name}, where it is not", task, sum(bad) / max(1, len(bad))))
    return found


def _principles(model: Any, tokenizer: PreTrainedTokenizerBase, seed: int, count: int) -> list[Measure]:
    rng = random.Random(f"held out principles {seed}")
    sources = excerpts_of(rng, {})
    names = [f"{no}{name}" for name in principles.PRINCIPLES for no in ("", "not ")]
    inputs, wanted = [], []
    for _ in range(count):
        text = " " + rng.choice(sources).draw(40)
        chosen = {name.removeprefix("not "): name for name in rng.sample(names, rng.randint(1, 3))}
        inputs.append(principles.question(list(chosen.values())) + text)
        wanted.append(principles.verdict(list(chosen.values()), text))
    scores = [row[0] for row in logits(model, tokenizer, inputs)]
    clear = [(s > 0) == (w > 0) for s, w in zip(scores, wanted, strict=True) if abs(w) > 0.1]
    return [Measure("tiny-principles", "accuracy", "1-40 words", sum(clear) / max(1, len(clear)), "principle accuracy")]
