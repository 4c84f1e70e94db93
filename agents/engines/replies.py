"""What a completion server answered, checked against what was asked: servers leave out silently what they do not know.

An answer that fails a check is no text of the policy, and learning from it would be learning from an accident: each is a
`ServerError` that says what came back, and what to start the server with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textenv.critics.openai_client import ServerError
from textenv.generation import ActionRule

__all__ = ["read_completion"]

_ROUNDING = 1e-3  # nats: a log-probability computed in low precision may come out above 0


def read_completion(
    answer: Any, prompt: Sequence[int], rule: ActionRule, *, log_probs: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Tokens and log-probabilities of one completion.

    >>> rule = ActionRule(vocabulary=10, eos_token_id=2, max_new_tokens=3)
    >>> choice = {"token_ids": [7, 2], "logprobs": {"token_logprobs": [-0.5, -1.0]}}
    >>> read_completion({"choices": [choice]}, [4], rule, log_probs=True)
    (array([7, 2]), array([-0.5, -1. ], dtype=float32))

    Args:
        answer: of `/v1/completions` to one prompt, with `return_token_ids` and, where they are wanted, `logprobs`.
        prompt: ids that were sent.
        rule: what the text may hold.
        log_probs: they were asked for.

    Returns:
        (T,) and (T,), or (0,) where no log-probabilities were asked for.

    Raises:
        ServerError: not what was asked for.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise ServerError(f"no completion of one prompt: {str(answer)[:200]}")
    choice = choices[0]
    tokens = _tokens(choice, prompt, rule)
    _check_end(tokens, rule, choice.get("finish_reason"))
    return tokens, _log_probs(choice, len(tokens)) if log_probs else np.zeros(0, np.float32)


def _tokens(choice: dict[str, Any], prompt: Sequence[int], rule: ActionRule) -> NDArray[np.int64]:
    read, given = choice.get("prompt_token_ids"), choice.get("token_ids")
    if read is not None and read != list(prompt):
        raise ServerError(f"the server read another prompt, {str(read)[:120]} in place of {str(list(prompt))[:120]}")
    if not isinstance(given, list) or not given:
        raise ServerError(f"the server gives no token ids ({given!r}); vLLM does from 0.10.2 on, where `return_token_ids` is known")
    wrong = [i for i in given if not isinstance(i, int) or isinstance(i, bool) or not 0 <= i < rule.vocabulary]
    if wrong:
        raise ServerError(
            f"the server sampled the id {wrong[0]!r}, outside the {rule.vocabulary} of the environment's tokenizer; "
            "serve the policy's own model (save_pretrained), with its own tokenizer"
        )
    if len(given) > rule.max_new_tokens:
        raise ServerError(f"the server wrote {len(given)} tokens where max_tokens={rule.max_new_tokens} was asked for")
    return np.array(given, np.int64)


def _check_end(tokens: NDArray[np.int64], rule: ActionRule, reason: Any) -> None:
    (ends,) = (tokens == rule.eos_token_id).nonzero()
    if len(ends) and ends[0] < len(tokens) - 1:
        raise ServerError(f"the server went on after EOS (token {ends[0]} of {len(tokens)}): it knows no `stop_token_ids`")
    if len(ends) and ends[0] < rule.min_new_tokens:
        raise ServerError(f"the server sampled EOS after {ends[0]} tokens: it knows no `min_tokens`={rule.min_new_tokens}")
    if not len(ends) and len(tokens) < rule.max_new_tokens:
        raise ServerError(
            f"the server ended a text after {len(tokens)} of {rule.max_new_tokens} tokens without EOS (finish_reason {reason!r}): "
            "aborted, or stopped by a token of the model's generation config; vllm serve … --generation-config vllm leaves it out"
        )


def _log_probs(choice: dict[str, Any], n: int) -> NDArray[np.float32]:
    logprobs = choice.get("logprobs")
    given = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(given, list) or len(given) != n:
        count = len(given) if isinstance(given, list) else "no"
        raise ServerError(f"the server gives {count} log-probabilities of {n} tokens; vLLM does so from 0.10.2 on")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value > _ROUNDING:
            raise ServerError(
                f"the server gives the log-probability {value!r}; start it with --logprobs-mode processed_logprobs (of logits, "
                "and of broken weights, no log-probabilities come)"
            )
    return np.array(given, np.float32)
