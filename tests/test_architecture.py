"""The rules of the house, checked over every source text of the package, and the checks themselves."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support import ROOT, require
from tests.support.architecture import (
    export_violations,
    purity_violations,
    size_violations,
    stray_exceptions,
    tree_violations,
    undocumented,
)
from tests.support.imports import (
    Sources,
    confined_violations,
    import_cycles,
    imports,
    layer_violations,
)

SOURCES: Sources = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "qtasks").rglob("*.py"))
}
FRONT = "qtasks/__init__.py"
HEAVY = {"aiohttp", "click", "httpx", "jinja2", "opentelemetry", "psycopg", "sqlite3", "starlette", "uvicorn"}


def test_imports_go_down_only() -> None:
    assert layer_violations(SOURCES) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_cycles(SOURCES) == []


def test_libraries_that_are_confined_are_imported_in_their_rooms_only() -> None:
    assert confined_violations(SOURCES) == []


def test_no_file_and_no_function_is_too_long() -> None:
    assert size_violations(SOURCES) == []


def test_every_module_says_what_lives_in_it() -> None:
    assert undocumented(SOURCES) == []


def test_time_and_randomness_are_read_in_one_place_each() -> None:
    assert purity_violations(SOURCES) == []


def test_every_exception_is_drawn_where_it_hangs() -> None:
    assert tree_violations(SOURCES["qtasks/errors.py"]) == []


def test_every_public_exception_stands_in_the_tree() -> None:
    assert stray_exceptions(SOURCES) == []


def test_the_public_names_are_listed_in_order() -> None:
    require(FRONT in SOURCES, "qtasks/__init__.py is not there yet")

    assert export_violations(SOURCES[FRONT]) == []


def test_every_public_name_is_there() -> None:
    require(FRONT in SOURCES, "qtasks/__init__.py is not there yet")
    qtasks = importlib.import_module("qtasks")

    assert [name for name in qtasks.__all__ if not hasattr(qtasks, name)] == []


def test_importing_qtasks_loads_no_http_database_server_or_template_code() -> None:
    require(FRONT in SOURCES, "qtasks/__init__.py is not there yet")
    code = "import sys, qtasks; print(*{name.partition('.')[0] for name in sys.modules})"

    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert HEAVY & set(run.stdout.split()) == set()


# From here on: that the checks do catch what they are for.

FALSE_TREE = '''"""Errors.

    Root
      +-- First
      |     +-- Second
      +-- Gone
