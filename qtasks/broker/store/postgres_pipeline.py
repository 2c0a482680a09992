"""The connection that writes to PostgreSQL, in pipeline mode: one round trip for each answer that is needed.

What nobody waits for goes out with what comes next, at once and ending with a sync: were the server left to
wait in the middle, no timeout of its own would end the transaction of a node that stops there.
"""

from __future__ import annotations

import select
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from psycopg import Error, OperationalError
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import send
from psycopg.pq import ExecStatus, Format

from qtasks.broker.store.database import Params, Row
from qtasks.broker.store.postgres_links import PREPARED
from qtasks.broker.store.postgres_values import FRAME_BYTES, VALUE_BYTES, Write, writers_of
from qtasks.broker.store.queries import load_queries
from qtasks.sql_texts import PARAMETER
from qtasks.values import dataclass

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGresult

    from qtasks.broker.store.postgres_appending import Appended

FULL_BYTES = 6_000
"""So much is not left to go out with what comes next: of 8 KiB and more libpq sends a part by itself."""
OFTEN = 5
"""A statement is prepared when it comes once more."""
SYNCED = ExecStatus.PIPELINE_SYNC
FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED)


@dataclass(frozen=True, slots=True)
class Query:
    """A text as the protocol has it, and the names of its parameters.

    `writers` write each of them, if the text says of all what they are.
    """

    text: bytes
    names: Sequence[str] = ()
    writers: Sequence[Write] = ()


