"""How good the embedded policies are on the answer tasks: what they answer, translate, prefer, and say better and worse.

Also the mean and the standard deviation of each task's default score on texts of its policy, from which ALaRM's z-scores are made.
"""

from __future__ import annotations

import random
import statistics as _statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from textenv.data.labelled import area_under_curve
from textenv.embedded import quality
from textenv.embedded.contrastive import CONTRASTIVE
from textenv.embedded.measures import Measure
from textenv.embedded.networks import eager
from textenv.embedded.preferring import TOKENS
from textenv.embedded.sampling import answers, continuations
from textenv.embedded.verdicts import encoded
from textenv.embedded.worlds import ANSWERS, DOCUMENTS, world
from textenv.episode import Prompt
from textenv.generation import ActionRule
from textenv.judges.token_log_probs import token_log_probs

__all__ = ["contrast", "held_out", "measure", "statistics", "translations", "written"]

TASK_CLASSES = {
    "sentiment": "Sentiment", "detox": "Detox", "summarization": "Summarization", "long_form": "LongFormQA",
    "translation": "Translation",
}  # fmt: skip


def held_out(task: str, seed: int, count: int) -> list[Prompt]:
    """Prompts that nothing was trained on."""
    rng = random.Random(f"held out {task} {seed}")
    return [world(task).sample(rng).prompt for _ in range(count)]


def written(model: Any, tokenizer: PreTrainedTokenizerBase, task: str, prompts: Sequence[Prompt], seed: int) -> list[str]:
    """One sampled text a prompt, within the budget of the environment."""
    generator = torch.Generator().manual_seed(seed)
    asked = [world(task).prompt_text(prompt) for prompt in prompts]
    if task in DOCUMENTS:
        return [" " + text for text in continuations(model, tokenizer, asked, TOKENS[task], generator)]
    return ["".join(texts) for texts in answers(model, tokenizer, asked, TOKENS[task], generator)]


@torch.inference_mode()
def translations(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], seed: int, *, sample: bool = True
) -> list[str]:
    """One translation a prompt, sampled or greedy, by the model's own `generate`."""
    texts: list[str] = []
    asked = [world("translation").prompt_text(prompt) for prompt in prompts]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251 - within fork_rng; generate takes no generator
        for i in range(0, len(asked), 100):
            batch = tokenizer(asked[i : i + 100], return_tensors="pt", padding=True)
            ids, mask = batch["input_ids"], batch["attention_mask"]
            how = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
            made = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=TOKENS["translation"], **how)
            texts += [" " + text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)]
    return texts


def contrast(model: Any, tokenizer: PreTrainedTokenizerBase, task: str, prompts: Sequence[Prompt], texts: Sequence[str]) -> float:
    """How well minus the contrastive reward of a token tells those of bad spans from the others: an area under the ROC curve."""
    scores: list[float] = []
    wanted: list[bool] = []
    rule = ActionRule(len(tokenizer), tokenizer.eos_token_id, TOKENS[task])
    for i in range(0, len(texts), 32):
        some, asked = texts[i : i + 32], [world(task).prompt_text(prompt) for prompt in prompts[i : i + 32]]
        logs = []
        for template in CONTRASTIVE[task]:
            questions = [template.format(prompt=a, text=t) for a, t in zip(asked, some, strict=True)]
            rows = list(encoded(tokenizer, questions, some))
            before, said = (np.array(ids[:first]) for ids, first, _ in rows), (np.array(ids[first:]) for ids, first, _ in rows)
            logs.append(token_log_probs(model, list(before), list(said), rule))
        for prompt, text, (*_, ends), better, worse in zip(prompts[i : i + 32], some, rows, *logs, strict=True):
            bad = [span for span in world(task).truth_spans(prompt, text) if span.reward < 0]
            starts = [0, *ends][: len(ends)]
            scores += (worse - better).tolist()
            wanted += [any(s.start < e and b < s.end for s in bad) for b, e in zip(starts, ends, strict=True)]
    return area_under_curve(np.array(scores), np.array(wanted))


def measure(models: Path, seed: int, count: int, wanted: set[str]) -> list[Measure]:
    """The numbers of tiny, tiny-preferred and tiny-translation, as far as they are wanted."""
    found: list[Measure] = []
    if wanted & {"tiny", "tiny-preferred"}:
        found += _language_models(models, seed, count, wanted)
    if "tiny-translation" in wanted:
        found += _translator(models, seed, count)
    return found


