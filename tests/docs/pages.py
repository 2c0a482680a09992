"""The pages of the documentation as tests read them: blocks of code, tables, links.

Also a program, which runs the Python blocks of one page as its reader would: `python pages.py PAGE`.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_BORDER = re.compile(r"(?<= )\|(?= )")  # an empty cell is but a space
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, text, and the line of the page that it begins on."""

    language: str
    text: str
    line: int


def blocks(page: str, language: str) -> list[Block]:
    """Give the fenced blocks of a page that are in a language."""
    found = _BLOCK.finditer(page)
    return [
        Block(each[1], each[2], page.count("\n", 0, each.start()) + 2)
        for each in found
        if each[1] == language
    ]


def links(page: str) -> list[str]:
    """Give where the links of a page lead, those in code left out."""
    return _LINK.findall(_CODE.sub("", page))


def anchors(page: str) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def rows(page: str, heading: str) -> list[list[str]]:
    """Give the cells of the first table below a heading, without its head."""
    section = re.split(r"\n##+ ", page.split(f"# {heading}\n", 1)[1], maxsplit=1)[0]
    lines = [each for each in section.splitlines() if each.startswith("|")]
    table = [[cell.strip() for cell in _BORDER.split(line[1:-1])] for line in lines]
    return [each for each in table[2:] if len(each) > 1]


def templates(source: str) -> Iterator[str]:
    """Give the texts of a module, each `{…}` of an f-string as `<>`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "<>" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def commands(block: str) -> Iterator[list[str]]:
    """Give the commands of a shell block, each as its words, without comments."""
    for line in block.replace("\\\n", " ").split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word != ";":
                words.append(word)
            elif words:
                yield words
                words = []


def shell_commands(page: str) -> list[list[str]]:
    """Give the commands of all shell blocks of a page, each as its words."""
    found: list[list[str]] = []
    for block in blocks(page, "sh"):
        joined = re.sub(r"'[^']*'", lambda each: each[0].replace("\n", " "), block.text)
        found.extend(commands(joined))
    return found


def text(name: str) -> str:
    """Give a page by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


async def run_blocks(name: str, page: str) -> None:
    """Run a page's Python blocks one after the other, with the lifespan of its `tasks` entered.

    They share one module, called `app`. A block that awaits runs on the loop, any other on a thread.
    """
    module = ModuleType("app")
    sys.modules["app"] = module
    is_up = False
    async with AsyncExitStack() as stack:
        for block in blocks(page, "python"):
            code = compile("\n" * (block.line - 1) + block.text, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if code.co_flags & inspect.CO_COROUTINE:
                await eval(code, module.__dict__)
            else:
                await asyncio.to_thread(exec, code, module.__dict__)
            tasks: Any = module.__dict__.get("tasks")
            if tasks is not None and not is_up:
                await stack.enter_async_context(tasks.lifespan())
                is_up = True


if __name__ == "__main__":
    asyncio.run(run_blocks(sys.argv[1], Path(sys.argv[1]).read_text(encoding="utf-8")))
