"""A Hugging Face causal language model as the policy of unmodified Stable-Baselines3 and sb3-contrib algorithms.

    PPO, A2C        LanguageModelActorCritic
    MaskablePPO     MaskableLanguageModelActorCritic      masks come from the environment's `action_masks()`
    RecurrentPPO    RecurrentLanguageModelActorCritic     the text is the memory: the LSTM states pass through unread

How the model is read, fast, is `textenv.agents.sb3.actor_critic_base`. About files:

1. SB3 pickles `policy_kwargs` into every checkpoint. So `model=` is a name, a directory, a configuration or a function; a
   model object, which would be written twice, is refused.
2. `PPO.load(file)` unpickles, hence runs, what the file's author wrote. For a file from elsewhere make the agent yourself,
   then `agent.set_parameters(file)`: SB3 then reads tensors alone.
3. `agent.policy.save(directory)` writes safetensors and JSON; `LanguageModelActorCritic.load(directory)` and
   `policy_kwargs={"model": directory}` read it, as the latter reads a saved `TokenPPO`, value head and all.
"""

from __future__ import annotations

from typing import Any

from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from textenv.agents.sb3.actor_critic_base import LanguageModelActing

__all__ = ["LanguageModelActorCritic", "MaskableLanguageModelActorCritic", "RecurrentLanguageModelActorCritic"]


class LanguageModelActorCritic(LanguageModelActing, ActorCriticPolicy):
    """A causal language model as actor and critic, for `PPO` and `A2C`.

    >>> import gymnasium as gym, textenv
    >>> from stable_baselines3 import PPO
    >>> from textenv.agents.sb3.actor_critic import LanguageModelActorCritic
    >>> env = gym.make("textenv/Detox-v0", max_new_tokens=4)
    >>> agent = PPO(LanguageModelActorCritic, env, policy_kwargs={"model": "textenv/tiny"}, n_steps=8, batch_size=8)
    >>> agent.learn(8).num_timesteps
    8

    `policy_kwargs`:
        model: "textenv/tiny", a directory (a value head saved there is taken too), a hub name; a configuration
            (`LlamaConfig(...)`: random weights); a function that makes the model.
        temperature: of sampling, and so of every log-probability.
        cache: keep the model's keys and values between steps.
        dtype: of the weights.
        precision: of forward passes, as for `LMPolicy`.
        optimizer_class, optimizer_kwargs: as in Stable-Baselines3.

    Raises:
        TypeError: `model` is a model object.
        ValueError: an encoder–decoder; fewer ids than the tokenizer's; too few positions; actions that nobody names.
    """

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (n,), values (n, 1), log-probabilities (n,)."""
        return self._act(obs, deterministic)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (n, 1), log-probabilities (n,), entropies (n,); differentiable."""
        return self._evaluate(obs, actions)

    def get_distribution(self, obs: Any) -> Any:
        """SB3's distribution over the actions."""
        return self.action_dist.proba_distribution(self.look(obs)[0])

    def predict_values(self, obs: Any) -> Tensor:
        """Values (n, 1)."""
        return self.look(obs)[1]

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self._act(observation, deterministic)[0]


class MaskableLanguageModelActorCritic(LanguageModelActing, MaskableActorCriticPolicy):
    """The same for `MaskablePPO`; arguments as for `LanguageModelActorCritic`."""

    def forward(self, obs: Tensor, deterministic: bool = False, action_masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (n,), values (n, 1), log-probabilities (n,)."""
        return self._act(obs, deterministic, action_masks)

    def evaluate_actions(self, obs: Tensor, actions: Tensor, action_masks: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Values (n, 1), log-probabilities (n,), entropies (n,); differentiable."""
        return self._evaluate(obs, actions, action_masks)

    def get_distribution(self, obs: Any, action_masks: Any = None) -> Any:
        """sb3-contrib's distribution over the actions."""
        distribution: Any = make_masked_proba_distribution(self.action_space).proba_distribution(self.look(obs)[0])
        distribution.apply_masking(action_masks)
        return distribution

    def predict_values(self, obs: Any) -> Tensor:
        """Values (n, 1)."""
        return self.look(obs)[1]

    def _predict(self, observation: Any, deterministic: bool = False, action_masks: Any = None) -> Tensor:
        return self._act(observation, deterministic, action_masks)[0]


class RecurrentLanguageModelActorCritic(LanguageModelActing, RecurrentActorCriticPolicy):
    """The same for `RecurrentPPO`; arguments as for `LanguageModelActorCritic`. The LSTM states are of size one, and unread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, lstm_hidden_size=1, shared_lstm=True, enable_critic_lstm=False, **options)

    def forward(  # type: ignore[override]
        self, obs: Tensor, lstm_states: Any, episode_starts: Tensor, deterministic: bool = False
    ) -> Any:
        """Actions (n,), values (n, 1), log-probabilities (n,), the states as they came."""
        return (*self._act(obs, deterministic), lstm_states)

    def evaluate_actions(  # type: ignore[override]
        self, obs: Tensor, actions: Tensor, lstm_states: Any, episode_starts: Tensor
    ) -> Any:
        """Values (n, 1), log-probabilities (n,), entropies (n,); differentiable."""
        return self._evaluate(obs, actions)

    def get_distribution(self, obs: Tensor, lstm_states: Any, episode_starts: Tensor) -> Any:  # type: ignore[override]
        """SB3's distribution over the actions, the states as they came."""
        return self.action_dist.proba_distribution(self.look(obs)[0]), lstm_states

    def predict_values(self, obs: Tensor, lstm_states: Any, episode_starts: Tensor) -> Tensor:  # type: ignore[override]
        """Values (n, 1)."""
        return self.look(obs)[1]

    def _predict(  # type: ignore[override]
        self, observation: Tensor, lstm_states: Any, episode_starts: Tensor, deterministic: bool = False
    ) -> Any:
        return self._act(observation, deterministic)[0], lstm_states
