"""Every example in a docstring runs, and gives what it says."""

import doctest
import importlib

import pytest

from tests.repository import ROOT, library_modules

WITH_EXAMPLES = [m for m, path in library_modules().items() if ">>>" in (ROOT / path).read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_give_what_they_say(name: str) -> None:
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples of {name} fail, see above"
    assert result.attempted > 0
