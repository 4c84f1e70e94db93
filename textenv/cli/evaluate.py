"""`textenv evaluate`: a policy's texts, measured on held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from textenv.cli import options as o
from textenv.cli.console import Debug, say

__all__ = ["evaluate"]


def evaluate(
    env_id: o.EnvId,
    policy: o.Policy = None,
    tokenizer: o.Tokenizer = None,
    reference: Annotated[
        str | None, typer.Option(help="Language model under which perplexity is taken. Example: --reference models/lm")
    ] = None,
    scorer: o.ScorerOption = None,
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    column: o.Column = None,
    max_prompt_tokens: o.MaxPromptTokens = None,
    max_new_tokens: o.MaxNewTokens = None,
    min_new_tokens: o.MinNewTokens = None,
    chat: o.Chat = False,
    system: o.System = None,
    judge: o.Judge = None,
    k: o.K = 25,
    eval_prompts: o.EvalPrompts = None,
    out: Annotated[Path | None, typer.Option(help="Write the metrics to this file. Example: --out metrics.json")] = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    precision: o.Precision = None,
    debug: Debug = False,
) -> None:
    """Measure a policy on held-out prompts.

    Example: textenv evaluate textenv/Detox-v0 --policy runs/detox/agent --reference textenv/tiny
    """
    from textenv.agents import LMPolicy
    from textenv.cli.arguments import task_settings
    from textenv.cli.measuring import Measuring, as_json, show_metrics, show_texts
    from textenv.cli.train import load_policy, make_environments

    environment = o.given(
        policy=policy, tokenizer=tokenizer, scorer=scorer, prompts=prompts, columns=o.pairs(column) or None,
        max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens,
        chat=chat or None, system=system, **task_settings(env_id, settings),
    )  # fmt: skip
    _, held_out = make_environments(env_id, environment)
    measure = Measuring(held_out, judge or [], eval_prompts, k, seed)
    model: dict[str, Any] = o.given(device=device, precision=precision)
    against = None if reference is None else LMPolicy(reference, **model)
    if against is not None and against.tokenizer.get_vocab() != held_out.get_wrapper_attr("tokenizer").get_vocab():
        raise ValueError(
            f"--reference {reference} has another vocabulary than the policy, so it cannot read its tokens; "
            "name the model that the policy was trained from"
        )
    measured = measure(load_policy(env_id, environment, **model), against, "evaluate")
    columns = {policy or "embedded policy": measured}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(as_json(measured), indent=2) + "\n", encoding="utf-8")
    show_texts(columns)
    show_metrics(columns)
    if out is not None:
        say(f"saved in {out}", style="bold")
