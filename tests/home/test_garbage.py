"""What is set apart from the garbage collector while something is at work, and what comes back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtasks import QTasks
from qtasks.home.garbage import SetApart


class Ring:
    """Refers to itself, so that only the collector can find out that nobody else does."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def everything() -> Iterator[None]:
    assert not gc.get_freeze_count()
    yield
    gc.unfreeze()


def test_what_there_is_at_the_start_is_set_apart_until_the_end() -> None:
    with SetApart():
        set_apart = gc.get_freeze_count()
        later = Ring()
        gone = weakref.ref(later)
        del later
        gc.collect()
        assert set_apart > 1000
        assert gone() is None

    assert not gc.get_freeze_count()


def test_what_is_garbage_at_the_first_start_does_not_stay() -> None:
    gone = weakref.ref(Ring())

    with SetApart():
        assert gone() is None


def test_what_becomes_garbage_meanwhile_goes_at_the_end() -> None:
    ring = Ring()
    plain = {Ring.__name__}
    known = weakref.ref(ring)
    with SetApart():
        del ring, plain
        gc.collect()
        assert known() is not None

    gc.collect()
    assert known() is None


def test_the_last_of_several_ends_it() -> None:
    apart = SetApart()
    with apart:
        with apart:
            pass
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()

    with apart:
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()


def test_what_others_have_set_apart_stays_so() -> None:
    gc.freeze()
    theirs = gc.get_freeze_count()

    with SetApart():
        known = [Ring()]
        assert gc.get_freeze_count() == theirs

    assert gc.get_freeze_count() == theirs
    assert known


def test_nothing_is_set_apart_where_nobody_collects() -> None:
    gc.disable()
    try:
        with SetApart():
            assert not gc.get_freeze_count()
    finally:
        gc.enable()


async def test_an_app_at_work_is_spared(tmp_path: Path) -> None:
    tasks = QTasks(broker=f"sqlite:///{tmp_path}/q.db")

    async with tasks.lifespan():
        assert gc.get_freeze_count()

    assert not gc.get_freeze_count()
