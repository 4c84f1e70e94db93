"""The command line: `textenv list | train | evaluate | credit | ...`; `textenv --help` names them all.

One file a command; what a command needs is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from textenv import __version__
from textenv.cli.calibrate import calibrate
from textenv.cli.console import reports_errors
from textenv.cli.credit import credit
from textenv.cli.evaluate import evaluate
from textenv.cli.fit_reward_model import fit_reward_model
from textenv.cli.fit_scorer import fit_scorer
from textenv.cli.judge import judge
from textenv.cli.list_environments import list_environments
from textenv.cli.pretrain import pretrain
from textenv.cli.train import train
from textenv.threads import set_threads

__all__ = ["app", "main"]

app = typer.Typer(
    name="textenv",
    help="Text generation as Gymnasium environments: reward placed on tokens, agents that learn from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
@reports_errors
def textenv(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version. Example: --version")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch; default: physical cores, 8 at most. Example: --threads 2")
    ] = None,
) -> None:
    """Text generation as Gymnasium environments: reward placed on tokens, agents that learn from it."""
    set_threads(threads)


_COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_environments,
    "train": train,
    "evaluate": evaluate,
    "judge": judge,
    "calibrate": calibrate,
    "pretrain": pretrain,
    "credit": credit,
    "fit-reward-model": fit_reward_model,
    "fit-scorer": fit_scorer,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(reports_errors(_command))


def main() -> None:
    """What the console script `textenv` runs."""
    app()
