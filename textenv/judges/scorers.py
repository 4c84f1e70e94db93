"""A sequence classifier as a scorer: episodes → probability (or logit) of a label.

What is judged is the text that was generated, without its prompt, as the detoxification benchmarks do it; the paper's
sentiment runs (RELC) judge prompt and text together, which is `with_prompt=True`; a reward model that reads more than that
takes a `template`.

A decoder (a `score` head on a causal transformer, or TRL's value head) tells the score of every prefix of a text in the same
forward pass, read where the policy's tokens end (`textenv.judges.reading`). An encoder sees the whole text at every position, so
for it each prefix is a text of its own; so it is for a tokenizer that tells no character offsets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from textenv.attention import use_matmul_attention
from textenv.batching import by_length, pass_tokens
from textenv.episode import Episode
from textenv.judges.attention import attention_weights
from textenv.judges.reading import Reading, Rows
from textenv.judges.retokenized import complete_ends, spread
from textenv.judges.value_head import load_value_head
from textenv.models import check_vocabulary, load_sequence_classifier, open_config, pick_device, pick_dtype
from textenv.packing import pack, packs, passes, unwarned
from textenv.padding import right_pad
from textenv.positions import rows_apart
from textenv.shapes import FINE, grain, rounded
from textenv.tokenization import load_tokenizer

__all__ = ["REWARD_LABELS", "SequenceClassifierScorer", "pick_label"]

Ids = NDArray[np.int64]

REWARD_LABELS = ("good", "better", "quality", "value")
"""What the one output of a reward model is called: more of it is better."""


class SequenceClassifierScorer:
    """P(label | text), or its complement, as the score.

    A decoder reads several texts in a row (`textenv.packing`), others read them in order of length: a batch holds little padding.

    Args:
        source: "textenv/tiny-toxicity", a directory, a hub name, or a transformers model (then `tokenizer=` too): a sequence
            classifier, or a causal language model with a value head as TRL saves it.
        label: the label's name or index; a tuple of names takes the first that the model has.
        complement: score 1 − P(label) (for logits: minus the logit).
        output: "probability" (softmax; sigmoid where the model has one output) or "logit".
        with_prompt: judge prompt and text together: the template "{prompt}{text}".
        template: what is judged: fields {prompt} (`Prompt.text`), {context} (its documents, one a line), and last {text}.
        batch_size: texts a batch at most (and `textenv.batching.TOKENS` tokens).
        max_tokens: longer texts lose their left end; default: the model's positions.
        dtype: of the weights of a model by name; "auto": bfloat16 where a policy of "auto" precision computes in it. Scores are
            float32 in any case.

    Raises:
        ValueError: the label is not the model's (the message lists those that are); a template that does not end with {text};
            a model without a trained head, or with fewer ids than its tokenizer.
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
        template: str | None = None,
        batch_size: int = 64,
        max_tokens: int | None = None,
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        device: str | torch.device = "auto",
    ) -> None:
        if output not in ("probability", "logit"):
            raise ValueError(f'output must be "probability" or "logit", got {output!r}')
        if with_prompt and template is not None:
            raise ValueError(f'with_prompt=True is template="{{prompt}}{{text}}"; leave it out beside template={template!r}')
        named = isinstance(source, (str, os.PathLike))
        if tokenizer is None and not named:
            raise ValueError("a model object needs its tokenizer: pass tokenizer=")
        self.name = os.fspath(source) if named else type(source).__name__
        self.tokenizer = load_tokenizer(source if tokenizer is None else tokenizer, need_eos=False, shared=True)
        self.model = _load(source, pick_dtype(dtype, device), pick_device(device))
        check_vocabulary(self.model, self.tokenizer, self.name)
        if grain(self.model) != FINE:
            use_matmul_attention(self.model)
        config = self.model.config
        self.label = pick_label(config, label, self.name)
        self.complement, self.output, self.batch_size = complement, output, batch_size
        # RoBERTa counts its positions from pad + 1, so the last two of its 514 are not for text.
        positions = getattr(config, "max_position_embeddings", 512) - (2 if "roberta" in config.model_type else 0)
        self.max_tokens = max_tokens or positions
        template = ("{prompt}{text}" if with_prompt else "{text}") if template is None else template
        self.reading = Reading(self.tokenizer, template, self.max_tokens, self.name)
        self._decoder = hasattr(self.model, "score")

    def __deepcopy__(self, memo: dict[int, Any]) -> SequenceClassifierScorer:
        return self

    def __call__(self, episodes: Sequence[Episode]) -> list[float]:
        """(B,) scores, in order."""
        return self.score_texts([self.reading.before(e) + e.text for e in episodes])

    def score_texts(self, texts: Sequence[str]) -> list[float]:
        """The same for plain strings, judged as they are."""
        rows = self.reading.rows(texts)
        return [float(value) for value in self._score(rows, [(i, len(row) - 1) for i, row in enumerate(rows)])]

    def prefix_scores(self, episodes: Sequence[Episode], *, tokenizer: Any = None) -> list[NDArray[np.float64]]:
        """The score after 0, 1, ..., T policy tokens; the last of a finished text is its score.

        A decoder is run once over each text, an encoder once over each prefix that has grown.

        Args:
            episodes: finished or not.
            tokenizer: the policy's. Where the scorer has the same, the sampled tokens themselves are read.

        Returns:
            Per episode (T + 1,) float64.

        Raises:
            TextTooLong: a text that is cut to `max_tokens` within its own tokens. (A prompt may be cut; then, the longer the
                text, the less of the prompt its prefixes are judged with.)
        """
        if not self._one_pass:
            return self._score_apart(episodes)
        rows: Rows = {}
        shared = self.reading.has_tokens_of(tokenizer)
        places = [self.reading.places(episode, shared, rows) for episode in episodes]
        read = self._score([list(row) for row in rows], [(int(i), int(at)) for of_one in places for i, at in of_one])
        return np.split(read, np.cumsum([len(of_one) for of_one in places])[:-1]) if places else []

    def causal_for(self, tokenizer: Any) -> bool:
        """Whether the score of a prefix is the same whatever follows, for texts of a policy with this tokenizer.

        It is for encoders and for the scorer's own tokenizer. Another one's text so far may be cut otherwise than the
        finished text, so that, in one pass, a change may still move between the tokens of a word.
        """
        return not self._one_pass or self.reading.has_tokens_of(tokenizer)

    def attention(
        self, episodes: Sequence[Episode], layer: int = -1, heads: Literal["mean"] | int = "mean"
    ) -> list[NDArray[np.float64]]:
        """What the position that is read (a decoder's last, an encoder's first) attended to in the text.

        Args:
            episodes: finished or not.
            layer: of the transformer, from either end.
            heads: "mean", or the index of one.

        Returns:
            Per episode (T,) ≥ 0: the attention on each policy token, split by characters. They sum to what the text had of 1;
            prompt and special tokens have the rest, what was cut off with the left end has none.

        Raises:
            ValueError: no such layer or head; a model that tells no attention, a tokenizer that tells no offsets.
        """
        known = self.model.config.num_attention_heads
        if heads != "mean" and not (isinstance(heads, int) and 0 <= heads < known):
            raise ValueError(f'heads must be "mean" or one of 0..{known - 1}, got {heads!r}')
        before = [self.reading.before(e) for e in episodes]
        read = [self.reading.row_with_offsets(b + e.text) for b, e in zip(before, episodes, strict=True)]
        out = [np.zeros(len(e), np.float64) for e in episodes]
        for batch, inputs, _ in self._batches([row for row, _ in read]):
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            weights = attention_weights(self.model.base_model, ids, mask, layer)  # (b, heads, L, L)
            of_heads = weights.mean(1) if heads == "mean" else weights[:, heads]
            at = mask.sum(1) - 1 if self._decoder else torch.zeros_like(ids[:, 0])
            seen = of_heads[torch.arange(len(ids), device=ids.device), at].double().cpu().numpy()  # (b, L)
            for i, values in zip(batch, seen, strict=True):
                places = read[i][1]
                inside = places[:, 0] < places[:, 1]
                out[i] = spread(places[inside] - len(before[i]), values[: len(places)][inside], episodes[i])
        return out

    # --- Within ------------------------------------------------------------------------------------------------------

    @property
    def _one_pass(self) -> bool:
        return self._decoder and bool(self.tokenizer.is_fast)

    def _score_apart(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """Each prefix as a text of its own."""
        texts: dict[str, int] = {}
        places = []
        for episode in episodes:
            before = self.reading.before(episode)
            ends = [0, *map(int, complete_ends(episode))]
            if episode.finished:
                ends[-1] = len(episode.text)
            places.append([texts.setdefault(before + episode.text[:end], len(texts)) for end in ends])
        scores = np.array(self.score_texts(list(texts)), np.float64)
        return [scores[at] for at in places]

    def _batches(self, rows: Sequence[list[int]], *, packed: bool = False) -> Iterator[tuple[list[int], dict[str, Tensor], Ids]]:
        """Indices of texts, what the model reads of them, and in which row and column each begins, (b, 2).

        Args:
            packed: several of them in a row, where that pays; else each in a row of its own.
        """
        shapes, device = grain(self.model), self.model.device
        lengths, plan = [len(row) for row in rows], passes if packed else by_length
        for batch in plan(lengths, self.batch_size, overhead=pass_tokens(device.type), grain=shapes):
            texts = [np.array(rows[i], np.int64) for i in batch]
            together = pack(texts, device, shapes) if packed else None
            if together is not None:
                yield batch, *together
                continue
            longest = max(map(len, texts))
            width = max(longest, min(rounded(longest, shapes.columns), self.reading.max_tokens))
            ids, mask = right_pad(texts, device, width)
            inputs = {"input_ids": ids.masked_fill(mask == 0, self.reading.pad), "attention_mask": mask}
            yield batch, inputs, rows_apart(len(texts))

    @torch.inference_mode()
    def _score(self, rows: Sequence[list[int]], places: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """The score at each place (row, position). Encoders are read where they read."""
        wanted: list[list[int]] = [[] for _ in rows]
        for n, (i, _) in enumerate(places):
            wanted[i].append(n)
        out = np.zeros(len(places), np.float64)
        for batch, inputs, begins in self._batches(rows, packed=self._packs):
            asked = [n for i in batch for n in wanted[i]]
            index, begin = torch.from_numpy(begins.repeat([len(wanted[i]) for i in batch], 0)).to(self.model.device).unbind(1)
            if self._decoder:  # transformers would look for the last token by comparing ids with its own pad id
                at = begin + torch.tensor([places[n][1] for n in asked], device=begin.device)
                logits = _in_float32(self.model.score, self._hidden(inputs)[index, at])
            else:
                logits = self.model(**inputs).logits[index]
            out[asked] = self._value(logits.float()).double().cpu().numpy()
        return out

    @property
    def _packs(self) -> bool:
        trunk = self.model.base_model
        return self._decoder and packs(self.model, getattr(trunk, "forward", trunk), self._hidden)

    def _hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        """A decoder's last hidden states."""
        trunk = self.model.base_model
        with unwarned(trunk):
            states: Tensor = trunk(**inputs, use_cache=False).last_hidden_state
        return states

    def _value(self, logits: Tensor) -> Tensor:
        """(n, labels) → (n,)."""
        if self.output == "logit":
            value = logits[:, self.label]
            return -value if self.complement else value
        value = logits.sigmoid()[:, 0] if logits.shape[1] == 1 else logits.softmax(-1)[:, self.label]
        return 1 - value if self.complement else value


def pick_label(config: Any, label: str | int | tuple[str, ...], model: str, judge: str = "scorer=SequenceClassifierScorer") -> int:
    """The index of a label, by index or by name (case does not matter).

    A model's only output is meant by any name if it has none of its own (LABEL_0); a reward model's by every such name.

    Args:
        judge: who is to be given another label, for the message.

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
    only = next(iter(lower)) if len(names) == 1 else ""
    if only == "label_0" or (only in REWARD_LABELS and any(name.lower() in REWARD_LABELS for name in wanted)):
        return 0
    raise ValueError(
        f"{model} has none of the labels {list(wanted)}; its labels are {list(names.values())}: pass {judge}({model!r}, label=...)"
    )


def _in_float32(head: Any, hidden: Tensor) -> Tensor:
    """A linear head in float32: in bfloat16 a reward of 4 could be told from 4.03, but not from 4.01."""
    if hidden.dtype == torch.float32 or type(head) is not nn.Linear:
        logits: Tensor = head(hidden)
        return logits
    return nn.functional.linear(hidden.float(), head.weight.float(), None if head.bias is None else head.bias.float())


def _load(source: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A model with a head that was trained: transformers would fill a head that is not in the files with random numbers.

    Raises:
        ValueError: the files hold no such head.
    """
    if not isinstance(source, (str, os.PathLike)):
        return load_value_head(source, dtype=dtype, device=device) if hasattr(source, "v_head") else (
            load_sequence_classifier(source, dtype=dtype, device=device)
        )  # fmt: skip
    saved = open_config(source).architectures or []
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in saved):
        return load_value_head(source, dtype=dtype, device=device)
    if saved and not any("SequenceClassification" in name for name in saved):
        raise ValueError(f"{os.fspath(source)} was saved as {saved[0]}, which scores no texts; name a sequence classifier")
    return load_sequence_classifier(source, dtype=dtype, device=device, shared=True)
