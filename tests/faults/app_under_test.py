"""An app for the tests of faults: run by uvicorn in processes of its own, and imported by guests.

Its tasks write to the ledger file that QTASKS_TEST_LEDGER names, before they do anything else. What is
called `held` waits until the file `{ledger}.gate` exists.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route

from qtasks import QTasks, Queue

LEDGER = os.environ["QTASKS_TEST_LEDGER"]
GATE = Path(f"{LEDGER}.gate")
GATE_S = 60.0
GATE_POLL_S = 0.01

tasks = QTasks(queues={"ordered": Queue(ordered=True)})


def note(kind: str, key: str) -> None:
    """Add a line to the ledger, in one write that no other process can cut in two."""
    line = f"{kind} {key} {os.getpid()} {time.monotonic()}\n"
    descriptor = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


async def gate_opened() -> None:
    """Wait for the gate."""
    for _ in range(int(GATE_S / GATE_POLL_S)):
        if is_open():
            return
        await asyncio.sleep(GATE_POLL_S)
    raise TimeoutError(f"{GATE} was not made within {GATE_S} s")


def is_open() -> bool:
    """Say whether the test has opened the gate."""
    return GATE.exists()


@tasks.task(name="count", retries=50, retry_delay=0.05)
async def count(key: str) -> str:
    """Take note that it ran."""
    note("start", key)
    await asyncio.sleep(0.02)
    note("end", key)
    return key


@tasks.task(name="count_in_thread", retries=50, retry_delay=0.05)
def count_in_thread(key: str) -> str:
    """Take note that it ran, as a plain function."""
    note("start", key)
    time.sleep(0.02)
    note("end", key)
    return key


@tasks.task(name="in_order", queue="ordered", retries=50, retry_delay=0.05)
async def in_order(key: str) -> None:
    """Take note of its place."""
    note("start", key)
    await asyncio.sleep(0.001)
    note("end", key)


@tasks.task(name="held", queue="held", retries=3, retry_delay=0.05)
async def held(key: str) -> None:
    """Run until the gate is open."""
    note("start", key)
    await gate_opened()
    note("end", key)


@tasks.task(name="told", queue="held", retries=3, retry_delay=0.05)
async def told(key: str) -> None:
    """Run until the gate is open, and take note of being called off before."""
    note("start", key)
    try:
        await gate_opened()
    except asyncio.CancelledError:
        note("cancelled", key)
        raise
    note("end", key)


@tasks.task(name="held_in_order", queue="ordered", retries=3, retry_delay=0.05)
def held_in_order(key: str) -> None:
    """Run until the gate is open, in its place; as a plain function, which nothing can break off."""
    note("start", key)
    for _ in range(int(GATE_S / GATE_POLL_S)):
        if is_open():
            break
        time.sleep(GATE_POLL_S)
    note("end", key)


@tasks.task(name="parent", queue="held", retries=3, retry_delay=0.05)
async def parent(key: str) -> None:
    """Enqueue another task once the gate is open."""
    note("start", key)
    await gate_opened()
    count.apply_async([f"{key}-child"], task_id=f"{key}-child")
    note("end", key)


@tasks.task(name="poison", queue="poison", retries=2, retry_delay=0.05)
def poison(key: str) -> None:
    """Kill the process that runs it."""
    note("start", key)
    os._exit(66)


TASKS = {
    each.name: each for each in (count, count_in_thread, in_order, held, told, held_in_order, parent, poison)
}


def delay(request: Request) -> PlainTextResponse:
    """Enqueue from a thread of the server: `POST /delay/{task}/{key}`; says which process did."""
    key = request.path_params["key"]
    TASKS[request.path_params["task"]].apply_async([key], task_id=key)
    return PlainTextResponse(str(os.getpid()))


def delay_many(request: Request) -> JSONResponse:
    """Enqueue many calls at once: `POST /delay_many/count/{how many}`; answers their keys."""
    keys = [f"k{number}" for number in range(int(request.path_params["count"]))]
    count.delay_many(count.call(key) for key in keys)
    return JSONResponse(keys)


async def delay_in_loop(request: Request) -> PlainTextResponse:
    """Enqueue from inside the running event loop."""
    return delay(request)


async def fork(request: Request) -> PlainTextResponse:
    """Enqueue from a child of this process that was forked in its midst; answers its exit code."""
    key = request.path_params["key"]
    child = os.fork()
    if not child:
        code = 1
        try:
            count.delay(key)
            code = 0
        finally:
            os._exit(code)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    return PlainTextResponse(str(os.waitstatus_to_exitcode(status)))


def fork_by_multiprocessing(request: Request) -> PlainTextResponse:
    """Do the same by way of multiprocessing, from a thread of the server."""
    key = request.path_params["key"]
    child = multiprocessing.get_context("fork").Process(target=count.delay, args=(key,))
    child.start()
    child.join()
    return PlainTextResponse(str(child.exitcode))


def result(request: Request) -> JSONResponse:
    """Say in which state a task is: `GET /result/{id}`."""
    return JSONResponse({"state": tasks.result(request.path_params["id"]).state})


app = Starlette(
    routes=[
        Route("/delay_many/count/{count:int}", delay_many, methods=["POST"]),
        Route("/delay/{task}/{key}", delay, methods=["POST"]),
        Route("/delay-in-loop/{task}/{key}", delay_in_loop, methods=["POST"]),
        Route("/fork/{key}", fork, methods=["POST"]),
        Route("/multiprocessing/{key}", fork_by_multiprocessing, methods=["POST"]),
        Route("/result/{id}", result),
        Mount("/qtasks", app=tasks),
    ],
    lifespan=tasks.lifespan,
)
