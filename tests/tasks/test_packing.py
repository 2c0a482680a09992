"""What the message of a call says of sharing a request: how many may, and by what its pace is learnt."""

from __future__ import annotations

import pytest

from qtasks.protocol.header_values import read_kind
from qtasks.protocol.headers import Options
from qtasks.tasks.codec import compile_signature
from qtasks.tasks.options import Layers, TaskOptions
from tests.support.tasks import Workshop

LONG = "shop." * 50


class Named:
    """A task, of which the name alone counts."""

    signature = compile_signature(lambda: None, name="t")
    version = 1

    def __init__(self, name: str) -> None:
        self.name = name
        self._options = TaskOptions()

    def options_in(self, layers: Layers) -> TaskOptions:
        return self._options


def told(name: str, batch: int | None) -> Options:
    """Give what the broker is told of a call."""
    return Workshop().packer(batch=batch).message(Named(name), (), {}).options


@pytest.mark.parametrize("name", ["shop.send_email", "shop.f.<locals>.grüßen"])
def test_a_call_that_may_share_a_request_names_its_task(name: str) -> None:
    options = told(name, 100)

    assert (options.batch, options.kind) == (100, name)


@pytest.mark.parametrize("batch", [None, 1])
def test_a_call_that_goes_alone_does_not(batch: int | None) -> None:
    assert told("shop.send_email", batch).kind is None


@pytest.mark.parametrize("name", [LONG, "a\nb"])
def test_a_name_that_no_header_has_is_told_by_another_that_is_its_own(name: str) -> None:
    kind = told(name, 100).kind

    assert kind is not None
    assert kind == told(name, 100).kind == read_kind(kind)
    assert kind != told(f"{name}2", 100).kind
