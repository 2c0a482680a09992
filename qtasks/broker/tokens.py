"""Named tokens with scopes. Only their digests are stored, so a token is shown once, when it is made."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from qtasks.broker.store import tokens
from qtasks.broker.store.database import Database
from qtasks.broker.store.tokens import StoredToken
from qtasks.clock import Clock
from qtasks.errors import BadRequest, NotFound
from qtasks.ids import Ids
from qtasks.protocol.text import quoted

_NAME = re.compile("[A-Za-z0-9._-]{1,64}")


class Scope(StrEnum):
    """What a token may do."""

    FULL = "full"
    READ_ONLY = "read-only"
    """Read everything but the signing keys, change nothing."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who makes a request: `name` is "" for a token of the broker's own settings."""

    name: str
    scope: Scope


def digest_of(token: str) -> bytes:
    """Give what is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


class Tokens:
    """Makes, lists, revokes and recognizes tokens. Safe to call from any thread."""

    def __init__(self, database: Database, clock: Clock, ids: Ids) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._known: Sequence[StoredToken] | None = None

    @property
    def is_read(self) -> bool:
        """Whether the tokens are known without asking the store."""
        return self._known is not None

    def make(self, name: str, scope: Scope) -> tuple[StoredToken, str]:
        """Make a token; also give its value, which nobody can find out later. Raises `BadRequest`."""
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f'the name of a token must be 1 to 64 letters, digits, ".", "_" or "-", not {quoted(name)}'
            )
        token = self._ids.secret()
        stored = StoredToken(name, digest_of(token), scope.value, self._clock.now())
        if not self._database.run(lambda session: tokens.insert(session, stored)):
            raise BadRequest(
                f"there is a token named {name} already; revoke it first, or choose another name"
            )
        self._known = None
        return stored, token

    def all(self) -> Sequence[StoredToken]:
        """List the tokens by name."""
        if self._known is None:
            self._known = self._database.look(tokens.find_all)
        return self._known

    def revoke(self, name: str) -> None:
        """End a token at once; raises `NotFound`."""
        if not self._database.run(lambda session: tokens.delete(session, name)):
            raise NotFound(f"token {name[:64]} not found")
        self._known = None

    def recognize(self, digest: bytes) -> Bearer | None:
        """Say whose token has this digest. All are compared, so that timing tells nothing."""
        found = [each for each in self.all() if hmac.compare_digest(each.digest, digest)]
        return Bearer(found[0].name, Scope(found[0].scope)) if found else None
