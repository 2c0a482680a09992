"""The two signing keys of a broker: deliveries are signed with the current one (contract 2.11, 4.2)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from qtasks.errors import BadRequest
from qtasks.ids import Ids

Save = Callable[[str, str], None]


class KeyRing:
    """Holds the current key and the next. Safe to use from any thread.

    `save` makes a change durable before it takes effect; without it the keys are somebody else's, such
    as the environment's, and cannot be rotated here.
    """

    def __init__(self, current: str, following: str, save: Save | None = None) -> None:
        self._pair = (current, following)
        self._save = save
        self._lock = threading.Lock()

    @property
    def pair(self) -> tuple[str, str]:
        """The current key and the next."""
        return self._pair

    def current(self) -> str:
        """Give the key to sign with now."""
        return self._pair[0]

    def rotate(self, ids: Ids) -> tuple[str, str]:
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
        return pair
