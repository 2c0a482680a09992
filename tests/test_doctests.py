"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.support import ROOT
from tests.support.imports import module_name

SOURCES = [path for room in ("qtasks", "tests/support") for path in sorted((ROOT / room).rglob("*.py"))]
WITH_EXAMPLES = [
    module_name(path.relative_to(ROOT).as_posix())
    for path in SOURCES
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)

    assert tried > 0
    assert failed == 0
