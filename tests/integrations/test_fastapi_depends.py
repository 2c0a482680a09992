"""`Depends` in tasks: FastAPI resolves, overrides and ends dependencies as it does for a request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Security

from qtasks import ArgumentsError, Context, QTasks, Reject, TaskDefinitionError, TaskFailed, current
from qtasks.errors import ConfigurationError
from qtasks.integrations.fastapi import _address, install
from qtasks.testing import Kit
from tests.support.homes import SOON_S, embedded, until

KINDS = pytest.mark.parametrize("is_async", [True, False], ids=["coroutine", "plain"])


class Session:
    """A session as databases have them: it notes what becomes of it."""

    def __init__(self) -> None:
        self.notes: list[str] = ["begun"]


opened: list[Session] = []
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def get_session() -> AsyncIterator[Session]:
    session = Session()
    opened.append(session)
    try:
        yield session
    except BaseException as error:
        session.notes.append(f"rolled back: {type(error).__name__}")
        raise
    else:
        session.notes.append("committed")
    finally:
        session.notes.append("closed")


def get_plain() -> Iterator[str]:
    yield "plain"


def get_who(session: Session = Depends(get_session)) -> str:
    return f"who of {len(session.notes)}"


class World:
    """A FastAPI app and its tasks, which are defined before the app is up."""

    def __init__(self, store: Path) -> None:
        self.tasks = embedded(store, defaults={"retries": 0})
        self.app = FastAPI()

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        install(self.app, self.tasks)
        async with asyncio.timeout(SOON_S), self.app.router.lifespan_context(self.app):
            yield


@pytest.fixture
def world(store: Path) -> World:
    opened.clear()
    return World(store)


def define(tasks: QTasks, body: Callable[[str, Session], str], *, is_async: bool, **options: Any) -> Any:
    """Make a task with a session of a function of a text and that session."""

    async def coroutine(text: str, session: Session = Depends(get_session)) -> str:
        return body(text, session)

    def plain(text: str, session: Session = Depends(get_session)) -> str:
        return body(text, session)

    decorate: Callable[[Callable[..., Any]], Any] = tasks.task(name="write", **options)
    return decorate(coroutine if is_async else plain)


def note(text: str, session: Session) -> str:
    session.notes.append(text)
    return f"{text} noted"


# --- resolved and ended ---------------------------------------------------------------------------


@KINDS
async def test_a_yield_dependency_is_open_while_the_task_runs_and_ended_before_its_result_is_known(
    world: World, is_async: bool
) -> None:
    write = define(world.tasks, note, is_async=is_async)

    async with world.up():
        assert await (await write.adelay("hi")).aget(SOON_S) == "hi noted"

        assert [each.notes for each in opened] == [["begun", "hi", "committed", "closed"]]


@KINDS
async def test_a_yield_dependency_sees_what_the_task_raises(world: World, is_async: bool) -> None:
    def fail(text: str, session: Session) -> str:
        raise LookupError(text)

    write = define(world.tasks, fail, is_async=is_async)

    async with world.up():
        with pytest.raises(TaskFailed, match="hi") as failed:
            await (await write.adelay("hi")).aget(SOON_S)

    assert failed.value.type == "LookupError"
    assert opened[0].notes == ["begun", "rolled back: LookupError", "closed"]
    assert "in fail" in str(failed.value.traceback)
    assert "site-packages" not in str(failed.value.traceback)


async def test_a_dependency_may_have_dependencies_which_are_resolved_once_for_each_run(world: World) -> None:
    @world.tasks.task
    async def both(session: Session = Depends(get_session), who: str = Depends(get_who)) -> list[str]:
        return [who, *session.notes]

    async with world.up():
        first, second = await both.adelay(), await both.adelay()
        assert await first.aget(SOON_S) == ["who of 1", "begun"]
        assert await second.aget(SOON_S) == ["who of 1", "begun"]

    assert len(opened) == 2


async def test_sync_async_class_and_security_dependencies_are_resolved(world: World) -> None:
    async def get_number() -> int:
        return 7

    @world.tasks.task
    async def mixed(
        factor: int,
        number: int = Depends(get_number),
        plain: str = Depends(get_plain),
        session: Session = Depends(),
        who: str = Security(get_who, scopes=["write"]),
    ) -> list[Any]:
        return [factor * number, plain, session.notes, who]

    async with world.up():
        result = await (await mixed.adelay(3)).aget(SOON_S)

    assert result == [21, "plain", ["begun"], "who of 1"]


async def test_what_annotated_names_is_used_where_the_default_names_nothing(world: World) -> None:
    @world.tasks.task
    async def write(
        session: Annotated[Session, Depends(get_session)] = Depends(),
        who: Annotated[str, Depends(get_session)] = Depends(get_who),
    ) -> list[str]:
        return [who, *session.notes]

    async with world.up():
        assert await (await write.adelay()).aget(SOON_S) == ["who of 1", "begun"]


@KINDS
async def test_overrides_hold_from_the_moment_at_which_they_are_set(world: World, is_async: bool) -> None:
    write = define(world.tasks, note, is_async=is_async)
    fake = Session()

    async with world.up():
        world.app.dependency_overrides[get_session] = lambda: fake
        await (await write.adelay("a")).aget(SOON_S)
        world.app.dependency_overrides = {}
        await (await write.adelay("b")).aget(SOON_S)

    assert fake.notes == ["begun", "a"]
    assert [each.notes[1] for each in opened] == ["b"]


async def test_what_a_dependency_does_at_its_end_decides_on_the_task(world: World) -> None:
    async def get_commit() -> AsyncIterator[str]:
        yield "open"
        raise ConnectionError("cannot commit")

    @world.tasks.task
    async def write(commit: str = Depends(get_commit)) -> None: ...

    async with world.up():
        with pytest.raises(TaskFailed, match="ConnectionError: cannot commit"):
            await (await write.adelay()).aget(SOON_S)


async def test_a_dependency_may_raise_something_else_in_place_of_what_the_task_raised(world: World) -> None:
    async def get_translated() -> AsyncIterator[None]:
        try:
            yield
        except LookupError as error:
            raise Reject("no such row") from error

    @world.tasks.task(retries=5)
    async def write(translated: None = Depends(get_translated)) -> None:
        raise LookupError("row 7")

    async with world.up():
        with pytest.raises(TaskFailed, match="Reject: no such row"):
            await (await write.adelay()).aget(SOON_S)


async def test_an_exception_that_a_dependency_swallows_is_still_the_task_s(world: World) -> None:
    async def get_silent() -> AsyncIterator[None]:
        try:
            yield
        except LookupError:
            pass

    @world.tasks.task
    async def write(silent: None = Depends(get_silent)) -> None:
        raise LookupError("row 7")

    async with world.up():
        with pytest.raises(TaskFailed, match="LookupError: row 7") as failed:
            await (await write.adelay()).aget(SOON_S)

    assert "FastAPIError" not in str(failed.value.traceback)


async def test_an_http_exception_fails_the_task_like_any_other(world: World) -> None:
    async def get_user() -> str:
        raise HTTPException(401, "who are you?")

    @world.tasks.task
    async def write(user: str = Depends(get_user)) -> None: ...

    @world.tasks.task
    async def raise_it(plain: str = Depends(get_plain)) -> None:
        raise HTTPException(404, "gone")

    async with world.up():
        with pytest.raises(TaskFailed, match="HTTPException: 401: who are you"):
            await (await write.adelay()).aget(SOON_S)
        with pytest.raises(TaskFailed, match="HTTPException: 404: gone"):
            await (await raise_it.adelay()).aget(SOON_S)


async def test_a_dependency_that_wants_a_parameter_of_a_request_is_dead_at_once(
    world: World,
) -> None:
    async def get_page(page: int) -> int:
        return page

    @world.tasks.task(retries=5)
    async def write(page: int = Depends(get_page)) -> None: ...

    async with world.up():
        with pytest.raises(TaskFailed, match=r"what a task does not have: query\.page") as failed:
            await (await write.adelay()).aget(SOON_S)

    assert failed.value.type == "Reject"


async def test_background_tasks_of_a_dependency_run_before_the_task_is_done(world: World) -> None:
    ran: list[str] = []

    async def get_later(background: BackgroundTasks) -> None:
        background.add_task(ran.append, "later")

    @world.tasks.task
    async def write(later: None = Depends(get_later)) -> None:
        ran.append("task")

    async with world.up():
        await (await write.adelay()).aget(SOON_S)

    assert ran == ["task", "later"]


# --- the request and the context ------------------------------------------------------------------


async def test_the_request_is_made_up_and_has_the_app_and_the_delivery_s_headers(
    store: Path,
) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        app.state.pool = "a pool"
        yield {"started": "before the tasks"}

    world = World(store)
    world.app = FastAPI(lifespan=lifespan)
    seen: list[Any] = []

    @world.app.get("/orders/{order}", name="order")
    async def show(order: int) -> None: ...

    async def look(request: Request) -> None:
        seen.append((request.app is world.app, request.app.state.pool, request.state.started))
        seen.append((request.method, await request.body(), await request.is_disconnected(), request.client))
        seen.append(("host" in request.headers, "qtasks-signature" in request.headers))
        seen.append(request.url_for("order", order=7).path)

    @world.tasks.task
    async def write(looked: None = Depends(look)) -> None: ...

    async with world.up():
        await (await write.adelay()).aget(SOON_S)

    assert seen == [
        (True, "a pool", "before the tasks"),
        ("POST", b"", False, None),
        (False, True),
        "/orders/7",
    ]


async def test_the_address_of_the_made_up_request_is_the_public_one(store: Path) -> None:
    world = World(store)
    world.tasks = embedded(store, public_url="https://shop.example/api/qtasks")

    @world.app.get("/orders/{order}", name="order")
    async def show(order: int) -> None: ...

    async def get_link(request: Request) -> str:
        return str(request.url_for("order", order=7))

    @world.tasks.task
    async def link(link: str = Depends(get_link)) -> str:
        return link

    async with world.up():
        assert await (await link.adelay()).aget(SOON_S) == "https://shop.example/api/orders/7"


@pytest.mark.parametrize(
    ("public_url", "path", "address"),
    [
        (None, "/qtasks", ("http", None, "")),
        ("http://10.0.0.7:8000/qtasks", "/qtasks", ("http", ("10.0.0.7", 8000), "")),
        ("https://shop.example/a/b/qtasks", "/b/qtasks/", ("https", ("shop.example", 443), "/a")),
        ("https://hooks.example/elsewhere", "/qtasks", ("https", ("hooks.example", 443), "")),
    ],
)
def test_the_root_path_is_what_stands_before_the_mount(
    public_url: str | None, path: str, address: tuple[Any, ...]
) -> None:
    assert tuple(_address(public_url, path).values()) == address


@KINDS
async def test_dependencies_see_the_context_of_the_task_and_it_sees_what_they_set(
    world: World, is_async: bool
) -> None:
    seen: list[Context] = []

    async def set_tenant() -> None:
        seen.append(current())
        tenant.set("acme")

    def body(context: Context) -> str:
        return f"{context.task_id} {current().task_id} {tenant.get()} {context.remaining() > 200}"

    @world.tasks.task(bind=True)
    async def coroutine(context: Context, tenant: None = Depends(set_tenant)) -> str:
        return body(context)

    @world.tasks.task(bind=True)
    def plain(context: Context, tenant: None = Depends(set_tenant)) -> str:
        return body(context)

    async with world.up():
        result = await (coroutine.adelay() if is_async else plain.adelay())
        assert await result.aget(SOON_S) == f"{result.id} {result.id} acme True"

    assert seen[0].task_id == result.id


async def test_no_route_of_a_task_can_be_reached_from_outside(world: World) -> None:
    write = define(world.tasks, note, is_async=True)

    async with world.up():
        await (await write.adelay("a")).aget(SOON_S)
        transport = httpx.ASGITransport(world.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            found = [await client.post(path) for path in ("/write", "/qtasks/write", "/qtasks/run/write")]
            schema = (await client.get("/openapi.json")).json()

    assert [each.status_code for each in found] == [404, 404, 404]
    assert schema["paths"] == {}
    assert len(opened) == 1


# --- time -----------------------------------------------------------------------------------------


async def test_a_coroutine_whose_time_is_over_has_its_dependencies_ended(world: World) -> None:
    @world.tasks.task(timeout=0.05)
    async def sleep(session: Session = Depends(get_session)) -> None:
        await asyncio.sleep(SOON_S)

    async with world.up():
        with pytest.raises(TaskFailed, match=r"did not finish within 0\.05 s"):
            await (await sleep.adelay()).aget(SOON_S)

    assert opened[0].notes == ["begun", "rolled back: CancelledError", "closed"]


async def test_the_dependencies_of_a_thread_that_is_given_up_stay_open_until_it_ends(world: World) -> None:
    gate, late = threading.Event(), threading.Event()

    @world.tasks.task(timeout=0.05)
    def block(session: Session = Depends(get_session)) -> None:
        gate.wait(SOON_S)
        session.notes.append("still used")
        late.set()

    async with world.up():
        with pytest.raises(TaskFailed, match="its thread cannot be stopped"):
            await (await block.adelay()).aget(SOON_S)
        before = list(opened[0].notes)
        gate.set()
        await until(lambda: "closed" in opened[0].notes)

    assert before == ["begun"]
    assert opened[0].notes == ["begun", "still used", "rolled back: TaskTimeout", "closed"]


async def test_what_breaks_after_a_thread_was_given_up_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    async def get_broken() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise ConnectionError("cannot roll back")

    @world.tasks.task(timeout=0.05)
    def block(broken: None = Depends(get_broken)) -> None:
        gate.wait(SOON_S)

    async with world.up():
        with pytest.raises(TaskFailed, match="its thread cannot be stopped"):
            await (await block.adelay()).aget(SOON_S)
        gate.set()
        await until(lambda: "a task that nobody waits for any more broke at its end" in caplog.messages)


@KINDS
async def test_a_dependency_that_hangs_is_given_up_in_time(world: World, is_async: bool) -> None:
    async def hang() -> None:
        await asyncio.sleep(SOON_S)

    world.app.dependency_overrides[get_session] = hang
    write = define(world.tasks, note, is_async=is_async, timeout=0.05)

    async with world.up():
        with pytest.raises(TaskFailed, match=r"did not finish within 0\.05 s"):
            await (await write.adelay("a")).aget(SOON_S)


@KINDS
async def test_system_exit_in_a_task_with_dependencies_is_its_failure_alone(
    world: World, is_async: bool
) -> None:
    def leave(text: str, session: Session) -> str:
        raise SystemExit(3)

    write = define(world.tasks, leave, is_async=is_async)

    async with world.up():
        with pytest.raises(TaskFailed, match="SystemExit: 3"):
            await (await write.adelay("a")).aget(SOON_S)

    assert opened[0].notes == ["begun", "rolled back: SystemExit", "closed"]


async def test_hooks_are_told_after_the_dependencies_have_ended(world: World) -> None:
    told: list[list[str]] = []

    def on_success(context: Context, result: object) -> None:
        told.append(list(opened[0].notes))

    write = define(world.tasks, note, is_async=True, on_success=on_success)

    async with world.up():
        await (await write.adelay("a")).aget(SOON_S)

    assert told == [["begun", "a", "committed", "closed"]]


@KINDS
async def test_async_hooks_stand_around_dependencies_and_plain_ones_where_the_function_runs(
    world: World, is_async: bool
) -> None:
    order: list[str] = []

    @world.tasks.around
    async def outer(context: Context) -> AsyncIterator[None]:
        order.append("async hook")
        yield
        order.append("async hook over")

    @world.tasks.around
    def inner(context: Context) -> Iterator[None]:
        order.append("plain hook")
        yield
        order.append("plain hook over")

    async def get_noted() -> AsyncIterator[Session]:
        order.append("dependency")
        yield Session()
        order.append("dependency over")

    def body(text: str, session: Session) -> str:
        order.append("task")
        return text

    world.app.dependency_overrides[get_session] = get_noted
    write = define(world.tasks, body, is_async=is_async)

    async with world.up():
        await (await write.adelay("a")).aget(SOON_S)

    around = ["plain hook", "dependency"] if is_async else ["dependency", "plain hook"]
    outside_in = ["async hook", *around]
    assert order == [*outside_in, "task", *(f"{each} over" for each in reversed(outside_in))]


# --- in a kit -------------------------------------------------------------------------------------


@KINDS
def test_dependencies_are_filled_in_when_a_kit_runs_tasks(world: World, is_async: bool) -> None:
    write = define(world.tasks, note, is_async=is_async, retry_delay="1h")
    install(world.app, world.tasks)

    with Kit(world.tasks) as kit:
        kit.fail_next(write)
        for text in "abc":
            write.with_options(retries=1).delay(text)
        kit.drain()
        kit.advance(hours=1)

        assert sorted(kit.results(write)) == ["a noted", "b noted", "c noted"]

    assert [each.notes[1] for each in opened] == ["rolled back: ConnectionError", "b", "c", "a"]


# --- calling and declaring ------------------------------------------------------------------------


def test_calls_cannot_give_a_dependency(world: World) -> None:
    @world.tasks.task
    async def write(a: int, session: Session = Depends(get_session), b: int = 0) -> None: ...

    assert write.signature.parameters == ("a", "b")
    with pytest.raises(ArgumentsError, match=r"takes 1 positional argument but 2 were given"):
        write.delay(1, Session())
    with pytest.raises(ArgumentsError, match=r"unexpected keyword argument 'session'"):
        write.delay(1, session=Session())
    write.call(1, b=2)


async def test_a_plain_call_needs_the_dependencies_as_arguments(world: World) -> None:
    write = define(world.tasks, note, is_async=False)

    assert write("a", Session()) == "a noted"
    assert write("a", session=Session()) == "a noted"
    with pytest.raises(ArgumentsError, match=r"called plainly without 'session'.*session=\.\.\."):
        write("a")


def test_a_dependency_without_a_default_is_refused_at_decoration(world: World) -> None:
    with pytest.raises(TaskDefinitionError, match=r"session: Session = Depends\(get_session\)"):

        @world.tasks.task
        async def write(session: Annotated[Session, Depends(get_session)]) -> None: ...


def test_arguments_that_would_land_in_a_dependency_are_refused_at_decoration(world: World) -> None:
    with pytest.raises(TaskDefinitionError, match="'rest' cannot stand where it does"):

        @world.tasks.task
        async def one(session: Session = Depends(get_session), *rest: int) -> None: ...

    with pytest.raises(TaskDefinitionError, match="'session' cannot stand where it does"):

        @world.tasks.task
        async def two(session: Session = Depends(get_session), /) -> None: ...

    with pytest.raises(TaskDefinitionError, match=r"\*\*rest would let calls give its dependencies"):

        @world.tasks.task
        async def three(session: Session = Depends(get_session), **rest: int) -> None: ...


async def test_an_app_with_dependencies_that_nothing_fills_in_does_not_start(world: World) -> None:
    define(world.tasks, note, is_async=True)

    with pytest.raises(ConfigurationError, match=r"task write has dependencies.*call install\(app, tasks\)"):
        async with world.tasks.lifespan():
            pass


async def test_a_dependency_that_fastapi_refuses_stops_the_app_at_its_start(world: World) -> None:
    async def get_wrong(thing: Session) -> None: ...

    @world.tasks.task
    async def write(wrong: None = Depends(get_wrong)) -> None: ...

    with pytest.raises(Exception, match="valid Pydantic field type"):
        async with world.up():
            pass
