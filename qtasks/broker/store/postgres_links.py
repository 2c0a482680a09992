"""Connections to PostgreSQL: how they are made, and what their errors mean."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from qtasks.errors import (
    ConfigurationError,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreUnreachable,
    StoreUnusable,
)

if TYPE_CHECKING:
    import psycopg

DEFAULT_SCHEMA = "qtasks"
CONNECT_S = 5
BUSY_MS = 5000
IDLE_MS = 5000
"""A node that stops in the middle of a transaction holds up all others no longer than that."""
STATEMENT_MS = 30_000
POLL_MS = 200
PREPARED = 500
STALE_MS = 3000
"""A node that has not beaten for so long says with its next write that it lives."""
NOW = "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
"""The database's clock, in Unix milliseconds."""
_OURS = ("schema", "pooler")
_PLANS = ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
"""What is never right here: each query is about few rows, by an index, whatever is known of the table."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: libpq's address of the database, and the schema in it."""

    conninfo: str
    schema: str = DEFAULT_SCHEMA
    has_pooler: bool = False
    poll_ms: int = POLL_MS

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `postgresql://…?schema=name&pooler=on`; raises `ConfigurationError`."""
        address, _, query = url.partition("?")  # put together again as it was: libpq's `///` has no host
        pairs = parse_qsl(query, keep_blank_values=True)
        ours = {name: value for name, value in pairs if name in _OURS}
        schema = ours.get("schema", DEFAULT_SCHEMA)
        if not schema.isascii() or not schema.isidentifier() or schema != schema.lower() or len(schema) > 48:
            raise ConfigurationError(
                f"schema={schema!r} is not possible; it is up to 48 small letters, digits and underscores"
            )
        if ours.get("pooler", "off") not in ("on", "off"):
            raise ConfigurationError(f"pooler={ours['pooler']!r} is not possible; it is on or off")
        kept = [(name, value) for name, value in pairs if name not in _OURS]
        rest = urlencode(kept, quote_via=quote)  # libpq takes no + for a space
        return cls(f"{address}?{rest}" if rest else address, schema, ours.get("pooler") == "on")

    def __str__(self) -> str:
        parts = urlsplit(self.conninfo)
        host = parts.netloc.rpartition("@")[2]
        return f"postgresql://{host}{parts.path} (schema {self.schema})"

    @property
    def lock(self) -> int:
        """The number of the advisory lock of whoever writes."""
        return zlib.crc32(f"qtasks.{self.schema}".encode())

    @property
    def channel(self) -> str:
        """Where nodes tell each other that there is work."""
        return f"qtasks_{self.schema}"

    def begin_writing(self, node: str | None = None) -> tuple[bytes, ...]:
        """Give what begins a transaction that writes, after BEGIN: it waits for its turn.

        With it `node`, if any takes part, says that it lives: one that was counted as dead and comes back
        owns nothing that others could take from it before that is known.
        """
        turn = f"SELECT pg_advisory_xact_lock({self.lock})"
        rest = self._settings_again, turn, "" if node is None else self._stay(node)
        return tuple(each.encode() for each in rest if each)

    @property
    def settings(self) -> bytes:
        """Set up a connection for the store's transactions."""
        return self._settings(is_local=False).encode()

    @property
    def _settings_again(self) -> str:
        """A pooler hands each transaction another connection, set up for who knows what."""
        return self._settings(is_local=True) if self.has_pooler else ""

    def _settings(self, *, is_local: bool) -> str:
        values = {
            "search_path": self.schema,
            **dict.fromkeys(_PLANS, "off"),
            "lock_timeout": str(BUSY_MS),
            "idle_in_transaction_session_timeout": str(IDLE_MS),
        }
        each = (f"set_config('{name}', '{value}', {is_local})" for name, value in values.items())
        return f"SELECT {', '.join(each)}"

    def _stay(self, node: str) -> str:
        name = node.replace("'", "''")
        return (
            f"INSERT INTO nodes (id, seen_at) SELECT '{name}', {NOW} WHERE NOT EXISTS "
            f"(SELECT 1 FROM nodes WHERE id = '{name}' AND seen_at > {NOW} - {STALE_MS}) "
            "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at"
        )

    @property
    def begin_reading(self) -> bytes:
        """Begin a transaction that reads one snapshot."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        parts = begin, self._settings_again, f"SET LOCAL statement_timeout TO {STATEMENT_MS}"
        return "; ".join(each for each in parts if each).encode()

    @property
    def notify(self) -> bytes:
        """Wake all nodes once the transaction is committed."""
        return f"NOTIFY {self.channel}".encode()


def link(place: Place) -> psycopg.Connection[Any]:
    """Open a connection; raises `StoreError`, and `ConfigurationError` without the extra for it."""
    try:
        import psycopg
    except ImportError as error:
        raise ConfigurationError(
            "a store on PostgreSQL needs psycopg: install qtasks with its extra [postgres]"
        ) from error
    try:
        connection = psycopg.connect(
            place.conninfo,
            autocommit=True,
            connect_timeout=CONNECT_S,
            application_name="qtasks",
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=10_000,
            target_session_attrs="read-write" if "," in urlsplit(place.conninfo).netloc else None,
            prepare_threshold=None if place.has_pooler else 5,
        )
    except psycopg.Error as error:
        raise meaning_of(error, place) or error from error
    connection.prepared_max = PREPARED  # each query may come with integers of several sizes
    _adapt(connection)
    return connection


def store_link(place: Place) -> psycopg.Connection[Any]:
    """Open a connection for the store's transactions; raises what `link` raises."""
    connection = link(place)
    if not place.has_pooler:
        connection.execute(place.settings)
    return connection


def _adapt(connection: psycopg.Connection[Any]) -> None:
    """Have values stored as SQLite has them: truth as 0 or 1; PostgreSQL's texts can have no NUL."""
    from psycopg.types.numeric import Int8BinaryDumper
    from psycopg.types.string import StrBinaryDumper

    class _Truth(Int8BinaryDumper):
        def dump(self, obj: Any) -> Any:
            return super().dump(int(obj))

    class _Text(StrBinaryDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)

    connection.adapters.register_dumper(bool, _Truth)
    connection.adapters.register_dumper(str, _Text)


def meaning_of(error: BaseException, place: Place) -> StoreError | None:
    """Say what an error of PostgreSQL means for the caller; None for one that is none, or our own mistake."""
    try:
        import psycopg
        from psycopg import errors
    except ImportError:
        return None
    if not isinstance(error, psycopg.Error):
        return None
    said = str(error).strip().partition("\n")[0]
    if isinstance(error, errors.DiskFull):
        return StoreFull(f"no room left at {place}; nothing was stored. Make room on its disk and repeat")
    if isinstance(error, errors.LockNotAvailable | errors.QueryCanceled):
        return StoreBusy(
            f"somebody else has held the lock of {place} for {BUSY_MS // 1000} s; nothing was stored. Repeat"
        )
    if isinstance(error, errors.InsufficientPrivilege | errors.InvalidCatalogName):
        return StoreUnusable(f"{place} cannot be used: {said}")
    if isinstance(error, errors.InvalidPassword | errors.InvalidAuthorizationSpecification):
        return StoreUnusable(f"{place} does not let us in: {said}")
    lost = psycopg.OperationalError, psycopg.InterfaceError, errors.IdleInTransactionSessionTimeout
    is_lost = isinstance(error, lost)
    if is_lost or isinstance(error, errors.ReadOnlySqlTransaction):
        return StoreUnreachable(f"{place} does not answer: {said or 'the connection is lost'}")
    return None