class Pipeline:
    """A connection in pipeline mode. After an error of the database it is of no more use.

    What breaks a statement is raised by the next `wait`. `prepares` says whether the connection is its own
    beyond a transaction.
    """

    def __init__(self, connection: Connection[Any], *, prepares: bool) -> None:
        self._connection = connection
        self._pg = connection.pgconn
        self._pg.enter_pipeline_mode()
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._dumping = Transformer(connection)
        self._loading = Transformer(connection)
        self._seen: dict[tuple[bytes, tuple[int, ...]], int] = {}
        """How often each statement came with parameters of which types, until it was prepared."""
        self._names: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._prepares = prepares
        self._sent = 0
        self._bytes = 0
        self._wanted = 0
        self.was_idle = False
        """Whether it has answered nothing since it was idle: if it was lost then, nothing was by that."""

    @property
    def process(self) -> int:
        """The process of the server at the other end, as it calls it in what it notifies of."""
        return self._pg.backend_pid

    def send(self, query: Query, rows: Sequence[Params]) -> None:
        """Have a statement done with each of these parameters; does not wait unless much is to be sent."""
        for each in rows:
            values = self._send(query, each)
            self._bytes += FRAME_BYTES + VALUE_BYTES * len(values)
            self._bytes += sum([len(value) for value in values if value is not None])
        if self._bytes > FULL_BYTES:
            self.wait()

    def rows(self, query: Query, params: Params) -> list[Row]:
        """Have a statement done; give its rows."""
        result = self._ask(query, params)
        self._loading.set_pgresult(result, format=Format.BINARY)
        return self._loading.load_rows(0, result.ntuples, tuple)

    def count(self, query: Query, params: Params) -> int:
        """Have a statement done; say how many rows it changed."""
        return self._ask(query, params).command_tuples or 0

    def _ask(self, query: Query, params: Params) -> PGresult:
        self._send(query, params)
        result = self.wait()
        assert result is not None
        return result

    def _send(self, query: Query, params: Params) -> Sequence[Buffer | None]:
        """Have a statement done; gives its parameters as they were written."""
        values, types, formats = self._dumped(query, params) if query.names else ((), (), None)
        name = self._name(query.text, types)
        if name is None:
            self._pg.send_query_params(query.text, values, types or None, formats, Format.BINARY)
            self._bytes += len(query.text)
        else:
            self._pg.send_query_prepared(name, values, formats, Format.BINARY)
        self._sent += 1
        return values

    def _dumped(
        self, query: Query, params: Params
    ) -> tuple[Sequence[Buffer | None], tuple[int, ...], Sequence[Format] | None]:
        names, count = query.names, len(query.names)
        if query.writers:
            written = [write(params[name]) for write, name in zip(query.writers, names, strict=True)]
            return written, (), [Format.BINARY] * count
        dumping = self._dumping
        values = dumping.dump_sequence([params[name] for name in names], [PyFormat.AUTO] * count)
        return values, dumping.types or (), dumping.formats

    def tell(self, text: bytes) -> None:
        """Have a statement done that has no parameters and is not worth preparing."""
        self._pg.send_query_params(text, None)
        self._sent += 1
        self._bytes += FRAME_BYTES + len(text)

    def _name(self, text: bytes, types: tuple[int, ...]) -> bytes | None:
        """Give the name of a prepared statement; prepares it if it is worth it."""
        key = text, types
        name = self._names.get(key)
        if name is None and self._prepares:
            if len(self._seen) >= PREPARED:  # begin again: those that come often are soon back
                self.tell(b"DEALLOCATE ALL")
                self._seen.clear()
                self._names.clear()
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            if seen > OFTEN:
                name = self._names[key] = f"qtasks_{len(self._names)}".encode()
                self._pg.send_prepare(name, text, types)
                self._sent += 1
                self._bytes += FRAME_BYTES + len(text)
        return name

    def wait(self) -> PGresult | None:
        """Wait until all that was sent is done; gives the last result, raises what broke the first of it."""
        self._leave(self._sent - 1)
        return self._come_back()

    def _leave(self, wanted: int) -> None:
        """Send all that is kept; `wanted` is the place of the statement whose result is."""
        self._pg.pipeline_sync()
        self._wanted, self._sent, self._bytes = wanted, 0, 0
        self._pg.flush()

    def _come_back(self) -> PGresult | None:
        """Read the answers. psycopg's generators do the same, at 20 us more of CPU."""
        pg = self._pg
        if pg.flush():
            self._connection.wait(send(pg))
        found, number, is_between = None, 0, True
        while True:
            while pg.is_busy():
                self._poll.poll()
                pg.consume_input()
            result = pg.get_result()
            if result is None:  # the end of what one statement gives; a second one is that of the connection
                if is_between:
                    raise OperationalError("the connection is lost")
                is_between = True
                continue
            status = result.status
            if status in FAILED:
                raise error_from_result(result, encoding=self._connection.info.encoding)
            if status == SYNCED:
                self.was_idle = False
                return found
            if number == self._wanted:
                found = result
            number, is_between = number + 1, False

    def make_sure(self) -> None:
        """Wait for an answer if there was none yet: whether a COMMIT was done that got none is unknown."""
        if self.was_idle:
            self.wait()

    def commit(self, notify: bytes | None) -> None:
        """Commit what was begun, and all that was sent for it; raises what broke any of it."""
        if notify is not None:
            self.tell(notify)
        self.tell(b"COMMIT")
        self.wait()
        self.was_idle = True

    def begin_commit(self, last: Appended, *, is_begun: bool) -> None:
        """Have a last statement done and commit, in one round trip, which `end_commit` ends.

        What leaves in one piece is a transaction of its own, if none is begun.
        """
        self._send(last.query, last.params)
        wanted = self._sent - 1
        if is_begun:
            self.tell(b"COMMIT")
        self.was_idle = False  # it is told to do something for good
        self._leave(wanted)

    def end_commit(self) -> int:
        """Wait for that; say how many rows the last statement changed."""
        result = self._come_back()
        self.was_idle = True
        assert result is not None
        return result.command_tuples or 0

    def roll_back(self, *, after: BaseException) -> bool:
        """Undo what was begun; False if the connection is of no more use, and closed."""
        if isinstance(after, Exception) and not isinstance(after, Error):
            with suppress(Exception):  # whatever it says, a new connection will know better
                self.tell(b"ROLLBACK")
                self.wait()
                self.was_idle = True
                return True
        self.close()
        return False

    def close(self) -> None:
        """End it."""
        self._connection.close()


@cache
def pipelined_queries() -> Mapping[str, Query]:
    """Give the texts of this dialect, with parameters as the protocol has them."""
    return {name: _query(text) for name, text in load_queries("postgres").items()}


def _query(text: str) -> Query:
    names, writers = list(dict.fromkeys(PARAMETER.findall(text))), writers_of(text)
    numbered = PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", text)
    is_typed = writers.keys() >= set(names)
    return Query(numbered.encode(), names, [writers[each] for each in names] if is_typed else ())
