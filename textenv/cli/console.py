"""What every command shares: one console, texts made safe to print, errors as one line, progress with speed and ETA."""

from __future__ import annotations

import functools
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from safetensors import SafetensorError

from textenv.server_error import ServerError

__all__ = ["Debug", "console", "plain", "progress", "reports_errors", "say"]

console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

BAD_INPUT = (ValueError, TypeError, OSError, ImportError, LookupError, ArithmeticError, SafetensorError, ServerError)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. Example: --debug")]

P = ParamSpec("P")
R = TypeVar("R")


def plain(text: str, limit: int | None = None) -> str:
    """A text that was written by a model or a stranger, safe in a terminal: no control or formatting characters.

    Newlines and tabs become spaces; other characters of Unicode's categories Cc, Cf, Cs and Co (escape sequences,
    direction overrides, half surrogates) become U+FFFD. It is printed as `rich.text.Text`, where brackets are no markup.

    >>> plain("a\\x1b[31mb\\nc [bold]")
    'a\\ufffd[31mb c [bold]'
    """
    spaced = " ".join(text.split("\n")).replace("\t", " ").replace("\r", " ")
    clean = "".join("\ufffd" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co") else char for char in spaced)
    return clean if limit is None or len(clean) <= limit else clean[: limit - 1] + "…"


def say(message: str, style: str = "") -> None:
    """Print a line, whatever it holds."""
    console.print(Text(plain(message), style=style))


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose errors of bad input, and of servers, end it with a line on stderr and exit code 2; `--debug` raises them."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]  # it reads the message alone
            try:
                return command(*args, **kwargs)
            except KeyboardInterrupt:
                errors.print(Text("stopped by the keyboard; what was saved before is whole"))
                raise typer.Exit(130) from None
            except BAD_INPUT as error:
                if kwargs.get("debug"):
                    raise
                message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
                errors.print(Text.assemble(("error: ", "bold red"), plain(message or type(error).__name__)))
                raise typer.Exit(2) from None

    return wrapped


def _show_warning(message: Warning | str, *_: Any) -> None:
    errors.print(Text.assemble(("warning: ", "yellow"), plain(str(message))))


class Meter:
    """A running total against a goal. `update` takes the total so far."""

    def __init__(self, show: Callable[[float, float, str], None], goal: float) -> None:
        self._show, self.goal, self.started = show, goal, time.monotonic()

    def update(self, done: float, tokens: int | None = None, note: str = "") -> None:
        """Show progress.

        Args:
            done: how much of the goal is behind.
            tokens: tokens so far, for the speed.
            note: e.g. the loss.
        """
        seconds = max(time.monotonic() - self.started, 1e-9)
        speed = f"{tokens / seconds:,.0f} tokens/s" if tokens is not None else ""
        self._show(done, self.goal, "  ".join(part for part in (speed, note) if part))


@contextmanager
def progress(what: str, goal: float) -> Iterator[Meter]:
    """A bar with speed and time left; where output is no terminal, a line at the start of every tenth."""
    if not console.is_terminal:
        yield Meter(_lines(what), goal)
        return
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=goal, note="")
        yield Meter(lambda done, goal, note: bar.update(task, completed=done, total=goal, note=note), goal)


def _lines(what: str) -> Callable[[float, float, str], None]:
    started, tenth = time.monotonic(), -1

    def show(done: float, goal: float, note: str) -> None:
        nonlocal tenth
        if goal and (reached := int(10 * done / goal)) > tenth:
            tenth = reached
            left = (time.monotonic() - started) * (goal - done) / max(done, 1e-9)
            eta = f"  {_clock(left)} left" if 0 < done < goal else ""
            say(f"{what}  {done:,.0f}/{goal:,.0f}  {note}{eta}")

    return show


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
