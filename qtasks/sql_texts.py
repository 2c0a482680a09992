"""SQL texts: every `-- name:` section of a folder's `*.sql`, and one of them with its parameters.

A text that serves both databases stands in `room.sql`; where they differ, `room.sqlite.sql` and
`room.postgres.sql` each define the same names. What runs them lives elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

MARK = "-- name:"
PARAMETER = re.compile(r"(?<!:):(\w+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """A text, whose parameters are written as `:name`, and their values."""

    text: str
    params: Mapping[str, Any]


@cache
def load_texts(dialect: str, folder: Path) -> dict[str, str]:
    """Give the texts of a dialect, `sqlite` or `postgres`, by name."""
    texts: dict[str, str] = {}
    for path in sorted(folder.glob("*.sql")):
        kind = path.name.split(".")[1]
        if kind in ("sql", dialect):
            texts.update(_sections(path.read_text(encoding="utf-8")))
    return texts


def _sections(text: str) -> dict[str, str]:
    """Split a file at its marks; comments are kept out of what the database sees."""
    found: dict[str, str] = {}
    for section in text.split(MARK)[1:]:
        name, _, body = section.partition("\n")
        lines = [line for line in body.splitlines() if not line.lstrip().startswith("--")]
        found[name.strip()] = "\n".join(lines).strip().rstrip(";")
    return found
