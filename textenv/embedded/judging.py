"""How the judges of answers are trained: reward model, aspects and critic in one go, and the reward model of principles.

Judge and critic of an answer must find the fact that it states in the text it answers to, as the language model must to write
it; so they begin with its weights (`source`). They learn on one trunk, a head each, from the same rows (`verdicts.Judged`): what
one is told helps the others to find out what is wrong. Then each takes the trunk and its head with it, and aspects and critic
go on alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textenv.embedded import networks, verdicts
from textenv.embedded.answers import Answers
from textenv.embedded.build import JUDGES
from textenv.embedded.recipes import SIZE, Progress, rng_of
from textenv.embedded.sampling import answers
from textenv.embedded.worlds import world
from textenv.fitting.reward_model import bradley_terry_loss
from textenv.fitting.training import fit

__all__ = ["finished", "judges", "principles"]

LOSSES = ("marks", "reward", "aspects", "critic")

_SIZE = {**SIZE, "layers": SIZE["layers"] + 1}  # the last layer is for grading and listing what those below have found out
_TASKS = {"summarization": 1.0, "long_form": 2.0, "translation": 2.0}  # how often each is drawn: by how hard it is


def _sources(
    rng: random.Random, tokenizer: PreTrainedTokenizerBase, seed: int, tasks: Sequence[str], source: PreTrainedModel, count: int
) -> list[Answers]:
    """Answers of each task, with those that the language model itself gives, two to a prompt, among them."""
    generator, found = torch.Generator().manual_seed(seed), []
    for task in tasks:
        asked = [world(task).sample(rng).prompt for _ in range(count)]
        texts = answers(source, tokenizer, list(map(world(task).prompt_text, asked)), 64, generator, each=2)
        found.append(Answers(world(task), rng, [(p, t) for p, t in zip(asked, texts, strict=True) if t]))
    return found


class _Judges(nn.Module):
    """A trunk with a head for each judge, and one that is thrown away.

    That one learns which tokens are part of something wrong and which of something right, from the layer before the last: what
    is to be graded or listed must have been found out by then, and from grades and lists alone that is hardly learned.

    Args:
        models: reward model, aspects and critic by name (`JUDGES`); the critic's trunk is that of all.
        learned: the losses that count.
    """

    def __init__(self, models: Mapping[str, PreTrainedModel], seed: int, learned: Sequence[str] = LOSSES) -> None:
        super().__init__()
        self._others: list[Any] = [models[name] for name in JUDGES[:2]]  # in a list, so that only their heads are parameters
        self.critic: Any = models[JUDGES[2]]
        self.reward, self.aspects = (model.score for model in self._others)
        generator = torch.Generator().manual_seed(seed)
        self.marks = nn.Parameter(0.02 * torch.randn(self.critic.config.hidden_size, 2, generator=generator))
        self.learned, self.lately = learned, dict.fromkeys(learned, 1.0)

    def forward(self, batch: verdicts.Judged) -> torch.Tensor:
        """The sum of the losses."""
        where = batch.critique[:, 1:]
        with networks.products():
            states = self.critic.model(batch.ids, use_cache=False, output_hidden_states=True).hidden_states
            marks, graded, aspects = states[-2] @ self.marks, self.reward(states[-1])[..., 0], self.aspects(states[-1])
            listed = networks.next_token_logits(self.critic, states[-1][:, :-1][where])
        parts = {
            "marks": F.binary_cross_entropy_with_logits(marks.float()[batch.marks >= 0], batch.marks[batch.marks >= 0]),
            "reward": _reward_loss(graded.float(), batch),
            "aspects": _aspects_loss(aspects.float(), batch.aspects),
            "critic": F.cross_entropy(listed.float(), batch.ids[:, 1:][where]),
        }
        for name in self.learned:
            self.lately[name] += (parts[name].item() - self.lately[name]) / 30
        return torch.stack([parts[name] for name in self.learned]).sum()

    def taken_apart(self) -> dict[str, PreTrainedModel]:
        """Each judge with a trunk of its own."""
        for model in self._others:
            model.model.load_state_dict(self.critic.model.state_dict())
        return dict(zip(JUDGES, (*self._others, self.critic), strict=True))


def _reward_loss(logits: torch.Tensor, batch: verdicts.Judged, bradley_terry: float = 0.5) -> torch.Tensor:
    """Bradley–Terry over answers to one prompt, and the quality of every prefix that is told."""
    told = batch.targets >= 0
    loss = F.binary_cross_entropy_with_logits(logits[told], 0.02 + 0.96 * batch.targets[told])
    score = logits[torch.arange(len(logits)), batch.last]
    better = (batch.group[:, None] == batch.group) & (batch.quality[:, None] > batch.quality + 0.02)  # (B, B)
    if better.any():
        one, other = torch.nonzero(better, as_tuple=True)
        loss = loss + bradley_terry * bradley_terry_loss(score[one], score[other])
    return loss


def _aspects_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Each label counts alike, however many tokens are judged by it."""
    each = []
    for label in range(targets.shape[-1]):
        told = targets[..., label] >= 0
        if told.any():
            wanted = targets[..., label][told].clamp(0.01, 0.99)
            each.append(F.binary_cross_entropy_with_logits(logits[..., label][told], wanted))
    return torch.stack(each).mean()


