"""What the API names `api/llm` and `api/email` stand for: read from what the operator says. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from qtasks.broker.config import ApiTarget
from qtasks.errors import ConfigurationError

# Behind the base URL of a server: the path of a call, after what people append to the base themselves.
PATHS = {"llm": "/v1/chat/completions", "email": "/emails"}
CUT = {"llm": ("/v1/chat/completions", "/chat/completions", "/v1"), "email": ("/emails",)}


def parse_apis(entries: Iterable[str], keys: Mapping[str, str]) -> dict[str, ApiTarget]:
    """Read `llm=BASE_URL` entries; `keys` are those of the servers, by the short names.

    Raises `ConfigurationError`.

    >>> parse_apis(["llm=https://llm.example/v1"], {})["api/llm"].url
    'https://llm.example/v1/chat/completions'
    """
    found: dict[str, ApiTarget] = {}
    for entry in entries:
        name, equals, base = (each.strip() for each in entry.partition("="))
        if not equals or name not in PATHS:
            raise ConfigurationError(
                f"--api {entry!r} must name {' or '.join(PATHS)} and its base URL, such as "
                "llm=https://api.openai.com"
            )
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
            raise ConfigurationError(
                f"--api {name}: {base!r} is no base URL such as https://api.openai.com; "
                f"its key belongs in QTASKS_API_{name.upper()}_KEY"
            )
        found[f"api/{name}"] = ApiTarget(_without_path(base, CUT[name]) + PATHS[name], keys.get(name))
    return found


def _without_path(base: str, endings: Iterable[str]) -> str:
    base = base.rstrip("/")
    return next((base.removesuffix(each) for each in endings if base.endswith(each)), base)
