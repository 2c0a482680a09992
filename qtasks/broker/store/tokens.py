"""Digests of named tokens in the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from qtasks.broker.store.database import Session


@dataclass(frozen=True, slots=True)
class StoredToken:
    """What is kept of a token; `created_at` is in Unix milliseconds."""

    name: str
    digest: bytes = field(repr=False)
    scope: str
    created_at: int


def insert(session: Session, token: StoredToken) -> bool:
    """Store a token; False if there is one of its name already."""
    row = {
        "name": token.name,
        "digest": token.digest,
        "scope": token.scope,
        "created_at": token.created_at,
    }
    return session.run("token_insert", row) > 0


def find_all(session: Session) -> list[StoredToken]:
    """List all tokens by name."""
    return [StoredToken(*row) for row in session.all("token_list", {})]


def delete(session: Session, name: str) -> bool:
    """Delete a token; False if there is none of that name."""
    return session.run("token_delete", {"name": name}) > 0
