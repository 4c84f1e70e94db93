"""Who deserves the reward: wrappers that place credit on tokens. Imported as `textenv.wrappers`."""

from textenv.critics import CritiqueFormat, LanguageModelCritic, LexiconCritic, Section
from textenv.reward import RewardWrapper
from textenv.wrappers.critic import CriticReward
from textenv.wrappers.online import OnlineReward

__all__ = [
    "CriticReward",
    "CritiqueFormat",
    "LanguageModelCritic",
    "LexiconCritic",
    "OnlineReward",
    "RewardWrapper",
    "Section",
]
