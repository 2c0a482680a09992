"""How the listener serves well-behaved clients."""

from __future__ import annotations

import time

import pytest

from qtasks.home.listener import Parser
from qtasks.home.receipt import ReceiptLimits
from tests.support.listening import listening, post


@pytest.mark.parametrize("parser", ["h11", "httptools"])
async def test_an_answer_does_not_wait_for_the_client_to_confirm_its_beginning(parser: Parser) -> None:
    async with listening(ReceiptLimits(), parser) as listener:
        client = await listener.connect()
        begun_at = time.monotonic()
        for _ in range(100):
            client.send(post(b"abc"))
            await client.answer()
        took_s = time.monotonic() - begun_at

    assert took_s < 2  # and 4 s, 40 ms for each, if it did
