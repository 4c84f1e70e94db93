"""Where a prompt and a text stand in a language model: all that tells a decoder from an encoder–decoder.

    decoder alone (GPT-2, Llama, ...)       one row: the prompt, and the text behind it
    encoder–decoder (T5, BART, mT5, ...)    the encoder reads the prompt, once; the decoder begins with its start token

1. Prompts come without the EOS that some tokenizers put behind every text, because a text continues them. An encoder
   was trained with it: `prompts` gives it back, so that the encoder reads exactly `tokenizer(prompt)`.
2. Nothing is inferred from a pad id: padding is id 0 under mask 0, on the left of a prompt that a decoder is to go on with
   (positions are counted from the first real token), on the right of whatever is finished, and of an encoder's prompt. Finished
   texts of a decoder may share rows (`textenv.packing`), and be given a few columns more (`textenv.shapes`).
3. `read` gives hidden states at the wanted positions and what makes logits of them (`textenv.hidden_states`): no (B, L, V)
   logits exist.
4. What a decoder is made to say first or last (`forced_bos_token_id`, ...) is not forced here: BART's own "<s>" is a
   token like any other, sampled and paid.

An answer of an encoder–decoder is decoded in the context of its prompt like any other text: a first word begins with
a space where its piece says so ("▁Die" is " Die").
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from textenv.batching import by_length, pass_tokens
from textenv.hidden_states import Head, check_head, hidden_states
from textenv.packing import pack, packs, passes, unwarned
from textenv.padding import left_pad, right_pad
from textenv.positions import Positions, positions_of
from textenv.shapes import grain, rounded
from textenv.too_long import TextTooLong

__all__ = ["Decoding", "Layout", "check_decodes", "layout_of"]

Ids = NDArray[np.int64]
RECURRENT = {"conv", "hybrid", "hybrid_sliding", "linear_attention", "mamba"}
"""What transformers' `config.layer_types` calls layers that keep a state in the place of keys and values."""


@dataclass
class Decoding:
    """Texts being decoded: what the model reads next, and what it keeps of what it has read."""

    ids: Tensor  # (b, ·) what comes next: prompts at first, then one token a row
    mask: Tensor  # (b, P) of the prompts
    encoded: Tensor | None = None  # (b, P, H) what the encoder made of them
    cache: Any = None
    written: int = 0  # tokens of each text so far

    def advance(self, tokens: Tensor, cache: Any) -> None:
        """One more token in each row: tokens (b,), and what the model keeps for the next one."""
        self.ids, self.cache, self.written = tokens[:, None], cache, self.written + 1

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self.cache.batch_select_indices(rows)
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        self.encoded = None if self.encoded is None else self.encoded[rows]


