"""Text generation as Gymnasium environments: a token is an action, a text is an episode.

>>> import gymnasium as gym, textenv
>>> env = gym.make("textenv/Detox-v0", reward="critic_span")
"""

import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_root, "pyproject.toml")):  # a source checkout: wrappers/ and agents/ stand beside us
    __path__.append(_root)

from textenv.exports import export_lazily
from textenv.registration import ENVIRONMENTS, REWARDS, register_all

if TYPE_CHECKING:
    from textenv.actions import TopKActions
    from textenv.aspects import Aspect
    from textenv.critics import CritiqueFormat, LanguageModelCritic, LexiconCritic, Section, ServerCritic, WordScores
    from textenv.data.prompts import load_prompts
    from textenv.env import TextEnv
    from textenv.episode import Episode, Prompt, Span
    from textenv.judges.http_scorer import HTTPScorer
    from textenv.judges.scorers import SequenceClassifierScorer
    from textenv.reward import NotApplicable, RewardWrapper
    from textenv.task import Critic, RewardDefaults, Scorer, Task
    from textenv.tokenization import load_tokenizer
    from textenv.vector import TextVectorEnv

__all__ = [
    "ENVIRONMENTS",
    "REWARDS",
    "Aspect",
    "Critic",
    "CritiqueFormat",
    "Episode",
    "HTTPScorer",
    "LanguageModelCritic",
    "LexiconCritic",
    "NotApplicable",
    "Prompt",
    "RewardDefaults",
    "RewardWrapper",
    "Scorer",
    "Section",
    "SequenceClassifierScorer",
    "ServerCritic",
    "Span",
    "Task",
    "TextEnv",
    "TextVectorEnv",
    "TopKActions",
    "WordScores",
    "__version__",
    "load_prompts",
    "load_tokenizer",
    "register_all",
]

register_all()
export_lazily(__name__)
