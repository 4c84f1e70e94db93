"""Who marks the spans: word lists and language models."""

from textenv.critics.language_model import CritiqueFormat, LanguageModelCritic, Section, parse_critique
from textenv.critics.lexicon import LexiconCritic
from textenv.critics.loading import load_critic

__all__ = ["CritiqueFormat", "LanguageModelCritic", "LexiconCritic", "Section", "load_critic", "parse_critique"]
