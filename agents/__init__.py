"""Learners and decoders. Imported as `textenv.agents`."""

from typing import TYPE_CHECKING

from textenv.exports import export_lazily

if TYPE_CHECKING:
    from textenv.agents.behaviour_cloning import BehaviourCloning
    from textenv.agents.decoders.best_of_n import BestOfN
    from textenv.agents.decoders.reward_guided import RewardGuidedSearch
    from textenv.agents.decoders.step_search import StepSearch
    from textenv.agents.engines.vllm import VLLMEngine
    from textenv.agents.etpo.etpo import ETPO
    from textenv.agents.evaluation import Evaluation, evaluate
    from textenv.agents.policy import LMPolicy
    from textenv.agents.ppo.nlpo import NLPO
    from textenv.agents.ppo.token_ppo import TokenPPO
    from textenv.agents.preferences.learner import DPO, TREG, PreferenceLearner, SimPO
    from textenv.agents.preferences.pairs import Pair, sample_pairs
    from textenv.agents.rest.grown import GrownData
    from textenv.agents.rest.grown_files import load_grown, save_grown
    from textenv.agents.rest.rest import ReST
    from textenv.agents.rollout import rollout
    from textenv.agents.sb3.actor_critic import (
        LanguageModelActorCritic,
        MaskableLanguageModelActorCritic,
        RecurrentLanguageModelActorCritic,
    )
    from textenv.agents.sb3.token_rewards import TokenRewards
    from textenv.agents.sb3.vocabulary import PackedMaskBuffer, VecTopKActions
    from textenv.agents.selection import select_aspects
    from textenv.agents.text_actions import TextActions, TextPolicy

__all__ = [
    "BehaviourCloning",
    "BestOfN",
    "DPO",
    "ETPO",
    "Evaluation",
    "GrownData",
    "LMPolicy",
    "LanguageModelActorCritic",
    "MaskableLanguageModelActorCritic",
    "NLPO",
    "PackedMaskBuffer",
    "Pair",
    "PreferenceLearner",
    "ReST",
    "RecurrentLanguageModelActorCritic",
    "RewardGuidedSearch",
    "SimPO",
    "StepSearch",
    "TREG",
    "TextActions",
    "TextPolicy",
    "TokenPPO",
    "TokenRewards",
    "VLLMEngine",
    "VecTopKActions",
    "evaluate",
    "load_grown",
    "rollout",
    "sample_pairs",
    "save_grown",
    "select_aspects",
]

export_lazily(__name__)
