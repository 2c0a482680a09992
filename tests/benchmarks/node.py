"""The app of a measurement as a web server runs it: `uvicorn tests.benchmarks.node:app`.

The environment says where its broker is. `/done` tells how many tasks have run here.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from qtasks import QTasks, Queue
from qtasks.cli.bench.places import QUEUE
from qtasks.cli.bench.rig import KEPT_S, PARALLELISM, Workload

tasks = QTasks(queues={QUEUE: Queue(parallelism=PARALLELISM)}, defaults={"result_ttl": KEPT_S})
work = Workload(tasks, QUEUE)


async def done(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(work.done))


app = Starlette(routes=[Route("/done", done), Mount("/qtasks", app=tasks)], lifespan=tasks.lifespan)
