"""Annotations and values that belong together, drawn at random, and an exact comparison of values.

A `Typed` knows values that must come back, and near ones: subclasses, NaN, an int for a float. Of those
nobody says here whether they may travel, only that they must not arrive changed.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum, auto
from functools import cache, partial
from ipaddress import IPv4Address, IPv6Interface
from pathlib import Path, PurePosixPath
from types import GenericAlias
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import orjson
from hypothesis import strategies as st

from qtasks.errors import DecodeError, EncodeError
from qtasks.tasks.codec import Signature, compile_signature

Values = st.SearchStrategy[Any]


class Color(Enum):
    RED = "red"
    GREEN = 2
    BLUE = "blue"


class Corner(Enum):
    LEFT = (0, 1)
    RIGHT = (1, 0)


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Mood(StrEnum):
    GLAD = auto()
    SAD = auto()


class Access(Flag):
    READ = auto()
    WRITE = auto()


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Row(list[Any]):
    pass


class Moment(datetime):
    pass


class Spot(NamedTuple):
    x: int = 0
    y: int = 0


UserId = NewType("UserId", int)


@dataclass(frozen=True, slots=True)
class Typed:
    """An annotation, with values of it that must come back and with near ones.

    `is_certain` is false where a Pydantic model may refuse right values by its own rules.
    """

    annotation: Any
    right: Values
    near: Values
    has_float: bool = False
    is_hashable: bool = True
    fits_model: bool = True
    is_certain: bool = True


BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from([BERLIN, ZoneInfo("America/St_Johns"), ZoneInfo("UTC"), UTC])
OFFSETS = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone)
WHOLE_OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# All characters, lone surrogates among them.
TEXT = st.text(st.characters())
GOOD_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NUMBERS = st.integers() | st.integers(-(2**64), 2**64) | st.floats()
GOOD_INTS = st.integers(-(2**63), 2**63 - 1)
GOOD_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
_GOOD_SCALARS = st.one_of(st.none(), st.booleans(), GOOD_INTS, GOOD_FLOATS, GOOD_TEXT)
_GOOD_LISTS = st.lists(_GOOD_SCALARS, max_size=2)
# Not recursive, which is slow.
GOOD_JSON = _GOOD_SCALARS | _GOOD_LISTS | st.dictionaries(GOOD_TEXT, _GOOD_LISTS, max_size=2)
FOLDS = st.integers(0, 1)


def folded(value: Any, fold: int) -> Any:
    return value.replace(fold=fold)


DATETIMES = st.builds(folded, st.datetimes(timezones=st.none() | ZONES | OFFSETS), FOLDS)
TIMES = st.builds(folded, st.times(timezones=st.none() | OFFSETS), FOLDS)
GOOD_DATETIMES = st.builds(folded, st.datetimes(timezones=st.none() | WHOLE_OFFSETS), FOLDS)
GOOD_TIMES = st.builds(folded, st.times(timezones=st.none() | WHOLE_OFFSETS), FOLDS)

STRAYS = st.sampled_from(
    [
        None, True, 0, 1, -1, 1.0, -0.0, float("nan"), float("inf"), 2**53 + 1, 2**63, -(2**63) - 1, 2**70,
        "", "1", "red", "\ud800", Text("red"), Whole(1), b"", b"\xff", bytearray(b"a"), 1j,
        [], Row(), Row([1]), (), (1,), Spot(1, 2), set(), {1}, frozenset({"a"}), {}, {"a": 1}, {1: 1},
        OrderedDict(a=1), [[1]], [float("nan")], Color.RED, Level.LOW, Mood.GLAD, Access.READ,
        Decimal("NaN"), Decimal("-0"), date.min, Moment(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN), time(1, tzinfo=BERLIN),
        timedelta(microseconds=-1), UUID(int=1), Path("a"), PurePosixPath("a"), IPv4Address(1),
        ZoneInfo.no_cache("Europe/Berlin"), object(),
    ]
)  # fmt: skip


def leaf(annotation: Any, right: Values, near: Values | None = None, **facts: Any) -> Typed:
    return Typed(annotation, right, STRAYS if near is None else near | STRAYS, **facts)


LEAVES = [
    leaf(type(None), st.none()),
    leaf(bool, st.booleans(), st.integers(0, 1)),
    leaf(int, GOOD_INTS, NUMBERS),
    leaf(UserId, GOOD_INTS, NUMBERS),
    leaf(float, GOOD_FLOATS, NUMBERS, has_float=True),
    leaf(str, GOOD_TEXT, TEXT),
    leaf(bytes, st.binary(max_size=8)),
    leaf(datetime, GOOD_DATETIMES, DATETIMES),
    leaf(Annotated[datetime, "a note"], GOOD_DATETIMES, DATETIMES),
    leaf(date, st.dates()),
    leaf(time, GOOD_TIMES, TIMES),
    leaf(timedelta, st.timedeltas()),
    leaf(UUID, st.uuids()),
    leaf(Decimal, st.decimals(allow_nan=False), st.decimals()),
    leaf(Path, GOOD_TEXT.map(Path), TEXT.map(Path)),
    leaf(IPv4Address, st.ip_addresses(v=4)),
    leaf(IPv6Interface, st.ip_addresses(v=6).map(IPv6Interface)),
    leaf(ZoneInfo, st.timezone_keys(allow_prefix=False).map(ZoneInfo), fits_model=False),
    leaf(Color, st.sampled_from(Color)),
    leaf(Corner, st.sampled_from(Corner), fits_model=False),
    leaf(Level, st.sampled_from(Level)),
    leaf(Mood, st.sampled_from(Mood)),
    leaf(Access, st.integers(0, 3).map(Access)),
    leaf(Literal["a", 1, None, True], st.sampled_from(["a", 1, None, True])),
    leaf(Any, GOOD_JSON, is_hashable=False),
    leaf(list, st.lists(GOOD_JSON, max_size=2), is_hashable=False),
]
HASHABLE = [each for each in LEAVES if each.is_hashable]
KEYS = [
    leaf(str, GOOD_TEXT, TEXT),
    leaf(int, GOOD_INTS, st.booleans() | st.integers()),
    *(each for each in LEAVES if each.annotation in (datetime, date, UUID, Decimal, Path, Level, Mood)),
]
_UNION: Any = typing.Union  # no checker reads these
_NAMES = [f"made_{n}" for n in range(2)]


def _derived(inner: Sequence[Typed], annotation: Any, right: Values, near: Values, **facts: Any) -> Typed:
    told = {
        "has_float": any(each.has_float for each in inner),
        "is_hashable": all(each.is_hashable for each in inner),
        "fits_model": all(each.fits_model for each in inner),
        "is_certain": all(each.is_certain for each in inner),
    }
    return Typed(annotation, right, near | STRAYS, **(told | facts))


def optional(one: Typed) -> Typed:
    return _derived([one], _UNION[one.annotation, None], st.none() | one.right, one.near)


def union(one: Typed, other: Typed) -> Typed:
    annotation = _UNION[one.annotation, other.annotation]
    # What tells two apart is the annotation's affair, so a right value may be one of the other as well.
    return _derived(
        [one, other], annotation, one.right | other.right, one.near | other.near, is_certain=False
    )


def listed(one: Typed, kind: Any = list) -> Typed:
    annotation = GenericAlias(kind, (one.annotation,))
    right, near = (st.lists(each, max_size=3) for each in (one.right, one.near))
    return _derived([one], annotation, right, near | near.map(tuple) | near.map(Row), is_hashable=False)


def row(one: Typed) -> Typed:
    annotation = GenericAlias(tuple, (one.annotation, ...))
    right, near = (st.lists(each, max_size=3) for each in (one.right, one.near))
    return _derived([one], annotation, right.map(tuple), near.map(tuple) | near)


def pair(one: Typed, other: Typed) -> Typed:
    annotation = GenericAlias(tuple, (one.annotation, other.annotation))
    near = st.tuples(one.near, other.near) | st.tuples(one.near)
    return _derived([one, other], annotation, st.tuples(one.right, other.right), near)


def distinct(one: Typed, kind: Any) -> Typed:
    annotation = GenericAlias(kind, (one.annotation,))
    right = st.lists(one.right, max_size=3).map(kind)
    near = st.lists(one.right | one.near.filter(_has_hash), max_size=3).map(kind)
    return _derived([one], annotation, right, near, is_hashable=kind is frozenset)


def keyed(key: Typed, one: Typed, kind: Any = dict) -> Typed:
    annotation = GenericAlias(kind, (key.annotation, one.annotation))
    right = st.dictionaries(key.right, one.right, max_size=3)
    near = st.dictionaries(key.right | key.near.filter(_has_hash), one.near, max_size=3)
    return _derived([key, one], annotation, right, near | near.map(OrderedDict), is_hashable=False)


def _has_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _filled(
    fields: Mapping[str, Typed], make: Callable[..., Any], heir: Callable[[], Any]
) -> tuple[Values, Values]:
    """Give objects of a class with right members, and near ones: with others, or of an heir of it."""
    right = st.fixed_dictionaries({name: each.right for name, each in fields.items()})
    near = st.fixed_dictionaries({name: each.right | each.near for name, each in fields.items()})
    made_heir = cache(heir)  # seldom needed, and costly
    return (
        right.map(lambda found: make(**found)),
        near.map(lambda found: make(**found)) | right.map(lambda found: made_heir()(**found)),
    )


def _hints(fields: Mapping[str, Typed]) -> dict[str, Any]:
    return {name: each.annotation for name, each in fields.items()}


def data_class(fields: Mapping[str, Typed], is_frozen: bool, has_slots: bool) -> Typed:
    hints = list(_hints(fields).items())
    made: Any = dataclasses.make_dataclass("Made", hints, frozen=is_frozen, slots=has_slots)
    right, near = _filled(
        fields, made, lambda: dataclasses.make_dataclass("Heir", [], bases=(made,), frozen=is_frozen)
    )
    return _derived([*fields.values()], made, right, near, is_hashable=is_frozen and _all_hash(fields))


def struct(fields: Mapping[str, Typed], is_frozen: bool, rename: Any, tag: bool | None) -> Typed:
    hints = list(_hints(fields).items())
    made: Any = msgspec.defstruct("Made", hints, frozen=is_frozen, rename=rename, tag=tag)
    right, near = _filled(
        fields, made, lambda: msgspec.defstruct("Heir", [], bases=(made,), frozen=is_frozen)
    )
    facts = {"is_hashable": is_frozen and _all_hash(fields), "fits_model": False}
    return _derived([*fields.values()], made, right, near, **facts)


def named_tuple(fields: Mapping[str, Typed]) -> Typed:
    # NamedTuple is but a function here, whose fields nobody knows beforehand.
    made: Any = NamedTuple("Made", list(_hints(fields).items()))  # type: ignore[misc]
    right, near = _filled(fields, made, lambda: type("Heir", (made,), {}))
    return _derived([*fields.values()], made, right, near | near.map(tuple))


def typed_dict(fields: Mapping[str, Typed], is_total: bool) -> Typed:
    made: Any = TypedDict("Made", _hints(fields), total=is_total)  # type: ignore[misc]
    right, near = _filled(fields, dict, lambda: OrderedDict)
    less = near.map(lambda found: dict(list(found.items())[1:]))
    # Pydantic wants another TypedDict before Python 3.12.
    return _derived([*fields.values()], made, right, near | less, is_hashable=False, fits_model=False)


def model(fields: Mapping[str, Typed], extra: Any) -> Typed | None:
    """Make a Pydantic model, whose objects no validator has seen; None if Pydantic is not installed."""
    try:
        import pydantic
    except ImportError:
        return None
    create: Any = pydantic.create_model
    made = create(
        "Made",
        __config__={"extra": extra, "ser_json_bytes": "base64", "val_json_bytes": "base64"},
        **{name: (each.annotation, ...) for name, each in fields.items()},
    )
    right, near = _filled(fields, made.model_construct, lambda: create("Heir", __base__=made).model_construct)
    facts = {"is_certain": False, "is_hashable": False}
    return _derived([*fields.values()], made, right, near, **facts)


def _all_hash(fields: Mapping[str, Typed]) -> bool:
    return all(each.is_hashable for each in fields.values())


@st.composite
def typed(draw: st.DrawFn, depth: int = 3, *, needs_hash: bool = False, in_model: bool = False) -> Typed:
    """Draw an annotation with up to `depth` levels of containers, and its values."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        leaves = HASHABLE if needs_hash else LEAVES
        return draw(st.sampled_from([each for each in leaves if each.fits_model or not in_model]))
    inner = partial(typed, depth - 1, needs_hash=needs_hash, in_model=in_model)
    shapes = [*_HASHABLE_SHAPES, *(() if needs_hash else _OTHER_SHAPES)]
    found: Typed = draw(st.sampled_from(shapes))(draw, inner, depth)
    if (needs_hash and not found.is_hashable) or (in_model and not found.fits_model):
        return draw(st.sampled_from([each for each in HASHABLE if each.fits_model]))
    return found


