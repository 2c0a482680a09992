"""Says where source texts break the rules of the house: size, docstrings, exceptions, exports, purity.

Pure, like `imports.py` beside it, which has the rules about imports.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from itertools import pairwise

from tests.support.imports import Sources

FILE_LINES = 500
FUNCTION_LINES = 60

# The only readers of time and of randomness, and what they alone may read.
READERS = ("qtasks/clock.py", "qtasks/ids.py")
IMPURE = {
    "datetime.date.today",
    "datetime.datetime.now",
    "datetime.datetime.today",
    "datetime.datetime.utcnow",
    "os.getrandom",
    "os.urandom",
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.perf_counter_ns",
    "time.time",
    "time.time_ns",
    "uuid.uuid1",
    "uuid.uuid4",
}
IMPURE_MODULES = {"random", "secrets"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def size_violations(sources: Sources) -> list[str]:
    """Say which files and functions are longer than a reader can hold."""
    found = []
    for path, text in sources.items():
        if (lines := len(text.splitlines())) > FILE_LINES:
            found.append(f"{path} has {lines} lines, {FILE_LINES} are the most")
        for node in ast.walk(ast.parse(text, path)):
            if not isinstance(node, Function):
                continue
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                found.append(
                    f"{path}:{node.lineno} {node.name} has {lines} lines, {FUNCTION_LINES} are the most"
                )
    return found


def undocumented(sources: Sources) -> list[str]:
    """Say which modules do not tell what lives in them."""
    return [
        f"{path} has no docstring"
        for path, text in sources.items()
        if not ast.get_docstring(ast.parse(text, path))
    ]


def purity_violations(sources: Sources) -> list[str]:
    """Say who reads time or randomness instead of being handed a `Clock` or `Ids`."""
    found = set()
    for path, text in sources.items():
        if path in READERS:
            continue
        tree = ast.parse(text, path)
        for line, origin in _origins(tree):
            if origin in IMPURE or origin.partition(".")[0] in IMPURE_MODULES:
                found.add(f"{path}:{line} uses {origin}: take a Clock or Ids instead")
    return sorted(found)


def tree_violations(text: str) -> list[str]:
    """Say where the tree in the docstring of `errors.py` is not that of its classes."""
    tree = ast.parse(text)
    drawn = dict(_drawn(ast.get_docstring(tree, clean=False) or ""))
    bases = _exceptions(tree)
    found = [f"{name} is drawn, but there is no such exception" for name in drawn if name not in bases]
    for name, parents in bases.items():
        if name not in drawn:
            found.append(f"{name} is not drawn")
        elif (parent := drawn[name] or "Exception") not in parents:
            found.append(f"{name} is drawn below {parent}, but derives from {', '.join(parents)}")
    return found


def stray_exceptions(sources: Sources) -> list[str]:
    """Say which public exceptions stand outside `errors.py`, so that nobody finds them in the tree."""
    known = set(_exceptions(ast.parse(sources.get("qtasks/errors.py", ""))))
    found = []
    for path, text in sources.items():
        if path == "qtasks/errors.py":
            continue
        for name in _exceptions(ast.parse(text, path), known):
            if not name.startswith("_"):
                found.append(f"{path} defines {name}: exceptions stand in errors.py")
    return found


def export_violations(text: str) -> list[str]:
    """Say where `__all__` of the front room is not the sorted list of the names it gives away."""
    tree = ast.parse(text)
    exported = _exported(tree)
    found = [f"__all__ has {b!r} after {a!r}" for a, b in pairwise(exported) if a >= b]
    given = set(_given_away(tree))
    found += [f"__all__ lacks {name!r}" for name in sorted(given - set(exported))]
    found += [f"__all__ has {name!r}, which is not there" for name in sorted(set(exported) - given)]
    return found


def _origins(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield each dotted name that is used, by what it was imported as, with its line."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                known[each.asname or each.name.partition(".")[0]] = (
                    each.name if each.asname else each.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for each in node.names:
                known[each.asname or each.name] = f"{node.module}.{each.name}"
                yield node.lineno, f"{node.module}.{each.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.fullmatch(r"\w+(\.\w+)+", dotted := ast.unparse(node)):
            first, _, rest = dotted.partition(".")
            if first in known:
                yield node.lineno, f"{known[first]}.{rest}"


def _drawn(docstring: str) -> Iterator[tuple[str, str | None]]:
    """Yield each name of the drawing with the one it hangs from; the root hangs from None."""
    above: list[tuple[int, str]] = []
    before = ""
    for line in docstring.splitlines():
        if branch := re.match(r"[ |]*\+-- (\w+)", line):
            if not above and before.strip().isidentifier():
                above = [(len(before) - len(before.lstrip()), before.strip())]
                yield before.strip(), None
            column = line.index("+--")
            while above and above[-1][0] >= column:
                above.pop()
            yield branch[1], above[-1][1] if above else None
            above.append((column, branch[1]))
        before = line


def _exceptions(tree: ast.Module, known: set[str] | None = None) -> dict[str, list[str]]:
    """Map each exception class to the names of its bases; `known` are exceptions from elsewhere."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
            if any(base in found or base in (known or ()) or _is_builtin_exception(base) for base in bases):
                found[node.name] = bases
    return found


def _is_builtin_exception(name: str) -> bool:
    it = getattr(builtins, name, None)
    return isinstance(it, type) and issubclass(it, BaseException)


def _exported(tree: ast.Module) -> list[str]:
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="__all__")], value=value)
                | ast.AnnAssign(target=ast.Name(id="__all__"), value=ast.expr() as value)
            ):
                return list(ast.literal_eval(value))
    return []


def _given_away(tree: ast.Module) -> Iterator[str]:
    """Yield the public names of a module: what it defines, and what it takes from our own rooms."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("qtasks.")):
            names += [each.asname or each.name for each in node.names]
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [each.id for each in node.targets if isinstance(each, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.append(node.target.id)
    yield from (name for name in names if not name.startswith("_") or name == "__version__")
