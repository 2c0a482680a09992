"""Reads which parts of a message are to be hidden, and makes what is shown in their place (contract 3.10).

The originals are stored and delivered all the same; which view shows what is `shown`'s to know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from qtasks.errors import InvalidValue
from qtasks.protocol.text import quoted

_ITEM = re.compile(r"headers?(?:[ \t]*\[[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*\])?", re.IGNORECASE)
_MARKER = re.compile("REDACTED:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Redaction:
    """What of a message is never shown: its body, all headers, or those named, in lower case."""

    body: bool = False
    all_headers: bool = False
    headers: frozenset[str] = frozenset()

    def hides(self, header: str) -> bool:
        """Say whether the values of a header are hidden."""
        return self.all_headers or header.lower() in self.headers


def parse_redaction(text: str) -> Redaction:
    """Read a list such as `body, header[Authorization]`; `header` alone means all of them.

    Raises `InvalidValue`.
    """
    body = all_headers = False
    names: set[str] = set()
    for item in (each.strip(" \t") for each in text.split(",")):
        match = _ITEM.fullmatch(item)
        if item.lower() == "body":
            body = True
        elif match is None:
            raise InvalidValue(f"must list body, header or header[<name>], unlike {quoted(item)}")
        elif match[1] is None:
            all_headers = True
        else:
            names.add(match[1].lower())
    return Redaction(body, all_headers, frozenset(names))


def render_redaction(redaction: Redaction) -> str:
    """Write the value of `Upstash-Redact-Fields`: the inverse of `parse_redaction`."""
    items = ["body"] if redaction.body else []
    if redaction.all_headers:
        items.append("header")
    items.extend(f"header[{name}]" for name in sorted(redaction.headers))
    return ",".join(items)


def is_marker(text: str) -> bool:
    """Say whether a text stands for something that is hidden."""
    return _MARKER.fullmatch(text) is not None


def redact_body(body: bytes) -> str:
    """Make what is shown instead of a body, or of a header's value.

    >>> redact_body(b"hello")
    'REDACTED:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824'
    """
    return f"REDACTED:{sha256(body).hexdigest()}"


def redact_headers(
    headers: Mapping[str, tuple[str, ...]], redaction: Redaction
) -> dict[str, tuple[str, ...]]:
    """Replace each value of the headers that are hidden; the hash is that of the single value."""
    return {
        name: tuple(redact_body(each.encode(errors="surrogatepass")) for each in values)
        if redaction.hides(name)
        else tuple(values)
        for name, values in headers.items()
    }