class Layout(ABC):
    """How one model reads prompts and texts. `layout_of(model)` gives it.

    >>> import numpy as np
    >>> from textenv.layouts import layout_of
    >>> from textenv.models import load_language_model
    >>> layout = layout_of(load_language_model("textenv/tiny"))
    >>> positions = layout.positions([np.array([5, 6, 7]), np.array([8])], [np.array([9, 2]), np.array([10])])
    >>> positions.inputs["input_ids"].tolist(), positions.columns.tolist()
    ([[5, 6, 7, 9, 2], [8, 10, 0, 0, 0]], [2, 3, 0])
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._takes = set(inspect.signature(model.forward).parameters)

    @abstractmethod
    def prompts(self, prompts: Sequence[Ids], end: Sequence[int]) -> list[Ids]:
        """Prompts as the model reads them; `end` is what the tokenizer puts behind a text (`prompt_end`).

        Raises:
            ValueError: there is nothing of one to read.
        """

    @abstractmethod
    def room(self, prompt: int) -> int | None:
        """How many tokens a text may have behind a prompt of so many (0 or less: none); None: any number."""

    @abstractmethod
    def positions(self, prompts: Sequence[Ids], texts: Sequence[Ids], *, apart: bool = False) -> Positions:
        """Inputs for one forward pass over finished texts, several of them in a row where that pays.

        Args:
            prompts: B arrays (P_b,), as `prompts` gave them, at least one id each.
            texts: B arrays (T_b,).
            apart: text b alone in row b.
        """

    def passes(self, lengths: Sequence[int], batch_size: int, tokens: int | None = None) -> list[list[int]]:
        """Indices of the texts that `positions` is best given at a time.

        Args:
            lengths: of each text, with its prompt, in tokens.
            batch_size: texts a pass at most.
            tokens: padded tokens a pass at most, but for a longer text alone; None: `textenv.batching.TOKENS`.
        """
        plan = passes if self.packs() else by_length
        return plan(lengths, batch_size, tokens, overhead=pass_tokens(self.model.device.type), grain=grain(self.model))

    def packs(self) -> bool:
        """Whether `positions` may put several texts into a row (`textenv.packing`); the first answer takes two small passes."""
        return False

    @abstractmethod
    def begin(self, prompts: Sequence[Ids]) -> Decoding:
        """Texts of no tokens yet, behind prompts as `prompts` gave them."""

    @abstractmethod
    def inputs(self, decoding: Decoding) -> dict[str, Any]:
        """What the model is called with, for the logits of the next token."""

    @property
    def head(self) -> Any:
        """The linear layer that makes logits of hidden states, (V, H).

        Raises:
            ValueError: the model has none.
        """
        head = self.model.get_output_embeddings()
        if head is None:
            raise ValueError(f"{type(self.model).__name__} has no output embedding, so it writes no text; give a language model")
        return head

    def check(self, prompt: int, new: int) -> None:
        """Nothing, where a prompt and a text of so many tokens fit into the model's positions.

        Raises:
            TextTooLong: they do not, with all the numbers.
        """
        room = self.room(prompt)
        if room is not None and new > room:
            raise TextTooLong(f"{self._needs(prompt, new)}: lower max_prompt_tokens or max_new_tokens")

    @abstractmethod
    def _needs(self, prompt: int, new: int) -> str: ...

    def read(self, at: Positions) -> tuple[Tensor, Head]:
        """Last hidden states (N, H) at the positions that predict the tokens, and the model's own way from there to logits.

        Raises:
            ValueError: the model's logits depend on something else, too.
        """
        with unwarned(self.trunk):
            return hidden_states(self.model, at.inputs, at.rows, at.columns, self.blank)

    def check_head(self, at: Positions) -> None:
        """What `read` checks before the first pass over a model."""
        check_head(self.model, at.inputs, self.blank)

    @property
    def trunk(self) -> Any:
        """The module whose output is the last hidden state: the model without its head (and without its encoder)."""
        return self.model.get_decoder()

    @abstractmethod
    def blank(self, hidden: Tensor) -> dict[str, Any]:
        """Inputs that ask for one token, for a pass in which they are not read."""


class _Decoder(Layout):
    """One row: the prompt and the text behind it; finished ones are flush left, so that no gap between them is computed."""

    def prompts(self, prompts: Sequence[Ids], end: Sequence[int]) -> list[Ids]:
        return _filled(list(prompts))

    def room(self, prompt: int) -> int | None:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return None if limit is None else limit - prompt

    def _needs(self, prompt: int, new: int) -> str:
        return (
            f"a prompt of {prompt} tokens and {new} new ones need {prompt + new} positions; "
            f"the model has {self.model.config.max_position_embeddings}"
        )

    def positions(self, prompts: Sequence[Ids], texts: Sequence[Ids], *, apart: bool = False) -> Positions:
        whole = [np.concatenate([prompt, text]) for prompt, text in zip(prompts, texts, strict=True)]
        shapes, device = grain(self.model), self.model.device
        firsts = [len(prompt) - 1 for prompt in prompts]
        packed = pack(whole, device, shapes) if not apart and len(whole) > 1 and self.packs() else None
        if packed is not None:
            return positions_of(packed.inputs, texts, firsts, packed.begins)
        width, limit = rounded(max(map(len, whole)), shapes.columns), self.room(0)
        inputs = self._inputs(*right_pad(whole, device, width if limit is None else min(width, limit)))
        return positions_of(inputs, texts, firsts)

    def packs(self) -> bool:
        def read(inputs: dict[str, Tensor]) -> Tensor:
            rows, columns = (torch.arange(n, device=self.model.device) for n in inputs["input_ids"].shape)
            with unwarned(self.trunk):
                return hidden_states(self.model, inputs, rows[:, None], columns, self.blank)[0]

        return packs(self.model, self.model.forward, read)

    def blank(self, hidden: Tensor) -> dict[str, Any]:
        return {"input_ids": torch.zeros(1, 1, dtype=torch.int64, device=hidden.device)}

    def begin(self, prompts: Sequence[Ids]) -> Decoding:
        return Decoding(*left_pad(prompts, self.model.device))

    def inputs(self, decoding: Decoding) -> dict[str, Any]:
        mask = torch.cat([decoding.mask, decoding.mask.new_ones(len(decoding.mask), decoding.written)], 1)  # (b, P + t)
        last = {"logits_to_keep": 1} if "logits_to_keep" in self._takes else {}
        return {**self._inputs(decoding.ids, mask), "past_key_values": decoding.cache, "use_cache": True, **last}

    def _inputs(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "position_ids" in self._takes:  # learned positions are wrong under padding without it
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return inputs


class _EncoderDecoder(Layout):
    """The encoder reads the prompt; the decoder's row is the start token and the text.

    Raises:
        ValueError: the model does not say with which token its decoder begins.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        found = (getattr(c, "decoder_start_token_id", None) for c in (getattr(model, "generation_config", None), model.config))
        start = next((i for i in found if i is not None), None)
        if start is None:
            raise ValueError(
                f"{type(model).__name__} has no decoder_start_token_id, so its decoder cannot begin; "
                "set model.config.decoder_start_token_id (T5: the pad token, BART: EOS)"
            )
        self.start = int(start)

    def prompts(self, prompts: Sequence[Ids], end: Sequence[int]) -> list[Ids]:
        # `prompt_ids` leaves a lone EOS as it is: the empty text of such a tokenizer
        ended = [p if len(p) == 1 and tuple(p) == tuple(end) else np.concatenate([p, np.array(end, np.int64)]) for p in prompts]
        return _filled(ended)

    def room(self, prompt: int) -> int | None:
        reads, writes = self._limits()
        return 0 if reads is not None and prompt > reads else writes

    def _limits(self) -> tuple[int | None, int | None]:
        """Positions of the encoder and of the decoder; None where they are relative (T5)."""
        out = []
        for side, part in (("encoder", self.model.get_encoder()), ("decoder", self.trunk)):
            names = (f"max_{side}_position_embeddings", "max_position_embeddings")
            limits = [getattr(config, name, None) for name in names for config in (part.config, self.model.config)]
            out.append(next((int(limit) for limit in limits if limit is not None), None))
        return out[0], out[1]

    def _needs(self, prompt: int, new: int) -> str:
        reads, writes = self._limits()
        return f"the encoder reads a prompt of {prompt} tokens in {reads} positions, the decoder writes {new} in {writes}"

    def positions(self, prompts: Sequence[Ids], texts: Sequence[Ids], *, apart: bool = False) -> Positions:
        ids, mask = right_pad(prompts, self.model.device)
        written, written_mask = right_pad([np.array([self.start, *text[:-1]]) for text in texts], self.model.device)  # (B, T)
        inputs = {
            "input_ids": ids, "attention_mask": mask, "decoder_input_ids": written, "decoder_attention_mask": written_mask,
        }  # fmt: skip
        return positions_of(inputs, texts, [0] * len(texts))

    def blank(self, hidden: Tensor) -> dict[str, Any]:
        nothing = torch.zeros(1, 1, dtype=torch.int64, device=hidden.device)
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=hidden[None]), "decoder_input_ids": nothing}

    def begin(self, prompts: Sequence[Ids]) -> Decoding:
        ids, mask = right_pad(prompts, self.model.device)
        encoded = self.model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
        return Decoding(ids.new_full((len(ids), 1), self.start), mask, encoded)

    def inputs(self, decoding: Decoding) -> dict[str, Any]:
        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=decoding.encoded), "attention_mask": decoding.mask,
            "decoder_input_ids": decoding.ids, "past_key_values": decoding.cache, "use_cache": True,
        }  # fmt: skip


