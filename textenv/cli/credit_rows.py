"""What `textenv credit` measures: each reward's credit on the same texts, and what deleting a token does to the score.

A text that one of the rewards' models cannot read whole is left out for all, so that every row is about the same texts; a reward
that cannot read more than half of them, or does not apply to the task, gets a row with the reason.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from textenv.cli.console import progress, say
from textenv.cli.credit_table import Row

if TYPE_CHECKING:
    import gymnasium as gym

    from textenv.episode import Episode
    from textenv.metrics.credit import ScoreLeft

__all__ = ["CHUNK", "Maker", "effects_of_deletion", "measured"]

CHUNK = 256  # texts credited together
PROBED = 8  # texts on which the place of the score is looked for


@dataclass(frozen=True)
class Maker:
    """Makes environments with one reward."""

    env_id: str
    arguments: dict[str, Any]
    reward: str
    critic: Any
    seed: int

    def make(self, **changes: Any) -> gym.Env[Any, Any] | str:
        """The environment, or why the reward does not apply to it."""
        import gymnasium as gym

        from textenv.cli.arguments import parsed_reward
        from textenv.reward import NotApplicable

        asked = {"critic": self.critic} if self.critic is not None and self._asks_a_critic() else {}
        options = {"split": "test", **self.arguments, **asked, **changes}
        try:
            env = gym.make(self.env_id, **options, reward=parsed_reward(self.reward), payment="end")
        except NotApplicable as reason:
            return str(reason)
        # Rewards that draw (principles) draw from the environment's generator; the prompt is short, whatever the tokenizer.
        env.reset(seed=self.seed, options={"prompt": "a"})
        return env

    def _asks_a_critic(self) -> bool:
        from textenv.cli.arguments import parsed_reward
        from textenv.import_strings import load_object
        from textenv.registration import REWARDS

        parsed = parsed_reward(self.reward)
        name = parsed if isinstance(parsed, str) else parsed[0]
        target = REWARDS.get(name, name)
        return target is not None and ":" in target and "critic" in inspect.signature(load_object(target)).parameters


def effects_of_deletion(env: gym.Env[Any, Any], episodes: Sequence[Episode], count: int) -> list[Any]:
    """What deleting each token of the first `count` episodes does to the score, (T,) each; None for the others."""
    from textenv.metrics.credit import deletion_effects

    effects: list[Any] = [None] * len(episodes)
    if count:
        some = episodes[:count]
        with progress("deletions", sum(map(len, some))) as meter:
            effects[: len(some)] = deletion_effects(env.get_wrapper_attr("task").scorer, some, meter.update)
    return effects


class _Credited(NamedTuple):
    """By index of the text: the credited, and why the others could not be; what became of the score; seconds for 1,000 texts."""

    episodes: Mapping[int, Episode]
    too_long: Mapping[int, str]
    left: ScoreLeft
    seconds: float


def measured(
    makers: Sequence[Maker],
    made: Sequence[gym.Env[Any, Any] | str],
    episodes: Sequence[Episode],
    truth: Sequence[Any],
    effects: Sequence[Any],
    options: dict[str, int],
) -> tuple[list[Row], list[int]]:
    """The measures of each reward, or why there are none; and the indices of the texts that they are about.

    Raises:
        ValueError: each text is too long for one of the rewards.
    """
    from textenv.metrics.credit import credit_quality, without_score

    found: list[_Credited | str] = []
    with progress("credit", len(made) * len(episodes)) as meter:
        for maker, env in zip(makers, made, strict=True):
            found.append(env if isinstance(env, str) else _credited(env, maker, episodes))
            meter.update(len(found) * len(episodes), note=maker.reward)
    too_long = {i: why for each in found if isinstance(each, _Credited) for i, why in each.too_long.items()}
    kept = [i for i in range(len(episodes)) if i not in too_long]
    if too_long:
        message = f"{len(too_long):,} of {len(episodes):,} texts are left out: {next(iter(too_long.values()))}"
        if not kept:
            raise ValueError(f"{message}; measure fewer rewards at a time")
        say(message, style="yellow")
    rows: list[Row] = []
    for maker, each in zip(makers, found, strict=True):
        if isinstance(each, str):
            rows.append(Row(maker.reward, {}, reason=each))
        else:
            values = without_score([each.episodes[i] for i in kept], each.left)
            quality = credit_quality(values, [truth[i] for i in kept], [effects[i] for i in kept], **options)
            rows.append(Row(maker.reward, quality, each.seconds, each.left.what))
    return rows, kept


def _credited(env: gym.Env[Any, Any], maker: Maker, episodes: Sequence[Episode]) -> _Credited | str:
    """The credit, or why there is none."""
    from textenv.metrics.credit import TRANSFORMED, Raised, score_left
    from textenv.reward import NotApplicable

    raised = maker.make(scorer=Raised(maker.arguments["scorer"]))
    credit = env.get_wrapper_attr("credit")
    found: dict[int, Episode] = {}
    too_long: dict[int, str] = {}
    seconds = 0.0
    try:
        # Before the clock starts: models load when they are first asked. A reward that knows the embedded scorer alone (its mean
        # and deviation, say) does not take a raised one: it transforms the score.
        probes = list(_whole(credit, dict(enumerate(sorted(episodes, key=len)[:PROBED])))[0].values())
        left = score_left(env, raised, probes) if probes and not isinstance(raised, str) else TRANSFORMED
        for first in range(0, len(episodes), CHUNK):
            done, left_out, took = _whole(credit, dict(enumerate(episodes[first : first + CHUNK], start=first)))
            found.update(done)
            too_long.update(left_out)
            seconds += took
    except NotApplicable as reason:
        return str(reason)
    if len(too_long) > len(found):
        return f"cannot read {len(too_long):,} of {len(episodes):,} texts: {next(iter(too_long.values()))}"
    return _Credited(found, too_long, left, 1000 * seconds / len(found))


def _whole(
    credit: Callable[[Sequence[Episode]], Sequence[Episode]], asked: dict[int, Episode]
) -> tuple[dict[int, Episode], dict[int, str], float]:
    """Those texts credited in one call, where it finds some too long without these; why; and the seconds of that call."""
    from textenv.too_long import TextTooLong

    too_long: dict[int, str] = {}

    def once() -> tuple[dict[int, Episode], dict[int, str], float]:
        rest = {i: episode for i, episode in asked.items() if i not in too_long}
        began = time.perf_counter()
        done = credit(list(rest.values())) if rest else []
        return dict(zip(rest, done, strict=True)), too_long, time.perf_counter() - began

    try:
        return once()
    except TextTooLong:
        for i, episode in asked.items():
            try:
                credit([episode])
            except TextTooLong as why:
                too_long[i] = str(why)
        return once()
