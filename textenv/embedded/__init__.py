"""The embedded world: texts by a grammar whose truth is known, and tiny models trained on them, for use without a network.

    path("textenv/tiny")          the directory of a model, for any `from_pretrained`
    prompts("detox", "train")     what is to be continued, summarized, answered, translated
    grammar, truth, critique      (modules) what the texts are, what is true of them, how the critics are asked
"""

from __future__ import annotations

from pathlib import Path

from textenv.embedded.openings import prompts

__all__ = ["MODELS", "path", "prompts"]

MODELS: dict[str, str] = {
    "textenv/tiny": "causal language model of all tasks: documents, answers, critiques, better and worse texts on request",
    "textenv/tiny-translation": "encoder–decoder (T5) from English to German",
    "textenv/tiny-preferred": "textenv/tiny after DPO on pairs of its own texts",
    "textenv/tiny-sentiment": "classifier: negative, positive",
    "textenv/tiny-toxicity": "classifier: civil, toxic",
    "textenv/tiny-reward": "reward model of summaries, answers and translations: one logit, good",
    "textenv/tiny-principles": "reward model that reads the principles it judges by: one logit, good",
    "textenv/tiny-aspects": "token classifier: supported, relevant, complete, grammatical",
    "textenv/tiny-critic-insults": "causal language model that lists the insults of a text",
    "textenv/tiny-critic-sentiment": "causal language model that lists what is positive and negative in a text",
    "textenv/tiny-critic-answers": "causal language model that lists the errors of a summary, an answer or a translation",
}
"""Name → what it is."""


def path(name: str) -> Path:
    """The directory of an embedded model, its tokenizer included.

    Raises:
        ValueError: there is no such model (the message lists them), or its files are missing.
    """
    if name not in MODELS:
        raise ValueError(f"no embedded model {name!r}; there are {', '.join(sorted(MODELS))}")
    directory = Path(__file__).parent / "models" / name.removeprefix("textenv/")
    if not (directory / "config.json").exists():
        raise ValueError(f"the files of {name!r} are missing from {directory}; build them: python -m textenv.embedded.build")
    return directory