def _filled(prompts: list[Ids]) -> list[Ids]:
    for i, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {i} of {len(prompts)} has no ids, and a model reads one at least: begin it with BOS or EOS")
    return prompts


def check_decodes(model: Any, *, states: bool = False) -> None:
    """Nothing, where texts of a model can be decoded side by side: what it keeps of each is keys and values, a row of them.

    Args:
        states: the last hidden states that the logits are made of are wanted, too.

    Raises:
        ValueError: it has recurrent layers; or it does not tell its body from its head.
    """
    name = type(model).__name__
    recurrent = sorted(RECURRENT.intersection(getattr(model.config.get_text_config(), "layer_types", None) or ()))
    if recurrent or getattr(model, "_is_stateful", False):
        raise ValueError(
            f"{name} has recurrent layers ({', '.join(recurrent) or 'a state'}), whose states cannot leave a batch or be repeated "
            "with their texts: give a model of attention alone (GPT-2, Llama, Qwen3, T5, ...)"
        )
    if states and model.get_decoder() is model:
        raise ValueError(f"{name}.get_decoder() is the whole model, so its last hidden states cannot be read; give another model")


def layout_of(model: Any) -> Layout:
    """The layout of a transformers language model, by its `config.is_encoder_decoder`."""
    return _EncoderDecoder(model) if getattr(model.config, "is_encoder_decoder", False) else _Decoder(model)
