"""The demo's web app: Starlette, with the tasks of `tasks.py` running in its own process.

`scripts/demo` starts it. By hand, from the root of the repository: `uvicorn examples.demo.app:app`.
"""

from __future__ import annotations

import platform
import secrets
import time
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from examples.demo.tasks import (
    ask,
    charge,
    fail,
    journals,
    library_files,
    measure,
    remind,
    stumble,
    write,
)
from qtasks import AsyncResult, QTasks, Queue, ResultError, Task

# Nothing is set up: the broker is in this process, its database where QTASKS_BROKER says. Queues come
# into being by use; only one that is to be special is declared.
tasks = QTasks(queues={"diary": Queue(ordered=True)})

LINES = 20

WELCOME = """\
A web app whose background tasks run in its own process.

  curl -X POST '{url}measure?file=json/decoder.py'   enqueues a task, and answers with its id
  curl {url}tasks/ID                                  what became of it
  curl -X POST {url}start                             everything that scripts/demo enqueues
"""


async def welcome(request: Request) -> Response:
    """Say what can be done here."""
    return PlainTextResponse(WELCOME.format(url=request.base_url))


async def about(request: Request) -> Response:
    """Tell what runs here; the task `ask` asks for this."""
    return JSONResponse({"app": "the qtasks demo", "python": platform.python_version()})


async def measure_file(request: Request) -> Response:
    """Enqueue one task without blocking the loop, and answer at once: it is stored by then."""
    name = request.query_params.get("file", "")
    if name not in library_files():  # nobody reads other files of this machine through us
        return PlainTextResponse("file= must be one such as json/decoder.py\n", 404)
    result = await measure.adelay(name)
    return JSONResponse({"id": result.id}, 202)


# Plain functions, here and below: Starlette calls them on a thread, where waiting blocks nobody.
def show_task(request: Request) -> Response:
    """Say what became of a task, by the id that was given out when it was enqueued."""
    result = tasks.result(request.path_params["id"])
    answer: dict[str, Any] = {"state": result.state}
    if answer["state"] in ("SUCCEEDED", "FAILED"):
        try:
            answer["result"] = result.get(timeout=0)
        except ResultError as error:
            answer["error"] = str(error)
    return JSONResponse(answer)


def show_journal(request: Request) -> Response:
    """Show what the tasks of one run have left in this process."""
    return JSONResponse(asdict(journals[request.path_params["run"]]))


def start(request: Request) -> Response:
    """Enqueue everything that the demo is about, and say what was called."""
    run = secrets.token_hex(4)
    text = "this took two seconds"
    called_at = round(time.time() * 1000)
    calls = [_told(remind, remind.apply_async([text], countdown=2), text)]

    calls += [_told(measure, measure.delay(each), each) for each in library_files()]
    url = str(request.url_for("about"))
    calls += [
        _told(ask, ask.delay(url), url),
        _told(stumble, stumble.delay(run, times=2), run, 2),
        _told(fail, fail.delay("there is no such customer"), "there is no such customer"),
    ]
    # Pressed twice, or repeated by a nervous client: one id means one call, for ten minutes.
    for _ in range(2):
        result = charge.apply_async([run, 7], task_id=f"charge-{run}-7")
        calls.append(_told(charge, result, run, 7))
    calls += [_told(write, write.delay(run, line), run, line) for line in range(LINES)]
    return JSONResponse({"run": run, "calledAt": called_at, "calls": calls}, 202)


def _told(task: Task[..., Any, Any], result: AsyncResult[Any], *args: object) -> dict[str, Any]:
    return {"id": result.id, "task": task.name, "args": args, "queue": task.options.queue}


app = Starlette(
    routes=[
        Route("/", welcome),
        Route("/about", about, name="about"),
        Route("/measure", measure_file, methods=["POST"]),
        Route("/tasks/{id}", show_task),
        Route("/journal/{run}", show_journal),
        Route("/start", start, methods=["POST"]),
        Mount("/qtasks", app=tasks),
    ],
    lifespan=tasks.lifespan,
)