def _language_models(models: Path, seed: int, count: int, wanted: set[str]) -> list[Measure]:
    found: list[Measure] = []
    policy, tokenizer = quality.load(models, "tiny")
    preferred = quality.load(models, "tiny-preferred")[0] if "tiny-preferred" in wanted else None
    for task in (*DOCUMENTS, *ANSWERS):
        prompts = held_out(task, seed, count)
        texts = written(policy, tokenizer, task, prompts, seed)
        graded = [world(task).quality(p, t) for p, t in zip(prompts, texts, strict=True)]
        mean, where = sum(graded) / len(graded), f"{task}, sampled"
        if "tiny" in wanted:
            found.append(Measure("tiny", "mean quality", where, mean, "mean quality, not too low" if task in ANSWERS else ""))
            if task in ANSWERS:
                found.append(Measure("tiny", "mean quality", where, mean, "mean quality, not too high"))
                ended = sum(text.rstrip().endswith((".", "!", "?")) for text in texts) / len(texts)
                found.append(Measure("tiny", "answers that end", where, ended, "answers that end"))
                found.append(Measure("tiny", "answers without an error", where, sum(q == 1.0 for q in graded) / len(graded)))
            area = contrast(eager(policy), tokenizer, task, prompts, texts)
            found.append(Measure("tiny", "contrast finds bad tokens, area", where, area, "area under the ROC curve"))
        if preferred is not None:
            better = written(preferred, tokenizer, task, prompts, seed)
            gain = sum(world(task).quality(p, t) for p, t in zip(prompts, better, strict=True)) / len(better) - mean
            found.append(Measure("tiny-preferred", "mean quality above tiny's", where, gain, "above the model it was made of"))
    return found


def _translator(models: Path, seed: int, count: int) -> list[Measure]:
    import sacrebleu

    model, tokenizer = quality.load(models, "tiny-translation")
    prompts = held_out("translation", seed, count)
    references = [prompt.references[0] for prompt in prompts]
    found = []
    for where, sample in (("sampled", True), ("greedy", False)):
        texts = translations(model, tokenizer, prompts, seed, sample=sample)
        graded = [world("translation").quality(p, t) for p, t in zip(prompts, texts, strict=True)]
        mean = sum(graded) / len(graded)
        if sample:
            found.append(Measure("tiny-translation", "mean quality", where, mean, "mean quality, not too low"))
        found.append(Measure("tiny-translation", "mean quality", where, mean, "mean quality, not too high" if sample else ""))
        chrf = sacrebleu.corpus_chrf([text.strip() for text in texts], [references]).score
        found.append(Measure("tiny-translation", "chrF", where, chrf))
        right = sum(q == 1.0 for q in graded) / len(graded)
        found.append(Measure("tiny-translation", "translations without an error", where, right))
    return found


def statistics(models: Path, seed: int, count: int) -> dict[str, dict[str, float]]:
    """For each task, by the name of its class, mean and standard deviation of the default score on texts of the policy."""
    from textenv.embedded.judge_quality import logits

    policy, tokenizer = quality.load(models, "tiny")
    found = {}
    for task, name in TASK_CLASSES.items():
        prompts = held_out(task, seed + 1, count)
        if task == "translation":
            import sacrebleu

            texts = translations(*quality.load(models, "tiny-translation"), prompts, seed)
            scores = [
                sacrebleu.sentence_chrf(t.strip(), list(p.references)).score / 100 for t, p in zip(texts, prompts, strict=True)
            ]
        else:
            texts = written(policy, tokenizer, task, prompts, seed)
            if task in DOCUMENTS:
                judged = logits(*quality.load(models, {"sentiment": "tiny-sentiment", "detox": "tiny-toxicity"}[task]), texts)
                second = torch.tensor(judged).softmax(-1)[:, 1]
                scores = (second if task == "sentiment" else 1 - second).tolist()
            else:
                asked = [world(task).prompt_text(p) + t for p, t in zip(prompts, texts, strict=True)]
                scores = [row[0] for row in logits(*quality.load(models, "tiny-reward"), asked)]
        found[name] = {"mean": round(_statistics.fmean(scores), 4), "sd": round(_statistics.stdev(scores), 4)}
    return found


