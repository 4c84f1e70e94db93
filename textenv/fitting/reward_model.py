"""A reward model while it is being fitted: a trunk, a reward head, and, for the hybrid loss, the language-model head.

Bradley–Terry: −log σ(r(x, y_w) − r(x, y_l)). HaF-RM (Liu et al. 2024, *HAF-RM: A Hybrid Alignment Framework for Reward Model
Training*, arXiv 2407.04185) keeps the language-model head on the shared trunk and adds DPO's loss on it, so that the trunk is
supervised token by token; the head is dropped when the model is saved:

    L = −log σ(r_w − r_l) + α · −log σ(τ [(log π/π_ref)(y_w) − (log π/π_ref)(y_l)])        α = 0.2, τ = 0.1

Departures from the released code, or choices where the paper leaves one:

1. the reference is the base model itself, frozen; its log-probabilities do not change, so they are computed once, beforehand
   (the code runs it again at every step, with LoRA off);
2. the language-model head is a copy of its own: tied to the input embeddings, the second loss would change them as a head;
3. the reward head begins at zero, as theirs: the first step moves the head alone (d loss / d trunk is proportional to it), and
   rewards begin at 0 on every seed. The head of an encoder, which is more than a matrix, keeps its random numbers;
4. the reward is read at the last *real* token, found by length, never by comparing ids with a pad id; nothing is appended.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from textenv.batching import by_length, pass_tokens
from textenv.layouts import layout_of
from textenv.models import load_causal_lm, quiet_files, resolve
from textenv.padding import right_pad
from textenv.positions import Positions, rows_apart

__all__ = ["RewardModel", "bradley_terry_loss", "dpo_loss", "load_reward_model"]


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of −log σ(r_w − r_l), from rewards (B,) and (B,).

    >>> round(bradley_terry_loss(torch.tensor([2.0]), torch.tensor([0.0])).item(), 4)
    0.1269
    """
    return -nn.functional.logsigmoid(chosen - rejected).mean()


def dpo_loss(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, tau: float = 0.1) -> Tensor:
    """Mean of −log σ(τ [(log π − log π_ref)(y_w) − (log π − log π_ref)(y_l)]), from summed log-probabilities, (B,) each.

    >>> same = torch.tensor([-7.0])
    >>> round(dpo_loss(same, same, same, same).item(), 4)  # log 2 where the policy is the reference
    0.6931
    """
    return -nn.functional.logsigmoid(tau * ((chosen - reference_chosen) - (rejected - reference_rejected))).mean()


