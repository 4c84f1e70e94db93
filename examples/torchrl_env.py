"""TorchRL drives a text environment through its own `GymEnv`.

    pip install 'textenv[torchrl]'
    python examples/torchrl_env.py [--updates 20]

`check_env_specs` of TorchRL passes; its collector gathers tokens, its GAE and its `ClipPPOLoss` train a small actor and critic over
the observation's ids.
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import torch
from torch import nn

import textenv  # noqa: F401 - registers the environments

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--updates", type=int, default=20, help="rollouts, each followed by updates")
parser.add_argument("--frames", type=int, default=512, help="tokens an update")
options = parser.parse_args()

try:
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper, InitTracker, TransformedEnv, check_env_specs
    from torchrl.modules import OneHotCategorical, ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE
except ImportError as error:
    raise SystemExit(f"{error}; this example needs TorchRL: pip install 'textenv[torchrl]'") from None

torch.manual_seed(0)

env = TransformedEnv(GymWrapper(gym.make("textenv/CountLetter-v0", reward="critic_span", pay_every="token")), InitTracker())
check_env_specs(env)
print("check_env_specs passes:", env.observation_spec["observation"].shape, env.action_spec.shape)
width, vocabulary = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]


class Ids(nn.Module):
    """An embedding of every column of the observation (-1 is no token), and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden = nn.Embedding(vocabulary + 1, 8), nn.Linear(8 * width, 64)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.hidden(self.embed(observation.long() + 1).flatten(-2)))


trunk = TensorDictModule(Ids(), in_keys=["observation"], out_keys=["hidden"])
logits = TensorDictModule(nn.Linear(64, vocabulary), in_keys=["hidden"], out_keys=["logits"])
actor = ProbabilisticActor(
    TensorDictSequential(trunk, logits),
    spec=env.action_spec,
    in_keys=["logits"],
    distribution_class=OneHotCategorical,
    return_log_prob=True,
)
critic = ValueOperator(nn.Sequential(Ids(), nn.Linear(64, 1)), in_keys=["observation"])
advantage = GAE(gamma=1.0, lmbda=0.95, value_network=critic)
loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, critic_coeff=0.5, normalize_advantage=True)
optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
collector = Collector(env, actor, frames_per_batch=options.frames, total_frames=options.frames * options.updates)

for i, batch in enumerate(collector):
    ended = int(batch["next", "done"].sum())
    mean = float(batch["next", "reward"].sum()) / max(ended, 1)
    print(f"update {i + 1:3d}  {ended:3d} texts  return a text {mean:.2f} of at most 2", flush=True)
    for _ in range(4):
        with torch.no_grad():
            advantage(batch)
        for part in batch.reshape(-1)[torch.randperm(batch.numel())].split(128):
            losses = loss(part)
            total = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
collector.shutdown()
