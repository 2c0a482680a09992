"""Carries the arguments and the result of a call through JSON, exactly or not at all.

A `Signature` is compiled once per task from its annotations. `encode` runs in the caller and `decode`
before the handler; the text between them is orjson's and the envelope's affair. How one value is
converted is decided in `annotations`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from qtasks.errors import ArgumentsError, DecodeError, EncodeError, TaskDefinitionError
from qtasks.tasks.annotations import Compiler, resolved_hints, text_of
from qtasks.tasks.converters import JSON, array
from qtasks.tasks.dependencies import taken_in_calls
from qtasks.tasks.scalars import Convert, Converter, Refusal, check_key, inside

_REST, _ANY_KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
_BOTH, _ONLY_KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, _BOTH)
_NAMED = (_BOTH, _ONLY_KEYWORD)
_LONGEST_PATH = 120


@dataclass(frozen=True, slots=True)
class Signature:
    """How the calls of one task travel; `name` is how messages call the task."""

    name: str
    _compiled: Callable[[], _Plan]

    def encode(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[list[object], dict[str, object]]:
        """Bind a call and return its positional and its keyword arguments, ready for orjson.

        Defaults are not filled in. Lists and dicts may be those of the caller, so write the text at once.
        Raises `ArgumentsError` if the call does not fit, `EncodeError` if a value would not come back equal.
        """
        plan = self._compiled()
        misfit = plan.shape.misfit(len(args), kwargs)
        if misfit is not None:
            raise ArgumentsError(f"{self.name}() {misfit[0]}")
        try:
            return plan.outward.convert(args, kwargs)
        except EncodeError as error:
            raise _located(error) from error.__cause__

    def decode(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        """Return the arguments that `encode` was given, from parsed JSON; raises `DecodeError`."""
        plan = self._compiled()
        misfit = plan.shape.misfit(len(args), kwargs)
        if misfit is not None:
            raise DecodeError(f"{self.name}() {misfit[0]}", path=misfit[1])
        try:
            positional, named = plan.homeward.convert(args, kwargs)
        except DecodeError as error:
            raise _located(error) from error.__cause__
        return tuple(positional), named

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that calls fill in."""
        outward = self._compiled().outward
        rest = () if outward.rest is None else (outward.rest[0],)
        return tuple(dict.fromkeys((*outward.names, *rest, *outward.named)))

    @property
    def positional(self) -> tuple[str, ...]:
        """Those of them that may be given by position, in order."""
        return tuple(self._compiled().outward.names)

    def arguments(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Give what `encode` returned by parameter, with the defaults filled in, as JSON values.

        A default that is none of its parameter's values is left out.
        """
        plan = self._compiled()
        names, rest = plan.outward.names, plan.outward.rest
        found = {**plan.defaults, **dict(zip(names, args, strict=False)), **kwargs}
        return found if rest is None else {**found, rest[0]: [*args[len(names) :]]}

    def encode_result(self, value: object) -> object:
        """Return what the task returned, ready for orjson; raises `EncodeError`."""
        try:
            return self._compiled().result.encode(value, 0)
        except EncodeError as error:
            raise _located(inside(error, "result")) from error.__cause__

    def decode_result(self, value: object) -> object:
        """Return what `encode_result` was given, from parsed JSON; raises `DecodeError`."""
        try:
            return self._compiled().result.decode(value, 0)
        except DecodeError as error:
            raise _located(inside(error, "result")) from error.__cause__


def compile_signature(function: Callable[..., object], *, name: str, skip_first: bool = False) -> Signature:
    """Compile the annotations of `function`; `name` is what messages call it.

    `skip_first` leaves out the first parameter, which is filled in where the task runs. Names that are not
    defined yet are looked up again at the first call. Raises `TaskDefinitionError`.
    """
    compiled = cache(partial(_compile, function, name, skip_first))
    try:
        compiled()
    except TaskDefinitionError as error:
        # A name may be defined further down. The failure is not cached: the first call tries again.
        if not isinstance(error.__cause__, NameError):
            raise
    return Signature(name, compiled)


def _located(error: Refusal) -> Refusal:
    path = error.path
    if len(path) > _LONGEST_PATH:
        path = f"{path[: _LONGEST_PATH // 2]}...{path[-_LONGEST_PATH // 2 :]}"
    return type(error)(f"{path}: {error}", path=error.path)


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which calls a function takes.

    `taken` and `needs` have an entry for each count of positional arguments: the keywords that these stand
    for, and the parameters still to come that have no default.
    """

    positional: int
    named: frozenset[str]
    has_rest: bool
    has_any_keyword: bool
    taken: tuple[frozenset[str], ...]
    needs: tuple[tuple[str, ...], ...]

    def misfit(self, given: int, keywords: Mapping[str, object]) -> tuple[str, str] | None:
        """Say in Python's words why a call does not fit, and which parameter is to blame."""
        if not keywords and given <= self.positional and not self.needs[given]:
            return None
        spot = given if given < self.positional else self.positional
        for name in keywords:
            if type(name) is not str:
                return "keywords must be strings", ""
            if name in self.taken[spot]:
                return f"got multiple values for argument {name!r}", name
            if name not in self.named and not self.has_any_keyword:
                return f"got an unexpected keyword argument {name!r}", name
        if given > spot and not self.has_rest:
            takes = f"{spot} positional argument{'' if spot == 1 else 's'}"
            return f"takes {takes} but {given} {'was' if given == 1 else 'were'} given", ""
        # A keyword of the same name as a positional-only parameter belongs to **kwargs.
        needs = self.needs[spot]
        missing = needs and [name for name in needs if name not in keywords or name not in self.named]
        if not missing:
            return None
        names = " and ".join(filter(None, (", ".join(map(repr, missing[:-1])), repr(missing[-1]))))
        return f"missing {len(missing)} required argument{'s' if missing[1:] else ''}: {names}", missing[0]


@dataclass(frozen=True, slots=True)
class _Way:
    """How one direction converts the arguments of a call that fits."""

    names: tuple[str, ...]
    positional: tuple[Convert, ...]
    named: dict[str, Convert]
    rest: tuple[str, Convert] | None
    any_keyword: Convert

    def convert(
        self, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[list[object], dict[str, object]]:
        values: list[object] = []
        named: dict[str, object] = {}
        positional, index, name = self.positional, 0, ""
        try:
            for value in args[: len(positional)] if self.rest else args:
                values.append(positional[index](value, 0))
                index += 1
            if self.rest:
                name, convert = self.rest
                values += convert(list(args[index:]), -1)
            if kwargs:
                for name, value in kwargs.items():
                    named[name] = (self.named.get(name) or self._other(name))(value, 0)
        except (EncodeError, DecodeError) as error:
            raise inside(error, name or self.names[index]) from error.__cause__
        return values, named

    def _other(self, name: str) -> Convert:
        check_key(name)
        return self.any_keyword


@dataclass(frozen=True, slots=True)
class _Plan:
    shape: _Shape
    outward: _Way
    homeward: _Way
    result: Converter
    defaults: dict[str, object]


def _compile(function: Callable[..., object], name: str, skip_first: bool) -> _Plan:
    if not inspect.isroutine(function):
        raise TaskDefinitionError(f"{name} is not a function; wrap it in one")
    hints = resolved_hints(inspect.unwrap(function))
    parameters = list(inspect.signature(function).parameters.values())
    if skip_first:
        if not parameters or parameters[0].kind in (_ONLY_KEYWORD, _ANY_KEYWORD):
            raise TaskDefinitionError(f"{name}() needs a first positional parameter, for the context")
        # *args takes the context and goes on taking arguments.
        parameters = parameters if parameters[0].kind is _REST else parameters[1:]
    parameters = taken_in_calls(parameters, hints, name)
    compiler = Compiler()
    found: dict[str, Converter] = {}
    for key in (*(each.name for each in parameters), "return"):
        try:
            found[key] = compiler.converter(hints.get(key, Any))
        except TaskDefinitionError as error:
            what = "the result" if key == "return" else f"parameter {key!r}"
            text = f"{name}(): {what} is {text_of(hints[key])}: {error}"
            raise TaskDefinitionError(text) from error.__cause__
    result = found["return"]
    for each in parameters:
        if each.kind is _REST:
            found[each.name] = array(list, [found[each.name]], fixed=False)
    return _Plan(
        _shape(parameters),
        _way(parameters, {name: converter.encode for name, converter in found.items()}),
        _way(parameters, {name: converter.decode for name, converter in found.items()}),
        result,
        _defaults(parameters, found),
    )


def _defaults(parameters: Sequence[inspect.Parameter], found: Mapping[str, Converter]) -> dict[str, object]:
    encoded: dict[str, object] = {}
    for each in parameters:
        if each.default is not each.empty:
            try:
                encoded[each.name] = found[each.name].encode(each.default, 0)
            except EncodeError:
                pass  # `size: int = None`: it is never sent, so it need not travel
    return encoded


def _shape(parameters: Sequence[inspect.Parameter]) -> _Shape:
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    later = [each for each in parameters if each.kind is _ONLY_KEYWORD]
    named = frozenset(each.name for each in parameters if each.kind in _NAMED)
    kinds = {each.kind for each in parameters}
    counts = range(len(positional) + 1)
    return _Shape(
        positional=len(positional),
        named=named,
        has_rest=_REST in kinds,
        has_any_keyword=_ANY_KEYWORD in kinds,
        taken=tuple(named.intersection(each.name for each in positional[:count]) for count in counts),
        needs=tuple(
            tuple(each.name for each in (*positional[count:], *later) if each.default is each.empty)
            for count in counts
        ),
    )


def _way(parameters: Sequence[inspect.Parameter], converts: Mapping[str, Convert]) -> _Way:
    positional = tuple(each.name for each in parameters if each.kind in _POSITIONAL)
    rest = [(each.name, converts[each.name]) for each in parameters if each.kind is _REST]
    any_keyword = [converts[each.name] for each in parameters if each.kind is _ANY_KEYWORD]
    return _Way(
        names=positional,
        positional=tuple(converts[name] for name in positional),
        named={each.name: converts[each.name] for each in parameters if each.kind in _NAMED},
        rest=rest[0] if rest else None,
        any_keyword=any_keyword[0] if any_keyword else JSON.encode,
    )
