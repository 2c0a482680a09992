"""Turns figures into Markdown."""
from __future__ import annotations
import json
from typing import Any
def page(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1)
def rewritten(text: str, tables: str) -> str:
    return text
