"""Text in, text out: whole responses as actions, and functions from a prompt to a response as policies.

For whoever writes texts without telling tokens: a model behind an API, a rule, a person. The library judges tokens, so a
response is cut into the environment's tokens (`response_tokens`), once, here:

1. with the environment's tokenizer, whatever the writer's own is; what spells a special token is text;
2. EOS closes it, and it ends with "stop"; one that fills the budget, or passes it, is cut there and ends with "length", without a
   warning: ask the writer for shorter ones, or make the environment with a larger `max_new_tokens`;
3. where the tokenizer writes a space before a first word (SentencePiece), the episode's text begins with one.

The writer is shown what the task writes of a prompt (`Task.prompt_text`), before a chat template: a server has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.decoders.decoding import PromptBook
from textenv.alignment import TokenText
from textenv.critics.connection import in_parallel
from textenv.episode import Prompt
from textenv.generation import ActionRule

__all__ = ["TextActions", "TextPolicy", "response_tokens"]

Ids = NDArray[np.int64]


def response_tokens(text: str, tokenizer: Any, rule: ActionRule, prompt_tokens: Ids) -> Ids:
    """A response as the environment's tokens, (T,) int64, EOS or the end of the budget included.

    >>> from textenv.tokenization import byte_tokenizer
    >>> rule, prompt = ActionRule(259, 258, 4), np.array([112])
    >>> [response_tokens(text, byte_tokenizer(), rule, prompt).tolist() for text in ("ab", "abcd", "abcde")]
    [[97, 98, 258], [97, 98, 99, 100], [97, 98, 99, 100]]

    Raises:
        TypeError: no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"a response is a string, got {type(text).__name__}: {text!r:.80}")
    text = text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no character
    read = TokenText(tokenizer)
    tries = []
    for said in dict.fromkeys((text, text.removeprefix(" "))):  # a tokenizer may put that space there itself
        ids = [int(i) for i in tokenizer(said, add_special_tokens=False, split_special_tokens=True)["input_ids"]]
        tries.append(ids[: ids.index(rule.eos_token_id)] if rule.eos_token_id in ids else ids)
    found = next((ids for ids in tries if read.decode(prompt_tokens, ids) == text), tries[0])
    return np.array([*found, rule.eos_token_id][: rule.max_new_tokens], np.int64)


SAMPLED = 200  # characters of a sampled response at most; a space of a million of them is no reason to draw a million


class AnyText(gym.spaces.Text):
    """Strings of any characters up to a length; samples are short, of letters and digits.

    >>> "é" in AnyText(4), "too long" in AnyText(4), 5 in AnyText(4)
    (True, False, False)
    """

    def __init__(self, max_length: int) -> None:
        super().__init__(max_length, min_length=0)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A string of at most `SAMPLED` characters, or as `gym.spaces.Text` takes a mask or a probability."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(min(self.max_length, SAMPLED) + 1)), None)
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        """Whether it is a string that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyText) and other.max_length == self.max_length


class TextActions(gym.Wrapper[str, str, Any, Any], gym.utils.RecordConstructorArgs):
    """A text environment whose action is the whole response, as a string: an episode is one step.

    Observation: the prompt's text; after the step, prompt and response. Reward: the sum of what the environment inside pays, so
    with reward wrappers of their whole credit; `info["text_episode"]` tells it token by token. Make a dense reward with
    `payment="end"`, and its critic is asked once a text.

    >>> import gymnasium as gym, textenv
    >>> env = TextActions(gym.make("textenv/CountLetter-v0", max_new_tokens=8))
    >>> env.reset(seed=0)[0]
    'Say a: '
    >>> observation, reward, terminated, truncated, info = env.step("banana")
    >>> observation, reward, terminated, info["text_episode"].finish_reason
    ('Say a: banana', 0.375, True, 'stop')

    Args:
        env: a text environment.
        max_characters: of the observation and action spaces; a longer response is cut by the token budget all the same.

    Raises:
        TypeError: no text environment.
    """

    def __init__(self, env: gym.Env[Any, Any], *, max_characters: int = 1_000_000) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, max_characters=max_characters)  # so that its specification makes it again
        gym.Wrapper.__init__(self, env)
        try:
            self._rule: ActionRule = env.get_wrapper_attr("action_rule")
        except AttributeError:
            raise TypeError(f"TextActions wraps text environments; {env} has no action_rule") from None
        self.observation_space, self.action_space = AnyText(max_characters), AnyText(max_characters)
        self._shown = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """The text of a prompt; `options={"prompt": Prompt | str}` chooses it."""
        _, info = self.env.reset(seed=seed, options=options)
        self._shown = self._task.prompt_text(self._current().prompt)
        return self._shown, info

    def step(self, action: str) -> tuple[str, SupportsFloat, bool, bool, dict[str, Any]]:
        """Say the whole response.

        Raises:
            TypeError: the action is no string.
            RuntimeError: before `reset`, or twice.
        """
        tokens = response_tokens(action, self.env.get_wrapper_attr("tokenizer"), self._rule, self._current().prompt_tokens)
        total, terminated, truncated, info = 0.0, False, False, dict[str, Any]()
        for token in tokens:
            _, reward, terminated, truncated, info = self.env.step(token)
            total += float(reward)
            if terminated or truncated:
                break
        return self._shown + self._current().text, total, terminated, truncated, info

    @property
    def _task(self) -> Any:
        return self.env.get_wrapper_attr("task")

    def _current(self) -> Any:
        return self.env.get_wrapper_attr("current_episode")()


class TextPolicy:
    """A function from a prompt's text to a response as a policy: `evaluate(function, env)` makes one.

    The function decides by itself how it samples: a seed does not reach it.

    Args:
        function: prompt → response, strings both.
        env: the text environment whose prompts and tokens they are.
        concurrency: calls at a time, in threads: for a function that waits for a server.
    """

    reads_prompts = True

    def __init__(self, function: Callable[[str], str], env: gym.Env[Any, Any], *, concurrency: int = 1) -> None:
        if not callable(function):
            raise TypeError(f"a function from a prompt's text to a response, got {function!r}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        self.function, self.env, self.concurrency = function, env, concurrency
        self.book = PromptBook(env)

    def generate(
        self,
        prompts: Sequence[Prompt | Ids],
        rule: ActionRule,
        uniforms: Tensor | None,
        /,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> list[Ids]:
        """The function's responses as tokens, one per prompt. `uniforms` are not used.

        Raises:
            ValueError: `top_k` or `top_p`, which a function cannot be told.
            TypeError: a response that is no string.
        """
        if top_k or top_p < 1.0:
            raise ValueError(f"a function cannot be told top_k={top_k}, top_p={top_p}; let it truncate its own distribution")
        asked = self.book.read(prompts)
        task = self.env.get_wrapper_attr("task")
        shown = [task.prompt_text(a.prompt) for a in asked]
        said: list[Any] = [None] * len(shown)
        if self.concurrency == 1:
            said = [self.function(text) for text in shown]
        else:
            for i, text in in_parallel(self._ask, shown, self.concurrency):
                said[i] = text
        return [response_tokens(t, self.book.tokenizer, rule, a.ids) for t, a in zip(said, asked, strict=True)]

    def _ask(self, shown: str, _: threading.Event) -> str:
        return self.function(shown)
