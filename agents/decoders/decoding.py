"""What decoders and policies from elsewhere share: prompts by their ids, a judge of texts, random numbers, tokens counted.

A `Policy` is asked in token ids. A judge wants more (references, documents), and so does a function from text to text: such a
policy has `reads_prompts = True`, and may be asked in `Prompt`s. `evaluate` does so. Where ids come (`rollout`), the prompt is
found among those of the environment by the ids that a policy sees of it.

Numbers: sampling is driven by the uniforms that came with a text, (T,) a row. A decoder that needs more draws them from a
generator that is seeded by that row, so that a text still depends neither on its neighbours nor on the order of the batch, and
what is drawn for a larger n begins with what is drawn for a smaller one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.alignment import TokenText
from textenv.episode import Episode, FinishReason, Prompt
from textenv.generation import ActionRule
from textenv.judges.prefixes import is_causal, prefix_scores
from textenv.task import Scorer, Task, check_scores

__all__ = ["Asked", "Draws", "Judge", "Modes", "PromptBook", "TokensUsed", "seed_of"]

Ids = NDArray[np.int64]


@dataclass
class TokensUsed:
    """What the texts of a decoder have cost since it was made, or since `reset`.

    Attributes:
        texts: texts that were asked for.
        sampled: tokens that the policy wrote, those that were thrown away too.
        judged: tokens of the texts that the judge read, each time it read them (their prompts not counted).
        judge_calls, judge_texts: how often the judge was called, and about how many texts in all.
    """

    texts: int = 0
    sampled: int = 0
    judged: int = 0
    judge_calls: int = 0
    judge_texts: int = 0

    def total(self, count: Literal["all", "sampled"] = "all") -> int:
        """Tokens in all, or those sampled alone (a judge that is a rule costs next to nothing)."""
        if count not in ("all", "sampled"):
            raise ValueError(f'count must be "all" or "sampled", got {count!r}')
        return self.sampled + (self.judged if count == "all" else 0)

    def per_text(self, count: Literal["all", "sampled"] = "all") -> float:
        """The same for one text; 0 before the first."""
        return self.total(count) / max(self.texts, 1)

    def reset(self) -> None:
        """Begin to count again."""
        self.__init__()  # type: ignore[misc]


class Asked(NamedTuple):
    """A prompt, and the ids (P,) that a policy sees of it."""

    prompt: Prompt
    ids: Ids


class PromptBook:
    """Prompts by the ids that a policy sees of them.

    Args:
        env: the text environment whose prompts they are; None: ids are decoded, and the prompt has no references.
        tokenizer: that of the ids; default: the environment's.

    Raises:
        ValueError: neither.
    """

    def __init__(self, env: gym.Env[Any, Any] | None, tokenizer: Any = None) -> None:
        self.env = env
        self.tokenizer = env.get_wrapper_attr("tokenizer") if env is not None else tokenizer
        if self.tokenizer is None:
            raise ValueError("texts cannot be decoded without a tokenizer: pass env=, or a policy that has one")
        self._known: dict[bytes, Prompt | None] | None = None

    def read(self, prompts: Sequence[Prompt | Ids]) -> list[Asked]:
        """Each prompt with its ids, given either.

        Raises:
            ValueError: ids of none of the environment's prompts, or of two that differ elsewhere; a `Prompt` without an
                environment to say what a policy sees of it.
        """
        return [Asked(p, self._ids(p)) if isinstance(p, Prompt) else Asked(self._prompt(np.asarray(p)), p) for p in prompts]

    def _ids(self, prompt: Prompt) -> Ids:
        if self.env is None:
            raise ValueError(f"which ids a policy sees of {prompt.text[:60]!r} is the environment's to say: pass env=")
        ids: Ids = self.env.get_wrapper_attr("prompt_tokens")(prompt)
        return ids

    def _prompt(self, ids: Ids) -> Prompt:
        if self.env is None:
            return Prompt(str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)))
        if self._known is None:
            self._known = {}
            for prompt in self.env.get_wrapper_attr("task").prompts:
                key = self._ids(prompt).tobytes()
                self._known[key] = prompt if self._known.get(key, prompt) == prompt else None
        key = ids.astype(np.int64).tobytes()
        found = self._known.get(key)
        if found is None:
            which = "several of the environment's prompts, which differ elsewhere" if key in self._known else "none of them"
            text = self.tokenizer.decode(ids.tolist())
            raise ValueError(f"the ids of {text[:80]!r} are those of {which}; ask with Prompts (`evaluate` does)")
        return found


class Judge:
    """What a text is worth, finished or not, in the eyes of a scorer.

    An unfinished text is judged as `textenv.judges.prefixes` judges one: a causal reward model reads the sampled tokens where it
    has the policy's tokenizer, and by characters where it has another; any other scorer is shown the text so far.

    Args:
        source: a text environment (its task's scorer); a scorer, episodes → floats; a name that the environment's task can
            load as one.
        env: where the prompts come from, if `source` is a scorer or a name.
        tokenizer: the policy's; needed without an environment.

    Raises:
        TypeError: nothing that scores.
        ValueError: a name without an environment; no tokenizer.
    """

    def __init__(self, source: Any, env: gym.Env[Any, Any] | None = None, tokenizer: Any = None) -> None:
        env = source if env is None and isinstance(source, gym.Env) else env
        self.env, self.used = env, TokensUsed()
        self.book = PromptBook(env, tokenizer)
        self._text = TokenText(self.book.tokenizer)
        self.scorer = _scorer(source, env)

    def episode(self, asked: Asked, tokens: Sequence[int] | Ids, rule: ActionRule) -> Episode:
        """The text of these tokens, not yet judged."""
        ids = np.asarray(tokens, np.int64).reshape(-1)
        reason: FinishReason | None = "length" if len(ids) == rule.max_new_tokens else None
        if len(ids) and ids[-1] == rule.eos_token_id:
            reason = "stop"
        text = self.text(asked, ids)
        offsets = self._text.offsets(asked.ids, ids, text)
        return Episode(asked.prompt, asked.ids, ids, text, offsets, reason, float("nan"), np.zeros(len(ids), np.float64))

    def text(self, asked: Asked, tokens: Sequence[int] | Ids) -> str:
        """The characters of these tokens, as they continue the prompt."""
        return self._text.decode(asked.ids, tokens)

    def scores(self, episodes: Sequence[Episode]) -> list[float]:
        """(B,) scores; one call for the finished texts, one for the others.

        Raises:
            ValueError: a score that is not finite, or another number of them.
        """
        out = np.zeros(len(episodes), np.float64)
        done = [i for i, e in enumerate(episodes) if e.finished]
        going = [i for i, e in enumerate(episodes) if not e.finished]
        if done:
            finished = [episodes[i] for i in done]
            out[done] = check_scores(self.scorer(finished), finished, self.scorer)
        if going:
            # A scorer that reads all prefixes in one pass may as well read the last one there; others are asked for it alone.
            scorer = self.scorer if not is_causal(self.scorer, None) else self._whole
            ends = [[len(episodes[i])] for i in going]
            read = prefix_scores(scorer, [episodes[i] for i in going], ends, tokenizer=self.book.tokenizer)
            out[going] = np.concatenate(read)
        self.count(episodes, calls=bool(done) + bool(going))
        return [float(value) for value in out]

    def count(self, episodes: Sequence[Episode], calls: int = 1) -> None:
        """Put a reading of these texts on the bill."""
        self.used.judge_calls += calls
        self.used.judge_texts += len(episodes)
        self.used.judged += sum(map(len, episodes))

    def _whole(self, episodes: Sequence[Episode]) -> Sequence[float]:
        return self.scorer(episodes)


class Modes:
    """PyTorch's modes as they are now (gradients, inference, autocast), to be had again where a model's forward pass has changed
    them: a judge's numbers do not depend on who calls it.

    >>> outside = Modes("cpu")
    >>> with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), outside.again():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype, torch.is_grad_enabled()
    (torch.float32, True)
    """

    def __init__(self, device: str) -> None:
        self._device, self._autocast = device, (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        self._inference, self._gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """The modes of then."""
        enabled, dtype = self._autocast
        precision = torch.autocast(self._device, dtype, enabled=enabled)
        with torch.inference_mode(self._inference), torch.set_grad_enabled(self._gradients), precision:
            yield


class Draws:
    """Uniform numbers for one text: those that came with it, and as many more as are needed.

    Args:
        row: (T,) in [0, 1).
    """

    def __init__(self, row: Tensor) -> None:
        self.row = row.cpu()
        self._generator = torch.Generator().manual_seed(seed_of(self.row))

    def more(self, n: int) -> Tensor:
        """(n,) numbers that were not drawn before."""
        return torch.rand(n, generator=self._generator)


def seed_of(uniforms: Tensor) -> int:
    """A seed that tells numbers from others."""
    digest = hashlib.blake2b(uniforms.cpu().contiguous().numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _scorer(source: Any, env: gym.Env[Any, Any] | None) -> Scorer:
    if isinstance(source, gym.Env):
        task: Task = source.get_wrapper_attr("task")
        return task.scorer
    if isinstance(source, str):
        if env is None:
            raise ValueError(f"judge={source!r} is loaded by an environment's task: pass env=")
        named: Scorer = env.get_wrapper_attr("task").load_scorer(source)
        return named
    if not callable(source) or isinstance(source, torch.nn.Module):
        raise TypeError(
            f"a judge is a text environment, or a scorer: episodes -> floats; got {type(source).__name__} "
            "(a model: SequenceClassifierScorer(model, tokenizer=..., label=...))"
        )
    scorer: Scorer = source
    return scorer
