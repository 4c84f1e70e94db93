"""T-REG's token reward as credit: is this token likelier when a better text is asked for than when a worse one is?

Paper: Zhou et al. 2024, *T-REG: Preference Optimization with Token-Level Reward Regularization* (arXiv 2412.02685), Eq. 3. One
frozen model, two requests x_better and x_worse, the sampled tokens fed as ids behind either:

    r̂_t = σ( log π(y_t | x_better, y_<t) − log π(y_t | x_worse, y_<t) ) − ½        in (−½, ½)

T-REG adds this to a preference loss; here it is paid beside the score, which is *not* T-REG. Choices (`treg` §8):

1. `prompts="revision"` is the paper's form in own words: the model is shown the answer and asked to rewrite it better, or worse,
   through the tokenizer's chat template where it has one, the line that names the aspects and the start marker already written
   (`prefill=False` leaves them out). The answer stands in the prompt, so the credit is hindsight;
2. `prompts="headers"` is for the embedded models: one word before the prompt asks for a better or a worse text, the text is not
   shown (`textenv.embedded.contrastive`), and the credit is causal;
3. EOS gets 0: behind the answer stands an end marker, not EOS;
4. what does not fit into the model's positions is an error, never cut: a cut on one side alone would change the contrast;
5. markers and special tokens that a policy writes are taken out of what is shown of its text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.chat import ChatTemplate
from textenv.embedded.contrastive import CONTRASTIVE
from textenv.episode import Episode, Prompt
from textenv.judges.token_log_probs import load_frozen, token_log_probs
from textenv.reward import NotApplicable, RewardWrapper
from textenv.tokenization import prompt_ids
from textenv.wrappers.policies import base_of

__all__ = ["ContrastiveReward"]

Request = str | Callable[[Prompt, str], str]

DIRECTIONS = {"better": "helpful, correct, coherent, concise", "worse": "unhelpful, incorrect, incoherent, verbose"}
REVISION = """\
Below are a user's request and an assistant's answer to it.

[request]
{prompt}
[end of request]

[answer]
{text}
[end of answer]

