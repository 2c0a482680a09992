"""Reads the arguments of a call as a person writes them at a shell: `to=a@example.com`, `copies=3`.

What a parameter's annotation wants decides whether a text is JSON or just text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from qtasks.errors import ArgumentsError, DecodeError
from qtasks.tasks.codec import Signature

Call = tuple[tuple[object, ...], dict[str, object]]

_NAME = re.compile(r"[^.\[]+")


def read_call(signature: Signature, written: Mapping[str, str]) -> Call:
    """Read a call whose arguments are all named; raises `ArgumentsError`."""
    return changed_call(signature, (), {}, written)


def changed_call(
    signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, str]
) -> Call:
    """Give the arguments of a call with others in place of some; raises `ArgumentsError`.

    `args` and `kwargs` are JSON values. A change may be meant for one that was given by position. The whole
    call must fit the signature as it is now.
    """
    positional, named, texts = list(args), dict(kwargs), dict(changes)
    places = {name: at for at, name in enumerate(signature.positional) if at < len(positional)}
    unknown = [name for name in texts if name not in signature.parameters]
    if unknown and not _takes_any(signature, unknown[0]):
        raise ArgumentsError(
            f"{signature.name}() has no parameter {unknown[0]!r}; "
            f"there are: {', '.join(signature.parameters) or 'none'}"
        )

    def put(name: str, value: object) -> None:
        if name in places:
            positional[places[name]] = value
        else:
            named[name] = value

    for name, text in texts.items():
        put(name, _json_or_text(text))
    while True:
        try:
            return signature.decode(positional, named)
        except DecodeError as error:
            blamed = _NAME.match(error.path or "")
            name = blamed[0] if blamed else ""
            if name not in texts:
                raise ArgumentsError(f"the arguments do not fit {signature.name}(): {error}") from error
            put(name, texts.pop(name))  # once as JSON, once as text


def _takes_any(signature: Signature, name: str) -> bool:
    """Whether a keyword that is no parameter fits all the same: the function has `**kwargs`."""
    try:
        signature.decode((), {name: None})
    except DecodeError as error:
        return error.path != name
    return True


def _json_or_text(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
