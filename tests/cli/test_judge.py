"""`textenv judge`: two sets of texts, several judges, one table."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.cli.test_console import run
from tests.critics.fake_server import FakeServer
from tests.judges.test_pairwise import likes_good, responses
from textenv.cli import app

A = ["a good goat", "a good hat", "fine", "a bad day"]
B = ["a goat", "hat", "a good day indeed", "a bad night"]


def texts(folder: Path, name: str, rows: Sequence[str], **columns: Sequence[Any]) -> Path:
    file = folder / name
    lines = [{"text": row, **{key: values[i] for key, values in columns.items()}} for i, row in enumerate(rows)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def sides(folder: Path) -> tuple[Path, Path]:
    prompts = ["one", "two", "three", "four"]
    return texts(folder, "a.jsonl", A, prompt=prompts), texts(folder, "b.jsonl", B, prompt=prompts)


def length(episodes: Any) -> list[float]:
    """A scorer: the longer text is the better one."""
    return [float(len(episode.text)) for episode in episodes]


def test_help_is_shown_and_every_option_has_an_example() -> None:
    parsed: Any = typer.main.get_command(app).commands["judge"]  # type: ignore[attr-defined]
    assert "Example: textenv judge" in parsed.help
    for parameter in parsed.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert any(f"Example: {name}" in parameter.help for name in parameter.opts + parameter.secondary_opts), parameter.name
    assert run("judge", "--help")[0] == 0


def test_a_server_judges_files_in_both_orders_and_the_numbers_are_kept(tmp_path: Path) -> None:
    with FakeServer(likes_good) as server:
        code, output = run("judge", *sides(tmp_path), "--judge", f"{server.url}#m", "--out", tmp_path / "v.json", "--bootstrap", 50)
        assert code == 0, output
        assert len(server.requests) == 8
        asked = sorted(request["messages"][0]["content"].partition("Prompt: ")[2].split("\n")[0] for request in server.requests)
        assert asked == ["four", "four", "one", "one", "three", "three", "two", "two"]
    found = json.loads((tmp_path / "v.json").read_text())
    (row,) = found["judges"].values()
    assert row["verdicts"] == ["a", "a", "b", "tie"]
    assert (row["wins_a"], row["ties"], row["wins_b"], row["no_verdict"], row["win_rate"]) == (2, 1, 1, 0, 0.625)
    assert row["win_rate_interval"][0] < 0.625 < row["win_rate_interval"][1]
    assert 0 < row["length_controlled"] < 1
    assert found["texts"][2] == {"prompt": "three", "a": "fine", "b": "a good day indeed"}
    for word in ("0.625", f"{server.url}#m", "at equal length", "saved in"):
        assert word in output


def test_what_could_not_be_read_is_reported_and_is_no_tie(tmp_path: Path) -> None:
    def mumbles(question: str) -> str:
        return "hm\x1b[2J" if "hat" in responses(question)[0] else likes_good(question)

    with FakeServer(mumbles) as server:
        code, output = run("judge", *sides(tmp_path), "--judge", server.url, "--out", tmp_path / "v.json", "--bootstrap", 20)
    assert code == 0, output
    (row,) = json.loads((tmp_path / "v.json").read_text())["judges"].values()
    assert row["verdicts"] == ["a", None, "b", "tie"]
    assert "2 of 8 answers could not be read" in output
    assert "1 pairs have no verdict and are left out" in output
    assert "\x1b" not in output


def test_where_no_judge_has_any_verdict_it_is_an_error(tmp_path: Path) -> None:
    with FakeServer(lambda question: "hm") as server:
        code, output = run("judge", *sides(tmp_path), "--judge", server.url, "--bootstrap", 20)
    assert code == 2
    assert "no judge has a verdict on any of the 4 pairs" in output


def test_several_judges_are_compared_with_each_other(tmp_path: Path) -> None:
    out = tmp_path / "v.json"
    with FakeServer(likes_good) as one, FakeServer(lambda question: "1") as other:
        code, output = run(
            "judge", *sides(tmp_path), "--judge", one.url, "--judge", other.url, "--out", out, "--bootstrap", 20
        )  # fmt: skip
    assert code == 0, output
    (agreement,) = json.loads(out.read_text())["agreement"]
    assert (agreement["pairs"], agreement["raw"], agreement["kappa"]) == (4, 0.25, 0.0)
    assert "Cohen's κ" in output
    assert "1.000" in output  # the other one takes the text that is shown first


def test_policies_write_on_the_prompts_of_an_environment_and_its_scorer_judges(
    llama_directory: Path, gpt2_directory: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "v.json", texts(tmp_path, "prompts.jsonl", ["one", "two", "three", "four"])
    code, output = run(
        "judge", llama_directory, gpt2_directory, "--env", "textenv/CountLetter-v0", "-n", 3, "--scorer", "default",
        "--prompts", file, "--max-new-tokens", 6, "--device", "cpu", "--out", out, "--bootstrap", 20,
    )  # fmt: skip
    assert code == 0, output
    found = json.loads(out.read_text())
    assert found["pairs"] == 3
    assert [t["prompt"] for t in found["texts"]] == ["one", "two", "three"]
    shares = [[t[side].count("a") / max(len(t[side]), 1) for side in ("a", "b")] for t in found["texts"]]
    assert found["judges"]["scorer default"]["verdicts"] == ["a" if x > y else "b" if y > x else "tie" for x, y in shares]


def test_a_policy_answers_the_prompts_of_a_file(llama_directory: Path, tmp_path: Path) -> None:
    given = texts(tmp_path, "a.jsonl", ["aaa", "b"], prompt=["one", "two"])
    out = tmp_path / "v.json"
    code, output = run("judge", given, llama_directory, "--env", "textenv/CountLetter-v0", "--scorer", "default", "--device", "cpu",
                       "--max-new-tokens", 4, "--out", out, "--bootstrap", 20)  # fmt: skip
    assert code == 0, output
    assert [(t["prompt"], t["a"]) for t in json.loads(out.read_text())["texts"]] == [("one", "aaa"), ("two", "b")]


def test_a_classifier_judges_files(classifier_directory: Path, tmp_path: Path) -> None:
    code, output = run("judge", *sides(tmp_path), "--env", "textenv/Detox-v0", "--scorer", classifier_directory, "--bootstrap", 20)
    assert code == 0, output
    code, output = run("judge", *sides(tmp_path), "--scorer", classifier_directory)
    assert code == 2  # its labels are civil and toxic: without an environment nobody knows which is better
    assert "civil" in output


def test_a_function_of_ones_own_judges_files(tmp_path: Path) -> None:
    code, output = run("judge", *sides(tmp_path), "--scorer", "tests.cli.test_judge:length", "--bootstrap", 9)
    assert code == 0, output
    assert "judge 1: scorer tests.cli.test_judge:length" in output


# --- People ------------------------------------------------------------------------------------------------------------


def test_people_read_a_page_fill_in_a_table_and_are_compared_with_a_model(tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    code, output = run("judge", *sides(tmp_path), "--export", page, "--seed", 1)
    assert code == 0, output
    assert page.exists()
    assert "not for the reader" in output
    key = json.loads(page.with_suffix(".key.json").read_text())
    likes = {"one": "a", "two": "a", "three": "b", "four": "tie"}
    tables = []
    for person, kind in (("anna", likes), ("ben", {**likes, "one": "b", "four": None})):
        rows = [["item", "better", "note"]]
        for pair in key["pairs"]:
            side = kind[pair["prompt"]]
            said = "" if side is None else "tie" if side == "tie" else "1" if side == pair["first"] else "2"
            rows.append([pair["item"], said, "a note, with a comma"])
        tables.append(tmp_path / f"{person}.csv")
        with tables[-1].open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    out = tmp_path / "v.json"
    with FakeServer(likes_good) as server:
        people = ("--import", tables[0], "--import", tables[1])
        code, output = run("judge", *people, "--judge", server.url, "--out", out, "--bootstrap", 9)
    assert code == 0, output
    found = json.loads(out.read_text())
    assert found["judges"]["anna.csv"]["verdicts"] == ["a", "a", "b", "tie"]
    assert found["judges"]["ben.csv"]["verdicts"] == ["b", "a", "b", None]
    assert [row["raw"] for row in found["agreement"]] == pytest.approx([2 / 3, 1.0, 2 / 3])


@pytest.mark.parametrize(("mark", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (";", "utf-16")])
def test_a_table_may_be_as_other_spreadsheets_write_it(tmp_path: Path, mark: str, encoding: str) -> None:
    assert run("judge", *sides(tmp_path), "--export", tmp_path / "out.html")[0] == 0
    table = tmp_path / "out.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    filled = [rows[0], *(f"{row.split(',')[0]},1,schön" for row in rows[1:])]
    table.write_text("\r\n".join(filled).replace(",", mark), encoding=encoding, newline="")
    code, output = run("judge", "--import", table, "--bootstrap", 9)
    assert code == 0, output
    assert "judge 1: out.csv" in output


def test_the_order_of_a_page_cannot_be_guessed_and_the_printed_seed_gives_it_again(tmp_path: Path) -> None:
    def export(name: str, *seed: str) -> tuple[str, Any]:
        code, output = run("judge", *sides(tmp_path), "--export", tmp_path / f"{name}.html", *seed)
        assert code == 0, output
        return " ".join(output.split()), json.loads((tmp_path / f"{name}.key.json").read_text())

    (said, one), (_, other) = export("one"), export("other")
    printed = re.findall(r"seed (\d+)", said)
    assert one["export"] != other["export"]
    assert export("again", "--seed", *printed)[1] == one


def test_a_bad_cell_ends_with_its_line(tmp_path: Path) -> None:
    assert run("judge", *sides(tmp_path), "--export", tmp_path / "out.html")[0] == 0
    table = tmp_path / "out.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[1].replace(",,", ",1,"), lines[2].replace(",,", ",yes,"), *lines[3:]]))
    code, output = run("judge", "--import", table)
    assert code == 2
    assert "out.csv, line 3: better is 'yes'; 1, 2, tie, or nothing, is wanted" in output


def test_a_table_without_its_key_is_told(tmp_path: Path) -> None:
    table = tmp_path / "filled.csv"
    table.write_text("item,better,note\nx-001,1,\n")
    code, output = run("judge", "--import", table)
    assert code == 2
    assert "no key of" in output
    assert "--key out.key.json" in output


# --- Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "give two sets of texts, A and B"),
        (["{a}"], "give two sets of texts, A and B"),
        (["{a}", "{short}"], "a.jsonl holds 4 texts, .*short.jsonl 1: they are compared row by row"),
        (["{a}", "{other}"], "answer different prompts; bring the files into the same order"),
        (["{a}", "models/nowhere"], "is no file .*; a policy needs prompts to answer: --env ID"),
        (["{plain}", "textenv/tiny", "--env", "textenv/Detox-v0"], "tells no prompts, which the policy could answer"),
        (["{a}", "{b}", "-n", "9"], "-n 9: there are 4 pairs"),
        (["{a}", "{b}", "-n", "0"], "-n 0: at least one pair"),
        (["{a}", "nowhere.jsonl"], "no such file"),
        (["{a}", "{b}", "--column", "label=x"], r"unknown fields \['label'\]"),
        (["{a}", "{b}", "--column", "text=said"], "no column 'said'; the columns that exist: 'text', 'prompt'"),
        (["{a}", "{number}"], "number.jsonl, line 1: column 'text' should hold a text, not int"),
        (["{a}", "{b}", "--bootstrap", "0"], "--bootstrap 0"),
        (["{a}", "{b}", "--margin", "-1"], "margin must be at least 0"),
        (["{a}", "{b}", "--export", "{folder}/out.txt"], "should be named like out.html"),
    ],
)
def test_bad_input_ends_with_one_line(tmp_path: Path, arguments: list[str], error: str) -> None:
    a, b = sides(tmp_path)
    files = {
        "a": a, "b": b, "folder": tmp_path, "short": texts(tmp_path, "short.jsonl", ["x"]),
        "other": texts(tmp_path, "other.jsonl", B, prompt=["four", "three", "two", "one"]),
        "plain": texts(tmp_path, "plain.jsonl", A), "number": texts(tmp_path, "number.jsonl", [1, 2, 3, 4]),  # type: ignore[list-item]
    }  # fmt: skip
    code, output = run("judge", *(str(x).format(**files) for x in arguments), "--scorer", "textenv/tiny-reward")
    assert code == 2
    assert re.search(error, output.replace("\n", " ")), output


def test_a_judge_must_be_named(tmp_path: Path) -> None:
    code, output = run("judge", *sides(tmp_path))
    assert code == 2
    assert "name a judge: --judge URL_OR_MODEL, --scorer MODEL, --export out.html (people), --import filled.csv" in output
