"""Learners and decoders. Imported as `textenv.agents`."""

from textenv.agents.actor_critic import (
    LanguageModelActorCritic,
    MaskableLanguageModelActorCritic,
    RecurrentLanguageModelActorCritic,
)
from textenv.agents.behaviour_cloning import BehaviourCloning
from textenv.agents.best_of_n import BestOfN
from textenv.agents.etpo import ETPO
from textenv.agents.evaluation import Evaluation, evaluate
from textenv.agents.grown import GrownData
from textenv.agents.grown_files import load_grown, save_grown
from textenv.agents.nlpo import NLPO
from textenv.agents.pairs import Pair, sample_pairs
from textenv.agents.policy import LMPolicy
from textenv.agents.preference import DPO, TREG, PreferenceLearner, SimPO
from textenv.agents.rest import ReST
from textenv.agents.reward_guided import RewardGuidedSearch
from textenv.agents.rollout import rollout
from textenv.agents.sb3 import TokenRewards
from textenv.agents.sb3_vocabulary import PackedMaskBuffer, VecTopKActions
from textenv.agents.selection import select_aspects
from textenv.agents.step_search import StepSearch
from textenv.agents.text_actions import TextActions, TextPolicy
from textenv.agents.token_ppo import TokenPPO

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
    "VecTopKActions",
    "evaluate",
    "load_grown",
    "rollout",
    "sample_pairs",
    "save_grown",
    "select_aspects",
]
