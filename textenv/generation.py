"""Batched, KV-cached decoding: the one loop that a policy's rollout and a critic's answer both run.

How a model reads its prompts is its layout's (`textenv.layouts`): a decoder continues them, an encoder–decoder reads
them once and answers. What to say next is the caller's: `choose` gets the logits of the live rows and returns their tokens.

1. Equal prompts are read once, and what was made of them is repeated: groups of texts for one prompt cost one prefill.
2. Keys and values of long texts have room for tokens to come (`textenv.kv_cache`): they are not copied at every step.
3. Rows that have ended leave the batch when a quarter has, so that ragged ends cost little; where every shape has its price
   (`textenv.shapes`), a few stay.

Sampling inverts the cumulative distribution at a uniform number given per row and step. The numbers of an episode are
drawn before it begins, so that its text depends neither on its neighbours in the batch nor on how the batch is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.compiled import begin_compiled, rows_of_program
from textenv.kv_cache import BLOCK, make_room
from textenv.layouts import check_decodes, layout_of
from textenv.precision import without_gradients
from textenv.shapes import FINE, few, grain
from textenv.shared_prefix import begin_sharing

__all__ = ["ActionRule", "Choose", "Note", "Sampled", "check_sound", "generate", "greedy", "invert", "sample"]

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""(logits (b, V), rows (b,), step) → tokens (b,): `rows` are the indices of the live rows in the whole batch."""

Note = Callable[[Tensor, Tensor, int], None]
"""(last hidden states (b, H), rows (b,), step), before each choice."""


_BROKEN = "the logits are NaN or infinite, or allow no token: the weights are broken (a run that diverged?), or overflow"


class Sampled(NamedTuple):
    """Texts, and what was recorded while they were sampled.

    Attributes:
        tokens: B arrays (T_b,) int64, EOS included.
        log_probs: of each token, B arrays (T_b,) float32; None: not recorded.
        values: of the state before each token, B arrays (T_b,) float32; None: not recorded.
    """

    tokens: list[NDArray[np.int64]]
    log_probs: list[NDArray[np.float32]] | None = None
    values: list[NDArray[np.float32]] | None = None


@dataclass(frozen=True)
class ActionRule:
    """Which tokens a text may hold.

    Attributes:
        vocabulary: ids at or above it do not exist (a model may have more embedding rows than its tokenizer has ids).
        eos_token_id: the stop token: an action like any other.
        max_new_tokens: the budget.
        min_new_tokens: EOS is not sampled before.
        prompt_end: what the tokenizer puts behind every text, left off the prompts (`textenv.tokenization.prompt_end`).
    """

    vocabulary: int
    eos_token_id: int
    max_new_tokens: int
    min_new_tokens: int = 0
    prompt_end: tuple[int, ...] = ()

    def restrict(self, logits: Tensor, steps: Tensor | int, temperature: float = 1.0) -> Tensor:
        """Logits in float32 at a temperature, with -inf where the rule forbids.

        Args:
            logits: (N, V).
            steps: (N,), or one number for all: the index of the token within its text, from 0.
            temperature: the logits are divided by it.
        """
        if logits.shape[-1] > self.vocabulary:
            logits = logits[..., : self.vocabulary]
        logits = logits.float() if temperature == 1 else logits.float() / temperature
        if isinstance(steps, int):
            if steps < self.min_new_tokens:
                logits = logits.index_fill(-1, torch.tensor(self.eos_token_id, device=logits.device), float("-inf"))
        elif self.min_new_tokens:
            early = torch.as_tensor(steps, device=logits.device) < self.min_new_tokens
            column = torch.arange(logits.shape[-1], device=logits.device) == self.eos_token_id
            logits = logits.masked_fill(early.reshape(-1, 1) & column, float("-inf"))
        return logits


def check_sound(logits: Tensor) -> None:
    """Raise a FloatingPointError unless tokens can be chosen from (b, V) logits."""
    if _broken(logits):
        raise FloatingPointError(_BROKEN)


def _broken(logits: Tensor) -> Tensor:
    """Whether there is a NaN or a +inf (some models say -inf): a bool, left on its device."""
    return ~(logits.sum(-1, dtype=torch.float32) < torch.inf).all()


