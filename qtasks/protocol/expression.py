"""The arithmetic of `Upstash-Retry-Delay`: a small language with one variable, `retried`.

Texts are parsed into a postfix program once; running it only pushes and pops doubles, so it can
neither fail nor take long. What an expression is used for is the broker's business.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from qtasks.errors import InvalidValue
from qtasks.protocol.text import quoted

MAX_LENGTH = 256
MAX_DEPTH = 32
DAY_MS = 86_400_000


# The functions down to `_max` compute as IEEE 754 says: where Python raises, they give an infinity
# or NaN.


def _divide(x: float, y: float) -> float:
    if y != 0:
        return x / y
    if x == 0 or math.isnan(x):
        return math.nan
    return math.copysign(math.inf, x) * math.copysign(1.0, y)


def _remainder(x: float, y: float) -> float:
    try:
        return math.fmod(x, y)
    except ValueError:
        return math.nan


def _pow(x: float, y: float) -> float:
    is_odd = y % 2 == 1
    try:
        return math.pow(x, y)
    except OverflowError:
        return -math.inf if x < 0 and is_odd else math.inf
    except ValueError:
        if x != 0:
            return math.nan
        return math.copysign(math.inf, x) if is_odd else math.inf


def _negate(x: float) -> float:
    return -x


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _sqrt(x: float) -> float:
    return math.nan if x < 0 else math.sqrt(x)


def _floor(x: float) -> float:
    return float(math.floor(x)) if math.isfinite(x) else x


def _ceil(x: float) -> float:
    return float(math.ceil(x)) if math.isfinite(x) else x


def _round(x: float) -> float:
    """Round to the nearest integer, halves away from zero."""
    if not math.isfinite(x):
        return x
    whole = float(math.trunc(x))
    return whole + math.copysign(1.0, x) if abs(x - whole) >= 0.5 else whole


def _min(*values: float) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values)


def _max(*values: float) -> float:
    return math.nan if any(map(math.isnan, values)) else max(values)


@dataclass(frozen=True, slots=True)
class _Operation:
    """A step that replaces the topmost `arity` numbers of the stack by one."""

    arity: int
    apply: Callable[..., float]


_RETRIED = "retried"
_Step = float | str | _Operation

_NEGATE = _Operation(1, _negate)
_SUMS = {"+": _Operation(2, operator.add), "-": _Operation(2, operator.sub)}
_PRODUCTS = {"*": _Operation(2, operator.mul), "/": _Operation(2, _divide), "%": _Operation(2, _remainder)}
_FUNCTIONS: dict[str, tuple[int | None, Callable[..., float]]] = {  # arity; None: one or more
    "pow": (2, _pow),
    "exp": (1, _exp),
    "sqrt": (1, _sqrt),
    "abs": (1, math.fabs),
    "floor": (1, _floor),
    "ceil": (1, _ceil),
    "round": (1, _round),
    "min": (None, _min),
    "max": (None, _max),
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed retry delay; equal when its text is."""

    text: str
    _program: tuple[_Step, ...] = field(repr=False, compare=False)

    def delay_ms(self, retried: int) -> int:
        """Say how long to wait after `retried` retries: whole milliseconds from 0 to one day."""
        stack: list[float] = []
        for step in self._program:
            if isinstance(step, _Operation):
                arguments = stack[-step.arity :]
                del stack[-step.arity :]
                stack.append(step.apply(*arguments))
            else:
                stack.append(float(retried) if isinstance(step, str) else step)
        value = stack.pop()
        if math.isnan(value) or value < 0:
            return 0
        return DAY_MS if value > DAY_MS else math.floor(value)


@lru_cache(maxsize=1024)
def parse_expression(text: str) -> Expression:
    """Read the expression of an `Upstash-Retry-Delay` (contract 3.3).

    Raises `InvalidValue`, which quotes the text and says what was expected where.

    >>> parse_expression("pow(2, retried) * 1000").delay_ms(3)
    8000
    """
    if len(text) > MAX_LENGTH:
        raise InvalidValue(f"invalid expression: longer than {MAX_LENGTH} characters")
    parser = _Parser(text)
    parser.whole()
    expression = Expression(text, tuple(parser.program))
    # Run once here, so that whatever an expression could do wrong, it does to its author.
    expression.delay_ms(0)
    return expression


_TOKEN = re.compile(
    r"[ \t]*(?:([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)|([A-Za-z_][A-Za-z0-9_]*)|(.)|$)", re.DOTALL
)


class _Parser:
    """Recursive descent, one method per rule of the grammar; appends to `program` as it goes."""

    def __init__(self, text: str) -> None:
        self.program: list[_Step] = []
        self._text = text
        self._at = 0  # where the current token begins
        self._next = 0  # where the following one may begin
        self._depth = 0
        self._advance()

    def whole(self) -> None:
        self._sum()
        if self._token:
            raise self._error("an operator")

    def _sum(self) -> None:
        self._product()
        while operation := _SUMS.get(self._token):
            self._advance()
            self._product()
            self.program.append(operation)

    def _product(self) -> None:
        self._signed()
        while operation := _PRODUCTS.get(self._token):
            self._advance()
            self._signed()
            self.program.append(operation)

    def _signed(self) -> None:
        sign = self._token
        if sign in ("+", "-"):
            self._advance()
        self._primary()
        if sign == "-":
            self.program.append(_NEGATE)

    def _primary(self) -> None:
        token = self._token
        if self._is_number:
            self.program.append(float(token))
            self._advance()
        elif token == _RETRIED:
            self.program.append(_RETRIED)
            self._advance()
        elif token in _FUNCTIONS:
            self._call(token)
        elif token == "(":
            self._enter()
            self._sum()
            self._leave()
        else:
            raise self._error('a number, "retried", a function or "("')

    def _call(self, name: str) -> None:
        arity, function = _FUNCTIONS[name]
        self._advance()
        if self._token != "(":
            raise self._error('"("')
        self._enter()
        self._sum()
        count = 1
        while self._token == ",":
            self._advance()
            self._sum()
            count += 1
        if arity is not None and count != arity:
            raise self._error(f"{arity} argument{'s'[: arity - 1]} of {name}, not {count},")
        self._leave()
        self.program.append(_Operation(count, function))

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidValue(f"invalid expression {quoted(self._text)}: nested deeper than {MAX_DEPTH}")
        self._advance()

    def _leave(self) -> None:
        if self._token != ")":
            raise self._error('")"')
        self._depth -= 1
        self._advance()

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._next)
        # The last alternatives match any character and the end, so there is always a match.
        number, name, other = match.groups() if match else (None, None, None)
        self._token = number or name or other or ""
        self._is_number = number is not None
        self._next = match.end() if match else len(self._text)
        self._at = self._next - len(self._token)

    def _error(self, expected: str) -> InvalidValue:
        found = quoted(self._token) if self._token else "the end"
        return InvalidValue(
            f"invalid expression {quoted(self._text)}: "
            f"expected {expected} at character {self._at + 1}, found {found}"
        )
