"""What the API allows in all: requests a second for each token, and memory for what is being received."""

from __future__ import annotations

from qtasks.errors import BrokerUnavailable, TooManyRequests

FREE_BYTES = 65_536


class Burst:
    """Counts the requests of each token in each second; `limit` None allows any number (contract 7.2)."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._second = 0
        self._counts: dict[str, int] = {}

    def count(self, name: str, now: int) -> None:
        """Count a request of a token at `now` (Unix ms); raises `TooManyRequests` beyond the limit."""
        if self._limit is None:
            return
        second = now // 1000
        if second != self._second:
            self._second = second
            self._counts.clear()
        used = self._counts.get(name, 0)
        if used >= self._limit:
            raise TooManyRequests(
                f"rate limit exceeded: {self._limit} requests a second; publishing is not limited",
                limit=self._limit,
                reset_at=second + 1,
            )
        self._counts[name] = used + 1


class Uploads:
    """Bounds what the requests that are being received hold together (promise P20)."""

    def __init__(self, most_bytes: int) -> None:
        self._left = most_bytes

    def room(self) -> Room:
        """Give room for one body; it is free again at the end of the block."""
        return Room(self)

    def take(self, count: int) -> None:
        """Take bytes; raises `BrokerUnavailable` when there is no room for them now."""
        if count > self._left:
            raise BrokerUnavailable(
                "too many large requests are being received at once; repeat in a moment", retry_after=1
            )
        self._left -= count

    def give_back(self, count: int) -> None:
        """Have bytes free again."""
        self._left += count


class Room:
    """What one body may take: a little for nothing, more from what all share."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self._size = 0
        self.taken = 0

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *error: object) -> None:
        self._uploads.give_back(self.taken)

    def take(self, count: int) -> int:
        """Account for the next bytes of the body; give its size so far."""
        self._size += count
        more = max(0, self._size - FREE_BYTES) - self.taken
        if more > 0:
            self._uploads.take(more)
            self.taken += more
        return self._size
