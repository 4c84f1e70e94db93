"""RTO: how much likelier one frozen model finds each token than another; a DPO-trained model and its reference, say.

Paper: Zhong et al. 2024, *DPO Meets PPO: Reinforced Token Optimization for RLHF* (arXiv 2404.18922); released code. With b₁ =
`scale` and c = `clip`, beside the score and the agent's own KL term:

    r_t += clip( b₁ (log π_DPO(y_t | ·) − log π_ref(y_t | ·)), −c, c )

Choices and departures:

1. any pair of models that share the policy's tokenizer (`TokenLogRatioReward`); `implicit` takes the embedded pair;
2. the release clips the reward model's score to ±10 and normalises it; here the score is never changed;
3. `squash="sigmoid"` pays b₁ (σ(log-ratio) − ½) instead, which stays within ± b₁ / 2 and keeps the order of all ratios. T-REG
   (arXiv 2412.02685) forms its token reward so, of one model under two prompts (`contrastive`), and of a DPO-trained model in an
   ablation. Paid as a reward it is neither T-REG nor RTO;
4. the term is *not* neutral: unclipped it adds b₁ log(π_DPO(y) / π_ref(y)) to the return, DPO's implicit reward, and the clip
   breaks even that sum. `credit/clipped_share` logs how many tokens it touches. Report `Episode.score` apart.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from textenv.episode import Episode
from textenv.judges.token_log_probs import load_frozen, token_log_probs
from textenv.reward import RewardWrapper

__all__ = ["ImplicitReward", "TokenLogRatioReward"]

CLIP = 0.05  # the release's c


class TokenLogRatioReward(RewardWrapper):
    """Adds the clipped log-ratio of two frozen language models to the credit of each token.

    Keeps the return: no. Causal: yes. Takes the score: no.

    Example: log-probabilities −1 and −3 of a token under model and reference, scale 0.05 and clip 0.05: the ratio 2 gives
    0.05 · 2 = 0.1, clipped to 0.05.

    >>> import gymnasium as gym, textenv
    >>> from textenv.wrappers import TokenLogRatioReward
    >>> models = {"model": "textenv/tiny", "reference": "textenv/tiny"}
    >>> env = gym.make("textenv/Detox-v0", reward=[lambda env: TokenLogRatioReward(env, **models)])
    >>> episode = env.unwrapped.episode(textenv.Prompt("I read your note."), [5, 6, 7])
    >>> env.get_wrapper_attr("credit")([episode])[0].rewards.tolist()  # a model against itself
    [0.0, 0.0, 0.0]

    Args:
        env: a text environment.
        model, reference: frozen language models with the policy's tokenizer: names, directories, or transformers models.
        scale: b₁.
        clip: c, in units of reward; `float("inf")`: no clip. Default: 0.05; a sigmoid has none.
        squash: "clip" or "sigmoid".
        batch_size: texts a forward pass.

    Raises:
        NotApplicable: a model with another tokenizer than the environment's.
        ValueError: bad arguments; texts beyond a model's positions.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        model: Any,
        reference: Any,
        *,
        scale: float = 0.05,
        clip: float | None = None,
        squash: Literal["clip", "sigmoid"] = "clip",
        batch_size: int = 64,
    ) -> None:
        super().__init__(env)
        if not np.isfinite(scale):
            raise ValueError(f"scale must be finite, got {scale}")
        if squash not in ("clip", "sigmoid"):
            raise ValueError(f'squash must be "clip" or "sigmoid", got {squash!r}')
        if squash == "sigmoid" and clip is not None:
            raise ValueError(f'squash="sigmoid" is bounded by scale / 2; leave out clip={clip}')
        clip = CLIP if clip is None else clip
        if not clip > 0:
            raise ValueError(f'clip must be above 0 (float("inf"): no clip), got {clip}')
        self.model, self.reference = load_frozen(env, model, "model"), load_frozen(env, reference, "reference")
        self.scale, self.clip, self.squash, self.batch_size = scale, clip, squash, batch_size
        self._rule = env.get_wrapper_attr("action_rule")
        self._tokens, self._clipped, self._seconds = 0, 0, 0.0

    def rewards(self, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        """The credit and the clipped term, (T,) each: each model reads all texts once."""
        began = time.perf_counter()
        ours, theirs = (self._log_probs(which, episodes) for which in (self.model, self.reference))
        self._seconds += time.perf_counter() - began
        out = []
        for episode, a, b in zip(episodes, ours, theirs, strict=True):
            dense = self.scale * (a - b if self.squash == "clip" else 0.5 * np.tanh(0.5 * (a - b)))  # (T,); σ(x) − ½
            self._tokens += len(dense)
            if self.squash == "clip":
                self._clipped += int((abs(dense) > self.clip).sum())
                dense = dense.clip(-self.clip, self.clip)
            out.append(episode.rewards + dense)
        return out

    def metrics(self) -> dict[str, float]:
        """`credit/clipped_share` of the tokens since the last call, `credit/log_ratio_seconds`."""
        out = {"credit/clipped_share": self._clipped / max(self._tokens, 1), "credit/log_ratio_seconds": self._seconds}
        self._tokens, self._clipped, self._seconds = 0, 0, 0.0
        return out

    def _log_probs(self, model: Any, episodes: Sequence[Episode]) -> list[NDArray[np.float64]]:
        prompts, texts = [e.prompt_tokens for e in episodes], [e.tokens for e in episodes]
        return token_log_probs(model, prompts, texts, self._rule, batch_size=self.batch_size)


class ImplicitReward(TokenLogRatioReward):
    """RTO's dense reward: the log-ratio of a DPO-trained model to its reference.

    Keeps the return: no. Causal: yes. Takes the score: no.

    Args:
        env: a text environment.
        model: DPO-trained; default: the embedded `textenv/tiny-preferred`.
        reference: what it was trained from; default: `textenv/tiny`.
        scale, clip, squash, batch_size: as in `TokenLogRatioReward`; the defaults are the release's b₁ and c.

    Raises:
        NotApplicable: a model with another tokenizer than the environment's: name `model=` and `reference=` that have it.
    """

    keeps_return: ClassVar[bool] = False
    causal: ClassVar[bool] = True

    def __init__(
        self,
        env: gym.Env[Any, Any],
        model: Any = "textenv/tiny-preferred",
        reference: Any = "textenv/tiny",
        *,
        scale: float = 0.05,
        clip: float | None = None,
        squash: Literal["clip", "sigmoid"] = "clip",
        batch_size: int = 64,
    ) -> None:
        super().__init__(env, model, reference, scale=scale, clip=clip, squash=squash, batch_size=batch_size)
