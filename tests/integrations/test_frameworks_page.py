"""The page on frameworks: each app on it runs as it stands, and Django's is the example's."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.docs.pages import Block, blocks, text
from tests.support.homes import SOON_S
from tests.support.lifespans import lifespan_of

PAGE = blocks(text("docs/frameworks.md"), "python")
APPS = [each for each in PAGE if "\napp = " in each.text]


@pytest.mark.parametrize("block", APPS, ids=lambda each: each.text.split()[1])
async def test_each_app_of_the_page_runs_its_task(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module: Any = ModuleType("app_of_the_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block.text, "docs/frameworks.md", "exec"), module.__dict__)

    async with (
        lifespan_of(module.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(module.app), base_url="http://app") as client,
    ):
        task_id = (await client.post("/greetings/Ada")).text.strip('"')
        assert await module.tasks.result(task_id).aget(SOON_S) == "hello Ada"


def test_every_framework_of_the_page_has_an_app() -> None:
    assert [each.text.split()[1] for each in APPS] == [
        "fastapi",
        "starlette.applications",
        "litestar",
        "quart",
    ]


def test_the_asgi_file_of_the_page_is_the_django_example_s() -> None:
    assert text("examples/django/shop/asgi.py") in [each.text for each in PAGE]
