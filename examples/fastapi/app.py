"""A shop under FastAPI: a request stores an order and answers, a task packs it.

Both get their database connection from the same dependency. Start it with `uvicorn app:app`, then open
http://127.0.0.1:8000 or `curl -X POST 'http://127.0.0.1:8000/orders?item=tea'`.
"""

from __future__ import annotations

import html
import sqlite3
from collections.abc import Iterator

from fastapi import Depends, FastAPI
from fastapi.responses import HTMLResponse

from qtasks import QTasks
from qtasks.integrations.fastapi import install

app = FastAPI()
tasks = QTasks()


def get_database() -> Iterator[sqlite3.Connection]:
    """Open the database for one request, or one run of a task; commit unless it raises."""
    database = sqlite3.connect("shop.db", check_same_thread=False)
    try:
        with database:
            database.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, item, state)")
            yield database
    finally:
        database.close()


@tasks.task(retries=5)
def pack(order: int, database: sqlite3.Connection = Depends(get_database)) -> str:
    """Pack an order. The call is `pack.delay(order)`: the connection is filled in where the task runs."""
    [item] = database.execute("SELECT item FROM orders WHERE id = ?", [order]).fetchone()
    database.execute("UPDATE orders SET state = 'packed' WHERE id = ?", [order])
    return f"{item} is packed"


@app.post("/orders")
def place_order(item: str, database: sqlite3.Connection = Depends(get_database)) -> dict[str, str | int]:
    """Store an order and enqueue its task."""
    order = database.execute("INSERT INTO orders (item, state) VALUES (?, 'new')", [item]).lastrowid or 0
    database.commit()  # before the call: the task may run at once, and must find the order
    return {"order": order, "task": pack.delay(order).id}


@app.get("/")
def show_orders(database: sqlite3.Connection = Depends(get_database)) -> HTMLResponse:
    """Show the orders, and a button that places another."""
    orders = database.execute("SELECT id, item, state FROM orders ORDER BY id").fetchall()
    lines = "".join(f"<li>{number}: {html.escape(item)}, {state}</li>" for number, item, state in orders)
    button = '<form method="post" action="/orders?item=tea"><button>Order tea</button></form>'
    return HTMLResponse(f"<ol>{lines}</ol>{button}")


install(app, tasks)
