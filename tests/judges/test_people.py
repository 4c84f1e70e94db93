"""A page that people read, a table that they fill in, and what is read back."""

from __future__ import annotations

import csv
import html
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from textenv.episode import Prompt
from textenv.judges.pairwise import Pair
from textenv.judges.people import Key, export_pairs, import_verdicts, read_key

PAIRS = [Pair(Prompt(f"prompt {i}", context=("a passage",)), f"alpha {i}", f"beta {i}") for i in range(12)]


def exported(folder: Path, pairs: Sequence[Pair] = PAIRS, **options: object) -> tuple[str, list[list[str]], Key, Path]:
    page, table, key = export_pairs(pairs, folder / "out.html", **{"seed": 0, **options})  # type: ignore[arg-type]
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return page.read_text(encoding="utf-8"), rows, read_key(key), table


def filled(table: Path, cells: Sequence[str]) -> Path:
    lines = table.read_text(encoding="utf-8").splitlines()
    out = table.with_name("filled.csv")
    items = [line.split(",")[0] for line in lines[1:]]
    out.write_text("\n".join(["item,better,note", *(f"{i},{c}," for i, c in zip(items, cells, strict=False))]), encoding="utf-8")
    return out


def test_what_a_person_fills_in_comes_back_by_side(tmp_path: Path) -> None:
    _, _, key, table = exported(tmp_path)
    right = ["1" if first else "2" for first in key.a_first]
    assert set(import_verdicts(filled(table, right), key).verdicts) == {"a"}
    wrong = ["2" if first else "1" for first in key.a_first]
    assert set(import_verdicts(filled(table, wrong), key).verdicts) == {"b"}
    found = import_verdicts(filled(table, ["tie", "Tie ", "", "1.0"]), key)
    assert found.verdicts[:3] == ("tie", "tie", None)
    assert found.verdicts[3] == ("a" if key.a_first[3] else "b")
    assert found.verdicts[4:] == (None,) * 8
    assert math.isnan(found.points[2])


def test_page_and_table_do_not_tell_which_side_is_which(tmp_path: Path) -> None:
    page, rows, key, _ = exported(tmp_path, names=("our method", "baseline"))
    assert rows[0] == ["item", "better", "note"]
    assert [row[1:] for row in rows[1:]] == [["", ""]] * 12
    for name in ("our method", "baseline"):
        assert name not in page
    assert {True, False} == set(key.a_first)
    for i, (pair, a_first) in enumerate(zip(PAIRS, key.a_first, strict=True)):
        section = page.partition(f"<h2>{key.item(i)}</h2>")[2].partition("</section>")[0]
        assert (section.index(pair.a) < section.index(pair.b)) == a_first


def test_the_order_is_the_seeds(tmp_path: Path) -> None:
    orders = [exported(tmp_path / str(i), seed=seed)[2] for i, seed in enumerate((0, 0, 1))]
    assert orders[0] == orders[1]
    assert orders[0].a_first != orders[2].a_first
    assert orders[0].export != orders[2].export


def test_the_key_holds_what_was_compared(tmp_path: Path) -> None:
    key = exported(tmp_path, names=("x", "y"))[2]
    assert (list(key.pairs), key.names) == (PAIRS, ("x", "y"))


def test_nothing_in_a_text_acts_on_the_page(tmp_path: Path) -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> \u202egnp.exe \x1b[31m \ud800"
    page = exported(tmp_path, [Pair(Prompt("<b>bold</b>"), evil, "&amp;")])[0]
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert html.escape("<img src=x onerror=alert(2)>") in page
    assert "&amp;amp;" in page
    assert not set(page) & set("\u202e\x1b\ud800")
    assert "default-src 'none'" in page


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = exported(tmp_path)[0]
    assert not [word for word in ("http:", "https:", "<script", "<link", "url(", "src=") if word in page]


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("{item},3,", r"filled.csv, line 3: better is '3'; 1, 2, tie, or nothing, is wanted"),
        ("{item},1 or 2,", "line 3: better is '1 or 2'"),
        ("{first},1,", "line 3: item '.*' is there twice; remove one"),
        ("other-001,1,", "line 3: item 'other-001' is not of export"),
        ("{item},1", "line 3: 2 fields, but the header has 3"),
    ],
)
def test_a_bad_cell_is_told_with_its_line(tmp_path: Path, row: str, error: str) -> None:
    _, _, key, table = exported(tmp_path)
    bad = table.with_name("filled.csv")
    bad.write_text(f"item,better,note\n{key.item(0)},1,\n{row.format(item=key.item(1), first=key.item(0))}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=error):
        import_verdicts(bad, key)


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    _, _, key, table = exported(tmp_path)
    bad = table.with_name("filled.csv")
    bad.write_text(f"pair;better;note\n{key.item(0)};1;\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: no column 'item'; the columns that exist: 'pair', 'better', 'note'"):
        import_verdicts(bad, key)


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    table = exported(tmp_path)[3]
    table.write_text("hours of work")
    with pytest.raises(FileExistsError, match="is there already; choose another name, or --overwrite"):
        export_pairs(PAIRS, tmp_path / "out.html", seed=0)
    assert table.read_text() == "hours of work"
    export_pairs(PAIRS, tmp_path / "out.html", seed=0, overwrite=True)
    assert table.read_text() != "hours of work"


def test_bad_exports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no pair to export"):
        export_pairs([], tmp_path / "out.html", seed=0)
    with pytest.raises(ValueError, match=r"should be named like out\.html"):
        export_pairs(PAIRS, tmp_path / "out.csv", seed=0)


@pytest.mark.parametrize("content", ["", "[]", '{"pairs": []}', '{"export": "x", "names": ["a", "b"], "pairs": []}', "not json"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "k.key.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="is not the key of an export"):
        read_key(file)


def test_a_key_that_is_not_there_is_told() -> None:
    with pytest.raises(FileNotFoundError, match=r"no such key: nowhere\.json"):
        read_key("nowhere.json")
