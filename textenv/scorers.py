"""A sequence classifier as a scorer: episodes → probability (or logit) of a label.

What is judged is the text that was generated, without its prompt, as the detoxification benchmarks do it; the paper's
sentiment runs (RELC) judge prompt and text together, which is `with_prompt=True`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from textenv.episode import Episode
from textenv.models import load_sequence_classifier
from textenv.tokenization import load_tokenizer

__all__ = ["SequenceClassifierScorer", "pick_label"]


class SequenceClassifierScorer:
    """P(label | text), or its complement, as the score.

    Texts are sorted by length, so that a batch holds little padding.

    Args:
        source: "textenv/tiny-toxicity", a directory, a hub name, or a transformers model (then `tokenizer=` too).
        label: the label's name or index; a tuple of names takes the first that the model has.
        complement: score 1 − P(label) (for logits: minus the logit).
        output: "probability" (softmax; sigmoid where the model has one output) or "logit".
        with_prompt: judge prompt and text together.
        max_tokens: longer texts lose their left end; default: the model's positions.

    Raises:
        ValueError: the label is not the model's; the message lists those that are.
    """

    def __init__(
        self,
        source: Any,
        *,
        label: str | int | tuple[str, ...],
        tokenizer: Any = None,
        complement: bool = False,
        output: Literal["probability", "logit"] = "probability",
        with_prompt: bool = False,
        batch_size: int = 64,
        max_tokens: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "auto",
    ) -> None:
        if output not in ("probability", "logit"):
            raise ValueError(f'output must be "probability" or "logit", got {output!r}')
        named = isinstance(source, (str, os.PathLike))
        if tokenizer is None and not named:
            raise ValueError("a model object needs its tokenizer: pass tokenizer=")
        self.name = os.fspath(source) if named else type(source).__name__
        self.tokenizer = load_tokenizer(source if tokenizer is None else tokenizer, need_eos=False)
        self.model = load_sequence_classifier(source, dtype=dtype, device=device, shared=True)
        self.label = pick_label(self.model.config, label, self.name)
        self.complement, self.output, self.with_prompt, self.batch_size = complement, output, with_prompt, batch_size
        limit = getattr(self.model.config, "max_position_embeddings", 512)
        # RoBERTa counts its positions from pad + 1, so the last two of its 514 are not for text.
        self.max_tokens = max_tokens or limit - (2 if "roberta" in self.model.config.model_type else 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> SequenceClassifierScorer:
        return self

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        """(B,) scores, in order."""
        return self.score_texts([(e.prompt.text if self.with_prompt else "") + e.text for e in episodes])

    @torch.inference_mode()
    def score_texts(self, texts: Sequence[str]) -> list[float]:
        """The same for plain strings."""
        encoded = [self._encode(text) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        scores = [0.0] * len(texts)
        for at in range(0, len(order), self.batch_size):
            rows = order[at : at + self.batch_size]
            for i, value in zip(rows, self._score([encoded[i] for i in rows]), strict=True):
                scores[i] = value
        return scores

    def _encode(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text, truncation=False)["input_ids"])
        if len(ids) > self.max_tokens:
            special = set(self.tokenizer.all_special_ids)
            lead = next((i for i, token in enumerate(ids) if token not in special), 0)  # [CLS] is what BERT reads
            ids = ids[:lead] + ids[len(ids) - self.max_tokens + lead :]
        return ids or [self._pad()]

    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

    def _score(self, rows: list[list[int]]) -> list[float]:
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self._pad(), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        logits = self._logits(ids.to(self.model.device), mask.to(self.model.device)).float()  # (b, labels)
        if self.output == "logit":
            value = logits[:, self.label]
            return [float(x) for x in (-value if self.complement else value)]
        value = logits.sigmoid()[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, self.label]
        return [float(x) for x in (1 - value if self.complement else value)]


    def _logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(b, labels). Decoders are read at the last token, which transformers finds by comparing ids with its own pad id."""
        model = self.model
        if not hasattr(model, "score"):
            logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
            return logits
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        logits = model.score(hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1])
        return logits


def pick_label(config: Any, label: str | int | tuple[str, ...], model: str) -> int:
    """The index of a label, by index or by name (case does not matter).

    Raises:
        ValueError: no such label.
    """
    names = {int(index): str(name) for index, name in config.id2label.items()}
    if isinstance(label, int):
        if label not in names:
            raise ValueError(f"{model} has no label {label}; its labels are {names}")
        return label
    wanted = (label,) if isinstance(label, str) else label
    lower = {name.lower(): index for index, name in names.items()}
    for name in wanted:
        if name.lower() in lower:
            return lower[name.lower()]
    if len(names) == 1:
        return 0
    raise ValueError(
        f"{model} has none of the labels {list(wanted)}; its labels are {list(names.values())}: "
        f"pass scorer=SequenceClassifierScorer({model!r}, label=...)"
    )
