"""Finds the destination of a message in the path and query of a request, and checks its form.

Clients do not encode the destination, so all of this works on the raw request target. Whether a
host may be reached, and what a group name stands for, is the broker's to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from qtasks.errors import BadRequest
from qtasks.protocol.text import UNSENDABLE, quoted

MAX_URL_BYTES = 8 * 1024
# What is remembered of the destinations of earlier messages: so many, none of them longer.
_REMEMBERED, _USUAL = 256, 512
# What is longer is no URL even if every byte of it is escaped.
_LONGEST = 3 * MAX_URL_BYTES
# Destinations with a meaning of their own, the only ones with a slash (contract 6.3).
API_NAMES = ("api/llm", "api/email")

_INVALID = "invalid destination url"
_NO_SCHEME = "endpoint has invalid scheme, add http:// or https://"
_SCHEME = re.compile(r"(https?):/(/?)", re.IGNORECASE)
_BLANK_OR_CONTROL = re.compile("[\\s\0-\x1f\x7f-\x9f\ud800-\udfff]")
_QUEUE_NAME = re.compile("[A-Za-z0-9._-]{1,128}")
_TOKEN = "qstash_token"
_CONFIG_PREFIXES = ("upstash-", "qtasks-")
_SHORTEST_CONFIG = min(len(each) for each in (_TOKEN, *_CONFIG_PREFIXES))
_ESCAPES = re.compile(b"(?:%[0-9A-Fa-f]{2})+")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a message goes: either a `url`, verbatim, or the name of a `group` (or of an API)."""

    url: str | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A request target taken apart.

    `segments` are the decoded ones before the destination, such as `("v2", "enqueue", "mail")`;
    `config` are the settings found in the query, names in lower case.
    """

    segments: tuple[str, ...]
    destination: Destination
    config: tuple[tuple[str, str], ...]


def split_target(raw_path: bytes, query: bytes, prefix_segments: int) -> Target:
    """Take apart a request target such as `/v2/enqueue/mail/https://example.com/a?b=c`.

    `raw_path` and `query` are ASGI's, undecoded; `prefix_segments` says how many segments stand
    before the destination. Raises `BadRequest`.
    """
    if query or len(raw_path) > _USUAL:
        return _split(raw_path, query, prefix_segments)
    return _usual_target(raw_path, prefix_segments)


@lru_cache(_REMEMBERED)
def _usual_target(raw_path: bytes, prefix_segments: int) -> Target:
    """Most messages go where others went before."""
    return _split(raw_path, b"", prefix_segments)


def _split(raw_path: bytes, query: bytes, prefix_segments: int) -> Target:
    try:
        path, raw_query = raw_path.decode(), query.decode()
        parts = path.removeprefix("/").split("/", prefix_segments)
        segments = tuple(_unquoted(each) for each in parts[:prefix_segments])
    except UnicodeDecodeError as error:
        raise BadRequest(f"{_INVALID}: the request target is not UTF-8") from error
    rest = parts[prefix_segments] if len(parts) > prefix_segments else ""
    destination, config = parse_destination(rest, raw_query)
    return Target(segments, destination, tuple(config))


def parse_destination(rest: str, raw_query: str) -> tuple[Destination, list[tuple[str, str]]]:
    """Read the destination that follows the verb in a path, with the request's query (contract 6.1).

    Both are raw. The query belongs to the destination, except for `upstash-*`, `qtasks-*` and
    `qstash_token`, which are taken out and returned decoded, names in lower case. A destination
    that is no URL is a group name, which may not exist. The `destination` of a batch item is read
    the same way, with an empty query. Raises `BadRequest`.
    """
    if not raw_query and len(rest) <= _USUAL:
        return _usual(rest), []
    return _parsed(rest, raw_query)


@lru_cache(_REMEMBERED)
def _usual(rest: str) -> Destination:
    """Most items of a batch go where others went before."""
    return _parsed(rest, "")[0]


def _parsed(rest: str, raw_query: str) -> tuple[Destination, list[tuple[str, str]]]:
    if not rest:
        raise BadRequest("a non-empty destination must be provided")
    if len(rest) > _LONGEST:
        raise BadRequest(f"{_INVALID}: {_too_long(rest)}")
    remaining, config = _split_query(raw_query)
    url = _as_url(rest)
    if url is None:
        decoded = _decoded(rest)
        url = _as_url(decoded)
        if url is None:
            return Destination(group=_group(decoded)), config
    url = _with_query(url, remaining)
    check_url(url)
    return Destination(url=url), config


def check_url(url: str, what: str = "destination") -> None:
    """Refuse what cannot be a destination: raises `BadRequest`, naming what is wrong with it.

    A destination is an absolute http or https URL with a host, without blanks. `what` says in the
    error whose URL it is.
    """
    reason = _usual_objection(url) if len(url) <= _USUAL else _objection(url)
    if reason is not None:
        raise BadRequest(f"invalid {what} url: {reason}")


def check_queue_name(name: str) -> None:
    """Refuse a name that no queue can have (contract 1.5); raises `BadRequest`."""
    if not _QUEUE_NAME.fullmatch(name):
        raise BadRequest(
            f"invalid queue name {quoted(name)}: "
            'it must be 1 to 128 letters (A to Z), digits, ".", "_" or "-"'
        )


def check_group_name(name: str) -> None:
    """Refuse a name that no URL group can have (contract 2.5); raises `BadRequest`."""
    if not _QUEUE_NAME.fullmatch(name):
        raise BadRequest(
            f"invalid URL group name {quoted(name)}: "
            'it must be 1 to 128 letters (A to Z), digits, ".", "_" or "-"'
        )


def is_hostlike(name: str) -> bool:
    """Say whether a destination that is no URL was rather meant to be one."""
    return any(each in name for each in "./:")


def no_scheme() -> str:
    """Give the text that refuses a URL without its scheme (contract 2.0)."""
    return f"{_INVALID}: {_NO_SCHEME}"


@lru_cache(_REMEMBERED)
def _usual_objection(url: str) -> str | None:
    return _objection(url)


def _objection(url: str) -> str | None:
    match = _SCHEME.match(url)
    if match is None or not match[2]:
        return _NO_SCHEME
    # Characters are no more than bytes, so nothing is searched that is longer than a URL may be.
    if len(url) > MAX_URL_BYTES:
        return _too_long(url)
    if _BLANK_OR_CONTROL.search(url):
        return f"{quoted(url)} has blanks or control characters"
    if len(url.encode()) > MAX_URL_BYTES:
        return _too_long(url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError as error:
        return f"{quoted(url)}: {error}"
    if not host:
        return f"{quoted(url)} has no host"
    # Browsers read a backslash as a slash, others as part of the user name: two different hosts.
    if "\\" in parts.netloc:
        return f"{quoted(url)} has a backslash before or in its host"
    return None


def _too_long(url: str) -> str:
    return f"{quoted(url)} is longer than {MAX_URL_BYTES} bytes"


def _as_url(text: str) -> str | None:
    match = _SCHEME.match(text)
    if match is None:
        return None
    if match[2]:
        return text
    # Some proxy took the two slashes of the scheme for one too many.
    return f"{match[1]}://{text[match.end() :]}"


def _decoded(text: str) -> str:
    try:
        return _unquoted(text)
    except UnicodeDecodeError:
        # Not one encoded whole, then; a URL may well contain escapes of another encoding.
        return text


def _unquoted(text: str, errors: str = "strict") -> str:
    """Do what `urllib.parse.unquote` does, in a third of its time for the longest run of `%`."""
    return _ESCAPES.sub(_unescaped, text.encode(errors="surrogatepass")).decode(errors=errors)


def _unescaped(run: re.Match[bytes]) -> bytes:
    return bytes.fromhex(run[0].replace(b"%", b"").decode())


def _group(name: str) -> str:
    if name in API_NAMES:
        return name
    if "/" in name or ":" in name or UNSENDABLE.search(name):
        raise BadRequest(no_scheme())
    return name


def _split_query(raw_query: str) -> tuple[str, list[tuple[str, str]]]:
    """Part the query into what belongs to the destination, verbatim, and our settings, decoded."""
    remaining: list[str] = []
    config: list[tuple[str, str]] = []
    for pair in raw_query.split("&"):
        if len(pair) < _SHORTEST_CONFIG:  # of many pairs at once, nearly all are as short as this
            remaining.append(pair)
            continue
        raw_name, _, raw_value = pair.partition("=")
        name = _unquoted(raw_name.replace("+", " "), errors="replace").lower()
        if name != _TOKEN and not name.startswith(_CONFIG_PREFIXES):
            remaining.append(pair)
            continue
        try:
            config.append((name, _unquoted(raw_value.replace("+", " "))))
        except UnicodeDecodeError as error:
            raise BadRequest(f"{name}: the value in the query is not UTF-8") from error
    return "&".join(remaining), config


def _with_query(url: str, query: str) -> str:
    if not query:
        return url
    before, mark, fragment = url.partition("#")
    return f"{before}{'&' if '?' in before else '?'}{query}{mark}{fragment}"
