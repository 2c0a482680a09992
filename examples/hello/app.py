from qtasks import QTasks
from starlette.applications import Starlette
from starlette.routing import Mount

tasks = QTasks()                                   # embedded broker on ./qtasks.db, nothing to set up

@tasks.task(queue="emails", retries=5)
async def send_email(to: str, subject: str) -> str:
    return f"sent {subject!r} to {to}"

app = Starlette(routes=[Mount("/qtasks", app=tasks)], lifespan=tasks.lifespan)
