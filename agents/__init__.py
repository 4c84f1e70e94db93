"""Learners and decoders. Imported as `textenv.agents`."""

from textenv.agents.behaviour_cloning import BehaviourCloning
from textenv.agents.evaluation import Evaluation, evaluate
from textenv.agents.policy import LMPolicy
from textenv.agents.rollout import rollout
from textenv.agents.sb3 import TokenRewards
from textenv.agents.selection import select_aspects
from textenv.agents.token_ppo import TokenPPO

__all__ = ["BehaviourCloning", "Evaluation", "LMPolicy", "TokenPPO", "TokenRewards", "evaluate", "rollout", "select_aspects"]
