"""Pairs of texts judged by people: a blinded page to read, a table to fill in, a key that stays behind.

`export_pairs` writes three files:

    out.html      the pairs, numbered; which side is Response 1 is drawn anew for each pair. One page without scripts, links or
                  anything from elsewhere; the texts are escaped.
    out.csv       a row a pair: item, better (to be filled in: 1, 2 or tie), note
    out.key.json  the texts and which of them was shown first: for `import_verdicts`, not for the reader

The table holds no text of a policy, so no spreadsheet will take one for a formula. Its items name the export they belong to.
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from textenv.data.records import Record, lookup, read_records
from textenv.episode import Prompt
from textenv.judges.pairwise import Judged, Pair, Verdict

__all__ = ["Key", "export_files", "export_pairs", "import_verdicts", "read_key"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
section { border-top: 1px solid #bbb; padding: 1em 0; break-inside: avoid }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5em }
pre { font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; unicode-bidi: isolate }
.response { background: #f4f4f4; padding: .8em; border-radius: .4em }
h2 { font-size: 1em; margin: 0 0 .5em } h3 { font-size: .9em; margin: 0 0 .3em; color: #555 }
"""
_SAFE = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Key:
    """What an export was made of.

    Attributes:
        export: its name, which every item begins with.
        names: of the two sides.
        pairs: what was compared.
        a_first: for each pair whether text A was Response 1.
    """

    export: str
    names: tuple[str, str]
    pairs: Sequence[Pair]
    a_first: Sequence[bool]

    def item(self, i: int) -> str:
        """How the table names pair i."""
        return f"{self.export}-{i + 1:03d}"


def export_files(page: str | os.PathLike[str], overwrite: bool = False) -> tuple[Path, Path, Path]:
    """Where page, table and key go, if they may be written there; asked before the work, not after.

    Raises:
        ValueError: a name that does not end with .html.
        FileExistsError: one of the three is there, and may not be replaced.
    """
    target = Path(page).expanduser()
    if target.suffix.lower() != ".html":
        raise ValueError(f"the page should be named like out.html, got {target}")
    files = target, target.with_suffix(".csv"), target.with_suffix(".key.json")
    for file in files:
        if file.exists() and not overwrite:
            raise FileExistsError(f"{file} is there already; choose another name, or --overwrite")
    return files


def export_pairs(
    pairs: Sequence[Pair], page: str | os.PathLike[str], *, seed: int, names: tuple[str, str] = ("A", "B"),
    question: str = "Which response is better?", overwrite: bool = False,
) -> tuple[Path, Path, Path]:  # fmt: skip
    """Write page, table and key; their paths.

    Args:
        pairs: what is to be judged.
        page: "out.html"; the others stand beside it.
        seed: of the order of the two texts of each pair; one that the reader cannot guess (`secrets.randbits(63)`), or the page
            is not blinded.
        names: of the two sides, for the key alone.
        question: what the reader is asked.
        overwrite: replace files that are there; else a table that somebody has filled in stays as it is.

    Raises:
        ValueError, FileExistsError: as `export_files`; no pair.
    """
    files = export_files(page, overwrite)
    if not pairs:
        raise ValueError("there is no pair to export")
    a_first = [bool(side) for side in np.random.default_rng(seed).integers(2, size=len(pairs))]
    about = json.dumps([names, seed, [[p.prompt.text, p.a, p.b] for p in pairs]])
    key = Key(f"x{sha256(about.encode()).hexdigest()[:6]}", names, pairs, a_first)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files, (_page(key, question), _table(key), _key(key)), strict=True):
        file.write_text(text, encoding="utf-8", newline="")
    return files


def read_key(path: str | os.PathLike[str]) -> Key:
    """The key of an export.

    Raises:
        FileNotFoundError, ValueError: no such file; something else in it.
    """
    file = Path(path).expanduser()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        pairs = [Pair(Prompt(p["prompt"], context=tuple(p["context"])), p["a"], p["b"]) for p in found["pairs"]]
        a_first = [{"a": True, "b": False}[p["first"]] for p in found["pairs"]]
        a, b = found["names"]
        texts = [found["export"], a, b, *(text for pair in pairs for text in (pair.prompt.text, pair.a, pair.b))]
    except FileNotFoundError:
        raise FileNotFoundError(f"no such key: {file}; `textenv judge A B --export out.html` writes out.key.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not the key of an export ({type(error).__name__}: {error})") from None
    if not pairs or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{file} is not the key of an export: it holds no pairs of texts")
    return Key(found["export"], (a, b), pairs, a_first)


