"""HGS-PRM: a text is written step by step, and a judge of steps decides which are kept.

Paper: Ma et al. 2023, *Let's reward step by step: Step-Level reward model as the Navigators for Reasoning* (arXiv 2310.10080):
a greedy search over steps; a process reward model calls each proposed step positive, neutral or negative. Positive: go on from
it. Negative: propose another. All children negative: back to the parent. The inner rules are not published; these are ours:

1. `branching` distinct steps are tried at a node (a low temperature repeats itself; a repetition is not judged again, and three
   proposals in a row for each that counts are the most). Then the best neutral one is taken, if there is one; else the last step
   of the path is taken back and forbidden, for good; with nothing left to take back, the rest is written plainly;
2. the budget of sampled tokens is hard, and every text is finished within it: a proposal may be thrown away only as long as what
   is left still holds a whole text. After that steps are kept as they come, which is plain decoding;
3. a step that shows nothing (EOS alone), or on which the judge is silent, is kept;
4. a judge that scores texts, and not steps, judges a step by what it adds: score with it − score without it.

With a judge that likes everything the texts are those of plain sampling, number by number. Search of this kind has been found to
gain little over best-of-N at higher cost (arXiv 2510.20272): report `BestOfN.at_budget_of(search, env)` beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from textenv.agents.checks import at_least, within
from textenv.agents.decoders.decoding import Draws, TokensUsed
from textenv.agents.decoders.step_judge import StepJudge
from textenv.agents.decoders.step_paths import Path, Step
from textenv.agents.evaluation import as_language_model
from textenv.episode import Prompt
from textenv.generation import ActionRule, sample
from textenv.segments import Segmenter, ended, load_segmenter

__all__ = ["StepSearch"]

Ids = NDArray[np.int64]


class StepSearch:
    """A policy that writes step by step, and takes back what a judge of steps does not like.

    >>> import gymnasium as gym, textenv
    >>> from textenv.agents import evaluate
    >>> env = gym.make("textenv/Detox-v0", split="test")
    >>> search = StepSearch("textenv/tiny", env, segmenter="sentences", token_budget=112)
    >>> _ = evaluate(search, env, 4)
    >>> search.tokens_used.sampled <= 4 * 112
    True

    Args:
        policy: a language model: an `LMPolicy` (its temperature is that of the proposals; the paper takes 0.1 and 0.2), an agent
            of this library, a name, a directory, a transformers model.
        judge: of steps: a callable episodes → spans (`StepClassifier`, a critic), whose lowest span in a step tells; an `Aspect`,
            or its name. Or of texts: an environment (its task's score), a scorer: episodes → floats.
        segmenter: what a step is; "sentences" for prose.
        branching: distinct steps tried at a node.
        token_budget: tokens sampled for a text at most, those that are thrown away too; default: four times the longest text.
        margin: values within ±margin are neutral.
        env: the text environment of the prompts, where `judge` is none.
        batch_size: texts written together.

    Attributes:
        tokens_used: what the texts have cost so far.

    Raises:
        ValueError: branching below 1, a negative margin; when it writes, a budget that holds no whole text.
        TypeError: a policy that tells no probabilities.
    """

    reads_prompts = True

    def __init__(
        self,
        policy: Any,
        judge: Any,
        *,
        segmenter: str | Segmenter = "lines",
        branching: int = 4,
        token_budget: int | None = None,
        margin: float = 0.0,
        env: gym.Env[Any, Any] | None = None,
        batch_size: int = 64,
    ) -> None:
        at_least(1, branching=branching, batch_size=batch_size, token_budget=token_budget)
        within(0, float("inf"), margin=margin)
        env = judge if env is None and isinstance(judge, gym.Env) else env
        self.policy = as_language_model(policy, env)
        self._steps = StepJudge(judge, env, self.policy.tokenizer)
        self.judge = self._steps.judge
        self.segmenter, self.branching, self.token_budget = load_segmenter(segmenter), branching, token_budget
        self.margin, self.batch_size = margin, batch_size

    @property
    def tokens_used(self) -> TokensUsed:
        """What the texts have cost so far."""
        return self.judge.used

    def generate(
        self,
        prompts: Sequence[Prompt | Ids],
        rule: ActionRule,
        uniforms: Tensor | None,
        /,
        *,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> list[Ids]:
        """Texts, one per prompt, as of any policy.

        Raises:
            ValueError: greedy texts (uniforms None), of which there are no others to try; a budget below `max_new_tokens`.
        """
        if uniforms is None:
            raise ValueError("step search tries other samples, and greedy texts have none: pass deterministic=False")
        budget = 4 * rule.max_new_tokens if self.token_budget is None else self.token_budget
        if budget < rule.max_new_tokens:
            raise ValueError(f"token_budget={budget} holds no whole text of max_new_tokens={rule.max_new_tokens}; raise it")
        self.policy.eval()
        paths = [Path(a, Draws(row), budget) for a, row in zip(self.judge.book.read(prompts), uniforms, strict=True)]
        for at in range(0, len(paths), self.batch_size):
            part = paths[at : at + self.batch_size]
            while going := [path for path in part if not path.finished(rule)]:
                self._advance(going, rule, top_k, top_p)
        self.tokens_used.texts += len(paths)
        self.tokens_used.sampled += sum(budget - path.left for path in paths)
        return [np.array(path.tokens, np.int64) for path in paths]

    def _advance(self, paths: Sequence[Path], rule: ActionRule, top_k: int, top_p: float) -> None:
        """One proposal for each path, judged where it may still be refused."""
        proposed = [Step(tokens) for tokens in self._propose(paths, rule, top_k, top_p)]
        asked: list[tuple[Path, Step]] = []
        for path, step in zip(paths, proposed, strict=True):
            free = path.slack(rule)  # what may be thrown away
            path.left -= len(step.tokens)
            path.tried[-1].proposals += 1
            if len(step.tokens) > free:
                path.push(step)
            elif not any(step.tokens == other.tokens for other in path.tried[-1].steps):
                asked.append((path, step))
        self._steps.value(asked, rule)
        for path, step in asked:
            path.tried[-1].steps.append(step)
            if step.value is None or step.value > self.margin:
                path.push(step)
        for path in paths:
            self._settle(path, rule)

    def _settle(self, path: Path, rule: ActionRule) -> None:
        """Leave a node at which enough has been tried."""
        while not path.plain and path.tried[-1].exhausted(self.branching):
            neutral = [step for step in path.tried[-1].steps if not step.forbidden and (step.value or 0.0) >= -self.margin]
            if neutral:
                path.push(max(neutral, key=lambda step: step.value or 0.0))
            elif path.steps and path.slack(rule) >= len(path.steps[-1].tokens):
                path.pop()
            else:
                path.plain = True

    def _propose(self, paths: Sequence[Path], rule: ActionRule, top_k: int, top_p: float) -> list[list[int]]:
        """The next step of each path (of a plain one, all the rest), sampled side by side with a KV cache."""
        layout, model = self.policy.layout, self.policy.model
        said = [path.tokens for path in paths]
        texts = [self.judge.text(path.asked, tokens) for path, tokens in zip(paths, said, strict=True)]
        read = layout.prompts([path.asked.ids for path in paths], rule.prompt_end)
        answers = bool(getattr(model.config, "is_encoder_decoder", False))  # its decoder says again what has been said
        again = said if answers else [[] for _ in paths]
        if not answers:
            read = [np.concatenate([ids, np.array(tokens, np.int64)]) for ids, tokens in zip(read, said, strict=True)]
        out: list[list[int]] = [[] for _ in paths]
        device, live, step = self.policy.device, list(range(len(paths))), 0
        with torch.inference_mode(), self.policy.autocast():
            decoding = layout.begin(read)
            while live:
                output = model(**layout.inputs(decoding))
                at = [len(said[i]) + len(out[i]) for i in live]  # the index of the token within its text
                free = [step >= len(again[i]) for i in live]
                numbers = [paths[i].number(a) if f else 0.0 for i, a, f in zip(live, at, free, strict=True)]
                logits = rule.restrict(output.logits[:, -1], torch.tensor(at, device=device), self.policy.temperature)
                tokens = sample(logits, torch.tensor(numbers, device=device), top_k=top_k, top_p=top_p).tolist()
                for j, i in enumerate(live):
                    if free[j]:
                        out[i].append(tokens[j])
                    else:
                        tokens[j] = again[i][step]
                decoding.advance(torch.tensor(tokens, device=device), output.past_key_values)
                kept = [
                    j for j, i in enumerate(live) if not free[j] or not self._ends(paths[i], said[i] + out[i], texts[i], rule)
                ]
                if 0 < len(kept) < len(live):
                    decoding.keep(torch.tensor(kept, device=device))
                live, step = [live[j] for j in kept], step + 1
        return out

    def _ends(self, path: Path, tokens: Sequence[int], before: str, rule: ActionRule) -> bool:
        """Whether a step that began behind the text `before` has come to its end."""
        if len(tokens) == rule.max_new_tokens or tokens[-1] == rule.eos_token_id:
            return True
        if not path.slack(rule):
            return False
        text = self.judge.text(path.asked, tokens)
        return bool(text[len(before) :].strip()) and ended(text, self.segmenter)