Inner = Callable[..., st.SearchStrategy[Typed]]


def _fields(draw: st.DrawFn, inner: Inner) -> dict[str, Typed]:
    return {name: draw(inner()) for name in _NAMES[: draw(st.integers(1, 2))]}


def _any_model(draw: st.DrawFn, inner: Inner, depth: int) -> Typed:
    fields = _fields(draw, partial(typed, depth - 1, in_model=True))
    return model(fields, draw(st.sampled_from(["ignore", "forbid", "allow"]))) or next(iter(fields.values()))


_HASHABLE_SHAPES: list[Callable[[st.DrawFn, Inner, int], Typed]] = [
    lambda draw, inner, depth: optional(draw(inner())),
    lambda draw, inner, depth: row(draw(inner())),
    lambda draw, inner, depth: pair(draw(inner()), draw(inner())),
    lambda draw, inner, depth: distinct(draw(inner(needs_hash=True)), frozenset),
    lambda draw, inner, depth: data_class(_fields(draw, inner), draw(st.booleans()), draw(st.booleans())),
    lambda draw, inner, depth: named_tuple(_fields(draw, inner)),
    lambda draw, inner, depth: struct(
        _fields(draw, inner),
        draw(st.booleans()),
        draw(st.sampled_from([None, "camel", "upper"])),
        draw(st.sampled_from([None, True])),
    ),
]
_OTHER_SHAPES: list[Callable[[st.DrawFn, Inner, int], Typed]] = [
    lambda draw, inner, depth: union(draw(inner()), draw(inner())),
    lambda draw, inner, depth: listed(draw(inner())),
    lambda draw, inner, depth: listed(draw(inner()), Sequence),
    lambda draw, inner, depth: keyed(draw(st.sampled_from(KEYS)), draw(inner())),
    lambda draw, inner, depth: keyed(KEYS[0], draw(inner()), Mapping),
    lambda draw, inner, depth: distinct(draw(inner(needs_hash=True)), set),
    lambda draw, inner, depth: typed_dict(_fields(draw, inner), draw(st.booleans())),
    _any_model,
]


