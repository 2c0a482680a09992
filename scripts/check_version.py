"""Holds the version together: `pyproject.toml`, `qtasks/version.py` and `CHANGELOG.md` must agree.

    python scripts/check_version.py [TAG]

With the tag of a release, such as `v0.1.0`, that must be the same version too, and the changelog must
give its date. Needs the standard library alone; prints what is wrong, and then exits 1.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

FILES = ("pyproject.toml", "qtasks/version.py", "CHANGELOG.md")


def problems(texts: Mapping[str, str], tag: str | None = None) -> list[str]:
    """Say in what the three files, given by their names, disagree; nothing if they do not."""
    version = str(tomllib.loads(texts["pyproject.toml"])["project"]["version"])
    found: list[str] = []

    constant = re.search(r'^VERSION = "([^"]*)"$', texts["qtasks/version.py"], re.MULTILINE)
    if constant is None:
        found.append('qtasks/version.py has no line VERSION = "…"')
    elif constant[1] != version:
        found.append(f"qtasks/version.py says {constant[1]}, pyproject.toml says {version}")

    newest = re.search(r"^## \[([^]]*)\](?: - (\S+))?$", texts["CHANGELOG.md"], re.MULTILINE)
    if newest is None:
        return [*found, "CHANGELOG.md has no heading ## [version] - date"]
    if newest[1] != version:
        found.append(f"the first heading of CHANGELOG.md is {newest[1]}, pyproject.toml says {version}")
    if newest[2] != "Unreleased" and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest[2] or ""):
        found.append(f"CHANGELOG.md gives {version} neither a date nor Unreleased")
    if tag is None:
        return found

    if tag.removeprefix("v") != version:
        found.append(f"the tag says {tag}, pyproject.toml says {version}")
    if newest[2] == "Unreleased":
        found.append(f"CHANGELOG.md still calls {version} unreleased")
    return found


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    texts = {name: (root / name).read_text(encoding="utf-8") for name in FILES}
    found = problems(texts, *sys.argv[1:2])
    for each in found:
        print(each, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
