"""`textenv evaluate`: a policy's texts, measured on held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textenv.cli import options as o
from textenv.cli.console import Debug, say

if TYPE_CHECKING:
    from textenv.agents import LMPolicy

__all__ = ["evaluate"]


def evaluate(
    env_id: o.EnvId,
    policy: o.Policy = None,
    tokenizer: o.Tokenizer = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Language model under which perplexity is taken; default: that of a saved agent, else the embedded one. "
            "Example: --reference models/lm"
        ),
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

    Example: textenv evaluate textenv/Detox-v0 --policy runs/detox/agent
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
    writer = load_policy(env_id, environment, **model)
    against = _usual_reference(env_id, policy, writer, model) if reference is None else LMPolicy(reference, **model)
    if against is not None and against.tokenizer.get_vocab() != held_out.get_wrapper_attr("tokenizer").get_vocab():
        against = None
    if reference is not None and against is None:
        raise ValueError(
            f"--reference {reference} has another vocabulary than the policy, so it cannot read its tokens; "
            "name the model that the policy was trained from"
        )
    measured = measure(writer, against, "evaluate")
    columns = {policy or "embedded policy": measured}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(as_json(measured), indent=2) + "\n", encoding="utf-8")
    show_texts(columns)
    show_metrics(columns)
    if out is not None:
        say(f"saved in {out}", style="bold")


def _usual_reference(env_id: str, name: str | None, policy: LMPolicy, model: dict[str, Any]) -> LMPolicy | None:
    """The reference of a saved agent, or the embedded policy of the environment; None: there is neither, or it is gone."""
    import textenv
    from textenv.agents import LMPolicy
    from textenv.agents.agent_file import AGENT_FILE, agent_content
    from textenv.agents.checkpoint import load_reference

    embedded = str(textenv.ENVIRONMENTS[env_id]["tokenizer"])
    if name in (None, embedded):
        return policy
    place = Path(name or "").expanduser()
    state: dict[str, Any] = agent_content(place) if (place / AGENT_FILE).is_file() else {"has_reference": False}
    if state.get("has_reference", True):
        try:
            reference = load_reference(place, state["reference"], policy, **model)
        except (OSError, ValueError) as error:
            say(f"no perplexity: the reference of {name} cannot be read ({error}); name it: --reference DIR", style="yellow")
            return None
        reference.temperature = state.get("reference_temperature", state["temperature"])
        return reference
    return LMPolicy(embedded, **model) if embedded.startswith("textenv/") else None
