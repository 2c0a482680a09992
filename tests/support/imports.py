"""Reads the imports out of source texts and says which ones break the order of the rooms.

Pure: sources come as a mapping from path (`qtasks/broker/service.py`) to text, violations go back as
lines for a person. What does not concern imports is in `architecture.py`.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Sources = Mapping[str, str]

# The room of a module is that of the longest prefix of its name here.
ROOMS = {
    "qtasks.errors": "ground",
    "qtasks.clock": "ground",
    "qtasks.ids": "ground",
    "qtasks.version": "ground",
    "qtasks.logs": "ground",
    "qtasks.settings": "ground",
    "qtasks.sql_texts": "ground",
    "qtasks.values": "ground",
    "qtasks.protocol": "protocol",
    "qtasks.client": "client",
    "qtasks.tasks": "tasks",
    "qtasks.broker.store": "store",
    "qtasks.broker": "broker",
    "qtasks.broker.api": "api",
    "qtasks.console": "console",
    "qtasks.home": "home",
    "qtasks.testing": "testing",
    "qtasks.pytest_plugin": "testing",
    "qtasks.cli": "cli",
    "qtasks.__main__": "cli",
    "qtasks.compat": "compat",
    "qtasks.integrations": "integrations",
}

_BROKER = frozenset({"ground", "protocol", "store", "broker"})
_BELOW_HOME = _BROKER | {"client", "tasks", "api", "console"}

# What a room may import besides itself: what lies below it. `tasks` and `broker` meet in `home` only.
BELOW: Mapping[str, frozenset[str]] = {
    "ground": frozenset(),
    "protocol": frozenset({"ground"}),
    "client": frozenset({"ground", "protocol"}),
    "tasks": frozenset({"ground", "protocol", "client"}),
    "store": frozenset({"ground", "protocol"}),
    "broker": _BROKER,
    "api": _BROKER,
    "console": _BROKER,
    "home": _BELOW_HOME,
    "testing": _BELOW_HOME | {"home", "front"},
    "cli": _BELOW_HOME | {"home", "front"},
    "compat": _BELOW_HOME | {"home", "front"},
    "integrations": _BELOW_HOME | {"home", "front"},
    "front": _BELOW_HOME | {"home"},
}

# httpx has stood still at 0.28 for long, so what depends on it is kept where it can be exchanged.
# The others an app may do without: each is imported by what is for it alone.
CONFINED = {
    "httpx": ("qtasks.client", "qtasks.tasks.senders"),
    "opentelemetry": ("qtasks.tasks.spans", "qtasks.broker.telemetry"),
    "fastapi": ("qtasks.integrations.fastapi",),
    "django": ("qtasks.integrations.django",),
    "sqlalchemy": ("qtasks.integrations.sqlalchemy",),
}


@dataclass(frozen=True, slots=True)
class Import:
    """One import that runs: `target` is a module where `name` is None, else something inside one."""

    module: str
    line: int
    target: str
    name: str | None
    in_function: bool


def module_name(path: str) -> str:
    """Say under which name a file is imported.

    >>> module_name("qtasks/broker/__init__.py"), module_name("qtasks/ids.py")
    ('qtasks.broker', 'qtasks.ids')
    """
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module: str) -> str | None:
    """Say to which room a module of ours belongs, or None if none has been named for it."""
    if module == "qtasks":
        return "front"
    prefix = module
    while prefix and prefix not in ROOMS:
        prefix = prefix.rpartition(".")[0]
    return ROOMS.get(prefix)


def imports(path: str, text: str) -> list[Import]:
    """List every import that runs at some time; those under `if TYPE_CHECKING` never do."""
    module = module_name(path)
    package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
    found: list[Import] = []
    for node, in_function in _running(ast.parse(text, path), in_function=False):
        for target, name in _targets(node, package):
            found.append(Import(module, getattr(node, "lineno", 0), target, name, in_function))
    return found


def layer_violations(sources: Sources) -> list[str]:
    """Say which imports go up, or sideways into another room, and which modules belong to no room."""
    modules = {module_name(path) for path in sources}
    found = [
        f"{module} belongs to no room: name one in ROOMS" for module in modules if room_of(module) is None
    ]
    for each in _ours(sources):
        room, target = room_of(each.module), room_of(_resolved(each, modules))
        if room is None or target is None or target == room or target in BELOW[room]:
            continue
        found.append(
            f"{each.module}:{each.line} imports {_resolved(each, modules)}: {room} may not use {target}"
        )
    return sorted(found)


def import_cycles(sources: Sources) -> list[str]:
    """Say which modules need each other while they are first loaded; at most one circle is told."""
    modules = {module_name(path) for path in sources}
    graph: dict[str, set[str]] = {}
    for each in _ours(sources):
        target = _resolved(each, modules)
        if not each.in_function and target != each.module and target in modules:
            graph.setdefault(each.module, set()).add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        # The sorter lists each one before the one that needs it; read the other way it is who imports whom.
        return [" imports ".join(reversed(error.args[1]))]
    return []


def confined_violations(sources: Sources) -> list[str]:
    """Say where a library is imported outside the rooms that may know it."""
    found = []
    for path, text in sources.items():
        for each in imports(path, text):
            allowed = CONFINED.get(each.target.partition(".")[0])
            if allowed is None or any(_within(each.module, room) for room in allowed):
                continue
            found.append(f"{each.module}:{each.line} imports {each.target}: only {', '.join(allowed)} may")
    return sorted(found)


def _ours(sources: Sources) -> Iterator[Import]:
    for path, text in sources.items():
        yield from (each for each in imports(path, text) if _within(each.target, "qtasks"))


def _within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def _resolved(each: Import, modules: set[str]) -> str:
    """Say which module an import leads to: `from package import module` leads to the latter."""
    inner = f"{each.target}.{each.name}"
    return inner if inner in modules else each.target


def _running(node: ast.AST, *, in_function: bool) -> Iterator[tuple[ast.AST, bool]]:
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        children: list[ast.AST] = [*node.orelse]
    else:
        yield node, in_function
        children = [*ast.iter_child_nodes(node)]
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from _running(child, in_function=inside)


def _targets(node: ast.AST, package: str) -> list[tuple[str, str | None]]:
    match node:
        case ast.Import(names=names):
            return [(each.name, None) for each in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = package.rsplit(".", level - 1)[0] if level else ""
            target = ".".join(part for part in (base, module) if part)
            return [(target, each.name) for each in names]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(target)), *_],
        ):
            return [(target, None)]
    return []