"""
class Root(Exception): ...
class First(Root, ValueError): ...
class Second(Root): ...
class Third(First): ...
'''

PLANTED: list[tuple[Callable[[Sources], list[str]], dict[str, str], list[str]]] = [
    (
        layer_violations,
        {"qtasks/protocol/a.py": "import qtasks.client.calls"},
        ["qtasks.protocol.a:1 imports qtasks.client.calls: protocol may not use client"],
    ),
    (
        layer_violations,
        {"qtasks/tasks/a.py": "def f():\n    from qtasks.broker.service import Broker"},
        ["qtasks.tasks.a:2 imports qtasks.broker.service: tasks may not use broker"],
    ),
    (
        layer_violations,
        {"qtasks/broker/a.py": "from ..client import calls", "qtasks/client/calls.py": ""},
        ["qtasks.broker.a:1 imports qtasks.client.calls: broker may not use client"],
    ),
    (
        layer_violations,
        {"qtasks/broker/store/a.py": "from qtasks import QTasks"},
        ["qtasks.broker.store.a:1 imports qtasks: store may not use front"],
    ),
    (
        layer_violations,
        {"qtasks/client/a.py": "import importlib\nimportlib.import_module('qtasks.tasks.app')"},
        ["qtasks.client.a:2 imports qtasks.tasks.app: client may not use tasks"],
    ),
    (
        layer_violations,
        {"qtasks/attic.py": ""},
        ["qtasks.attic belongs to no room: name one in ROOMS"],
    ),
    (
        import_cycles,
        {
            "qtasks/a.py": "from qtasks import b",
            "qtasks/b.py": "try:\n    from . import c\nexcept ImportError:\n    pass",
            "qtasks/c.py": "import qtasks.a",
        },
        ["qtasks.a imports qtasks.b imports qtasks.c imports qtasks.a"],
    ),
    (
        confined_violations,
        {"qtasks/broker/a.py": "import httpx._client", "qtasks/client/b.py": "import httpx"},
        ["qtasks.broker.a:1 imports httpx._client: only qtasks.client, qtasks.tasks.senders may"],
    ),
    (size_violations, {"qtasks/a.py": "\n" * 501}, ["qtasks/a.py has 501 lines, 500 are the most"]),
    (
        size_violations,
        {"qtasks/a.py": "class A:\n    async def f(self):" + "\n        pass" * 60},
        ["qtasks/a.py:2 f has 61 lines, 60 are the most"],
    ),
    (undocumented, {"qtasks/a.py": "# A comment."}, ["qtasks/a.py has no docstring"]),
    (
        purity_violations,
        {"qtasks/a.py": "import time as t\nnow = t.time()"},
        ["qtasks/a.py:2 uses time.time: take a Clock or Ids instead"],
    ),
    (
        purity_violations,
        {"qtasks/a.py": "from time import monotonic as m"},
        ["qtasks/a.py:1 uses time.monotonic: take a Clock or Ids instead"],
    ),
    (
        purity_violations,
        {"qtasks/a.py": "from datetime import UTC, datetime\n\n\ndatetime.now(UTC)"},
        ["qtasks/a.py:4 uses datetime.datetime.now: take a Clock or Ids instead"],
    ),
    (
        purity_violations,
        {"qtasks/a.py": "import random, secrets\nx = random.Random(1).random()\ny = secrets.token_hex"},
        [
            "qtasks/a.py:2 uses random.Random: take a Clock or Ids instead",
            "qtasks/a.py:3 uses secrets.token_hex: take a Clock or Ids instead",
        ],
    ),
    (
        stray_exceptions,
        {
            "qtasks/errors.py": "class Root(Exception): ...",
            "qtasks/a.py": "class Lost(errors.Root): ...\nclass _Private(Exception): ...\nclass Plain: ...",
        },
        ["qtasks/a.py defines Lost: exceptions stand in errors.py"],
    ),
    (
        lambda sources: tree_violations(sources["errors"]),
        {"errors": FALSE_TREE},
        [
            "Gone is drawn, but there is no such exception",
            "Second is drawn below First, but derives from Root",
            "Third is not drawn",
        ],
    ),
    (
        lambda sources: export_violations(sources["front"]),
        {"front": "from qtasks.a import A, B\n_c = 1\n__all__ = ['B', 'A', 'D']"},
        ["__all__ has 'A' after 'B'", "__all__ has 'D', which is not there"],
    ),
    (
        lambda sources: export_violations(sources["front"]),
        {"front": "if TYPE_CHECKING:\n    from .a import A\ndef b(): ...\n__all__ = ['A']"},
        ["__all__ lacks 'b'"],
    ),
]


@pytest.mark.parametrize(("check", "sources", "violations"), PLANTED)
def test_a_planted_violation_is_caught(
    check: Callable[[Sources], list[str]], sources: Sources, violations: list[str]
) -> None:
    assert check(sources) == violations


def test_what_only_type_checkers_import_does_not_count() -> None:
    text = "if TYPE_CHECKING:\n    import qtasks.home\nelse:\n    import qtasks.errors"

    assert [each.target for each in imports("qtasks/tasks/a.py", text)] == ["qtasks.errors"]


def test_an_import_inside_a_function_makes_no_circle() -> None:
    sources = {"qtasks/a.py": "import qtasks.b", "qtasks/b.py": "def f():\n    import qtasks.a"}

    assert import_cycles(sources) == []


def test_a_package_and_a_module_resolve_relative_imports_alike() -> None:
    inside = imports("qtasks/broker/api/__init__.py", "from ..store import messages")
    beside = imports("qtasks/broker/service.py", "from .store import messages")

    assert inside[0].target == beside[0].target == "qtasks.broker.store"
