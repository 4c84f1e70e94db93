"""How likely a frozen language model finds each token of given texts.

One forward pass per batch, the head at generated positions alone (`textenv.layouts`), in parts of at most `MAX_LOGITS` logits.
Temperature 1; ids that the policy's tokenizer does not have are left out of the distribution, as they are where a policy samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.generation import ActionRule
from textenv.layouts import layout_of
from textenv.models import load_language_model
from textenv.reward import NotApplicable
from textenv.tokenization import load_tokenizer

__all__ = ["load_frozen", "token_log_probs"]

Ids = NDArray[np.int64]
MAX_LOGITS = 1 << 25  # 128 MiB in float32


@torch.inference_mode()
def token_log_probs(
    model: Any, prompts: Sequence[Ids], texts: Sequence[Ids], rule: ActionRule, *, batch_size: int = 64
) -> list[NDArray[np.float64]]:
    """log π(y_t | prompt, y_<t) of every token.

    Args:
        model: a transformers language model, causal or encoder–decoder.
        prompts: B arrays (P_b,) as the environment has them, at least one id each.
        texts: B arrays (T_b,).
        rule: the environment's; of it the vocabulary and what ends a prompt are read. EOS is as likely as the model says,
            also before `min_new_tokens`: a text that was stepped through may end there.
        batch_size: texts a forward pass, at most.

    Returns:
        B arrays (T_b,) float64.

    Raises:
        ValueError: prompt and text exceed the model's positions.
    """
    layout = layout_of(model)
    read = layout.prompts(prompts, rule.prompt_end)
    out: list[NDArray[np.float64]] = [np.zeros(len(text)) for text in texts]
    written = [i for i, text in enumerate(texts) if len(text)]
    for i in written:
        layout.check(len(read[i]), len(texts[i]))
    lengths = [len(read[i]) + len(texts[i]) for i in written]
    for rows in layout.passes(lengths, batch_size):
        batch = [written[row] for row in rows]
        at = layout.positions([read[i] for i in batch], [texts[i] for i in batch])
        hidden, head = layout.read(at)
        size = max(1, MAX_LOGITS // rule.vocabulary)
        parts = zip(hidden.split(size), at.actions.split(size), strict=True)
        log_probs = torch.cat([_of_actions(head(states)[:, : rule.vocabulary].float(), taken) for states, taken in parts])  # (N,)
        ends = np.cumsum([len(texts[i]) for i in batch])
        for i, values in zip(batch, np.split(log_probs.double().cpu().numpy(), ends[:-1]), strict=True):
            out[i] = values
    return out


def _of_actions(logits: Tensor, actions: Tensor) -> Tensor:
    """(n, V), (n,) → (n,)."""
    return logits.gather(1, actions[:, None]).squeeze(1) - logits.logsumexp(-1)


def load_frozen(env: gym.Env[Any, Any], source: Any, argument: str, *, tokenizer: Any = None) -> Any:
    """A language model that reads the ids of an environment's texts; nobody trains it, so those who name it share it.

    Args:
        env: a text environment.
        source: a name, a directory, or a transformers model (its ids are taken on trust).
        argument: the argument's name, for messages.
        tokenizer: the model's; default: the one saved with it.

    Raises:
        NotApplicable: another tokenizer than the environment's, or too few ids.
        TypeError: no model.
    """
    theirs = env.get_wrapper_attr("tokenizer")
    named = isinstance(source, (str, bytes)) or hasattr(source, "__fspath__")
    way_out = f"pass {argument}= a model that shares the policy's tokenizer"
    if not (named or hasattr(source, "get_input_embeddings")):
        raise TypeError(f"{argument}= must be a name, a directory or a transformers model, got {source!r}")
    if named or tokenizer is not None:
        own = load_tokenizer(source if tokenizer is None else tokenizer, need_eos=False)
        if own is not theirs and own.get_vocab() != theirs.get_vocab():
            raise NotApplicable(
                f"{source if named else type(source).__name__} has another tokenizer ({len(own)} ids) than the environment "
                f"({len(theirs)} ids), so it cannot read the policy's tokens; {way_out}"
            )
    model = load_language_model(source, shared=named).requires_grad_(False)
    known = int(model.get_input_embeddings().num_embeddings)
    if known < len(theirs):
        raise NotApplicable(f"{argument}= knows {known} ids, the environment's tokenizer {len(theirs)}; {way_out}")
    return model
