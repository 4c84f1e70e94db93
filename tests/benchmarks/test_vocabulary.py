"""The vocabulary benchmark runs, and measures what it says."""

import pytest

from benchmarks import vocabulary


def test_its_tokenizer_has_as_many_ids_as_asked_for() -> None:
    words = vocabulary.tokenizer(300)
    assert (len(words), words("w3 w298")["input_ids"], words.eos_token_id) == (300, [3, 298], 299)


@pytest.mark.slow
def test_a_line_for_each_road(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--layers", "1", "--width", "16", "--vocabulary", "300", "--envs", "2", "--steps", "4"]
    monkeypatch.setattr("sys.argv", ["vocabulary", *small])
    vocabulary.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert all(line.endswith("× the model") for line in lines)
