"""`textenv train`: a policy learns an environment, and is measured before and after on held-out prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textenv.cli import options as o
from textenv.cli.console import Debug, progress, say

if TYPE_CHECKING:
    import gymnasium as gym

    from textenv.agents import TokenPPO

__all__ = ["train"]

SETTINGS = "settings.json"  # in --out, beside agent/ and metrics.json


def train(
    env_id: o.EnvId,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the run: agent, settings, metrics; without it nothing is saved. Example: --out runs/detox"),
    ] = None,
    reward: o.Reward = None,
    payment: Annotated[
        str | None, typer.Option(help="When a stepping agent is paid: online or end. Example: --payment end")
    ] = None,
    policy: o.Policy = None,
    tokenizer: o.Tokenizer = None,
    scorer: o.ScorerOption = None,
    critic: o.Critic = None,
    critic_option: o.CriticOption = None,
    settings: o.Settings = None,
    prompts: o.Prompts = None,
    column: o.Column = None,
    max_prompt_tokens: o.MaxPromptTokens = None,
    max_new_tokens: o.MaxNewTokens = None,
    min_new_tokens: o.MinNewTokens = None,
    chat: o.Chat = False,
    system: o.System = None,
    total_timesteps: Annotated[
        int, typer.Option(help="Tokens to generate while training. Example: --total-timesteps 100000")
    ] = 200_000,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate; default: TokenPPO's. Example: --learning-rate 1e-4")
    ] = None,
    kl_coef: Annotated[float | None, typer.Option(help="Price of leaving the reference, per nat. Example: --kl-coef 0.05")] = None,
    n_episodes: Annotated[int | None, typer.Option(help="Texts an iteration. Example: --n-episodes 128")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts an update. Example: --batch-size 32")] = None,
    n_epochs: Annotated[int | None, typer.Option(help="Passes over an iteration. Example: --n-epochs 2")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of every draw; default: 0. Example: --seed 1")] = None,
    tensorboard: Annotated[
        str | None, typer.Option(help="Log for TensorBoard into this directory. Example: --tensorboard runs/tb")
    ] = None,
    save_every: Annotated[int, typer.Option(help="Save after so many iterations. Example: --save-every 10")] = 25,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run of this directory. Example: --resume runs/detox")] = None,
    judge: o.Judge = None,
    k: o.K = 25,
    eval_prompts: o.EvalPrompts = None,
    device: o.Device = "auto",
    precision: o.Precision = None,
    overwrite: o.Overwrite = False,
    debug: Debug = False,
) -> None:
    """Train a policy; measure it before and after.

    Example: textenv train textenv/Detox-v0 --reward critic_span --out runs/detox

    Example: textenv train textenv/Summarization-v0 --set score=rouge1 --reward 'redistributed:{"mix": 0.8}' --out runs/rouge
    """
    from textenv.cli.arguments import critic_options, task_settings
    from textenv.cli.measuring import Measuring, as_json, show_metrics, show_texts

    environment = o.given(
        reward=reward, payment=payment, policy=policy, tokenizer=tokenizer, scorer=scorer, critic=critic, prompts=prompts,
        columns=o.pairs(column) or None, max_prompt_tokens=max_prompt_tokens, max_new_tokens=max_new_tokens,
        min_new_tokens=min_new_tokens, chat=chat or None, system=system, critic_options=critic_options(critic_option) or None,
        **task_settings(env_id, settings),
    )  # fmt: skip
    learner = o.given(
        learning_rate=learning_rate, kl_coef=kl_coef, n_episodes=n_episodes, batch_size=batch_size, n_epochs=n_epochs,
        tensorboard_log=tensorboard,
    )  # fmt: skip
    if total_timesteps < 1 or save_every < 1:
        raise ValueError(f"--total-timesteps and --save-every should be positive, got {total_timesteps} and {save_every}")
    if resume is not None:
        saved = _settings(resume, env_id)
        _refuse_others(resume, {"policy": policy, "seed": seed}, {**saved["environment"], "seed": saved["seed"]})
        environment, seed = _continued(saved["environment"], environment), saved["seed"]
        out = out or resume
    seed = seed or 0
    if out is not None:
        out = o.free_directory(out, overwrite=overwrite or (resume is not None and out.resolve() == resume.resolve()))
    env, held_out = make_environments(env_id, environment)
    measure = Measuring(held_out, judge or [], eval_prompts, k, seed)
    agent = _agent(env_id, env, environment, learner, seed, o.given(device=device, precision=precision), resume)
    if total_timesteps <= agent.num_timesteps:
        raise ValueError(
            f"the run has {agent.num_timesteps} timesteps behind it; give a --total-timesteps above that, got {total_timesteps}"
        )
    if out is None:
        say("nothing will be saved: no --out", style="yellow")
    else:
        out.mkdir(parents=True, exist_ok=True)
        if resume is None:  # what another run left is no part of this one
            shutil.rmtree(out / "agent", ignore_errors=True)
            for left in (SETTINGS, "metrics.json"):
                (out / left).unlink(missing_ok=True)

    def save() -> None:
        if out is not None:  # settings come with an agent: a run that failed before stands in nobody's way
            agent.save(out / "agent")
            _write(out / SETTINGS, {"env_id": env_id, "environment": environment, "seed": seed})

    before = measure(agent.reference, agent.reference, "before")
    _learn(agent, total_timesteps, save, save_every)
    after = measure(agent.policy, agent.reference, "after")
    columns = {"before": before, "after": after}
    if out is not None:
        _write(out / "metrics.json", {name: as_json(measured) for name, measured in columns.items()})
    show_texts(columns)
    show_metrics(columns)
    if out is not None:
        say(f"saved in {out}", style="bold")


def make_environments(env_id: str, arguments: dict[str, Any]) -> tuple[gym.Env[Any, Any], gym.Env[Any, Any]]:
    """The environment to learn, and one of held-out prompts without its critic; they share the scorer, or read it alike."""
    import gymnasium as gym

    import textenv
    from textenv.cli.arguments import READING, asked_critic, parsed_rewards

    if env_id not in textenv.ENVIRONMENTS:
        raise ValueError(f"unknown environment {env_id!r}; one of {', '.join(textenv.ENVIRONMENTS)}")
    arguments = dict(arguments)
    policy = arguments.pop("policy", None)
    if policy is not None:
        arguments.setdefault("tokenizer", policy)
    dense: dict[str, Any] = {name: arguments.pop(name) for name in ("reward", "payment", "critic") if name in arguments}
    critic = asked_critic(dense.get("critic"), arguments.pop("critic_options", None))
    if "reward" in dense:
        dense["reward"] = parsed_rewards(dense["reward"])
    of_learning: dict[str, Any] = {**arguments, **dense, "critic": critic, "split": "train"}
    env = gym.make(env_id, **of_learning)
    if not set(arguments) & set(READING):  # else each makes its scorer, of a model that is there once
        arguments["scorer"] = env.get_wrapper_attr("task").scorer
    return env, gym.make(env_id, **{**arguments, "split": "test"})


def load_policy(env_id: str, environment: dict[str, Any], device: str, **options: Any) -> Any:
    """The policy that is named, or the embedded one of the environment; options as for `LMPolicy`.

    Raises:
        ValueError: the environment has none.
    """
    import textenv
    from textenv.agents import LMPolicy

    default = str(textenv.ENVIRONMENTS[env_id]["tokenizer"])
    name = environment.get("policy", default if default.startswith("textenv/") else None)
    if name is None:
        raise ValueError(f"{env_id} has no policy of its own; name one: --policy DIR")
    return LMPolicy(name, environment.get("tokenizer"), device=device, **options)


def _agent(
    env_id: str,
    env: gym.Env[Any, Any],
    environment: dict[str, Any],
    learner: dict[str, Any],
    seed: int,
    model: dict[str, Any],
    resume: Path | None,
) -> TokenPPO:
    from textenv.agents import TokenPPO

    if resume is not None:
        return TokenPPO.load(resume / "agent", env, **model, **learner)
    return TokenPPO(load_policy(env_id, environment, **model), env, seed=seed, **learner)


def _learn(agent: TokenPPO, total_timesteps: int, save: Callable[[], None], save_every: int) -> None:
    """Train up to `total_timesteps` in all, saving now and then and at the end."""
    from stable_baselines3.common.callbacks import BaseCallback

    begun = agent.num_timesteps

    class Report(BaseCallback):
        def _on_step(self) -> bool:
            episodes = self.locals["episodes"]
            score = sum(episode.score for episode in episodes) / len(episodes)
            done = agent.num_timesteps - begun
            meter.update(min(done, meter.goal), tokens=done, note=f"score {score:.3f}")
            if agent.iteration and agent.iteration % save_every == 0:
                save()
            return True

    with progress("train", total_timesteps - begun) as meter:
        agent.learn(total_timesteps - begun, callback=Report(), reset_num_timesteps=begun == 0)
    save()


def _continued(saved: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The environment's arguments of a run that goes on: what is said now comes before what was said then."""
    of_critic = {} if "critic" in given else saved.get("critic_options", {})
    options = {**of_critic, **given.get("critic_options", {})}
    merged = {**saved, **given, "critic_options": options}
    return {name: value for name, value in merged.items() if name != "critic_options" or options}


def _refuse_others(run: Path, given: dict[str, Any], saved: dict[str, Any]) -> None:
    """Raise where an option says something else than what the saved agent brings along.

    Raises:
        ValueError: naming all of them.
    """
    others = [name for name, value in given.items() if value is not None and value != saved.get(name)]
    if others:
        options = " and ".join(f"--{name} {given[name]}" for name in others)
        raise ValueError(f"{options} cannot be had with --resume: the run in {run} goes on with its own; leave out")


def _settings(run: Path, env_id: str) -> dict[str, Any]:
    """What is known of a run that is resumed: "environment", its arguments, and "seed" (None: the run is older than that entry).

    Raises:
        FileNotFoundError: no run there.
        ValueError: a run of another environment, or a broken file.
    """
    file = run / SETTINGS
    if not file.is_file():
        raise FileNotFoundError(f"{run} holds no run to resume (no {SETTINGS}); textenv train --out writes one")
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        found, environment, seed = saved["env_id"], dict(saved["environment"]), saved.get("seed")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not what textenv train wrote: {error}") from error
    if found != env_id:
        raise ValueError(f"{run} is a run of {found}, not of {env_id}")
    return {"environment": environment, "seed": seed}


def _write(file: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    draft.replace(file)
