"""The app under measurement: a task that does nothing, and one that notes when it started."""

from __future__ import annotations

import os
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from qtasks import QTasks, Queue

tasks = QTasks(queues={"bench": Queue(parallelism=1000)})
starts: list[float] = []
done = 0


@tasks.task(queue="bench")
async def noop(text: str) -> None:
    global done
    done += 1


@tasks.task(queue="bench")
def plain(text: str) -> None:
    global done
    done += 1


@tasks.task(queue="bench")
async def stamp(text: str) -> None:
    starts.append(time.monotonic())


@tasks.task(queue="bench")
async def echo(text: str) -> str:
    return text


async def progress(request: Request) -> JSONResponse:
    return JSONResponse({"done": done, "starts": starts, "pid": os.getpid()})


app = Starlette(routes=[Route("/progress", progress), Mount("/qtasks", app=tasks)], lifespan=tasks.lifespan)
