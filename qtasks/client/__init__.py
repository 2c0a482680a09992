"""A client of the broker's HTTP API: operations as values, and two clients that send them.

    from qtasks.client import Client, calls

    with Client("http://127.0.0.1:8080", token) as client:
        for letter in client.each(calls.dead_letters()):
            client.send(calls.replay(letter.dlq_id))

The clients are loaded when they are first used, as they bring HTTP code with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qtasks.client.clients import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'qtasks.client' has no attribute {name!r}")
    from qtasks.client import clients

    return getattr(clients, name)