class RewardModel(nn.Module):
    """A sequence classifier, and a language model that shares its trunk, if there is one.

    Args:
        classifier: a transformers sequence classifier; what is saved.
        language_model: a causal LM of the same architecture: its trunk is replaced by the classifier's, its head by a copy.
        faster: a context (autocast) for forward passes.

    Raises:
        ValueError: a language model on a trunk of another kind, or a classifier whose head is no matrix on the last token.
    """

    def __init__(self, classifier: Any, language_model: Any = None, faster: Any = None) -> None:
        super().__init__()
        self.classifier, self.language_model = classifier, language_model
        self.faster = contextlib.nullcontext() if faster is None else faster
        if language_model is None:
            return
        prefix = language_model.base_model_prefix
        if not hasattr(classifier, "score") or type(getattr(language_model, prefix, None)) is not type(classifier.base_model):
            raise ValueError(
                f"{type(classifier).__name__} and {type(language_model).__name__} share no trunk; a policy loss needs a causal "
                "language model with a reward head of its family; leave the policy loss out"
            )
        head = copy.deepcopy(language_model.get_output_embeddings())
        language_model.config.tie_word_embeddings = False
        language_model.set_output_embeddings(head)
        setattr(language_model, prefix, classifier.base_model)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device(self.classifier.device)

    def rewards(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B, labels) float32: the head at the last token of each row."""
        ids, mask = right_pad([np.asarray(row, np.int64) for row in rows], self.device)
        with self.faster:
            if not hasattr(self.classifier, "score"):
                return self.classifier(input_ids=ids, attention_mask=mask).logits.float()  # type: ignore[no-any-return]
            hidden = self.classifier.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            return self.classifier.score(hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]).float()  # type: ignore[no-any-return]

    def rewards_and_log_probs(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One forward pass: (B, labels) rewards, and (B,) summed log-probabilities of the tokens from `starts` on, in nats.

        The language-model head is taken at these tokens alone. A token without one before it has no probability and is left out.
        """
        arrays = [np.asarray(row, np.int64) for row in rows]
        ids, mask = right_pad(arrays, self.device)
        firsts = [max(start, 1) for start in starts]
        counts = [len(row) - first for row, first in zip(arrays, firsts, strict=True)]
        # Where each token is predicted from, then the last token of each row.
        index = np.concatenate([np.repeat(np.arange(len(arrays)), counts), np.arange(len(arrays))])
        columns = [np.arange(first - 1, len(row) - 1) for row, first in zip(arrays, firsts, strict=True)]
        column = np.concatenate([*columns, [len(row) - 1 for row in arrays]]).astype(np.int64)
        action = np.concatenate([row[first:] for row, first in zip(arrays, firsts, strict=True)])
        at, to, tokens = (torch.from_numpy(array).to(self.device) for array in (index, column, action))
        with self.faster:
            places = Positions({"input_ids": ids, "attention_mask": mask}, at, to, to, tokens, rows_apart(len(arrays)))
            hidden, head = layout_of(self.language_model).read(places)
            rewards = self.classifier.score(hidden[len(tokens) :]).float()
            logits = head(hidden[: len(tokens)]).float()
        losses = nn.functional.cross_entropy(logits, tokens, reduction="none")  # (N,)
        sums = torch.zeros(len(arrays), device=self.device).index_add(0, at[: len(tokens)], -losses)
        return rewards, sums

    @torch.no_grad()
    def all_log_probs(self, rows: Sequence[Sequence[int]], starts: Sequence[int], batch_size: int = 16) -> Tensor:
        """(B,) float32 on the CPU: the second of `rewards_and_log_probs`, in evaluation mode, of any number of rows."""
        self.eval()
        out = torch.zeros(len(rows))
        for batch in by_length([len(row) for row in rows], batch_size, overhead=pass_tokens(self.device.type)):
            out[batch] = self.rewards_and_log_probs([rows[i] for i in batch], [starts[i] for i in batch])[1].cpu()
        return out

    @torch.no_grad()
    def all_rewards(self, rows: Sequence[Sequence[int]], batch_size: int = 64) -> Tensor:
        """(B, labels) float32 on the CPU, in evaluation mode; the mode is as before afterwards."""
        training, _ = self.training, self.eval()
        out = torch.zeros(len(rows), self.classifier.config.num_labels)
        for batch in by_length([len(row) for row in rows], batch_size, overhead=pass_tokens(self.device.type)):
            out[batch] = self.rewards([rows[i] for i in batch]).cpu()
        self.train(training)
        return out


def load_reward_model(
    base: str,
    tokenizer: Any,
    labels: Sequence[str] = ("good",),
    *,
    policy_head: bool = False,
    device: Any = "cpu",
    faster: Any = None,
) -> RewardModel:
    """A reward model on a pretrained base. New heads draw from torch's generator (or are zero); fork it to have a seed.

    Args:
        base: directory or name of a causal LM, an encoder, or a reward model that is to be trained on.
        tokenizer: its tokenizer, with a pad token.
        labels: names of the outputs; one: a reward.
        policy_head: keep the language-model head.
        device, faster: where and how it computes.
    """
    import transformers
    from transformers.utils import logging

    name = resolve(base)
    settings: dict[str, Any] = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "pad_token_id": tokenizer.pad_token_id,
        "problem_type": None,
    }
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that the head is new is why it is trained
    try:
        with quiet_files():
            classifier, loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
                name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **settings
            )
    finally:
        logging.set_verbosity(verbosity)
    new = {key if isinstance(key, str) else key[0] for part in ("missing_keys", "mismatched_keys") for key in loaded[part]}
    if isinstance(getattr(classifier, "score", None), nn.Linear) and "score.weight" in new:
        nn.init.zeros_(classifier.score.weight)
    language_model = load_causal_lm(name, device="cpu") if policy_head else None
    return RewardModel(classifier, language_model, faster).to(device)
