"""The tasks, one a file."""

from textenv.tasks.count_letter import CountLetter
from textenv.tasks.detox import Detox
from textenv.tasks.long_form_qa import LongFormQA
from textenv.tasks.sentiment import Sentiment
from textenv.tasks.summarization import Summarization
from textenv.tasks.translation import Translation

__all__ = ["CountLetter", "Detox", "LongFormQA", "Sentiment", "Summarization", "Translation"]
