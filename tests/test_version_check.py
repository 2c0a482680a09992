"""The script that holds the version together catches what it is for."""

from __future__ import annotations

from scripts.check_version import FILES, problems
from tests.support import ROOT

AGREED = {
    "pyproject.toml": '[project]\nversion = "1.2.3"\n',
    "qtasks/version.py": '"""Doc."""\n\nVERSION = "1.2.3"\n',
    "CHANGELOG.md": "# Changelog\n\n## [1.2.3] - 2026-01-31\n\n## [1.2.2] - 2026-01-01\n",
}


def test_the_version_of_this_tree_is_the_same_everywhere() -> None:
    assert problems({name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}) == []


def test_what_agrees_is_let_through_with_its_tag() -> None:
    assert problems(AGREED, "v1.2.3") == []


def test_a_constant_left_behind_is_told() -> None:
    texts = {**AGREED, "qtasks/version.py": 'VERSION = "1.2.2"\n'}

    assert problems(texts) == ["qtasks/version.py says 1.2.2, pyproject.toml says 1.2.3"]


def test_a_changelog_left_behind_is_told() -> None:
    texts = {**AGREED, "CHANGELOG.md": "# Changelog\n\n## [1.2.2] - 2026-01-01\n"}

    assert problems(texts) == ["the first heading of CHANGELOG.md is 1.2.2, pyproject.toml says 1.2.3"]


def test_a_version_without_a_date_is_told() -> None:
    texts = {**AGREED, "CHANGELOG.md": "## [1.2.3]\n"}

    assert problems(texts) == ["CHANGELOG.md gives 1.2.3 neither a date nor Unreleased"]


def test_an_unreleased_version_passes_until_it_is_tagged() -> None:
    texts = {**AGREED, "CHANGELOG.md": "## [1.2.3] - Unreleased\n"}

    assert problems(texts) == []
    assert problems(texts, "v1.2.3") == ["CHANGELOG.md still calls 1.2.3 unreleased"]
    assert problems(texts, "v1.2.4")[0] == "the tag says v1.2.4, pyproject.toml says 1.2.3"
