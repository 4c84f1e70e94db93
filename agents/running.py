"""What `learn` shares among learners: Stable-Baselines3's logger and callbacks, a progress bar, a table of texts.

One call of a callback's `on_step` is one batch of episodes, so `CheckpointCallback(save_freq=10)` saves after every tenth
batch. `num_timesteps` counts generated tokens. A bar of Stable-Baselines3's counts calls of `on_step`: it is replaced by ours.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import configure_logger

from textenv.episode import Episode

__all__ = ["TokenProgressBar", "log_time", "make_logger", "prepare_callback", "text_table"]


class TokenProgressBar(BaseCallback):
    """A bar over generated tokens, with tokens/s and the time left."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = Progress(
            TextColumn("[progress.description]{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} tokens"),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )

    def _on_training_start(self) -> None:
        self._begin = self.model.num_timesteps
        total = max(self.locals["total_timesteps"] - self._begin, 0)
        self._task = self._bar.add_task(type(self.model).__name__, total=total, speed="")
        self._bar.start()

    def _on_step(self) -> bool:
        done = self.model.num_timesteps - self._begin
        elapsed = self._bar.tasks[self._task].elapsed
        speed = f"{done / elapsed:,.0f} tokens/s" if elapsed else ""
        self._bar.update(self._task, completed=done, speed=speed)
        return True

    def _on_training_end(self) -> None:
        self._bar.stop()

    def close(self) -> None:
        """Give the terminal back, also after an error."""
        self._bar.stop()


def make_logger(verbose: int, tensorboard_log: str | None = None, name: str = "", reset_num_timesteps: bool = True) -> Logger:
    """Stable-Baselines3's logger; where nothing is written, no directory is made for it either."""
    if tensorboard_log is not None:
        return configure_logger(verbose, tensorboard_log, name, reset_num_timesteps)
    return Logger(None, [HumanOutputFormat(sys.stdout)] if verbose else [])


def prepare_callback(
    agent: Any, callback: MaybeCallback, progress_bar: bool, *, shown: bool = True
) -> tuple[BaseCallback, TokenProgressBar | None]:
    """One callback of however many were given, and the bar among them, if it is `shown`."""
    given: list[Any] = callback if isinstance(callback, list) else [callback]
    others = [one for one in given if type(one) is not ProgressBarCallback]
    if len(others) < len(given):
        callback, progress_bar = others, True
    if isinstance(callback, list):
        callback = CallbackList(callback)
    one: BaseCallback = callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)
    bar = TokenProgressBar() if progress_bar and shown else None
    if bar is not None:
        one = CallbackList([one, bar])
    one.init_callback(agent)
    return one, bar


def log_time(logger: Logger, iteration: int, num_timesteps: int, first: int, elapsed: float) -> None:
    """How fast: tokens/s since `learn` began (`time/fps`, as Stable-Baselines3 calls it)."""
    logger.record("time/iterations", iteration)
    logger.record("time/fps", int((num_timesteps - first) / elapsed))
    logger.record("time/time_elapsed", int(elapsed))
    logger.record("time/total_timesteps", num_timesteps)


def text_table(episodes: Sequence[Episode], n: int = 8) -> str:
    """A Markdown table of n episodes for TensorBoard; prompts and texts are escaped, for they are not trusted."""
    rows = ["| prompt | text | score | credit | end |", "| --- | --- | --- | --- | --- |"]
    for e in episodes[:n]:
        cells = (_cell(e.prompt.text), _cell(e.text), f"{e.score:.3f}", f"{e.rewards.sum():.3f}", str(e.finish_reason))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(text: str, limit: int = 400) -> str:
    escaped = html.escape(text[:limit]).replace("|", "&#124;").replace("`", "&#96;").replace("[", "&#91;")
    return " ".join(escaped.replace("*", "&#42;").replace("_", "&#95;").split()) + ("…" if len(text) > limit else "")
