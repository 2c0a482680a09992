"""Operations on the broker's signing keys (contract 2.11) and, our own, on its named tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import orjson

from qtasks.client.call import JSON, Call, read_list, read_nothing, read_one, segment
from qtasks.protocol import json_fields as json


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The key that deliveries are signed with, and the one that comes after it."""

    current: str = field(repr=False)
    next: str = field(repr=False)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read the answer's JSON object; raises `DecodeError`."""
        return cls(**json.read_fields(members, _KEYS))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedToken:
    """A token of the broker; its `value` is known only where it was just made."""

    name: str
    scope: str
    created_at: int
    value: str | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, object]:
        """Make the object of the API."""
        return json.write_fields(self, _TOKEN)

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read the answer's JSON object; raises `DecodeError`."""
        return cls(**json.read_fields(members, _TOKEN))


_KEYS = (json.text("current", "current", required=True), json.text("next", "next", required=True))
_TOKEN = (
    json.text("name", "name", required=True),
    json.text("scope", "scope", required=True),
    json.number("created_at", "createdAt", required=True),
    json.text("value", "token"),
)


def signing_keys() -> Call[SigningKeys]:
    """Ask for both signing keys."""
    return Call("GET", "/v2/keys", read_one(SigningKeys.from_json))


def rotate_keys() -> Call[SigningKeys]:
    """Have deliveries signed with the next key from now on, and a new next one made."""
    return Call("POST", "/v2/keys/rotate", read_one(SigningKeys.from_json))


def tokens() -> Call[list[NamedToken]]:
    """List the named tokens, without their values."""
    return Call("GET", "/qtasks/v1/tokens", read_list(NamedToken.from_json))


def make_token(name: str, scope: str = "full") -> Call[NamedToken]:
    """Make a token with a scope, `full` or `read-only`: this answer alone shows its value."""
    body = orjson.dumps({"name": name, "scope": scope})
    return Call("POST", "/qtasks/v1/tokens", read_one(NamedToken.from_json), JSON, body)


def revoke_token(name: str) -> Call[None]:
    """End a token at once."""
    return Call("DELETE", f"/qtasks/v1/tokens/{segment(name)}", read_nothing)
