"""`textenv judge`: two sets of texts, compared pairwise by language models, by scorers and by people."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textenv.cli import options as o
from textenv.cli.console import Debug, plain, progress, say

if TYPE_CHECKING:
    from textenv.judges.pairwise import AskedJudge, Judged, Pair

__all__ = ["judge"]


def judge(
    a: Annotated[str | None, typer.Argument(help="Texts (.jsonl, .csv, .txt, .parquet), or a policy: a directory or name.")] = None,
    b: Annotated[str | None, typer.Argument(help="What they are compared with, the same way.")] = None,
    env: Annotated[
        str | None, typer.Option(help="Environment whose held-out prompts policies answer. Example: --env textenv/Detox-v0")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", "--n", help="At most so many pairs. Example: -n 200")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Where files hold text, prompt, context. Example: --column text=response --column prompt=instruction"),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            help="Ask a language model: the URL of a server, or a directory or name; may be repeated. "
            "Example: --judge http://127.0.0.1:8000/v1#model-name",
        ),
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(help="What makes a text the better one. Example: --criterion 'kinder, and as much to the point'")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="File that keeps a server's answers. Example: --cache answers.sqlite")] = None,
    concurrency: Annotated[int, typer.Option(help="Questions to a server at a time. Example: --concurrency 16")] = 8,
    scorer: Annotated[
        list[str] | None,
        typer.Option(help="A reward model, read as --env reads it; may be repeated. Example: --scorer models/reward"),
    ] = None,
    margin: Annotated[float, typer.Option(help="Scores that differ by no more are a tie. Example: --margin 0.1")] = 0.0,
    export: Annotated[
        Path | None,
        typer.Option(help="Write a blinded page, a table to fill in (.csv) and a key (.key.json). Example: --export out.html"),
    ] = None,
    filled: Annotated[
        list[Path] | None,
        typer.Option("--import", help="Read a table that a person filled in; may be repeated. Example: --import filled.csv"),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Key of the export; default: the one beside the first table. Example: --key out.key.json")
    ] = None,
    prompts: o.Prompts = None,
    max_new_tokens: o.MaxNewTokens = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples of the intervals. Example: --bootstrap 5000")] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="Write verdicts, rates and agreement to this file. Example: --out verdicts.json")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Seed of sampling (0 if not given) and of the order in the page (else unpredictable). Example: --seed 1"
        ),
    ] = None,
    device: o.Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files of --export. Example: --overwrite")] = False,
    debug: Debug = False,
) -> None:
    """Compare two sets of texts pairwise; with several judges, also the judges with each other.

    Example: textenv judge a.jsonl b.jsonl --judge http://127.0.0.1:8000/v1

    Example: textenv judge runs/detox/agent textenv/tiny --env textenv/Detox-v0 -n 200 --scorer default

    Example: textenv judge a.jsonl b.jsonl --export out.html, and later: textenv judge --import filled.csv
    """
    from textenv.cli.compared import compared
    from textenv.cli.judge_table import results, show
    from textenv.judges.pairwise import judge_by_scores
    from textenv.judges.people import export_files, export_pairs, import_verdicts, read_key

    if not (by or scorer or export or filled):
        raise ValueError("name a judge: --judge URL_OR_MODEL, --scorer MODEL, --export out.html (people), --import filled.csv")
    if bootstrap < 1:
        raise ValueError(f"--bootstrap {bootstrap}: at least one resample is needed")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise FileNotFoundError(f"--out {out} is no place for a file")
    if export is not None:
        export_files(export, overwrite)
    scorers = {name: _scorer(name, env) for name in scorer or []}
    models = {source: _model(source, criterion, cache, concurrency, device) for source in by or []}
    judged: list[Judged] = []
    if filled:
        if a is not None or export is not None:
            raise ValueError("--import reads the texts from the key of the export; leave out A, B and --export")
        of_export = read_key(key or _key_beside(filled[0]))
        pairs, names = list(of_export.pairs), of_export.names
        judged += [import_verdicts(table, of_export) for table in filled]
    elif a is None or b is None:
        raise ValueError("give two sets of texts, A and B: files, or policies (with --env)")
    else:
        arguments = o.given(prompts=prompts, max_new_tokens=max_new_tokens)
        pairs = compared(a, b, env_id=env, n=n, columns=o.pairs(column), seed=seed or 0, device=device, **arguments)
        names = (a, b)
    if export is not None:
        asked = f"Which response is {criterion}?" if criterion else "Which response is better?"
        order = secrets.randbits(63) if seed is None else seed
        written = export_pairs(pairs, export, seed=order, names=names, question=asked, overwrite=overwrite)
        say(
            f"page {written[0]}, table to fill in {written[1]}; key {written[2]} and seed {order} (not for the reader)",
            style="bold",
        )
    judged += [judge_by_scores(f"scorer {name}", found, pairs, margin) for name, found in scorers.items()]
    judged += [_asked(source, model, pairs) for source, model in models.items()]
    if not judged:
        return
    named = _named(judged)
    found = results(pairs, named, names, bootstrap)
    show(found, named)
    if out is not None:
        texts = [{"prompt": pair.prompt.text, "a": pair.a, "b": pair.b} for pair in pairs]
        out.write_text(json.dumps({**found, "texts": texts}, indent=1) + "\n", encoding="utf-8")
        say(f"saved in {out}", style="bold")
    if not any(verdict for each in judged for verdict in each.verdicts):
        raise ValueError(f"no judge has a verdict on any of the {len(pairs)} pairs")


def _model(source: str, criterion: str | None, cache: Path | None, concurrency: int, device: str) -> AskedJudge:
    from textenv.judges.pairwise import AskedJudge

    kept = cache if source.startswith(("http://", "https://")) else None
    return AskedJudge(source, cache=kept, concurrency=concurrency, device=device, **o.given(criterion=criterion))


def _asked(source: str, model: AskedJudge, pairs: Sequence[Pair]) -> Judged:
    with progress(plain(model.name), len(pairs)) as meter:
        found = model(pairs, meter.update)
    behind = source.partition("#")[2] if model.name != source else ""  # the model's name, behind a server's address
    return replace(found, name=f"{found.name}#{behind}" if behind else found.name)


def _scorer(name: str, env_id: str | None) -> Any:
    """As the environment's task reads it ("default": its own); without one, a reward model that reads prompt and text."""
    import textenv
    from textenv.judges.http_scorer import HTTPScorer
    from textenv.judges.loading import load_scorer
    from textenv.registration import named_scorer

    given = named_scorer(name)
    if env_id is not None:
        import gymnasium as gym

        if env_id not in textenv.ENVIRONMENTS:
            raise ValueError(f"unknown environment {env_id!r}; one of {', '.join(textenv.ENVIRONMENTS)}")
        task = gym.make(env_id).get_wrapper_attr("task")
        return task.scorer if name == "default" else task.load_scorer(given)
    if name == "default":
        raise ValueError("--scorer default is the scorer of an environment: name it by --env")
    if name.startswith(("http://", "https://")):
        return HTTPScorer(name)
    return load_scorer(given, label=("good", "LABEL_1"), output="logit", template="{prompt}{text}", reward_model="expected")


def _key_beside(table: Path) -> Path:
    """The key of a table's export: the one whose items the table has."""
    from textenv.data.records import read_records
    from textenv.judges.people import read_key

    first = next(iter(read_records(table)), None)
    item = str(first.row.get("item", "")) if first is not None else ""
    for found in sorted(table.expanduser().absolute().parent.glob("*.key.json")):
        if item.startswith(f"{read_key(found).export}-"):
            return found
    raise FileNotFoundError(f"no key of {table} stands beside it; name it: --key out.key.json")


def _named(judged: list[Judged]) -> dict[str, Judged]:
    """The judges by name; a name that is there already gets a number."""
    out: dict[str, Judged] = {}
    for each in judged:
        name = next(n for i in itertools.count(1) if (n := each.name if i == 1 else f"{each.name} ({i})") not in out)
        out[name] = each
    return out
