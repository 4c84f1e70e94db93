"""The tasks, one a file."""

from textenv.tasks.count_letter import CountLetter
from textenv.tasks.detox import Detox
from textenv.tasks.sentiment import Sentiment

__all__ = ["CountLetter", "Detox", "Sentiment"]
