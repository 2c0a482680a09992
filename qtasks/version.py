"""The version of qtasks, and nothing else.

`scripts/check_version.py` holds it equal to the one in `pyproject.toml` and to `CHANGELOG.md`.
"""

from __future__ import annotations

VERSION = "0.1.0"
