"""Who marks the spans: word lists, language models in process, and language models behind a server."""

from textenv.critics.asking import AskedCritic
from textenv.critics.cache import AnswerCache
from textenv.critics.connection import Patience
from textenv.critics.forms import CritiqueForm, CritiqueFormat, WordScores
from textenv.critics.language_model import LanguageModelCritic
from textenv.critics.lexicon import LexiconCritic
from textenv.critics.loading import CriticModel, load_critic
from textenv.critics.parsing import CritiqueError, Section, parse_critique
from textenv.critics.server import BudgetExceeded, ServerCritic, ServerError
from textenv.critics.words import WordsFromSpans

__all__ = [
    "AnswerCache",
    "AskedCritic",
    "BudgetExceeded",
    "CriticModel",
    "CritiqueError",
    "CritiqueForm",
    "CritiqueFormat",
    "LanguageModelCritic",
    "LexiconCritic",
    "Patience",
    "Section",
    "ServerCritic",
    "ServerError",
    "WordScores",
    "WordsFromSpans",
    "load_critic",
    "parse_critique",
]