def signature_of(annotation: Any) -> Signature:
    """Compile a function that takes one value, and gives one, of this annotation; `empty` is none."""

    def task(value):  # type: ignore[no-untyped-def] # the annotation is put on below
        return value

    if annotation is not inspect.Parameter.empty:
        task.__annotations__ = {"value": annotation, "return": annotation}
    return compile_signature(task, name="task")


def through_json(annotation: Any, value: object) -> tuple[Any, Any]:
    """Carry one argument as a caller and a handler would; give its JSON form and what arrives."""
    signature = signature_of(annotation)
    text = orjson.dumps(signature.encode((value,), {})[0])
    return orjson.loads(text)[0], signature.decode(orjson.loads(text), {})[0][0]


def refusal(call: Callable[..., object], *arguments: object) -> EncodeError | DecodeError | None:
    """Give what a call refuses its arguments with."""
    try:
        call(*arguments)
    except (EncodeError, DecodeError) as error:
        return error
    return None


def same(one: Any, other: Any, *, widened: bool = False) -> bool:
    """Tell whether two values are equal and of equal type, all the way down.

    `widened` lets an int have become the float that is equal: what an annotation with a float may do.
    """
    if type(one) is not type(other):
        return widened and type(one) is int and type(other) is float and bool(one == other)
    again = partial(same, widened=widened)
    if members := _members(one):
        return all(again(members[name], _members(other).get(name, object())) for name in members)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(again, one, other))
    if isinstance(one, dict):
        return (
            len(one) == len(other)
            and all(map(again, one, other))
            and all(again(one[k], other[k]) for k in one)
        )
    if isinstance(one, set | frozenset):
        kinds = [{(type(each), each) for each in side} for side in (one, other)]
        return bool(one == other) and (widened or kinds[0] == kinds[1])
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, Decimal):
        return bool(one.as_tuple() == other.as_tuple())
    if isinstance(one, datetime | time):
        return bool(one == other) and (one.fold, one.utcoffset()) == (other.fold, other.utcoffset())
    return bool(one == other)


def _members(value: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, msgspec.Struct):
        return {each: getattr(value, each) for each in value.__struct_fields__}
    pydantic = sys.modules.get("pydantic")
    if pydantic is None or not isinstance(value, pydantic.BaseModel):
        return {}
    beside = {
        "extra": value.model_extra,
        "set": value.model_fields_set,
        "private": value.__pydantic_private__,
    }
    return {name: value.__dict__[name] for name in type(value).model_fields} | beside
