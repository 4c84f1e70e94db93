"""`textenv credit`: is the credit on the right tokens? Each reward against known truth, as a table, a .csv and a picture."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from textenv.cli import options as o
from textenv.cli.console import Debug, progress, say
from textenv.cli.credit_rows import CHUNK, Maker, effects_of_deletion, measured
from textenv.cli.credit_table import draw, show, write_csv

if TYPE_CHECKING:
    import gymnasium as gym

    from textenv.episode import Episode

__all__ = ["credit"]

Sign = Literal["bad", "good"]


def credit(
    env_id: o.EnvId,
    names: Annotated[
        list[str] | None, typer.Argument(help="Rewards (textenv list), or module:Class, with arguments as JSON; default: all.")
    ] = None,
    rewards: Annotated[
        list[str] | None,
        typer.Option(help="The same; others may follow. Example: --rewards critic_span 'redistributed:{\"mix\": 0.8}' noise"),
    ] = None,
    texts: Annotated[
        str | None, typer.Option(help="File of texts with marked spans, instead of sampled texts. Example: --texts spans.jsonl.gz")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Where that file holds text, spans (character offsets, [begin, end] pairs, objects with start and end, or OK/BAD "
            "a word), prompt, context, references. Example: --column spans=toxic_characters"
        ),
    ] = None,
    n: Annotated[int, typer.Option(help="At most so many texts. Example: --n 1000")] = 400,
    sign: Annotated[str, typer.Option(help="Find bad spans by -credit, or good ones by credit. Example: --sign good")] = "bad",
    deletions: Annotated[
        int, typer.Option(help="Measure what deleting a token does to the score on so many texts. Example: --deletions 50")
    ] = 200,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the intervals. Example: --bootstrap 2000")] = 1000,
    policy: o.Policy = None,
    tokenizer: o.Tokenizer = None,
    scorer: o.ScorerOption = None,
    critic: o.Critic = None,
    critic_option: o.CriticOption = None,
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    max_prompt_tokens: o.MaxPromptTokens = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Longest text; longer ones of --texts are left out. Example: --max-new-tokens 120")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for credit.csv and credit.png. Example: --out runs/credit")] = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    overwrite: o.Overwrite = False,
    debug: Debug = False,
) -> None:
    """Measure whether rewards put their credit on the right tokens: on texts of the embedded world, or on marked texts.

    Example: textenv credit textenv/Detox-v0 --rewards critic_span redistributed attention uniform noise --out runs/credit
    """
    import numpy as np

    import textenv
    from textenv.cli.arguments import READING, asked_critic, critic_options, task_settings
    from textenv.metrics.credit import truth_mask
    from textenv.saving import atomic_directory

    if env_id not in textenv.ENVIRONMENTS:
        raise ValueError(f"unknown environment {env_id!r}; one of {', '.join(textenv.ENVIRONMENTS)}")
    if sign not in get_args(Sign):
        raise ValueError(f"--sign is {' or '.join(get_args(Sign))}, got {sign!r}")
    if n < 1 or deletions < 0 or bootstrap < 1:
        raise ValueError(f"--n and --bootstrap should be at least 1, --deletions 0 or more; got {n}, {bootstrap}, {deletions}")
    if column and texts is None:
        raise ValueError("--column says where the fields of --texts are; name that file")
    wanted = list(dict.fromkeys([*(rewards or []), *(names or [])])) or list(textenv.REWARDS)
    if out is not None:
        out = o.free_directory(out, overwrite)
        importlib.import_module("textenv.metrics.plots").figure(1, 1)  # without matplotlib: said now, not after the work
    arguments = o.given(
        tokenizer=tokenizer or policy, scorer=scorer, prompts=prompts, max_prompt_tokens=max_prompt_tokens,
        max_new_tokens=max_new_tokens, **task_settings(env_id, settings),
    )  # fmt: skip
    asked = asked_critic(critic, critic_options(critic_option))
    number = {"bad": -1, "good": 1}[sign]
    if texts is not None:
        env, episodes, spans = _given(env_id, arguments, texts, o.pairs(column), n)
    else:
        env, episodes = _sampled(env_id, arguments, policy, n, seed, device)
        spans = env.get_wrapper_attr("task").truth(episodes)
    truth = [truth_mask(episode, marked, number) for episode, marked in zip(episodes, spans, strict=True)]
    tokens, found = sum(map(len, episodes)), int(sum(mask.sum() for mask in truth))
    say(f"{len(episodes)} texts, {tokens:,} tokens, {found:,} of them ({found / tokens:.1%}) on {sign} spans")
    if not 0 < found < tokens:
        raise ValueError(f"there is nothing to tell apart: {found} of {tokens} tokens are on {sign} spans; give other texts")
    rule = env.get_wrapper_attr("action_rule")
    budgets = {"max_new_tokens": rule.max_new_tokens, "min_new_tokens": rule.min_new_tokens}
    arguments = {name: value for name, value in arguments.items() if name not in READING}
    arguments |= {"scorer": env.get_wrapper_attr("task").scorer, **budgets}
    makers = [Maker(env_id, arguments, name, asked, seed) for name in wanted]
    made = [maker.make() for maker in makers]  # an unknown name is an error before the work

    effects = effects_of_deletion(env, episodes, deletions)
    rows, kept = measured(makers, made, episodes, truth, effects, {"sign": number, "bootstrap": bootstrap, "seed": seed})
    title = f"{env_id}: {len(kept)} texts, {sign} spans"
    chance = float(np.concatenate([truth[i] for i in kept]).mean())
    show(rows, title, chance, sum(effects[i] is not None for i in kept))
    if out is not None:
        with atomic_directory(out) as draft:
            write_csv(rows, draft / "credit.csv")
            draw(rows, draft / "credit.png", title, chance)
        say(f"saved in {out}", style="bold")


def _sampled(
    env_id: str, arguments: dict[str, Any], policy: str | None, n: int, seed: int, device: str
) -> tuple[gym.Env[Any, Any], list[Episode]]:
    """Texts of the policy on test prompts, each prompt once (again from the first, where n asks for more), judged."""
    import gymnasium as gym
    import torch

    from textenv.agents import rollout
    from textenv.cli.train import load_policy

    env = gym.make(env_id, split="test", **arguments)
    writer = load_policy(env_id, o.given(policy=policy, tokenizer=arguments.get("tokenizer")), device)
    held_out = env.get_wrapper_attr("task").prompts
    asked = [held_out[i % len(held_out)] for i in range(n)]
    generator = torch.Generator().manual_seed(seed)
    episodes: list[Episode] = []
    with progress("texts", n) as meter:
        for first in range(0, n, CHUNK):
            part = asked[first : first + CHUNK]
            episodes += rollout(env.unwrapped, writer, len(part), generator, prompts=part)
            meter.update(len(episodes), tokens=sum(map(len, episodes)))
    return env, episodes


def _given(
    env_id: str, arguments: dict[str, Any], file: str, columns: dict[str, str], n: int
) -> tuple[gym.Env[Any, Any], list[Episode], list[Any]]:
    """The texts of a file as the environment's tokens with EOS at the end, judged; and what is marked in them."""
    import gymnasium as gym

    import textenv
    from textenv.data.marked_texts import read_marked_texts
    from textenv.tokenization import load_tokenizer

    marked = read_marked_texts(file, columns)
    words = load_tokenizer(arguments.get("tokenizer", textenv.ENVIRONMENTS[env_id]["tokenizer"]))
    # A text goes on after its prompt as a policy writes it: with a space.
    gaps = ["" if not row.prompt.text or row.text[:1].isspace() else " " for row in marked]
    ids = words([gap + row.text for gap, row in zip(gaps, marked, strict=True)], add_special_tokens=False)["input_ids"]
    limit = arguments.get("max_new_tokens") or 1 + max(map(len, ids))
    fitting = [i for i, row in enumerate(ids) if len(row) < limit]
    if not fitting:
        raise ValueError(f"no text of {file} has fewer than {limit} tokens (EOS is one); raise --max-new-tokens")
    budgets = {"max_new_tokens": limit, "min_new_tokens": 0}
    env = gym.make(env_id, **{"split": "test", **arguments, **budgets})
    episodes, spans = [], []
    for i in fitting:
        episode = env.get_wrapper_attr("episode")(marked[i].prompt, [*ids[i], words.eos_token_id])
        if not episode.text.endswith(marked[i].text):
            continue  # this tokenizer does not write the text back: its offsets would mark something else
        shift = len(episode.text) - len(marked[i].text)
        episodes.append(episode)
        found = marked[i].spans
        spans.append(None if found is None else [replace(s, start=s.start + shift, end=s.end + shift) for s in found])
        if len(episodes) == n:
            break
    left_out = {"longer than --max-new-tokens": len(ids) - len(fitting)}
    if len(episodes) < min(n, len(fitting)):
        left_out["not written back by the tokenizer"] = len(fitting) - len(episodes)
    for why, count in left_out.items():
        if count:
            say(f"{count:,} of {len(marked):,} texts are left out: {why}", style="yellow")
    if not episodes:
        raise ValueError(f"no text of {file} can be used; the tokenizer should write a text back as it was")
    judged = env.unwrapped.credit(episodes)  # type: ignore[attr-defined]
    return env, judged, spans if all(each is not None for each in spans) else env.get_wrapper_attr("task").truth(judged)
