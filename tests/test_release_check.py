"""The script that looks into wheel and sdist catches what it is for."""

from __future__ import annotations

import pytest

from scripts.check_release import licence_problems, sdist_problems, shipped_licences, wheel_problems

SQL = "qtasks/broker/store/sql/messages.sql"
TRACKED = [
    "qtasks/__init__.py",
    "qtasks/py.typed",
    SQL,
    "tests/test_a.py",
    "LICENSE",
    ".ci/run",
    ".gitignore",
]
INFO = "qtasks_http-1.2.3.dist-info"
WHEEL = [*TRACKED[:3], f"{INFO}/METADATA", f"{INFO}/licenses/LICENSE"]
METADATA = "Version: 1.2.3\nLicense-Expression: MIT\nRequires-Python: >=3.11\n"
SDIST = ["qtasks/__init__.py", "qtasks/py.typed", SQL, "tests/test_a.py", "LICENSE", "PKG-INFO", ".gitignore"]


def test_what_is_whole_is_let_through() -> None:
    assert wheel_problems(WHEEL, TRACKED, METADATA, "1.2.3") == []
    assert sdist_problems(SDIST, TRACKED) == []


@pytest.mark.parametrize("name", ["qtasks/py.typed", SQL, "qtasks/__init__.py"])
def test_a_file_that_a_wheel_lacks_is_told(name: str) -> None:
    left = [each for each in WHEEL if each != name]

    assert wheel_problems(left, TRACKED, METADATA, "1.2.3") == [f"the wheel lacks {name}"]


@pytest.mark.parametrize("name", ["qtasks/qtasks.db.keys", "tests/test_a.py"])
def test_a_file_that_does_not_belong_into_a_wheel_is_told(name: str) -> None:
    found = wheel_problems([*WHEEL, name], TRACKED, METADATA, "1.2.3")

    assert found == [f"the wheel has {name}, which is not in the repository"]


def test_a_wheel_without_licence_or_of_another_version_is_told() -> None:
    found = wheel_problems(WHEEL[:-1], TRACKED, METADATA, "1.2.4")

    assert found == ["the wheel has no licence", "the wheel's METADATA has no line 'Version: 1.2.4'"]


def test_what_an_sdist_lacks_or_has_too_much_is_told() -> None:
    assert sdist_problems([*SDIST[1:], "secrets.env"], TRACKED) == [
        "the sdist has secrets.env, which is not in the repository",
        "the sdist lacks qtasks/__init__.py",
    ]


def test_only_licences_that_let_anybody_ship_are_let_through() -> None:
    licences = {"a": "MIT", "b": "LGPL-3.0-only", "c": "", "d": "MIT AND GPL-2.0", "e": "BSD-3-Clause"}

    assert licence_problems(licences) == [
        "b is under 'LGPL-3.0-only'",
        "c is under 'no licence that it names'",
        "d is under 'MIT AND GPL-2.0'",
    ]


def test_what_comes_along_with_the_broker_may_be_shipped() -> None:
    found = shipped_licences()

    assert {"aiohttp", "orjson", "starlette", "uvicorn"} <= {name.lower() for name in found}
    assert licence_problems(found) == []
