"""A text as a judge's tokenizer reads it: ids, what is cut where they are too many, and where the policy's tokens end in them.

Choices, for a judge that is read after every policy token (`Reading.places`):

1. the last prefix of a finished text is read where any whole text is: at the last id, with what the tokenizer puts behind it;
2. the empty text is read at the last id of what stands before the text, tokenized alone: one number for one prompt;
3. a text that was sampled with the judge's own tokenizer is read as it was sampled, token by token; one of another tokenizer is
   aligned by characters, and a policy token at which no id ends is read where the token before it was (so the change is carried).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenv.alignment import TokenText
from textenv.episode import Episode
from textenv.judges.encodings import encode
from textenv.judges.retokenized import boundaries, complete_ends
from textenv.too_long import TextTooLong

__all__ = ["Reading", "check_template"]

Rows = dict[tuple[int, ...], int]
"""Rows of ids to be run through the model → their index."""


def check_template(template: str) -> str:
    """The template, if it can be filled in.

    Raises:
        ValueError: it does not end with {text}, or has a field that is not known.
    """
    try:
        filled = template.format(prompt="", context="", text="\0")
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"template {template!r}: {error}; its fields are {{prompt}}, {{context}} and {{text}}") from None
    if filled.count("\0") != 1 or not filled.endswith("\0"):
        raise ValueError(f"template {template!r} must hold {{text}} once, at its end")
    return template


class Reading:
    """How a judge's tokenizer reads a filled template.

    Args:
        tokenizer: the judge's.
        template: fields {prompt} (`Prompt.text`), {context} (its documents, one a line), and last {text}.
        max_tokens: longer rows lose their left end, but keep what the tokenizer puts around a text.
        name: the judge, for messages.
    """

    def __init__(self, tokenizer: Any, template: str, max_tokens: int, name: str) -> None:
        self.tokenizer, self.template, self.max_tokens, self.name = tokenizer, check_template(template), max_tokens, name
        around = list(tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"])
        self._lead = next((i for i, added in enumerate(around) if not added), 0)
        self._trail = next((i for i, added in enumerate(reversed(around)) if not added), 0)
        self._text = TokenText(tokenizer)
        self._special = frozenset(tokenizer.all_special_ids)
        self._compared: tuple[Any, bool] = (None, False)

    @property
    def pad(self) -> int:
        """An id to fill rows with; it is masked."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id or 0)

    def before(self, episode: Episode) -> str:
        """What stands before the text."""
        return self.template.format(prompt=episode.prompt.text, context="\n".join(episode.prompt.context), text="")

    def row(self, text: str) -> list[int]:
        """The ids of a filled template, cut to what the judge can hold; never empty."""
        return self.rows([text])[0]

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The same of many, those that are new tokenized in one call."""
        return [self._cut(encoded.ids) or [self.pad] for encoded in encode(self.tokenizer, texts)]

    def row_with_offsets(self, text: str) -> tuple[list[int], NDArray[np.int64]]:
        """The same, and the characters of each id (n, 2); empty for what the tokenizer put around the text.

        Raises:
            ValueError: the tokenizer tells no offsets.
        """
        ids, offsets = self._ids_with_offsets(text)
        if not ids:
            return [self.pad], np.zeros((1, 2), np.int64)
        lead, cut = self._removed(len(ids))
        return self._cut(ids), np.concatenate([offsets[:lead], offsets[lead + cut :]])

    def has_tokens_of(self, tokenizer: Any) -> bool:
        """Whether a tokenizer's ids mean here what they mean there."""
        if tokenizer is None or tokenizer is self.tokenizer:
            return tokenizer is not None
        if self._compared[0] is not tokenizer:
            self._compared = tokenizer, tokenizer.get_vocab() == self.tokenizer.get_vocab()
        return self._compared[1]

    def places(self, episode: Episode, shared: bool, rows: Rows) -> NDArray[np.int64]:
        """(T + 1, 2) int64: the row and the position in it at which each prefix is read; new rows are added to `rows`.

        Args:
            shared: the sampled tokens are ids of this tokenizer too.

        Raises:
            TextTooLong: a row loses ids of the text itself, so that its first prefixes cannot be read.
        """
        before = self.before(episode)
        empty = self._body(before)
        ids, offsets = self._ids_with_offsets(before + episode.text)
        body = ids[: len(ids) - self._trail]
        if shared:
            sampled, at = self._sampled(episode, before, empty)
            row = ids if sampled == body else sampled
        else:
            row = ids
            ends = offsets[: len(body), 1]
            at = boundaries(ends, len(before) + complete_ends(episode))
            seen = np.maximum.accumulate(np.r_[0, ends])[at + 1]
            at[seen <= len(before)] = -1  # nothing of the text has been read
        lead, cut = self._removed(len(row) + (self._trail if row is not ids else 0))
        if ((at >= 0) & (at < lead + cut)).any():
            raise TextTooLong(
                f"{self.name}: a text of {len(row)} tokens with its prompt is cut to {self.max_tokens}, and its first prefixes "
                "cannot be read; pass a larger max_tokens, a template without the prompt, or a smaller max_new_tokens"
            )
        out = np.empty((len(episode) + 1, 2), np.int64)
        if empty and not cut and row[: len(empty)] == empty:
            out[0] = _add(rows, row), len(empty) - 1
        else:
            alone = self._cut(empty) or self.row(before)
            out[0] = _add(rows, alone), len(alone) - 1
        read = at >= 0
        if episode.finished:
            read[-1:] = False  # the whole text tells
        out[1:] = out[0]
        if read.any():
            out[1:][read, 0] = _add(rows, row[:lead] + row[lead + cut :])
            out[1:][read, 1] = at[read] - cut
        if episode.finished:
            whole = self._cut(ids) or [self.pad]
            out[-1] = _add(rows, whole), len(whole) - 1
        return out

    def _sampled(self, episode: Episode, before: str, empty: list[int]) -> tuple[list[int], NDArray[np.int64]]:
        """The sampled tokens as a row, and where each ends in it (−1: nothing of the text has been read).

        What comes before them depends on the first alone: SentencePiece puts a space before a text, which it takes together
        with the first word or leaves apart.
        """
        kept = np.array([int(token) not in self._special for token in episode.tokens], bool)
        tokens = [int(token) for token in episode.tokens[kept]]
        lead = empty
        if tokens:
            with_first = self._body(before + self._text.decode(episode.prompt_tokens, tokens[:1]))
            lead = with_first[:-1] if with_first[-1:] == tokens[:1] else empty
        count = np.cumsum(kept)
        return lead + tokens, np.where(count > 0, len(lead) - 1 + count, -1)

    def _ids(self, text: str) -> list[int]:
        return encode(self.tokenizer, [text])[0].ids

    def _body(self, text: str) -> list[int]:
        """The ids of a text that goes on: without what the tokenizer puts behind it."""
        ids = self._ids(text)
        return ids[: len(ids) - self._trail]

    def _ids_with_offsets(self, text: str) -> tuple[list[int], NDArray[np.int64]]:
        ((ids, offsets),) = encode(self.tokenizer, [text])
        if offsets is None:
            raise ValueError(f"the tokenizer of {self.name} tells no character offsets; pass a fast one as tokenizer=")
        return ids, offsets

    def _removed(self, length: int) -> tuple[int, int]:
        """How many ids stay at the left end ([CLS] is what BERT reads), and how many behind them go."""
        cut = max(length - self.max_tokens, 0)
        return min(self._lead, length), cut

    def _cut(self, ids: list[int]) -> list[int]:
        lead, cut = self._removed(len(ids))
        return ids[:lead] + ids[lead + cut :]


def _add(rows: Rows, ids: list[int]) -> int:
    return rows.setdefault(tuple(ids), len(rows))
