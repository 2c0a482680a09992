"""The two signing keys of a broker: deliveries are signed with the current one (contract 2.11, 4.2)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from qtasks.errors import BadRequest
from qtasks.ids import Ids

Save = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What this process has signed with one key: how many attempts, and the last of them when."""

    fingerprint: str
    attempts: int
    last_at: int


def fingerprint(key: str) -> str:
    """Name a key by what tells nothing of it: the beginning of its digest."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


class KeyRing:
    """Holds the current key and the next. Safe to use from any thread.

    `save` makes a change durable before it takes effect; without it the keys are somebody else's, such
    as the environment's, and cannot be rotated here. `rotated_at` is when they last were, as far as known.
    """

    def __init__(
        self, current: str, following: str, save: Save | None = None, rotated_at: int | None = None
    ) -> None:
        self._pair = (current, following)
        self._save = save
        self.rotated_at = rotated_at
        self._uses: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    @property
    def pair(self) -> tuple[str, str]:
        """The current key and the next."""
        return self._pair

    def current(self) -> str:
        """Give the key to sign with now."""
        return self._pair[0]

    @property
    def is_ours(self) -> bool:
        """Whether they can be rotated here."""
        return self._save is not None

    def use(self, now: int) -> str:
        """Give the key to sign an attempt with, and remember that it was used."""
        key = self._pair[0]
        # One thread signs; another that looks at the same time sees the use before or after.
        self._uses[key] = (self._uses.get(key, (0, 0))[0] + 1, now)
        return key

    def uses(self) -> list[KeyUse]:
        """Say which keys were used since the start, the last one first."""
        found = [KeyUse(fingerprint(key), count, at) for key, (count, at) in [*self._uses.items()]]
        return sorted(found, key=lambda each: -each.last_at)

    def rotate(self, ids: Ids, now: int) -> tuple[str, str]:
        """Make the next key the current one, and a new one the next; raises `BadRequest` if that is not ours.

        Receivers that know the old pair go on verifying: they try both.
        """
        if self._save is None:
            raise BadRequest(
                "the signing keys are set by QTASKS_CURRENT_SIGNING_KEY and QTASKS_NEXT_SIGNING_KEY; rotate "
                "them there, current from next first, and restart the broker"
            )
        with self._lock:
            pair = (self._pair[1], ids.signing_key())
            self._save(*pair)
            self._pair = pair
            self.rotated_at = now
        return pair