def _learn(
    module: _Judges, tokenizer: PreTrainedTokenizerBase, seed: int, progress: Progress, steps: int, source: PreTrainedModel,
    *, purpose: str, learning_rate: float, count: int, idle: float,
) -> dict[str, PreTrainedModel]:  # fmt: skip
    """The judges after `steps` batches. `idle`: the share that is kept of the texts in which nothing is wrong."""
    rng = rng_of(seed, purpose)
    sources = _sources(rng, tokenizer, seed, list(_TASKS), source, count)
    batches = verdicts.judged_batches(tokenizer, sources, rng, weights=list(_TASKS.values()), idle=idle)

    def told(line: str) -> None:
        progress(f"{line}  ({', '.join(f'{name} {loss:.3f}' for name, loss in module.lately.items())})")

    fit(module, batches, _Judges.__call__, steps=steps, learning_rate=learning_rate, warmup=0.03, progress=told)
    return module.taken_apart()


def judges(
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    steps: int,
    source: PreTrainedModel,
    *,
    learning_rate: float = 1.5e-3,
    count: int = 800,
) -> dict[str, PreTrainedModel]:
    """The judges of answers by name (`JUDGES`): reward model, token classifier of the aspects, language model that lists errors."""
    models = {
        "tiny-reward": networks.scorer(tokenizer, seed, ("good",), **_SIZE),
        "tiny-aspects": networks.judge(tokenizer, seed, verdicts.LABELS, **_SIZE),
        "tiny-critic-answers": networks.take_trunk(networks.language_model(tokenizer, seed, **_SIZE), source),
    }
    module = _Judges(models, seed)
    return _learn(
        module, tokenizer, seed, progress, steps, source,
        purpose="judges", learning_rate=learning_rate, count=count, idle=1.0,
    )  # fmt: skip


def finished(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    progress: Progress,
    steps: int,
    source: PreTrainedModel,
    drafts: Mapping[str, PreTrainedModel],
    *,
    learning_rate: float = 1e-3,
    count: int = 800,
) -> PreTrainedModel:
    """Aspects or critic of `judges`, trained on with the trunk to itself: grading and listing want different last layers."""
    critic = name == "tiny-critic-answers"
    module = _Judges(drafts, seed, ("marks", "critic" if critic else "aspects"))
    return _learn(
        module, tokenizer, seed, progress, steps, source,
        purpose=name, learning_rate=learning_rate, count=count, idle=0.3 if critic else 1.0,
    )[name]  # fmt: skip


def principles(
    tokenizer: PreTrainedTokenizerBase, seed: int, progress: Progress, samples: Mapping[str, Sequence[str]], steps: int
) -> PreTrainedModel:
    """The reward model that reads principles, one logit, taught the verdict on every prefix."""
    model = networks.scorer(tokenizer, seed, ("good",), width=64, layers=3, heads=2)
    rng = rng_of(seed, "principles")

    def loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        ids, targets = batch
        with networks.products():
            logits = model.score(model.model(ids, use_cache=False).last_hidden_state)[..., 0].float()
        told = targets >= 0
        return F.binary_cross_entropy_with_logits(logits[told], targets[told])

    batches = verdicts.principle_batches(tokenizer, verdicts.excerpts_of(rng, samples), rng)
    fit(model, batches, loss, steps=steps, learning_rate=3e-3, progress=progress)
    return model
