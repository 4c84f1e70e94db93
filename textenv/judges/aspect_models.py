"""A token classifier as the judge of an aspect: one pass over the text, read where a sentence, a clause or a word ends.

Fine-grained RLHF (Wu et al. 2023, arXiv 2306.01693) judges factuality by sentence and relevance by sub-sentence with such
models, and ALaRM takes them over (arXiv 2403.06754). Departures:

1. there, a separator is put in front of every sentence and the verdict is read at it; here the text is left as it is and the
   verdict is read at the segment's last token, so that one encoding serves all granularities;
2. the judge's tokenizer need not be the policy's: segments are characters, and each is read at the last of the judge's own
   tokens that begins inside it;
3. the trunk of a model of several labels runs once over a text, whatever the number of aspects, and of wrappers, that ask.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.aspects import Granularity
from textenv.batching import by_length, pass_tokens
from textenv.episode import Episode, Span
from textenv.judges.encodings import encode
from textenv.judges.remembered import Remembered
from textenv.judges.scorers import pick_label
from textenv.models import check_vocabulary, load_token_classifier, pick_dtype
from textenv.segments import load_segmenter
from textenv.tokenization import load_tokenizer
from textenv.weights import marks

__all__ = ["TokenClassifierJudge"]

Segmenter = Callable[[str], list[tuple[int, int]]]
Row = tuple[int, ...]
_READ: Remembered[tuple[int, Row], NDArray[np.float32]] = Remembered(1 << 22, lambda _, logits: logits.size)
"""What each model says of every token of a text, (L, labels) each, by the state of its weights and the ids: 16 MB a model."""
_SEGMENTS = {"text": "whole", "sentence": "sentences", "sub_sentence": "sub_sentences"}


class TokenClassifierJudge:
    """Reads P(label) at the last token of each segment; an `Aspect.judge`.

    Args:
        source: "textenv/tiny-aspects", a directory, a hub name, or a transformers model (then `tokenizer=` too).
        label: the label that means good, by name or index. Its probability is a sigmoid where the model says it judges
            labels apart (`problem_type="multi_label_classification"`) or has one output, else a softmax.
        granularity: of the pieces judged: "text", "sentence", "sub_sentence", or "token": then each of the judge's own tokens
            is read, neighbours of equal value make one span, and value 0 makes none.
        template: what the model reads; fields {prompt} (`Prompt.text`), {context} (joined by newlines), {text}.
        scale: (value of a bad piece, value of a good one).
        output: "class": good where P > .5, else bad; "probability": what lies between, bad + P · (good − bad).
        segmenter: text → intervals, or its name, for another cut than the granularity's own.
        max_tokens: longer inputs lose their left end; default: the model's positions.

    Raises:
        ValueError: no such label (the message lists them), a template without {text}, a segmenter for single tokens.

    Example: "The bed was blue. It flew." of which the second sentence is not supported, with `granularity="sentence"` and
    `scale=(-0.5, 0.5)`: Span(0, 17, 0.5, "supported"), Span(18, 26, -0.5, "supported").
    """

    def __init__(
        self,
        source: Any,
        label: str | int,
        granularity: Granularity = "sentence",
        template: str = "{text}",
        scale: tuple[float, float] = (0.0, 1.0),
        *,
        output: Literal["class", "probability"] = "class",
        segmenter: str | Segmenter | None = None,
        tokenizer: Any = None,
        batch_size: int = 64,
        max_tokens: int | None = None,
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        device: str | torch.device = "auto",
    ) -> None:
        if output not in ("class", "probability"):
            raise ValueError(f'output must be "class" or "probability", got {output!r}')
        if template.count("{text}") != 1:
            raise ValueError(f"template must hold {{text}} once, got {template!r}")
        if granularity != "token" and granularity not in _SEGMENTS:
            raise ValueError(f"granularity is one of {[*_SEGMENTS, 'token']}, got {granularity!r}")
        if granularity == "token" and segmenter is not None:
            raise ValueError(f"segmenter={segmenter!r} with granularity='token': tokens are not cut any further; leave it out")
        named = isinstance(source, (str, os.PathLike))
        if tokenizer is None and not named:
            raise ValueError("a model object needs its tokenizer: pass tokenizer=")
        self.name = os.fspath(source) if named else type(source).__name__
        self.tokenizer = load_tokenizer(source if tokenizer is None else tokenizer, need_eos=False, shared=True)
        if not self.tokenizer.is_fast:
            raise ValueError(f"the tokenizer of {self.name} tells no character offsets; pass a fast one as tokenizer=")
        self.model = load_token_classifier(source, dtype=pick_dtype(dtype, device), device=device, shared=True)
        check_vocabulary(self.model, self.tokenizer, self.name)
        config = self.model.config
        self.label = pick_label(config, label, self.name, "TokenClassifierJudge")
        self.label_name = str(config.id2label[self.label])
        self._apart = config.problem_type == "multi_label_classification" or len(config.id2label) == 1
        self.granularity, self.template, self.scale, self.output = granularity, template, scale, output
        self.segmenter = None if granularity == "token" else load_segmenter(segmenter or _SEGMENTS[granularity])
        self.batch_size = batch_size
        limit = getattr(config, "max_position_embeddings", 512)
        self.max_tokens = max_tokens or limit - (2 if "roberta" in config.model_type else 0)

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenClassifierJudge:
        return self

    def __call__(self, episodes: Sequence[Episode]) -> list[list[Span]]:
        """For each episode its segments, as spans of `Episode.text` whose reward is the value."""
        judged = [i for i, episode in enumerate(episodes) if episode.text.strip()]
        inputs = self._encode([episodes[i] for i in judged])
        out: list[list[Span]] = [[] for _ in episodes]
        for i, (_, places), logits in zip(judged, inputs, self._logits([row for row, _ in inputs]), strict=True):
            out[i] = list(self._spans(episodes[i].text, places, self._probability(logits)))
        return out

    def _encode(self, episodes: Sequence[Episode]) -> list[tuple[Row, list[tuple[int, int]]]]:
        """The ids of the filled templates, and of each the interval in the text; (0, 0) where it is not of the text."""
        around = [self._around(episode) for episode in episodes]
        whole = [before + e.text + after for e, (before, after) in zip(episodes, around, strict=True)]
        out = []
        for episode, (before, _), (ids, offsets) in zip(episodes, around, encode(self.tokenizer, whole), strict=True):
            assert offsets is not None, "a fast tokenizer tells them"
            out.append(self._placed(ids, offsets.tolist(), len(before), len(episode.text)))
        return out

    def _around(self, episode: Episode) -> list[str]:
        """What the template puts before the text, and behind it."""
        fields = {"prompt": episode.prompt.text, "context": "\n".join(episode.prompt.context)}
        return [part.format(**fields) for part in self.template.split("{text}")]

    def _placed(self, ids: list[int], offsets: list[list[int]], begin: int, length: int) -> tuple[Row, list[tuple[int, int]]]:
        """Ids that the model can hold, and where they stand in the text, which begins at a character and has so many."""
        places = [(max(0, a - begin), b - begin) if a < b and begin < b and a < begin + length else (0, 0) for a, b in offsets]
        if len(ids) > self.max_tokens:
            special = set(self.tokenizer.all_special_ids)
            lead = next((i for i, token in enumerate(ids) if token not in special), 0)
            cut = len(ids) - self.max_tokens + lead
            ids, places = ids[:lead] + ids[cut:], places[:lead] + places[cut:]
        return tuple(ids), places

    def _logits(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """(L, labels) at every token of every row; those that this judge or another has asked for are known."""
        state = hash(marks(self.model.parameters()))
        found = _READ.get(self.model, [(state, row) for row in rows])
        new = [row for row in dict.fromkeys(rows) if (state, row) not in found]
        for batch in by_length([len(row) for row in new], self.batch_size, overhead=pass_tokens(self.model.device.type)):
            made = {(state, new[i]): logits for i, logits in zip(batch, self._read([new[i] for i in batch]), strict=True)}
            found |= made
            _READ.put(self.model, made)
        return [found[state, row] for row in rows]

    @torch.inference_mode()
    def _read(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """One forward pass of the model."""
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), width), int(pad if pad is not None else self.tokenizer.eos_token_id or 0))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        device = self.model.device
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float().cpu()  # (b, L, labels)
        return [values[: len(row)] for values, row in zip(logits.numpy(), rows, strict=True)]

    def _probability(self, logits: NDArray[np.float32]) -> list[float]:
        """P(label) at every token, (L,)."""
        values = torch.from_numpy(logits)  # (L, labels)
        chosen: Tensor = values[:, self.label].sigmoid() if self._apart else values.softmax(-1)[:, self.label]
        return list(chosen.tolist())

    def _value(self, probability: float) -> float:
        bad, good = self.scale
        if self.output == "class":
            return good if probability > 0.5 else bad
        return bad + probability * (good - bad)

    def _spans(self, text: str, places: list[tuple[int, int]], probability: list[float]) -> Iterator[Span]:
        if self.segmenter is None:
            yield from self._token_spans(text, places, probability)
            return
        for start, end in self.segmenter(text):
            stop = start + len(text[start:end].rstrip())
            inside = [t for t, (a, b) in enumerate(places) if a < stop and b > start and a < b]
            if stop > start and inside:  # else white space, or cut off with the left end
                yield Span(start, stop, self._value(probability[inside[-1]]), self.label_name)

    def _token_spans(self, text: str, places: list[tuple[int, int]], probability: list[float]) -> Iterator[Span]:
        runs: list[tuple[int, int, float]] = []
        for (start, end), p in zip(places, probability, strict=True):
            end, value = min(end, len(text)), self._value(p)
            if start >= end:
                continue
            if runs and runs[-1][2] == value and not text[runs[-1][1] : start].strip():
                runs[-1] = (runs[-1][0], end, value)
            else:
                runs.append((start, end, value))
        for start, end, value in runs:
            if value:
                yield Span(start, end, value, self.label_name)