def greedy(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """The most likely token of each row: (b, V) → (b,)."""
    return logits.argmax(-1)


def sample(logits: Tensor, uniforms: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """One token a row by inverting the cumulative distribution.

    >>> sample(torch.tensor([[0.0, 0.0, float("-inf")]]).expand(2, 3), torch.tensor([0.2, 0.7])).tolist()
    [0, 1]

    Args:
        logits: (b, V); -inf is never sampled.
        uniforms: (b,) in [0, 1).
        top_k: only the k most likely (0: all).
        top_p: only the smallest set of tokens that holds this much probability (1: all).

    Returns:
        (b,) int64.

    Raises:
        FloatingPointError: a logit is NaN, or all are -inf. Told on a CPU alone: a device would have to be waited for.
    """
    return invert(logits.float().softmax(-1), uniforms, top_k=top_k, top_p=top_p)


def invert(probabilities: Tensor, uniforms: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """`sample` of probabilities (b, V), which need not sum to 1."""
    if top_k and top_k < probabilities.shape[-1]:
        best = probabilities.topk(top_k, -1)  # k tokens, also among equals
        probabilities = torch.zeros_like(probabilities).scatter(-1, best.indices, best.values)
    if top_p < 1.0:
        ordered, index = probabilities.sort(-1, descending=True)
        beyond = (ordered.cumsum(-1) - ordered) >= top_p * ordered.sum(-1, keepdim=True)
        probabilities = torch.zeros_like(probabilities).scatter(-1, index, ordered.masked_fill(beyond, 0.0))
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1:]
    # u·total may round up to total: stay below it, or a token of probability zero could be chosen.
    target = torch.minimum(uniforms[:, None].to(total) * total, torch.nextafter(total, torch.zeros_like(total)))
    if total.device.type == "cpu" and bool(total.isnan().any()):
        raise FloatingPointError(_BROKEN)
    chosen = torch.searchsorted(cumulative, target, right=True).clamp(max=cumulative.shape[-1] - 1)  # beyond the last: NaN
    # A parallel cumulative sum (CUDA) may rise by rounding where a probability is zero.
    impossible = probabilities.gather(-1, chosen) == 0
    if chosen.device.type == "cpu" and not bool(impossible.any()):
        return chosen.squeeze(-1)
    return torch.where(impossible, probabilities.argmax(-1, keepdim=True), chosen).squeeze(-1)


@without_gradients
def generate(
    model: Any,
    prompts: Sequence[NDArray[np.int64]],
    *,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int],
    choose: Choose = greedy,
    note: Note | None = None,
    compiled: bool = False,
) -> list[NDArray[np.int64]]:
    """Continue, or answer, every prompt until EOS or the budget, all of them in one batch.

    Args:
        model: a transformers language model, causal or encoder–decoder, in eval mode.
        prompts: B arrays of ids, (P_b,) each, at least one id each, as the model shall read them: those of an encoder
            end with EOS where the tokenizer puts one.
        max_new_tokens: the budget.
        eos_token_id: the id, or ids, that end a text.
        choose: logits → tokens (default: greedy).
        note: is given, before each choice, the last hidden states (b, H) that the logits are made of.
        compiled: after the prompts, by a compiled program where the model can be (`textenv.compiled`).

    Returns:
        B arrays of the ids generated, EOS included, (T_b,) int64 each.

    Raises:
        ValueError: the longest prompt and the budget do not fit into the model's positions; the model has recurrent layers.
        FloatingPointError: a logit is NaN, or infinite.
    """
    if not prompts:
        return []
    check_decodes(model, states=note is not None or compiled)
    layout = layout_of(model)
    layout.check(max(map(len, prompts)), max_new_tokens)
    device = model.device
    ends = torch.as_tensor(eos_token_id, device=device).reshape(-1)
    rows = torch.arange(len(prompts), device=device)  # row b of the live batch is text rows[b]
    live = torch.ones(len(prompts), dtype=torch.bool, device=device)
    tokens = torch.full((len(prompts), max_new_tokens), -1, dtype=torch.int64, device=device)
    size: Callable[[int], int] = (lambda n: n) if grain(model) == FINE else few
    distinct, home = _distinct(prompts)
    decoding = begin_sharing(layout, distinct)
    program = None
    for step in range(max_new_tokens):
        if program is not None:
            logits, *states = program.step()
        else:
            with _trunk_output(layout.trunk if note or compiled else None) as seen:
                output = model(**layout.inputs(decoding))
            logits, states = output.logits[:, -1], [state.last_hidden_state[:, -1] for state in seen]
            decoding.cache = output.past_key_values
        if step == 0:
            if len(distinct) < len(prompts):
                where = torch.tensor(home, device=device)
                logits, states = logits[where], [state[where] for state in states]
                decoding.keep(where)
            program = begin_compiled(layout, decoding, type(seen[0]), max_new_tokens) if compiled else None
            size = size if program is None else rows_of_program
            if program is None and max_new_tokens > 2 * BLOCK:
                make_room(model, decoding.cache)
        if note is not None:
            note(states[0], rows, step)
        broken = _broken(logits)
        chosen = choose(logits, rows, step)
        tokens[rows[live], step] = chosen[live]
        live &= ~torch.isin(chosen, ends)
        n_live, wrong = torch.stack([live.sum(), broken]).tolist()  # a device is waited for once a token
        if wrong:
            raise FloatingPointError(f"{type(model).__name__}, token {step}: {_BROKEN}")
        if n_live == 0:
            break
        decoding.advance(chosen, decoding.cache)
        if size(n_live) <= 0.75 * len(rows):  # dropping rows copies the cache: do it when it pays
            kept = torch.cat([live.nonzero(), (~live).nonzero()]).squeeze(1)[: size(n_live)]
            (decoding if program is None else program).keep(kept)
            rows, live = rows[kept], live[kept]
    return [row[row >= 0] for row in tokens.cpu().numpy()]


def _distinct(prompts: Sequence[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], list[int]]:
    """The prompts without repetitions, and for each prompt which of them it is."""
    index: dict[bytes, int] = {}
    home = [index.setdefault(np.asarray(prompt, np.int64).tobytes(), len(index)) for prompt in prompts]
    first = dict(zip(reversed(home), reversed(prompts), strict=True))
    return [first[i] for i in range(len(index))], home


@contextmanager
def _trunk_output(trunk: Any) -> Iterator[list[Any]]:
    """What a model's trunk puts out while the block runs; of None, nothing."""
    seen: list[Any] = []
    handle = None if trunk is None else trunk.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()
