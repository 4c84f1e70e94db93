"""A language model in process as a critic: asked in batches, greedily; its answer is parsed strictly.

Source: RELC (Cao et al. 2024, arXiv 2401.07382), where the critic is a chat model behind an API (`ServerCritic`) or a
frozen copy of the policy's base model; here it is any Hugging Face language model: a causal one goes on from the question to
the answer, an encoder–decoder reads the question and answers. How it is asked, and how it is read: `textenv.critics.forms`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from textenv.batching import by_length, pass_tokens
from textenv.critics.asking import Answer, AskedCritic
from textenv.critics.forms import CritiqueForm, CritiqueFormat, Question, WordScores
from textenv.critics.parsing import CritiqueError, Section, parse_critique
from textenv.critics.untrusted import TEXT_LIMIT, one_line
from textenv.episode import Prompt
from textenv.generation import generate
from textenv.judges.encodings import encode
from textenv.layouts import check_decodes, layout_of
from textenv.models import check_vocabulary, load_language_model, pick_dtype
from textenv.tokenization import load_tokenizer
from textenv.too_long import TextTooLong

__all__ = ["CritiqueError", "CritiqueFormat", "LanguageModelCritic", "Section", "WordScores", "one_line", "parse_critique"]

SHORTEST = 32
"""Characters of a text below which it is not cut to make a question fit."""


class LanguageModelCritic(AskedCritic):
    """Asks a language model for the good and the bad spans of each text.

    Args:
        source: "textenv/tiny-critic-insults", a directory, a hub name, or a transformers model (then `tokenizer=` too).
        form: how the model is asked and what its answer means (`CritiqueFormat`, `WordScores`).
        on_error: what an answer that cannot be parsed does: "raise", or "skip": a malformed answer is no verdict (the
            episode keeps its plain credit), a listed span that is not in the text is left out; both are counted.
        max_new_tokens: budget of an answer; an answer cut there loses its last, perhaps incomplete, item (counted).
            Default: 64, for numbers of words 256.
        max_text: characters of a text shown at most, fewer where the model's positions need it (its beginning and end).
        batch_size: texts a batch at most, of like length (and of `textenv.batching.TOKENS` tokens at most).
        dtype: of the weights; "auto": bfloat16 where a policy computes in it, else float32.
        device: "auto", "cpu", "cuda", ...

    Raises:
        CritiqueError: with `on_error="raise"`, on the first answer that cannot be parsed.
        ValueError: the model has recurrent layers.
    """

    form: CritiqueForm

    def __init__(
        self,
        source: Any,
        form: CritiqueForm,
        *,
        tokenizer: Any = None,
        on_error: Literal["raise", "skip"] = "raise",
        max_new_tokens: int | None = None,
        max_text: int = TEXT_LIMIT,
        batch_size: int = 64,
        dtype: torch.dtype | Literal["auto"] = torch.float32,
        device: str | torch.device = "auto",
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
        named = isinstance(source, (str, os.PathLike))
        if tokenizer is None and not named:
            raise ValueError("a model object needs its tokenizer: pass tokenizer=")
        name = os.fspath(source) if named else type(source).__name__
        super().__init__(name, form, on_error=on_error, max_new_tokens=max_new_tokens, max_text=max_text)
        self.tokenizer = load_tokenizer(source if tokenizer is None else tokenizer, shared=True)
        self.model = load_language_model(source, dtype=pick_dtype(dtype, device), device=device, shared=True)
        check_vocabulary(self.model, self.tokenizer, name)
        check_decodes(self.model)
        self.batch_size = batch_size
        self._layout = layout_of(self.model)

    def answers(self, texts: Sequence[str], prompts: Sequence[Prompt] | None = None) -> list[Answer]:
        """The raw answer about each text, as far as it counts."""
        return [answer for answer in super().answers(texts, prompts) if answer is not None]

    def _fits(self, tokens: int) -> bool:
        """Whether a question of so many tokens leaves room for an answer."""
        room = self._layout.room(tokens)
        return room is None or room >= self.max_new_tokens

    def _question(self, text: str, prompt: Prompt | None = None, score: float = float("nan")) -> Question:
        limit = self.max_text
        while True:
            question = self._form.question(text, prompt, score, limit=limit)
            if self._fits(len(question.text.encode()) + 3):
                return question  # a token is a byte at least, but for a begin-of-text, an end, and a leading space
            tokens = len(self._encode([question.text])[0])
            longest = max(len(text), len(prompt.text), *map(len, prompt.context)) if prompt else len(text)
            if self._fits(tokens):
                return question
            limit = int(0.8 * min(limit, longest))
            if limit < SHORTEST:
                raise TextTooLong(
                    f"critic {self.name}: a question of {tokens} tokens and an answer of {self.max_new_tokens} exceed its "
                    "positions; give fewer examples or shorter texts"
                )

    def _complete(self, questions: Sequence[str]) -> list[Answer | None]:
        prompts = [np.array(ids, np.int64) for ids in self._encode(questions)]
        out: list[Answer | None] = [None] * len(prompts)
        lengths = [len(prompt) + self.max_new_tokens for prompt in prompts]
        overhead = self.max_new_tokens * pass_tokens(self.model.device.type)  # each token written is a pass
        for rows in by_length(lengths, self.batch_size, overhead=overhead):
            tokens = generate(
                self.model,
                [prompts[i] for i in rows],
                max_new_tokens=self.max_new_tokens,
                eos_token_id=self.tokenizer.eos_token_id,
            )
            for i, ids in zip(rows, tokens, strict=True):
                ended = len(ids) < self.max_new_tokens or int(ids[-1]) == self.tokenizer.eos_token_id
                said = self.tokenizer.decode(ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
                out[i] = (str(said), ended)
        return out

    def _encode(self, questions: Sequence[str]) -> list[list[int]]:
        read = [encoded.ids for encoded in encode(self.tokenizer, questions)]
        if self.model.config.is_encoder_decoder:
            return read
        end = self.tokenizer.eos_token_id  # a question is to be continued; an encoder reads its end
        return [ids[:-1] if len(ids) > 1 and ids[-1] == end else ids for ids in read]
