"""Who deserves the reward: wrappers that place credit on tokens. Imported as `textenv.wrappers`."""

from typing import TYPE_CHECKING

from textenv.exports import export_lazily

if TYPE_CHECKING:
    from textenv.aspects import Aspect
    from textenv.critics import CritiqueFormat, LanguageModelCritic, LexiconCritic, Section, ServerCritic, WordScores
    from textenv.reward import RewardWrapper
    from textenv.wrappers.attention import AttentionReward
    from textenv.wrappers.contrastive import ContrastiveReward
    from textenv.wrappers.controls import NoiseReward, UniformReward
    from textenv.wrappers.critic import CriticReward, CriticTokenReward
    from textenv.wrappers.delta import DeltaReward
    from textenv.wrappers.fine_grained import FineGrainedReward
    from textenv.wrappers.function import RewardFromFunction
    from textenv.wrappers.hierarchical import HierarchicalReward, WeightedSumReward
    from textenv.wrappers.length import LengthPenalty
    from textenv.wrappers.log_ratio import ImplicitReward, TokenLogRatioReward
    from textenv.wrappers.online import OnlineReward
    from textenv.wrappers.principles import PrinciplesReward
    from textenv.wrappers.process import ProcessReward
    from textenv.wrappers.redistributed import RedistributedReward
    from textenv.wrappers.scalarized import ScalarizedReward
    from textenv.wrappers.self_critique import SelfCritiqueReward
    from textenv.wrappers.stopping import LengthBonus, NoStopPenalty

__all__ = [
    "Aspect",
    "AttentionReward",
    "ContrastiveReward",
    "CriticReward",
    "CriticTokenReward",
    "CritiqueFormat",
    "DeltaReward",
    "FineGrainedReward",
    "HierarchicalReward",
    "ImplicitReward",
    "LanguageModelCritic",
    "LengthBonus",
    "LengthPenalty",
    "LexiconCritic",
    "NoStopPenalty",
    "NoiseReward",
    "OnlineReward",
    "PrinciplesReward",
    "ProcessReward",
    "RedistributedReward",
    "RewardFromFunction",
    "RewardWrapper",
    "ScalarizedReward",
    "Section",
    "SelfCritiqueReward",
    "ServerCritic",
    "TokenLogRatioReward",
    "UniformReward",
    "WeightedSumReward",
    "WordScores",
]

export_lazily(__name__)
