"""What few messages have is stored so that all that was stored before stays readable."""

from __future__ import annotations

import pytest

from qtasks.broker.store.extras import NO_EXTRAS, Extras, pack_extras, unpack_extras


@pytest.mark.parametrize(
    ("extras", "packed"),
    [
        (NO_EXTRAS, None),
        (Extras(batch=100), b'{"batch":100}'),
        (Extras(expires_at=1_700_000_000_000, batch=9), b'{"expires_at":1700000000000,"batch":9}'),
        (Extras(batch=100, kind="shop.grüßen"), '{"batch":100,"kind":"shop.grüßen"}'.encode()),
    ],
)
def test_extras_are_stored_as_ever_and_a_kind_where_there_is_one(
    extras: Extras, packed: bytes | None
) -> None:
    assert pack_extras(extras) == packed
    assert unpack_extras(packed) == extras