Rewrite the answer so that it becomes {direction}. Stay close to the original, but make it {direction} in one or several of these: \
helpfulness, correctness, coherence, verbosity. Keep to this form: first one line "Aspects: rewrite the original to be ...", which \
names what you chose ({description}); then the rewritten answer between [{direction} answer] and [end of {direction} answer]."""
PREFILL = "Aspects: rewrite the original to be {description}.\n[{direction} answer]\n"
_MARKER = re.compile(r"\[(?:end of )?(?:request|(?:better |worse )?answer)\]", re.IGNORECASE)


class ContrastiveReward(RewardWrapper):
    """Adds scale · r̂_t to the credit of each token.

    Keeps the return: no. Causal: no (hindsight); yes where the requests do not show the text ("headers").
    Takes the score: no.

    Example: a token of probability 0.3 behind "Better: ..." and 0.1 behind "Worse: ...": 0.3 / (0.3 + 0.1) − ½ = 0.25.

    >>> import gymnasium as gym, textenv
    >>> env = gym.make("textenv/Detox-v0", reward=("contrastive", {"prompts": ("Say: {prompt}", "Say: {prompt}")}))
    >>> episode = env.unwrapped.episode(textenv.Prompt("I read your note."), [5, 6, 7])
    >>> env.get_wrapper_attr("credit")([episode])[0].rewards.tolist()  # the same request twice
    [0.0, 0.0, 0.0]

    Args:
        env: a text environment.
        model: a frozen language model with the policy's tokenizer; default: the one that the environment's tokenizer came with.
        prompts: the requests for a better and for a worse text: a pair of templates with fields {prompt} (what the policy
            reads), {context} and {text}, or of callables (prompt, text) → str; "revision", "headers"; default: "headers" for an
            embedded model, else "revision".
        scale: of the reward.
        prefill: begin the answer to a "revision" request.
        batch_size: texts a forward pass.

    Raises:
        NotApplicable: no model to be found, or one with another tokenizer; no headers for this task.
        ValueError: bad arguments; a request and a text beyond the model's positions.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = False

    def __init__(
        self,
        env: gym.Env[Any, Any],
        model: Any = None,
        *,
        prompts: tuple[Request, Request] | Literal["headers", "revision"] | None = None,
        scale: float = 1.0,
        prefill: bool = True,
        batch_size: int = 64,
    ) -> None:
        super().__init__(env)
        if not np.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        self._tokenizer, self._task = env.get_wrapper_attr("tokenizer"), env.get_wrapper_attr("task")
        source = base_of(self._tokenizer, "pass model= one that shares it") if model is None else model
        if prompts is None:
            prompts = "headers" if isinstance(source, str) and source.startswith("textenv/") else "revision"
        self._chat: ChatTemplate | None = None
        self._prefill = prefill and prompts == "revision"
        self.prompts = self._requests(prompts)
        if prompts == "revision" and getattr(self._tokenizer, "chat_template", None):
            self._chat = ChatTemplate(self._tokenizer)
        self.model = load_frozen(env, source, "model")
        self.scale, self.batch_size = scale, batch_size
        self._rule = env.get_wrapper_attr("action_rule")
        self.causal = all(isinstance(p, str) and "{text}" not in p for p in self.prompts)  # type: ignore[misc]
        self._tokens, self._size, self._seconds = 0, 0.0, 0.0

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit and scale · r̂_t, (T,) each: two passes of the model over all texts."""
        began = time.perf_counter()
        better, worse = (self._log_probs(side, episodes) for side in (0, 1))
        self._seconds += time.perf_counter() - began
        out = []
        for episode, b, w in zip(episodes, better, worse, strict=True):
            contrast = 0.5 * np.tanh(0.5 * (b - w))  # σ(x) − ½, without overflow
            contrast[episode.tokens == self._rule.eos_token_id] = 0.0
            self._tokens, self._size = self._tokens + len(contrast), self._size + float(abs(contrast).sum())
            out.append(episode.rewards + self.scale * contrast)
        return out

    def metrics(self) -> dict[str, float]:
        """`credit/contrast` (mean |r̂| of the tokens since the last call; near 0: no effect), `credit/contrastive_seconds`."""
        out = {"credit/contrast": self._size / max(self._tokens, 1), "credit/contrastive_seconds": self._seconds}
        self._tokens, self._size, self._seconds = 0, 0.0, 0.0
        return out

    def _requests(self, prompts: Any) -> tuple[Request, Request]:
        if prompts == "revision":
            better, worse = (
                REVISION.replace("{direction}", direction).replace("{description}", description)
                for direction, description in DIRECTIONS.items()
            )
            return better, worse
        if prompts == "headers":
            name = type(self._task).__name__
            key = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().removesuffix("_qa")
            if key not in CONTRASTIVE:
                raise NotApplicable(
                    f"no embedded model was taught headers for {name}; pass prompts=(better, worse) or prompts='revision'"
                )
            return CONTRASTIVE[key]
        pair = isinstance(prompts, (tuple, list)) and len(prompts) == 2
        if not pair or not all(isinstance(p, str) or callable(p) for p in prompts):
            raise ValueError(f'prompts must be "headers", "revision" or a pair (better, worse), got {prompts!r}')
        for template in prompts:
            if isinstance(template, str):
                _fill(template, "", "", "")
        return prompts[0], prompts[1]

    def _log_probs(self, side: int, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        ids = [np.array(self._ids(side, episode), np.int64) for episode in episodes]
        return token_log_probs(self.model, ids, [e.tokens for e in episodes], self._rule, batch_size=self.batch_size)

    def _ids(self, side: int, episode: Episode) -> list[int]:
        """What the model reads before the text."""
        request, text = self.prompts[side], episode.text
        if isinstance(request, str):
            shown = _MARKER.sub("", text)
            for special in self._tokenizer.all_special_tokens:
                shown = shown.replace(special, "")
            asked = _fill(request, self._task.prompt_text(episode.prompt), "\n".join(episode.prompt.context), shown.strip())
        else:
            asked = request(episode.prompt, text)
        begun = ""
        if self._prefill:
            direction, description = list(DIRECTIONS.items())[side]
            begun = PREFILL.format(direction=direction, description=description)
        if self._chat is not None:
            return self._chat.ids(asked) + list(self._tokenizer(begun, add_special_tokens=False)["input_ids"])
        return prompt_ids(self._tokenizer, f"{asked}\n\n{begun}" if begun else asked)


def _fill(template: str, prompt: str, context: str, text: str) -> str:
    try:
        return template.format(prompt=prompt, context=context, text=text)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"template {template!r}: {error}; its fields are {{prompt}}, {{context}} and {{text}}") from None
