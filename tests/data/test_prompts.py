"""Every road that prompts come by, and what each kind of broken input gets."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path

import pytest

from textenv.data import records
from textenv.data.prompts import load_prompts, split_prompts
from textenv.episode import Prompt

TEXTS = ["The waiter was", "Nobody thought that “this”\u2028would", "  indented, kept"]


def write(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "name", ["p.txt", "p.TXT", "p.txt.gz", "p.jsonl", "p.jsonl.gz", "p.csv", "p.csv.gz", "p.parquet"]
)
@pytest.mark.parametrize("as_type", [Path, str])
def test_the_same_prompts_come_out_of_every_file_format(tmp_path: Path, name: str, as_type: type) -> None:
    path = tmp_path / name
    if ".csv" in name:
        write(path, "text\r\n" + "".join(f'"{text}"\r\n' for text in TEXTS))
    elif ".jsonl" in name:
        write(path, jsonl(*({"text": text} for text in TEXTS)))
    elif name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow.parquet")
        pyarrow.write_table(sys.modules["pyarrow"].table({"text": TEXTS}), path)
    else:
        write(path, "\n".join(TEXTS) + "\r\n")
    assert [prompt.text for prompt in load_prompts(as_type(path))] == TEXTS


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path / "p.txt", b"\xef\xbb\xbfHello\nthere"))[0].text == "Hello"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("name", ["p.txt", "p.jsonl", "p.csv"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    texts = ["naïve\u2028Größe", "日本 🎉"]
    lines = "\n".join(texts)
    content = {"p.txt": lines, "p.jsonl": jsonl(*({"text": text} for text in texts)), "p.csv": f"text\n{lines}"}[name]
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = write(tmp_path / name, (mark + content).encode(encoding))
    assert [prompt.text for prompt in load_prompts(path)] == texts


def test_utf_16_that_is_cut_is_an_error_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"p\.txt, line 2: not whole UTF-16 .*; save the file as UTF-8"):
        load_prompts(write(tmp_path / "p.txt", "one\ntwo".encode("utf-16")[:-1]))


@pytest.mark.parametrize(
    ("header", "mark"), [("id,text", ","), ("id;text", ";"), ("id\ttext", "\t"), ('"a;b",text', ","), ('"a,b";text', ";")]
)
def test_the_header_of_a_csv_tells_what_parts_its_fields(tmp_path: Path, header: str, mark: str) -> None:
    (prompt,) = load_prompts(write(tmp_path / "p.csv", f'{header}\n1{mark}"soup; with, bread\t"\n'))
    assert prompt.text == "soup; with, bread\t"


def test_one_column_may_have_a_quoted_name_with_any_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", '"what; was\tsaid"\nsoup\n')
    assert load_prompts(path, {"text": "what; was\tsaid"})[0].text == "soup"


def test_blank_lines_of_a_txt_file_are_skipped(tmp_path: Path) -> None:
    assert [prompt.text for prompt in load_prompts(write(tmp_path / "p.txt", "\none\n  \n\ntwo"))] == ["one", "two"]


def test_a_list_may_mix_strings_and_prompts() -> None:
    prompt = Prompt("b", references=("c",))
    assert load_prompts(("a", prompt)) == [Prompt("a"), prompt]


def test_nested_text_is_found_and_the_rest_becomes_metadata(tmp_path: Path) -> None:
    row = {"prompt": {"text": "An hour", "toxicity": 0.25}, "continuation": {"text": "later"}}
    (prompt,) = load_prompts(write(tmp_path / "p.jsonl", jsonl(row)))
    assert prompt == Prompt("An hour", metadata={"prompt": {"toxicity": 0.25}, "continuation": {"text": "later"}})


def test_columns_map_the_fields_to_nested_columns(tmp_path: Path) -> None:
    row = {"a": {"q": "ask", "deep": {"refs": ["x", "y"]}}, "document": "long", "empty": None}
    path = write(tmp_path / "p.jsonl", jsonl(row))
    (prompt,) = load_prompts(path, columns={"text": "a.q", "references": "a.deep.refs", "context": "document"})
    assert prompt == Prompt("ask", ("x", "y"), ("long",), {"empty": None})
    assert load_prompts(path, columns={"text": "a.q", "references": "empty"})[0].references == ()


def test_references_and_context_are_taken_from_columns_of_that_name(tmp_path: Path) -> None:
    row = {"text": "ask", "references": ["x"], "context": {"not": "texts"}}
    (prompt,) = load_prompts(write(tmp_path / "p.jsonl", jsonl(row)))
    assert prompt == Prompt("ask", ("x",), (), {"context": {"not": "texts"}})


def test_a_column_whose_own_name_has_a_dot_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", "prompt.text,n\nhello,1\n")
    assert load_prompts(path) == [Prompt("hello", metadata={"n": "1"})]


def test_a_csv_field_may_span_lines_and_be_long(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    long = "word " * 40_000
    assert load_prompts(write(tmp_path / "p.csv", f'text\n"two\nlines"\n{long}\n'))[1].text == long
    assert csv.field_size_limit() == limit


def test_a_dataset_and_the_splits_of_a_dataset_dict_are_read() -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list([{"prompt": {"text": text}} for text in TEXTS])
    other = datasets.Dataset.from_list([{"prompt": {"text": "other"}}])
    parts = datasets.DatasetDict({"train": part, "validation": other})
    assert [prompt.text for prompt in load_prompts(part)] == TEXTS
    assert [prompt.text for prompt in load_prompts(parts, split="validation")] == ["other"]
    assert [prompt.text for prompt in load_prompts(parts)] == [*TEXTS, "other"]
    with pytest.raises(ValueError, match="no split 'test'; it has 'train', 'validation'"):
        load_prompts(parts, split="test")


def test_a_lone_split_is_cut_so_that_train_and_test_are_disjoint() -> None:
    datasets = pytest.importorskip("datasets")
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": TEXTS})})
    assert [prompt.text for prompt in load_prompts(parts, split="train")] == TEXTS[:2]
    assert [prompt.text for prompt in load_prompts(parts, split="test")] == TEXTS[2:]


@pytest.mark.parametrize(("rows", "test"), [(2, 1), (7, 1), (16, 2), (4000, 500), (4001, 500)])
def test_test_is_the_last_eighth_at_most_500_and_train_the_rest(rows: int, test: int) -> None:
    prompts = [Prompt(str(number)) for number in range(rows)]
    held_out = split_prompts(prompts, "test")
    assert len(held_out) == test
    assert split_prompts(prompts, "train") + held_out == prompts == split_prompts(prompts, "all")


def test_one_prompt_cannot_be_split() -> None:
    assert len(load_prompts(["alone"])) == 1
    with pytest.raises(ValueError, match=r"1 prompt cannot be split.*split='all'"):
        load_prompts(["alone"], split="test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "", "holds no prompt"),
        ("p.txt", " \n\n", "holds no prompt"),
        ("p.csv", "text\n", "holds no prompt"),
        ("p.json", "[]", r"extension that is not known: '\.json'; one of \.txt"),
        ("p", "x", "extension that is not known: 'none'"),
        ("p.jsonl", '{"text": "a"}\n\n{"text": \n', r"line 3: broken JSON \(.*\): '{\"text\":'"),
        ("p.jsonl", '{"text": "a"}\n["b"]\n', r"line 2: should be an object like .*, not list \['b'\]"),
        ("p.jsonl", '{"text": ' + "9" * 5000 + "}", "line 1: JSON that cannot be read"),
        ("p.jsonl", "[" * 200_000, "line 1: "),
        ("p.jsonl", '{"text": "a"}\n{"text": "  "}\n', "line 2: column 'text' is blank"),
        ("p.jsonl", '{"text": "a"}\n{"text": 7}\n', "line 2: column 'text' should hold a text, not int 7"),
        ("p.jsonl", '{"text": "a"}\n{"other": 7}\n', "line 2: no column 'text'; the columns that exist: 'other'"),
        ("p.jsonl", '{"text": "\\ud800"}', "line 1: column 'text' is not valid Unicode at character 0"),
        ("p.jsonl", '{"id": 1, "q": {"text": "a"}}', "columns that exist: 'id', 'q.text'; choose one with columns="),
        ("p.csv", "text,n\na\n", r"line 2: 1 fields, but the header has 2"),
        ("p.csv", "text,text\na,b\n", "line 1: two columns have the same name"),
        ("p.csv", 'text\n"a', "broken CSV"),
        ("p.csv", '"a\nb",text\n1,x\n"', "line 4: broken CSV"),
        ("p.txt", b"good\nbad \xff\n", r"line 2: byte 4 \(0xff\) is not UTF-8; save the file as UTF-8"),
        ("p.txt", gzip.compress(b"x", mtime=0), "it is gzip: name it .gz"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where_and_what(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_prompts(write(tmp_path / name, content))


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-10], lambda raw: raw[:20] + b"????" + raw[24:], lambda raw: b"plain"]
)
def test_corrupt_gzip_is_an_error_that_names_the_file(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "p.txt.gz"
    path.write_bytes(damage(gzip.compress(b"some text\n" * 1000)))
    with pytest.raises(ValueError, match=r"p\.txt\.gz' is not a whole gzip file"):
        load_prompts(path)


def test_corrupt_parquet_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"p\.parquet' is not a whole parquet file"):
        load_prompts(write(tmp_path / "p.parquet", "no parquet"))


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LONGEST_LINE", 1000)
    with pytest.raises(ValueError, match="line 2: longer than 1000 bytes"):
        load_prompts(write(tmp_path / "p.txt.gz", "short\n" + "x" * 1_000_000))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("missing.jsonl",), FileNotFoundError, "no such file: 'missing.jsonl'; a prompt itself is given in a list"),
        (("The waiter was",), FileNotFoundError, r"given in a list: \['The waiter was'\]"),
        ((Path("somewhere"),), FileNotFoundError, "no such file: 'somewhere'"),
        ((["a"], None, "dev"), ValueError, 'unknown split \'dev\'; one of "train", "test", "all"'),
        ((["a"], {"txt": "a"}), ValueError, r"unknown fields \['txt'\]; a Prompt has text, references, context"),
        ((["a"], {"text": "a"}), ValueError, "a list holds strings or Prompts"),
        ((["a", " \n"],), ValueError, r"prompts\[1\] is blank"),
        ((["a", 3],), TypeError, r"prompts\[1\] is int 3"),
        (([],), ValueError, "the list holds no prompt"),
        ((42,), TypeError, "cannot be read from int 42"),
    ],
)
def test_a_wrong_argument_is_an_error_with_the_way_out(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_prompts(*arguments)


@pytest.mark.parametrize("columns", [None, {"text": "meta.text", "references": "refs"}])
def test_a_list_of_rows_is_read_as_a_file_of_them(tmp_path: Path, columns: dict[str, str] | None) -> None:
    rows = [{"text": f"a{i}", "meta": {"text": f"b{i}", "id": i}, "refs": ["c"]} for i in range(3)]
    assert load_prompts(rows, columns) == load_prompts(write(tmp_path / "p.jsonl", jsonl(*rows)), columns)


def test_a_list_of_rows_and_texts_is_refused() -> None:
    with pytest.raises(TypeError, match=r"prompts\[1\] is dict .*; give strings or Prompts, or rows alone"):
        load_prompts(["a", {"text": "b"}])


def test_a_row_of_a_list_is_named_by_its_number() -> None:
    with pytest.raises(ValueError, match="prompts, row 2: no column 'text'"):
        load_prompts([{"text": "a"}, {"txt": "b"}])


def test_dots_do_not_look_into_a_cell_of_text(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'id,meta\n1,"{""text"": ""a""}"\n')
    with pytest.raises(ValueError, match=r"no column 'meta\.text'; .*'id', 'meta'; dots do not look into a cell of text"):
        load_prompts(path, {"text": "meta.text"})


def test_a_directory_is_no_prompt_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a directory; give one file"):
        load_prompts(tmp_path)


def test_a_missing_column_names_those_that_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", jsonl({"prompt": {"text": "a", "n": 1}, "id": 2}))
    with pytest.raises(ValueError, match=r"line 1: no column 'prompt.txt'; .*: 'prompt.text', 'prompt.n', 'id'"):
        load_prompts(path, columns={"text": "prompt.txt"})


def test_references_of_another_type_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", jsonl({"text": "a", "refs": [1, 2]}))
    with pytest.raises(ValueError, match=r"column 'refs' should hold a text or a list of texts, not list \[1, 2\]"):
        load_prompts(path, columns={"references": "refs"})


def test_a_hub_dataset_is_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"text": ["from the hub"]})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name: {"owner/name": datasets.DatasetDict({"train": part})}[name]
    )
    assert load_prompts("owner/name") == [Prompt("from the hub")]
    with pytest.raises(FileNotFoundError, match="'owner/other' is neither a file nor a dataset that could be loaded"):
        load_prompts("owner/other")


def test_a_hub_name_without_datasets_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FileNotFoundError, match=r"no such file: 'owner/name'; .*pip install 'textenv\[data\]'"):
        load_prompts("owner/name")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'textenv\[data\]'"):
        load_prompts(write(tmp_path / "p.parquet", "PAR1"))
