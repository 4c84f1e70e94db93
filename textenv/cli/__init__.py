"""The command line: `textenv list | train | evaluate | pretrain | fit-scorer`.

One file a command. What is heavy (torch, transformers) is imported when a command runs, so that help is instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

from textenv import __version__
from textenv.cli.console import reports_errors
from textenv.cli.fit_scorer import fit_scorer
from textenv.cli.pretrain import pretrain

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
def textenv(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version. Example: --version")
    ] = False,
) -> None:
    """Text generation as Gymnasium environments: reward placed on tokens, agents that learn from it."""


for _name, _command in {
    "pretrain": pretrain,
    "fit-scorer": fit_scorer,
}.items():
    app.command(_name)(reports_errors(_command))


def main() -> None:
    """What the console script `textenv` runs."""
    app()
