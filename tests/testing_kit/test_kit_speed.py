"""A thousand tasks take a kit less than a second, from the call to the result."""

from __future__ import annotations

import time

import pytest

from qtasks.testing import Kit
from tests.support import shop


@pytest.mark.full
def test_a_thousand_tasks_take_less_than_a_second(kit: Kit) -> None:
    def took() -> float:
        began_at = time.process_time()  # of this process, whatever else the machine does
        for number in range(1000):
            shop.count.delay(number)
        assert kit.drain().succeeded == 1000
        return time.process_time() - began_at

    assert min(took() for _ in range(3)) < 1
