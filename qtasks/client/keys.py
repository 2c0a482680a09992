"""Operations on the broker's signing keys (contract 2.11) and, our own, on its named tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import orjson

from qtasks.client.call import JSON, Call, check_object, read_list, read_nothing, read_one, segment
from qtasks.errors import DecodeError
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """What a broker has signed with one key since its start; keys are named by their fingerprints."""

    key: str
    attempts: int
    last_at: int

    def to_json(self) -> dict[str, object]:
        """Make the object of the API."""
        return json.write_fields(self, _KEY_USE)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """Which signing keys there are, by fingerprints; `rotated_at` is None if nothing is known of it."""

    current: str
    next: str
    can_rotate: bool = False
    rotated_at: int | None = None
    signed: tuple[KeyUse, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Make the object of the API."""
        return json.write_fields(self, _STATUS) | {"signed": [each.to_json() for each in self.signed]}

    @classmethod
    def from_json(cls, members: Mapping[str, object]) -> Self:
        """Read the answer's JSON object; raises `DecodeError`."""
        uses = members.get("signed", ())
        if not isinstance(uses, list):
            raise DecodeError("the answer has no list of what was signed", path="signed")
        signed = tuple(KeyUse(**json.read_fields(check_object(each), _KEY_USE)) for each in uses)
        return cls(signed=signed, **json.read_fields(members, _STATUS))


_KEY_USE = (
    json.text("key", "key", required=True),
    json.number("attempts", "attempts", required=True),
    json.number("last_at", "lastAt", required=True),
)
_STATUS = (
    json.text("current", "current", required=True),
    json.text("next", "next", required=True),
    json.flag("can_rotate", "canRotate", required=True),
    json.number("rotated_at", "rotatedAt"),
)
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


def key_status() -> Call[KeyStatus]:
    """Ask which keys there are, when they were rotated, and which of them has signed. Our own operation."""
    return Call("GET", "/qtasks/v1/keys", read_one(KeyStatus.from_json))


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
