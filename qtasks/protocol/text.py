"""What the parsers of the wire share about text: how to quote it in an error, what no text may hold.

Nothing here knows any header, URL or grammar.
"""

from __future__ import annotations

import re

# CR and LF would begin another header line, PostgreSQL refuses NUL, HTTP clients refuse to send any
# control character but the tab, and a lone surrogate cannot be encoded.
UNSENDABLE = re.compile("[\0-\x08\x0a-\x1f\x7f\ud800-\udfff]")

_LONGEST_QUOTE = 100


def quoted(text: str) -> str:
    """Put a text into double quotes for an error message: shortened, and fit for one line."""
    shown = text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"
    if shown.isprintable():
        return f'"{shown}"'
    return '"' + "".join(each if each.isprintable() else _escaped(each) for each in shown) + '"'


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