def import_verdicts(table: str | os.PathLike[str], key: Key) -> Judged:
    """What a person filled in. A cell that is left empty is no verdict.

    Raises:
        ValueError: a cell that is neither 1, 2, tie nor empty; an item that is unknown, or there twice; a column that is missing;
            each with its line.
    """
    items = {key.item(i): i for i in range(len(key.pairs))}
    verdicts: list[Verdict | None] = [None] * len(key.pairs)
    seen: set[str] = set()
    first = sides = 0
    for record in read_records(table):
        item, said = (_cell(record, column) for column in ("item", "better"))
        if item not in items:
            raise ValueError(f"{record.where}: item {item!r} is not of export {key.export!r}; its items are {key.item(0)}, …")
        if item in seen:
            raise ValueError(f"{record.where}: item {item!r} is there twice; remove one")
        seen.add(item)
        if said.lower() not in ("1", "2", "tie", ""):
            raise ValueError(f"{record.where}: better is {said!r}; 1, 2, tie, or nothing, is wanted")
        if said in ("1", "2"):
            sides, first = sides + 1, first + (said == "1")
            verdicts[items[item]] = "a" if (said == "1") == key.a_first[items[item]] else "b"
        elif said:
            verdicts[items[item]] = "tie"
    return Judged(Path(table).name, tuple(verdicts), first=first / sides if sides else float("nan"))


def _cell(record: Record, column: str) -> str:
    value: Any = lookup(record, column)
    return str(value).strip().removesuffix(".0") if value is not None else ""  # some spreadsheets write 1 as 1.0


def _page(key: Key, question: str) -> str:
    sections = []
    for i, (pair, a_first) in enumerate(zip(key.pairs, key.a_first, strict=True)):
        texts = (pair.a, pair.b) if a_first else (pair.b, pair.a)
        asked = "".join(f"<h3>{name}</h3><pre>{_escaped(text)}</pre>\n" for name, text in _asked(pair.prompt))
        shown = "\n".join(
            f'<div class="response"><h3>Response {number}</h3><pre>{_escaped(text)}</pre></div>'
            for number, text in enumerate(texts, 1)
        )
        sections.append(f'<section><h2>{key.item(i)}</h2>\n{asked}<div class="pair">\n{shown}\n</div></section>')
    how = f"{question} Write 1, 2 or tie into the column “better” of the table, in the row of that name; leave it empty to skip."
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{key.export}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_SAFE}">\n<style>{_STYLE}</style></head>\n'
        f"<body><p>{_escaped(how)}</p>\n" + "\n".join(sections) + "\n</body></html>\n"
    )


def _asked(prompt: Prompt) -> list[tuple[str, str]]:
    return [*([("Prompt", prompt.text)] if prompt.text.strip() else []), *(("Context", passage) for passage in prompt.context)]


def _escaped(text: str) -> str:
    """Text for a page: no markup, and no character that steers or hides."""
    plain = "".join(
        "\ufffd" if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs") else character
        for character in text.replace("\r\n", "\n")
    )
    return html.escape(plain, quote=True)


def _table(key: Key) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["item", "better", "note"])
    writer.writerows([key.item(i), "", ""] for i in range(len(key.pairs)))
    return out.getvalue()


def _key(key: Key) -> str:
    pairs = [
        {"item": key.item(i), "first": "a" if a_first else "b", "prompt": pair.prompt.text, "context": list(pair.prompt.context),
         "a": pair.a, "b": pair.b}
        for i, (pair, a_first) in enumerate(zip(key.pairs, key.a_first, strict=True))
    ]  # fmt: skip
    return json.dumps({"export": key.export, "names": list(key.names), "pairs": pairs}, indent=1) + "\n"
