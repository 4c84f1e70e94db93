"""A text as a Gymnasium episode: an action is a token, an episode is one text.

The environment itself is sparse: the task's score sits, and is paid, on the last token. Wrappers decide who else
deserves a reward (`textenv.reward`). EOS and the token budget both end with `terminated=True`; `finish_reason` tells
them apart (`truncated=True` would make learners add a bootstrapped value to a score that is final).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from textenv.alignment import TokenText
from textenv.chat import ChatTemplate
from textenv.episode import Episode, FinishReason, Prompt
from textenv.generation import ActionRule
from textenv.render import render_episode
from textenv.shared import share_arguments
from textenv.task import Task
from textenv.tokenization import prompt_end, prompt_ids
from textenv.waits import waits

__all__ = ["TextEnv"]

Observation = NDArray[np.int64]


class TextEnv(gym.Env[Observation, np.int64]):
    """One text, token by token.

    Observation: (P_max + T_max,) int64: the prompt's ids, flush right in the first P_max columns, then the ids chosen so
        far; -1 where there is no token.
    Action: an id below V = len(tokenizer).
    Reward: 0 until the last step, which pays the task's score.
    Info: empty, but for `info["text_episode"]` (the credited `Episode`) on the terminating step.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/CountLetter-v0", max_new_tokens=4)
    >>> observation, info = env.reset(seed=0)
    >>> rewards = [env.step(ord(c))[1] for c in "aaba"]
    >>> rewards
    [0.0, 0.0, 0.0, 0.75]

    Args:
        task: prompts, score, metrics.
        tokenizer: a transformers tokenizer with an EOS token.
        max_prompt_tokens: longer prompts lose their left end (`on_long_prompt="truncate"`, with one warning) or raise.
        max_new_tokens: the budget T_max; the text ends there with finish_reason "length".
        min_new_tokens: policies of this library do not sample EOS before (an agent that steps may; the text just ends).
        on_long_prompt: "truncate" or "error".
        chat: render prompts with the tokenizer's chat template; a long one then loses the left end of the user's text.
        system: the system message of the template.
        render_mode: None or "ansi".

    Raises:
        ValueError: on bad arguments, with the value and the way out.
        TypeError: another render_mode: Stable-Baselines3 asks for "rgb_array" first, and goes on without one after this alone.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 - Gymnasium's own type

    def __init__(
        self,
        task: Task,
        tokenizer: Any,
        *,
        max_prompt_tokens: int,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        on_long_prompt: Literal["truncate", "error"] = "truncate",
        chat: bool = False,
        system: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        if max_prompt_tokens < 1 or max_new_tokens < 1:
            raise ValueError(
                f"max_prompt_tokens and max_new_tokens must be at least 1, got {max_prompt_tokens} and {max_new_tokens}"
            )
        if not 0 <= min_new_tokens <= max_new_tokens:
            raise ValueError(f"min_new_tokens must lie in 0..max_new_tokens={max_new_tokens}, got {min_new_tokens}")
        if on_long_prompt not in ("truncate", "error"):
            raise ValueError(f'on_long_prompt must be "truncate" or "error", got {on_long_prompt!r}')
        if render_mode not in (None, "ansi"):
            raise TypeError(f'render_mode must be None or "ansi", got {render_mode!r}')
        if system is not None and not chat:
            raise ValueError(f"system={system!r} is a message of a chat template; pass chat=True with it")
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token, so no text could end; set tokenizer.eos_token")
        self.task, self.tokenizer, self.render_mode = task, tokenizer, render_mode
        self.max_prompt_tokens, self.on_long_prompt = max_prompt_tokens, on_long_prompt
        self._chat = ChatTemplate(tokenizer, system) if chat else None
        if self._chat is not None:
            self._chat.shortened("", max_prompt_tokens)  # there is room for a prompt
        end = () if chat else prompt_end(tokenizer)
        self.action_rule = ActionRule(len(tokenizer), int(tokenizer.eos_token_id), max_new_tokens, min_new_tokens, end)
        self.observation_space = gym.spaces.Box(-1, len(tokenizer) - 1, (max_prompt_tokens + max_new_tokens,), np.int64)
        self.action_space = gym.spaces.Discrete(len(tokenizer))
        self._text = TokenText(tokenizer)
        self._warned_long = False
        self._prompt: Prompt | None = None
        self._prompt_tokens = np.zeros(0, np.int64)
        self._tokens: list[int] = []
        self._finished = False
        self._credited: Episode | None = None  # the text that has ended, as the last step paid it
        if on_long_prompt == "error":  # before any training time is spent
            for prompt in task.prompts:
                self.prompt_tokens(prompt)

    # --- Gymnasium -----------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin a text. `options={"prompt": Prompt | str}` chooses the prompt; else one is drawn from `np_random`.

        Raises:
            TypeError, ValueError: what is given is no prompt; half a surrogate pair in it.
        """
        super().reset(seed=seed)
        given = (options or {}).get("prompt")
        prompt = self.sample_prompts(1)[0] if given is None else given
        if not isinstance(prompt, (str, Prompt)):
            raise TypeError(f"options={{'prompt': ...}} takes a string or a Prompt, got {prompt!r}")
        prompt = Prompt(prompt) if isinstance(prompt, str) else prompt
        try:
            prompt.text.encode()
        except UnicodeEncodeError as error:  # what a tokenizer says of it does not help
            raise ValueError(f"the prompt is not valid Unicode at character {error.start}: {prompt.text[:80]!r}") from None
        self._prompt = prompt
        self._prompt_tokens = self.prompt_tokens(self._prompt)
        self._tokens, self._finished, self._credited = [], False, None
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append one token.

        Raises:
            RuntimeError: before `reset`, or after the text has ended.
            ValueError: the action is no id of the vocabulary.
        """
        if self._prompt is None:
            raise RuntimeError("step() before reset(): call reset() to begin a text")
        if self._finished:
            raise RuntimeError("step() after the text has ended: call reset() to begin another")
        token = np.asarray(action)
        if token.size != 1 or token.dtype.kind not in "iu" or not 0 <= int(token.item()) < self.action_rule.vocabulary:
            raise ValueError(f"token {action!r} is out of range: an action is an integer in 0..{self.action_rule.vocabulary - 1}")
        self._tokens.append(int(token.item()))
        self._finished = self._finish_reason(self._tokens) is not None
        if not self._finished:
            return self._observation(), 0.0, False, False, {}
        (self._credited,) = self.credit([self.current_episode()])
        return self._observation(), float(self._credited.rewards.sum()), True, False, {"text_episode": self._credited}

    def render(self) -> str | None:
        """The text so far ("ansi"), and where it has ended its score; reward wrappers colour each token by its credit."""
        if self.render_mode != "ansi":
            return None
        return render_episode(self.current_episode() if self._credited is None else self._credited)

    # --- Episodes ------------------------------------------------------------------------------------------------

    def sample_prompts(self, n: int) -> list[Prompt]:
        """n prompts drawn uniformly, with replacement, from `np_random`."""
        return [self.task.prompts[int(i)] for i in self.np_random.integers(len(self.task.prompts), size=n)]

    def prompt_tokens(self, prompt: Prompt) -> NDArray[np.int64]:
        """(P,) int64: the ids that the policy sees, at least one, at most `max_prompt_tokens`.

        Some tokenizers put EOS behind every text; this one is to be continued, and goes without. A policy whose encoder
        was trained with it puts it back (`action_rule.prompt_end`).

        Raises:
            ValueError: the prompt is longer and `on_long_prompt="error"`.
        """
        text = self.task.prompt_text(prompt)
        ids = prompt_ids(self.tokenizer, text) if self._chat is None else self._chat.ids(text)
        if len(ids) > self.max_prompt_tokens:
            message = f"prompt of {len(ids)} tokens exceeds max_prompt_tokens={self.max_prompt_tokens}: {prompt.text[:80]!r}"
            if self.on_long_prompt == "error":
                raise ValueError(f"{message}; raise max_prompt_tokens or pass on_long_prompt='truncate'")
            if not self._warned_long:
                self._warned_long = True
                warnings.warn(f"{message}; its left end is cut (said once)", stacklevel=2)
            if self._chat is not None:
                return np.array(self._chat.shortened(text, self.max_prompt_tokens), np.int64)
            kept = ids[-self.max_prompt_tokens :]
            begins = ids[0] == self.tokenizer.bos_token_id and self.max_prompt_tokens > 1
            ids = [ids[0], *kept[1:]] if begins else kept  # models that begin with BOS have never seen a text without
        return np.array(ids, np.int64)

    def episode(self, prompt: Prompt, tokens: Sequence[int] | NDArray[np.int64]) -> Episode:
        """The episode of these tokens, not yet judged: score NaN, credit zero.

        Args:
            prompt: what was asked.
            tokens: (T,) ids as sampled, EOS included.

        Raises:
            ValueError: ids out of range, more than the budget, or tokens after EOS.
        """
        ids = np.asarray(tokens, np.int64).reshape(-1)
        rule = self.action_rule
        if len(ids) and not (0 <= ids.min() and ids.max() < rule.vocabulary):
            raise ValueError(f"token {ids[(ids < 0) | (ids >= rule.vocabulary)][0]} is out of range 0..{rule.vocabulary - 1}")
        if len(ids) > rule.max_new_tokens:
            raise ValueError(f"{len(ids)} tokens exceed max_new_tokens={rule.max_new_tokens}")
        if (ids[:-1] == rule.eos_token_id).any():
            raise ValueError(f"tokens go on after EOS (id {rule.eos_token_id}): {ids.tolist()}")
        prompt_tokens = self.prompt_tokens(prompt)
        text = self._text.decode(prompt_tokens, ids)
        return Episode(
            prompt=prompt,
            prompt_tokens=prompt_tokens,
            tokens=ids,
            text=text,
            offsets=self._text.offsets(prompt_tokens, ids, text),
            finish_reason=self._finish_reason(ids),
            score=float("nan"),
            rewards=np.zeros(len(ids), np.float64),
        )

    def current_episode(self) -> Episode:
        """The text being stepped through, as it stands, not judged.

        Raises:
            RuntimeError: before `reset`.
        """
        if self._prompt is None:
            raise RuntimeError("no text has begun: call reset() first")
        return self.episode(self._prompt, self._tokens)

    def credit(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Episodes judged: the score of each finished one, on its last token. An unfinished text has no score.

        One scorer call for all of them. The score is the task's own; wrappers add or move credit, never the score.
        """
        finished = [i for i, episode in enumerate(episodes) if episode.finished]
        scores = dict(zip(finished, self.task.score([episodes[i] for i in finished]), strict=True)) if finished else {}
        out = []
        for i, episode in enumerate(episodes):
            rewards = np.zeros(len(episode), np.float64)
            if i in scores:
                rewards[-1] = scores[i]
            out.append(replace(episode, score=scores.get(i, float("nan")), rewards=rewards))
        return out

    @property
    def waits(self) -> bool:
        """Whether the scorer waits for somebody else, a server, as its own `waits` says: texts may then be judged in parts."""
        return waits(self.task.scorer)

    def action_masks(self) -> NDArray[np.bool_]:
        """(V,) which tokens may come next: EOS not before `min_new_tokens`. sb3-contrib's `MaskablePPO` asks by this name."""
        masks = np.ones(self.action_rule.vocabulary, np.bool_)
        masks[self.action_rule.eos_token_id] = len(self._tokens) >= self.action_rule.min_new_tokens
        return masks

    def credit_metrics(self) -> dict[str, float]:
        """Counters of the reward stack since the last call, for loggers; the environment itself has none."""
        return {}

    # --- Specification -------------------------------------------------------------------------------------------

    @property
    def spec(self) -> EnvSpec | None:
        """What made this environment. Reading it copies the arguments, but never a model among them."""
        return self._spec

    @spec.setter
    def spec(self, value: EnvSpec | None) -> None:
        self._spec = share_arguments(value)

    _spec: EnvSpec | None = None

    # --- Within --------------------------------------------------------------------------------------------------

    def _finish_reason(self, tokens: Sequence[int] | NDArray[np.int64]) -> FinishReason | None:
        if len(tokens) and int(tokens[-1]) == self.action_rule.eos_token_id:
            return "stop"
        return "length" if len(tokens) == self.action_rule.max_new_tokens else None

    def _observation(self) -> Observation:
        out = np.full(self.max_prompt_tokens + self.action_rule.max_new_tokens, -1, np.int64)
        begin = self.max_prompt_tokens  # the prompt is flush right in its block: a token's column tells its step
        out[begin - len(self._prompt_tokens) : begin] = self._prompt_tokens
        out[begin : begin + len(self._tokens)] = self._tokens
        return out
