"""When the loop that claims looks for work again, and when it need not, as a settlement has just looked."""

from __future__ import annotations

import asyncio

from qtasks.broker.store.records import Claimed


class Looks:
    """What makes the loop that claims look again. `asked` is the event that it waits for.

    News of the store set that event, too: `ignore_news` takes it back for those it has claimed along with.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._is_asked = False
        self._claimed: Claimed | None = None

    def ask(self, claimed: Claimed | None = None) -> None:
        """Have it look again, unless what was `claimed` just now tells it all there is."""
        self._claimed = claimed if claimed is not None and claimed.is_all else None
        self._is_asked = True
        self.asked.set()

    def take(self) -> Claimed | None:
        """Begin anew; gives what was claimed for it since, if that was all there is."""
        claimed, self._claimed = self._claimed, None
        self._is_asked = False
        self.asked.clear()
        return claimed

    def ignore_news(self) -> None:
        """Look no more for the news that are known, but for what was asked beside them."""
        if not self._is_asked:
            self.asked.clear()
