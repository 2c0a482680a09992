"""Identifiers: no two alike, whoever makes them, and none that another process makes too."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from qtasks.ids import Ids

NOW = 1_700_000_000_000


def test_ids_that_several_threads_make_at_once_are_all_different() -> None:
    ids = Ids()

    with ThreadPoolExecutor(4) as pool:
        made = [*pool.map(lambda _: ids.message_id(NOW), range(20_000))]

    assert len(set(made)) == len(made)


def test_an_id_has_ten_random_bytes_behind_its_time() -> None:
    assert re.fullmatch(r"tsk_[0-9a-f]{12}[0-9a-f]{20}", Ids().task_id(NOW))


def test_secrets_are_as_long_as_they_claim() -> None:
    assert len(Ids().secret()) == 64


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_makes_other_ids_than_its_parent() -> None:
    ids = Ids()
    ids.task_id(NOW)  # so that bytes are read ahead
    reading, writing = os.pipe()

    child = os.fork()
    if not child:
        os.write(writing, ids.task_id(NOW).encode())
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reading, 100).decode() != ids.task_id(NOW)
    os.close(reading)
    os.close(writing)
