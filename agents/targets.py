"""The ids of a text that was written elsewhere, as a policy would have written it: what learners of data learn from.

A decoder's text is tokenized without special tokens, and EOS is put behind it. An encoder–decoder's is what the tokenizer makes
of a target (BART's begins with "<s>"), if the tokenizer closes its texts with EOS: one that does not was made for a decoder, and
what it puts before a text begins a prompt, not an answer (`textenv/tiny-translation`).
"""

from __future__ import annotations

from typing import Any

from textenv.tokenization import prompt_end

__all__ = ["target_ids"]


def target_ids(tokenizer: Any, model: Any, text: str) -> list[int]:
    """The ids of a text, EOS behind it.

    >>> from textenv.models import load_causal_lm
    >>> from textenv.tokenization import load_tokenizer
    >>> tokenizer = load_tokenizer("textenv/tiny")
    >>> tokenizer.convert_ids_to_tokens(target_ids(tokenizer, load_causal_lm("textenv/tiny"), "You are right."))
    ['▁You', '▁are', '▁right', '.', '</s>']
    """
    special = bool(getattr(model.config, "is_encoder_decoder", False) and prompt_end(tokenizer))
    ids = list(tokenizer(text_target=text, add_special_tokens=special)["input_ids"])
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, int(tokenizer.eos_token_id)]
