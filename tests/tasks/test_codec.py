"""What arguments and results look like in JSON, and which of them are refused, with what words."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import sys
import typing
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, localcontext
from enum import Enum, Flag, IntEnum, StrEnum, auto
from fractions import Fraction
from functools import cached_property, partial
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Network
from pathlib import Path, PurePath, PureWindowsPath
from types import GenericAlias
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Required,
    TypedDict,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest
from typing_extensions import TypeAliasType

from qtasks.errors import ArgumentsError, DecodeError, EncodeError, TaskDefinitionError
from qtasks.tasks.codec import compile_signature
from tests.support.typed_values import signature_of, through_json

if TYPE_CHECKING:
    from fractions import Fraction as OnlyForCheckers

BERLIN = ZoneInfo("Europe/Berlin")
SECRET = "hunter2-correct-horse"


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mood(StrEnum):
    GLAD = auto()


class Shape(Enum):
    POINT = (0, 0)
    HUGE = 2**80


class Access(Flag):
    READ = auto()
    WRITE = auto()


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    price: Decimal
    count: int = 1


@dataclass
class Order:
    lines: list[Line]
    color: Color = Color.RED
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Node:
    value: int
    next: Node | None = None


@dataclass
class Cat:
    meows: int


@dataclass
class Dog:
    barks: int


@dataclass
class Doubling:
    amount: int
    runs: int = 0

    def __post_init__(self) -> None:
        self.amount *= 2


@dataclass
class Keeper:
    amount: int

    def remember(self) -> None:
        self.memory = self.amount

    @cached_property
    def double(self) -> int:
        return self.amount * 2


class Movie(TypedDict):
    title: Required[str]
    year: NotRequired[int]


class Point(NamedTuple):
    x: float
    next: Point | None = None


@dataclass
class Circle:
    kind: Literal["circle", "ellipse"]
    size: int


@dataclass
class Square:
    kind: Annotated[Literal["square"], "a note"]
    size: int


class Text(str):
    __slots__ = ()


UserId = NewType("UserId", int)
Pair = namedtuple("Pair", "x y")
Alias = TypeAliasType("Alias", list[Color])
Maybe = TypeAliasType("Maybe", int | None)
# What `type Loop = list[Loop]` makes from Python 3.12 on.
Loop = type(
    "TypeAliasType",
    (),
    {"__repr__": lambda self: "Loop", "__value__": property(lambda self: GenericAlias(list, (self,)))},
)()
# These know no time zone, on purpose.
NAIVE = datetime.fromisoformat("2024-05-01T12:30:00.000007")
REPEATED = datetime.fromisoformat("2024-10-27T02:30:00")


def refusal(annotation: Any, value: object) -> EncodeError:
    with pytest.raises(EncodeError) as caught:
        signature_of(annotation).encode((value,), {})
    return caught.value


def misread(annotation: Any, form: object) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        signature_of(annotation).decode([form], {})
    return caught.value


PLAIN = inspect.Parameter.empty
EXACT: list[tuple[Any, object, object]] = [
    (PLAIN, None, None),
    (PLAIN, True, True),
    (PLAIN, -(2**63), -(2**63)),
    (PLAIN, 2**63 - 1, 2**63 - 1),
    (PLAIN, 1.5, 1.5),
    (PLAIN, "héllo \U0001f600\x00", "héllo \U0001f600\x00"),
    (PLAIN, {"a": [1, {"b": None}], "": 1.0}, {"a": [1, {"b": None}], "": 1.0}),
    (Any, [1], [1]),
    (object, [1], [1]),
    (list, [1, "a"], [1, "a"]),
    (dict, {"a": 1}, {"a": 1}),
    (None, None, None),
    (bool, False, False),
    (int, 3, 3),
    (float, 1e300, 1e300),
    (str, "text", "text"),
    (bytes, b"\x00\xff", "AP8="),
    (datetime, NAIVE, "2024-05-01T12:30:00.000007"),
    (datetime, datetime(2024, 5, 1, 12, tzinfo=UTC), "2024-05-01T12:00:00+00:00"),
    (
        datetime,
        datetime(2024, 5, 1, 12, tzinfo=timezone(-timedelta(seconds=1))),
        "2024-05-01T12:00:00-00:00:01",
    ),
    (date, date(2024, 2, 29), "2024-02-29"),
    (Path, Path("a/é"), "a/é"),
    (PurePath, PurePath("/"), "/"),
    (PureWindowsPath, PureWindowsPath("C:\\x"), "C:\\x"),
    (IPv4Address, IPv4Address("127.0.0.1"), "127.0.0.1"),
    (IPv4Interface, IPv4Interface("10.1.2.3/8"), "10.1.2.3/8"),
    (IPv6Address, IPv6Address("fe80::1%eth0"), "fe80::1%eth0"),
    (IPv6Network, IPv6Network("2001:db8::/32"), "2001:db8::/32"),
    (ZoneInfo, BERLIN, "Europe/Berlin"),
    (time, time(23, 59, 59, 1), "23:59:59.000001"),
    (time, time(1, tzinfo=UTC), "01:00:00+00:00"),
    (timedelta, timedelta(days=1, microseconds=5), "PT86400.000005S"),
    (timedelta, timedelta(microseconds=-1), "-PT0.000001S"),
    (timedelta, timedelta.max, "PT86399999999999.999999S"),
    (timedelta, timedelta.min, "-PT86399999913600S"),
    (UUID, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (Color, Color.BLUE, "blue"),
    (Level, Level.HIGH, 2),
    (Mood, Mood.GLAD, "glad"),
    (Shape, Shape.POINT, "POINT"),
    (Shape, Shape.HUGE, "HUGE"),
    (Access, Access.READ | Access.WRITE, 3),
    (Access, Access(0), 0),
    (Literal["a", 1, None, True], "a", "a"),
    (Literal["a", 1, True], True, True),
    (Literal[Color.RED, 7], Color.RED, "red"),
    (list[int], [1, 2], [1, 2]),
    (dict[str, date], {"a": date(2024, 1, 1)}, {"a": "2024-01-01"}),
    (Sequence[int], [1], [1]),
    (Iterable[date], [date(2024, 1, 1)], ["2024-01-01"]),
    (Mapping[str, int], {"a": 1}, {"a": 1}),
    (AbstractSet[int], {1}, [1]),
    (dict[int, str], {-1: "a", 0: "b"}, {"-1": "a", "0": "b"}),
    (dict[UUID, int], {UUID(int=1): 1}, {"00000000-0000-0000-0000-000000000001": 1}),
    (dict[Level, int], {Level.LOW: 1}, {"1": 1}),
    (dict[Literal["a", "b"], int], {"b": 1}, {"b": 1}),
    (Pair, Pair(1, [2]), {"x": 1, "y": [2]}),
    (Point, Point(1.5, next=Point(2.0)), {"x": 1.5, "next": {"x": 2.0, "next": None}}),
    (tuple, (1, "a"), [1, "a"]),
    (tuple[int, ...], (1, 2, 3), [1, 2, 3]),
    (tuple[int, str], (1, "a"), [1, "a"]),
    (tuple[()], (), []),
    (set[str], {"a"}, ["a"]),
    (frozenset[int], frozenset({1}), [1]),
    (set[tuple[int, int]], {(1, 2)}, [[1, 2]]),
    (int | None, None, None),
    (int | None, 5, 5),
    (Any | None, "x", "x"),
    (Literal["a", None] | None, None, None),
    (Maybe | None, None, None),
    (int | float | str, 1, 1),
    (int | float | str, 1.0, 1.0),
    (datetime | int, NAIVE, "2024-05-01T12:30:00.000007"),
    (list[date] | date | None, [date(2024, 1, 1)], ["2024-01-01"]),
    (Cat | Dog, Dog(3), {"barks": 3}),
    (Circle | Square, Square("square", 1), {"kind": "square", "size": 1}),
    (Circle | Square | None, Circle("circle", 1), {"kind": "circle", "size": 1}),
    (Annotated[date, "a note"], date(2024, 1, 1), "2024-01-01"),
    (UserId, UserId(3), 3),
    (Alias, [Color.RED], ["red"]),
    (Movie, {"title": "Alien"}, {"title": "Alien"}),
    (Movie, {"title": "Alien", "year": 1979}, {"title": "Alien", "year": 1979}),
    (Node, Node(1, Node(2)), {"value": 1, "next": {"value": 2, "next": None}}),
    (
        Order,
        Order([Line("pen", Decimal("1.50"))], notes={"a": [1]}),
        {"lines": [{"name": "pen", "price": "1.50", "count": 1}], "color": "red", "notes": {"a": [1]}},
    ),
]


@pytest.mark.parametrize(("annotation", "value", "form"), EXACT)
def test_a_value_travels_in_its_form_and_comes_back_equal(
    annotation: Any, value: object, form: object
) -> None:
    written, arrived = through_json(annotation, value)

    assert written == form
    assert type(written) is type(form)
    assert arrived == value
    assert type(arrived) is type(value)


@pytest.mark.parametrize(("annotation", "value", "form"), EXACT)
def test_a_result_travels_as_an_argument_does(annotation: Any, value: object, form: object) -> None:
    signature = signature_of(annotation)

    written = signature.encode_result(value)

    assert written == form
    assert signature.decode_result(orjson.loads(orjson.dumps(written))) == value


def test_an_int_for_a_float_is_widened() -> None:
    for annotation in (float, float | None, set[float]):
        value = {2} if annotation == set[float] else 2

        _, arrived = through_json(annotation, value)

        (number,) = arrived if isinstance(arrived, set) else (arrived,)
        assert number == 2.0
        assert type(number) is float


def test_a_negative_zero_keeps_its_sign() -> None:
    assert str(through_json(float, -0.0)[1]) == "-0.0"


@pytest.mark.parametrize("text", ["1.50", "-0", "1E+5", "-0E-7", "Infinity", "1E-999999", "9" * 60])
def test_a_decimal_keeps_sign_digits_and_exponent(text: str) -> None:
    with localcontext() as context:
        context.prec = 3
        _, arrived = through_json(Decimal, Decimal(text))

    assert isinstance(arrived, Decimal)
    assert arrived.as_tuple() == Decimal(text).as_tuple()


def test_an_aware_datetime_of_a_zone_comes_back_with_its_offset_and_equal() -> None:
    value = datetime(2024, 7, 1, 12, tzinfo=BERLIN)

    written, arrived = through_json(datetime, value)

    assert written == "2024-07-01T12:00:00+02:00"
    assert arrived == value


@pytest.mark.parametrize(
    "value",
    [
        REPEATED.replace(fold=1),
        datetime(2024, 10, 27, 2, 30, tzinfo=UTC, fold=1),
        time(2, 30, fold=1),
    ],
)
def test_fold_is_kept(value: datetime | time) -> None:
    written, arrived = through_json(type(value), value)

    assert isinstance(written, str)
    assert written.endswith("[fold=1]")
    assert isinstance(arrived, datetime | time)
    assert (arrived, arrived.fold) == (value, 1)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN),
    ],
)
def test_a_datetime_that_would_equal_nothing_in_another_zone_is_refused(value: datetime) -> None:
    error = refusal(datetime, value)

    assert str(error) == (
        "value: datetime in a skipped or repeated hour of its zone equals no other; pass UTC"
    )


def test_a_tzinfo_without_an_offset_is_refused() -> None:
    class Nowhere(tzinfo):
        def utcoffset(self, _when: datetime | None) -> None:
            return None

        dst = tzname = utcoffset

    assert "has no offset in whole seconds" in str(refusal(datetime, datetime(2024, 1, 1, tzinfo=Nowhere())))
    assert "has no offset in whole seconds" in str(refusal(time, time(1, tzinfo=BERLIN)))


def test_an_offset_that_python_would_read_back_as_utc_is_refused() -> None:
    zone = timezone(timedelta(microseconds=1))

    assert "has no offset in whole seconds" in str(refusal(datetime, datetime(2024, 1, 1, tzinfo=zone)))
    assert "has no offset in whole seconds" in str(refusal(time, time(1, tzinfo=zone)))


REFUSED: list[tuple[Any, object, str]] = [
    (PLAIN, float("nan"), "value: float nan has no form in JSON; pass None instead"),
    (PLAIN, float("-inf"), "value: float -inf has no form in JSON; pass None instead"),
    (PLAIN, 2**63, f"value: int {2**63} is outside -2**63 .. 2**63-1; pass a Decimal or a str"),
    (PLAIN, 1 << 99, "value: int of 100 bits is outside -2**63 .. 2**63-1; pass a Decimal or a str"),
    (PLAIN, "\ud800", "value: str holds a lone surrogate, which JSON cannot carry; pass bytes"),
    (PLAIN, {"\ud800": 1},
     "value.values()[0]: str holds a lone surrogate, which JSON cannot carry; pass bytes"),
    (PLAIN, {SECRET: 1, 5: 2}, "value.values()[1]: a key must be str, got int 5; convert the key with str()"),
    (PLAIN, {Text("a"): 2}, "value.values()[0]: a key must be str, got Text; convert the key with str()"),
    (PLAIN, (1, 2), "value: expected a JSON value, got tuple; annotate it as tuple, or convert it"),
    (PLAIN, {1}, "value: expected a JSON value, got set; annotate it as set, or convert it"),
    (PLAIN, Level.LOW, "value: expected a JSON value, got Level; annotate it as Level, or convert it"),
    (PLAIN, Line("a", Decimal(1)),
     "value: expected a JSON value, got Line; annotate it as Line, or convert it"),
    (PLAIN, Text("a"), "value: expected a JSON value, got Text; convert it with str()"),
    (PLAIN, OrderedDict(), "value: expected a JSON value, got OrderedDict; convert it with dict()"),
    (PLAIN, Pair(1, 2), "value: expected a JSON value, got Pair; annotate it as Pair, or convert it"),
    (PLAIN, b"x", "value: expected a JSON value, got bytes; annotate it as bytes, or convert it"),
    (PLAIN, [0, {"a": object()}], "value[1].values()[0]: expected a JSON value, got object; "
     "convert it to what JSON knows"),
    (int, True, "value: expected int, got bool True"),
    (int, 1.0, "value: expected int, got float 1.0"),
    (bool, 1, "value: expected bool, got int 1"),
    (float, True, "value: expected float, got bool True"),
    (float, 2**53 + 1, f"value: int {2**53 + 1} has no equal float"),
    (float, 1 << 1024, "value: int of 1025 bits has no equal float"),
    (float, float("inf"), "value: float inf has no form in JSON; pass None instead"),
    (str, 5, "value: expected str, got int 5"),
    (str, SECRET.encode(), "value: expected str, got bytes"),
    (bytes, SECRET, "value: expected bytes, got str"),
    (None, 0, "value: expected None, got int 0"),
    (date, NAIVE, "value: expected date, got datetime"),
    (datetime, date(2024, 1, 1), "value: expected datetime, got date"),
    (UUID, SECRET, "value: expected UUID, got str"),
    (Decimal, 1.5, "value: expected Decimal, got float 1.5"),
    (Decimal, Decimal("NaN"), "value: Decimal NaN equals nothing, not even itself; pass None instead"),
    (Decimal, Decimal("sNaN"), "value: Decimal NaN equals nothing, not even itself; pass None instead"),
    (Color, "red", "value: expected Color, got str"),
    (Level, 1, "value: expected Level, got int 1"),
    (Literal["a", 1], "b", "value: expected Literal['a', 1], got str"),
    (Literal["a", 1], True, "value: expected Literal['a', 1], got bool True"),
    (Literal["a", 1], [], "value: expected Literal['a', 1], got list"),
    (list[int], (1,), "value: expected list, got tuple"),
    (list[int], [1, "a"], "value[1]: expected int, got str"),
    (dict[str, int], {SECRET: SECRET}, "value.values()[0]: expected int, got str"),
    (dict[str, int], {1: 1}, "value.values()[0]: a key must be str, got int 1; convert the key with str()"),
    (tuple[int, str], (1,), "value: expected 2 items, got 1"),
    (tuple[int, str], (1, 2), "value[1]: expected str, got int 2"),
    (tuple[int, ...], Pair(1, 2), "value: expected tuple, got Pair"),
    (Pair, (1, 2), "value: expected Pair, got tuple"),
    (Point, tuple.__new__(Point, (1.0,)), "value: Point has 2 fields, and 1 items"),
    (Point, Point("1"), "value.x: expected float, got str"),  # type: ignore[arg-type] # the wrong type is the point
    (Sequence[int], (1,), "value: expected list, got tuple"),
    (Mapping[str, int], OrderedDict(a=1), "value: expected dict, got OrderedDict"),
    (dict[int, str], {True: "a"}, "value.values()[0]: expected int, got bool True"),
    (dict[int, str], {1: "a", 2: 2}, "value.values()[1]: expected str, got int 2"),
    (Circle | Square, Circle("square", 1),  # type: ignore[arg-type] # the wrong choice is the point
     "value.kind: expected Literal['circle', 'ellipse'], got str"),
    (Path, PurePath("a"), f"value: expected {type(Path()).__name__}, got {type(PurePath()).__name__}"),
    (Path, Path("\udcff"), "value: str holds a lone surrogate, which JSON cannot carry; pass bytes"),
    (ZoneInfo, ZoneInfo.no_cache("Europe/Berlin"),
     "value: ZoneInfo is not the one that its key leads to; make it with ZoneInfo(key)"),
    (set[int], {"a"}, "value[0]: expected int, got str"),
    (int | None, "a", "value: expected int | None, got str"),
    (list[int] | None, ["a"], "value[0]: expected int, got str"),
    (Movie, {"title": "Alien", SECRET: 1}, "value.values()[1]: dict has no such key"),
    (Movie, {"year": 1979}, "value: dict lacks 'title'"),
    (Movie, {"title": 5}, "value.title: expected str, got int 5"),
    (Order, Order([Line("a", Decimal(1)), Line("b", 1.5)]),  # type: ignore[arg-type] # the wrong type is the point
     "value.lines[1].price: expected Decimal, got float 1.5"),
    (Order, {"lines": []}, "value: expected Order, got dict"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "text"), REFUSED)
def test_what_would_not_come_back_equal_is_refused_with_its_path(
    annotation: Any, value: object, text: str
) -> None:
    error = refusal(annotation, value)

    assert str(error) == text
    assert error.path == text.split(": ")[0]


MISREAD: list[tuple[Any, object, str]] = [
    (int, True, "value: expected int, got bool True"),
    (str, 5, "value: expected str, got int 5"),
    (float, "1", "value: expected float, got str"),
    (None, 0, "value: expected None, got int 0"),
    (datetime, 5, "value: expected the form of a datetime, got int 5"),
    (datetime, SECRET, "value: the str does not stand for a datetime"),
    (timedelta, "PT1", "value: the str does not stand for a timedelta"),
    (timedelta, f"PT{'9' * 30}S", "value: the str does not stand for a timedelta"),
    (Decimal, SECRET, "value: the str does not stand for a Decimal"),
    (Decimal, "NaN", "value: the str does not stand for a Decimal"),
    (bytes, "???", "value: the str does not stand for a bytes"),
    (UUID, "é", "value: the str does not stand for a UUID"),
    (Color, SECRET, "value: the str does not stand for a Color"),
    (Level, True, "value: expected the form of a Level, got bool True"),
    (Access, 64, "value: the int does not stand for a Access"),
    (Literal["a"], "b", "value: expected Literal['a'], got str"),
    (list[int], {}, "value: expected the array of a list, got dict"),
    (list[int], [1, None], "value[1]: expected int, got None"),
    (tuple[int, str], [1], "value: expected 2 items, got 1"),
    (set[int], [1, 1], "value: an item is twice in the set"),
    (set, [[]], "value: an item cannot be in a set"),
    (dict[str, int], {"a": "b"}, "value.values()[0]: expected int, got str"),
    (int | None, "a", "value: expected int | None, got str"),
    (Cat | Dog, {"quacks": 1}, "value: expected Cat | Dog, got dict"),
    (Order | None, {"lines": [{"name": 5, "price": "1"}]}, "value.lines[0].name: expected str, got int 5"),
    (Order, {}, "value: Order lacks 'lines'"),
    (Circle | Square, {"kind": ["circle"], "size": 1}, "value: expected Circle | Square, got dict"),
    (dict[int, int], {"01": 1}, "value.values()[0]: the key does not stand for an int"),
    (
        dict[UUID, int],
        {str(UUID(int=1)): 1, UUID(int=1).hex: 2},
        "value.values()[1]: a key is twice in the dict",
    ),
    (ZoneInfo, "Europe", "value: the str does not stand for a ZoneInfo"),
    (IPv4Address, "1.2.3", "value: the str does not stand for a IPv4Address"),
    (Order, {"lines": [], "colour": 1}, "value.values()[1]: Order has no such key"),
]


@pytest.mark.parametrize(("annotation", "form", "text"), MISREAD)
def test_json_of_another_form_is_not_read(annotation: Any, form: object, text: str) -> None:
    error = misread(annotation, form)

    assert str(error) == text
    assert error.path == text.split(": ")[0]


def test_an_integer_is_read_where_a_float_is_expected() -> None:
    args, _ = signature_of(float).decode([1], {})

    assert type(args[0]) is float


def test_bad_decimal_text_is_not_read_as_nan_where_the_context_traps_nothing() -> None:
    with localcontext() as context:
        context.clear_traps()

        assert "does not stand for" in str(misread(Decimal, "abc"))


def test_a_field_that_the_sender_did_not_know_takes_its_default() -> None:
    args, _ = signature_of(Order).decode([{"lines": []}], {})

    assert args == (Order([]),)


def test_a_dataclass_comes_back_without_its_code_being_run() -> None:
    value = Doubling(4)

    _, arrived = through_json(Doubling, value)

    assert arrived == value


def test_an_attribute_beside_the_fields_is_refused_but_not_a_cached_property() -> None:
    value = Keeper(1)
    assert value.double == 2
    assert through_json(Keeper, value)[1] == value

    value.remember()

    assert "Keeper keeps 'memory' beside its fields" in str(refusal(Keeper, value))


def test_a_field_without_a_value_is_refused() -> None:
    value = Keeper(1)
    del value.amount

    assert refusal(Keeper, value).path == "value.amount"


def test_a_subclass_of_the_annotated_dataclass_is_refused() -> None:
    class Kitten(Cat):
        pass

    assert str(refusal(Cat, Kitten(1))) == "value: expected Cat, got Kitten"


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def chain(length: int) -> Node:
    node = Node(0)
    for each in range(1, length):
        node = Node(each, node)
    return node


def test_a_hundred_levels_pass_orjson_and_one_more_is_refused() -> None:
    _, arrived = through_json(PLAIN, nested(100))
    assert arrived == nested(100)
    _, arrived = through_json(Node, chain(100))
    assert arrived == chain(100)

    assert "nested deeper than 100 levels" in str(refusal(PLAIN, nested(101)))
    assert "nested deeper than 100 levels" in str(refusal(Node, chain(101)))
    assert refusal(PLAIN, nested(101)).path == "value" + "[0]" * 100


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)

    error = refusal(PLAIN, loop)

    assert "nested deeper" in str(error)
    assert len(str(error)) < 200


def test_json_that_is_too_deep_for_a_record_is_not_read() -> None:
    form: object = None
    for _ in range(101):
        form = {"value": 1, "next": form}

    assert "nested deeper" in str(misread(Node, form))


def test_encoding_copies_so_that_later_changes_are_not_sent() -> None:
    value = {"a": [1]}
    args, _ = signature_of(Any).encode((value,), {})

    value["a"].append(2)

    assert args == [{"a": [1]}]


def test_no_message_shows_text_that_was_passed() -> None:
    for annotation, value in (
        (int, SECRET),
        (PLAIN, {SECRET: {SECRET.encode()}}),
        (Literal["a"], SECRET),
        (dict[str, int], {SECRET: 1.5}),
        (datetime, SECRET),
    ):
        assert SECRET not in str(refusal(annotation, value))
        assert SECRET not in refusal(annotation, value).path


# -- binding


def everything(
    a: int, /, b: str, c: date = date.min, *rest: date, k: int, d: int = 4, **more: date
) -> None: ...


def simple(to: str, subject: str = "") -> None: ...


def bare() -> None: ...


def test_arguments_stay_where_they_were_and_defaults_are_not_filled_in() -> None:
    signature = compile_signature(everything, name="everything")
    day = date(2024, 1, 1)

    written = signature.encode((1, "b", day, day), {"k": 2, "x": day, "a": day})

    assert written == ([1, "b", "2024-01-01", "2024-01-01"], {"k": 2, "x": "2024-01-01", "a": "2024-01-01"})
    assert signature.decode(*written) == ((1, "b", day, day), {"k": 2, "x": day, "a": day})
    assert signature.encode((1,), {"b": "b", "k": 2}) == ([1], {"b": "b", "k": 2})


CALLS: list[tuple[Callable[..., object], tuple[object, ...], dict[str, object], str]] = [
    (simple, (), {}, "task() missing 1 required argument: 'to'"),
    (simple, (), {"subject": "a"}, "task() missing 1 required argument: 'to'"),
    (everything, (), {}, "task() missing 3 required arguments: 'a', 'b' and 'k'"),
    (everything, (), {"a": 1, "b": "b"}, "task() missing 2 required arguments: 'a' and 'k'"),
    (everything, (1, "b"), {"k": 1, "b": "b"}, "task() got multiple values for argument 'b'"),
    (simple, ("a", "b", "c"), {}, "task() takes 2 positional arguments but 3 were given"),
    (bare, (1,), {}, "task() takes 0 positional arguments but 1 was given"),
    (simple, ("a",), {"sbject": "b"}, "task() got an unexpected keyword argument 'sbject'"),
    (simple, ("a",), {"to": "b"}, "task() got multiple values for argument 'to'"),
    (simple, ("a",), {Text("subject"): "b"}, "task() keywords must be strings"),
]


@pytest.mark.parametrize(("function", "args", "kwargs", "text"), CALLS)
def test_a_call_that_does_not_fit_is_refused_in_python_s_words(
    function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], text: str
) -> None:
    signature = compile_signature(function, name="task")

    with pytest.raises(ArgumentsError) as caught:
        signature.encode(args, kwargs)
    with pytest.raises(DecodeError) as unread:
        signature.decode(args, kwargs)

    assert str(caught.value) == text
    assert str(unread.value) == text


def test_a_call_is_refused_exactly_when_python_refuses_it() -> None:
    def loose(a: Any, /, b: Any, c: Any = 0, *, k: Any, d: Any = 0) -> None: ...
    def open_ended(a: Any, /, b: Any = 0, *rest: Any, k: Any = 0, **more: Any) -> None: ...
    def optional(a: Any = 0, /, b: Any = 0, *, k: Any) -> None: ...

    keywords = ("a", "b", "c", "k", "x")
    for function in (loose, open_ended, optional, bare):
        call: Callable[..., None] = function
        encode = compile_signature(function, name="task").encode
        for given, chosen in itertools.product(range(5), range(2 ** len(keywords))):
            args = tuple(range(given))
            kwargs = {name: 1 for at, name in enumerate(keywords) if chosen >> at & 1}
            fits = not raises(partial(call, *args, **kwargs))
            assert raises(partial(encode, args, kwargs)) != fits, (function.__name__, args, kwargs)


def raises(call: Callable[[], object]) -> bool:
    try:
        call()
    except TypeError:
        return True
    return False


def test_a_path_begins_with_the_parameter() -> None:
    signature = compile_signature(everything, name="task")

    for args, kwargs, path in (
        (("x", "b"), {"k": 1}, "a"),
        ((1, 2), {"k": 1}, "b"),
        ((1, "b", date.min, date.min, 5), {"k": 1}, "rest[1]"),
        ((1, "b"), {"k": "x"}, "k"),
        ((1, "b"), {"k": 1, "x": 5}, "x"),
    ):
        with pytest.raises(EncodeError) as caught:
            signature.encode(args, kwargs)
        assert caught.value.path == path


def test_a_keyword_that_utf_8_cannot_carry_is_refused() -> None:
    with pytest.raises(EncodeError):
        compile_signature(everything, name="task").encode((1, "b"), {"k": 1, "\ud800": date.min})


def test_the_context_parameter_is_left_out() -> None:
    def task(ctx: inspect.Signature, to: str) -> None: ...
    def starred(*args: int) -> None: ...

    assert compile_signature(task, name="task", skip_first=True).encode(("a",), {}) == (["a"], {})
    assert compile_signature(starred, name="task", skip_first=True).encode((1, 2), {}) == ([1, 2], {})
    with pytest.raises(TaskDefinitionError, match=r"bare\(\) needs a first positional parameter"):
        compile_signature(bare, name="bare", skip_first=True)


def test_a_result_that_does_not_fit_is_refused() -> None:
    signature = signature_of(list[int])

    with pytest.raises(EncodeError, match=r"^result\[0\]: expected int, got str$"):
        signature.encode_result(["a"])
    with pytest.raises(DecodeError, match=r"^result\[0\]: expected int, got str$"):
        signature.decode_result(["a"])


def test_an_unannotated_result_is_a_json_value() -> None:
    signature = compile_signature(lambda: None, name="task")

    assert signature.encode_result(None) is None
    assert signature.encode_result([1]) == [1]
    with pytest.raises(EncodeError, match="result: expected a JSON value, got set"):
        signature.encode_result({1})


# -- definitions


@dataclass
class WithInitVar:
    seed: InitVar[int]


@dataclass
class Computed:
    amount: int
    total: int = field(init=False, default=0)


@dataclass
class BadField:
    lines: list[complex]


@dataclass
class Shared:
    kind: Literal["circle", "square"]
    size: int


@dataclass
class Failure(Exception):
    code: int


class Hidden:
    __slots__ = ("memory",)


@dataclass(slots=True)
class Slotted(Hidden):
    code: int


UNDEFINABLE: list[tuple[Any, str]] = [
    (
        complex,
        r"task\(\): parameter 'value' is complex: complex has no exact form in JSON; possible are None",
    ),
    ([int], r"\[<class 'int'>\] has no exact form"),
    (Fraction, "Fraction has no exact form"),
    (re.Pattern[str], "Pattern"),
    (deque[int], "deque"),
    (OrderedDict[str, int], "OrderedDict"),
    (Callable[[], int], "Callable"),
    (typing.TypeVar("T"), "~T has no exact form"),
    (tuple[int, *tuple[str, ...]], "has no exact form"),
    (dict[bool, str], "keys of a dict must be texts or integers in JSON, not bool; pass a list of pairs"),
    (dict[int | str, str], r"keys of a dict must be texts or integers in JSON, not int \| str"),
    (dict[tuple[int, int], str], "keys of a dict must be texts or integers in JSON, not tuple"),
    (date | datetime, "date and datetime look alike in JSON"),
    (str | UUID, "str and UUID look alike in JSON"),
    (list[int] | tuple[int, ...], "list and tuple look alike in JSON"),
    (list[int] | list[str], "list and list look alike in JSON"),
    (Cat | dict[str, int], "Cat and dict look alike in JSON"),
    (Any | int, "a JSON value and int look alike"),
    (Literal[b"a"], "a choice of bytes is not in JSON"),
    (Literal[Color.RED, "red"], "are the same in JSON"),
    (Shared | Square, "Shared and Square look alike in JSON"),
    (WithInitVar, "WithInitVar.seed is an InitVar or has init=False"),
    (Computed, "Computed.total is an InitVar or has init=False"),
    (BadField, r"BadField.lines is list\[complex\]: complex has no exact form"),
    (Failure, "Failure keeps more than its fields"),
    (Slotted, "Slotted keeps more than its fields"),
    (Loop, "Loop contains itself"),
]


@pytest.mark.parametrize(("annotation", "text"), UNDEFINABLE)
def test_an_annotation_without_an_exact_form_is_refused_at_the_decorator(annotation: Any, text: str) -> None:
    with pytest.raises(TaskDefinitionError, match=text):
        signature_of(annotation)


def test_what_is_no_function_cannot_be_a_task() -> None:
    with pytest.raises(TaskDefinitionError, match="is not a function"):
        compile_signature(partial(simple, "a"), name="task")


def test_an_annotation_that_does_not_evaluate_is_refused_at_the_decorator() -> None:
    def task(value): ...  # type: ignore[no-untyped-def] # the annotation is put on below

    task.__annotations__ = {"value": "list["}

    with pytest.raises(TaskDefinitionError, match=r"an annotation of .*task is wrong"):
        compile_signature(task, name="task")


def uses_later(value: Later, values: list[Later]) -> None: ...


EARLY = compile_signature(uses_later, name="uses_later")


@dataclass
class Later:
    x: int


def test_a_name_that_is_defined_after_the_decorator_is_found_at_the_first_call() -> None:
    assert EARLY.encode((Later(1), [Later(2)]), {}) == ([{"x": 1}, [{"x": 2}]], {})
    assert EARLY.decode([{"x": 1}, []], {}) == ((Later(1), []), {})


def uses_unknown(value: OnlyForCheckers) -> None: ...


def test_a_name_that_is_never_defined_is_reported_at_the_first_call() -> None:
    signature = compile_signature(uses_unknown, name="uses_unknown")

    for attempt in (lambda: signature.encode((1,), {}), lambda: signature.decode([1], {})):
        with pytest.raises(TaskDefinitionError, match=r"'OnlyForCheckers' is not defined.*TYPE_CHECKING"):
            attempt()


def test_a_signature_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        signature_of(int).name = "other"  # type: ignore[misc] # refusing it is the point


def test_a_recursion_of_the_deepest_value_stays_far_from_python_s_limit() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(600)
    try:
        assert through_json(Node, chain(100))[1] is not None
    finally:
        sys.setrecursionlimit(limit)
