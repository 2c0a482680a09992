"""Whatever the values: what a signature encodes comes back through orjson equal and of equal type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from types import GenericAlias
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from hypothesis import given
from hypothesis import strategies as st

from qtasks.errors import DecodeError, EncodeError
from qtasks.tasks.codec import Signature, compile_signature


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


@dataclass(frozen=True, slots=True)
class Leaf:
    at: datetime
    price: Decimal
    tags: frozenset[str]
    extra: Any


@dataclass
class Tree:
    leaf: Leaf | None
    branches: list[Tree]


Typed = tuple[Any, st.SearchStrategy[Any]]
ZONES = st.sampled_from([ZoneInfo("Europe/Berlin"), ZoneInfo("America/St_Johns"), ZoneInfo("UTC"), UTC])
OFFSETS = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone)
# All characters, lone surrogates among them.
TEXT = st.text(st.characters())
FOLDS = st.integers(0, 1)


def folded(value: Any, fold: int) -> Any:
    return value.replace(fold=fold)


DATETIMES = st.builds(folded, st.datetimes(timezones=st.none() | ZONES | OFFSETS), FOLDS)
TIMES = st.builds(folded, st.times(timezones=st.none() | OFFSETS), FOLDS)
NUMBERS = st.integers() | st.integers(-(2**64), 2**64) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
LEAVES = st.builds(Leaf, DATETIMES, st.decimals(), st.frozensets(TEXT, max_size=3), JSON)
TREES = st.recursive(
    st.builds(Tree, st.none() | LEAVES, st.just([])),
    lambda inner: st.builds(Tree, st.none(), st.lists(inner, max_size=3)),
    max_leaves=5,
)
HASHABLE: list[Typed] = [
    (bool, st.booleans()),
    (int, NUMBERS),
    (float, NUMBERS),
    (str, TEXT),
    (bytes, st.binary()),
    (datetime, DATETIMES),
    (date, st.dates()),
    (time, TIMES),
    (timedelta, st.timedeltas()),
    (UUID, st.uuids()),
    (Decimal, st.decimals(allow_nan=False)),
    (Color, st.sampled_from(Color)),
    (Corner, st.sampled_from(Corner)),
    (Level, st.sampled_from(Level)),
    (Literal["a", 1, None, True], st.sampled_from(["a", 1, None, True])),
]
SIMPLE: list[Typed] = [*HASHABLE, (Decimal, st.decimals()), (Any, JSON), (Tree, TREES)]


def optional(one: Typed) -> Typed:
    return one[0] | None, st.none() | one[1]


def listed(one: Typed) -> Typed:
    return GenericAlias(list, (one[0],)), st.lists(one[1], max_size=4)


def keyed(one: Typed) -> Typed:
    return GenericAlias(dict, (str, one[0])), st.dictionaries(TEXT, one[1], max_size=4)


def row(one: Typed) -> Typed:
    return GenericAlias(tuple, (one[0], ...)), st.lists(one[1], max_size=4).map(tuple)


def pair(one: Typed, other: Typed) -> Typed:
    return GenericAlias(tuple, (one[0], other[0])), st.tuples(one[1], other[1])


def distinct(one: Typed) -> Typed:
    return GenericAlias(set, (one[0],)), st.sets(one[1], max_size=4)


ANNOTATED: st.SearchStrategy[Typed] = st.recursive(
    st.sampled_from(SIMPLE) | st.sampled_from(HASHABLE).map(distinct),
    lambda inner: st.one_of(
        inner.map(optional),
        inner.map(listed),
        inner.map(keyed),
        inner.map(row),
        st.builds(pair, inner, inner),
    ),
    max_leaves=4,
)


def signature_of(annotation: Any) -> Signature:
    def task(value):  # type: ignore[no-untyped-def] # the annotation is put on below
        return value

    task.__annotations__ = {"value": annotation, "return": annotation}
    return compile_signature(task, name="task")


def same(one: Any, other: Any, *, widened: bool = False) -> bool:
    """Tell whether two values are equal and of equal type, all the way down."""
    if type(one) is not type(other):
        # The only type that may change, and only where the annotation says so: int to float.
        return widened and type(one) is int and type(other) is float and bool(one == other)
    if dataclasses.is_dataclass(one):
        return all(
            same(getattr(one, each.name), getattr(other, each.name)) for each in dataclasses.fields(one)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(
            same(a, b, widened=widened) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key], widened=widened) for key in one)
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


def refusal(call: Callable[..., object], *arguments: object) -> EncodeError | DecodeError | None:
    try:
        call(*arguments)
    except (EncodeError, DecodeError) as error:
        return error
    return None


@given(st.data())
def test_what_is_encoded_comes_back_equal_and_of_equal_type(data: st.DataObject) -> None:
    annotation, values = data.draw(ANNOTATED)
    value = data.draw(values)
    signature = signature_of(annotation)

    if error := refusal(signature.encode, (value,), {}):
        assert error.path.startswith("value")
        return
    args, kwargs = signature.encode((value,), {})
    (arrived,), _ = signature.decode(orjson.loads(orjson.dumps(args)), kwargs)

    assert same(value, arrived, widened="float" in str(annotation)), (annotation, value, arrived)


@given(JSON)
def test_a_json_value_is_refused_exactly_when_orjson_would_change_it(value: Any) -> None:
    try:
        kept = same(orjson.loads(orjson.dumps(value)), value)
    except TypeError:
        kept = False

    error = refusal(signature_of(Any).encode, (value,), {})

    # Up to 2**64-1 orjson keeps an int, but many others that read JSON do not.
    assert kept if error is None else not kept or "outside -2**63" in str(error)


@given(st.data())
def test_any_json_is_read_as_the_annotation_says_or_refused(data: st.DataObject) -> None:
    annotation, _ = data.draw(ANNOTATED)
    form = data.draw(JSON)
    signature = signature_of(annotation)

    if error := refusal(signature.decode, [form], {}):
        assert error.path.startswith("value")
        return
    (arrived,), _ = signature.decode([form], {})
    error = refusal(signature.encode, (arrived,), {})

    # What can be read can be written, but for what only another writer of JSON can have made.
    foreign = ("outside -2**63", "surrogate", "has no form in JSON")
    assert error is None or any(text in str(error) for text in foreign)


@given(TEXT)
def test_no_refusal_shows_the_text_of_a_value(text: str) -> None:
    marked = f"\x1f{text}\x1f"

    for annotation, value in ((int, marked), (dict[str, int], {marked: marked}), (Any, {marked: {marked}})):
        error = refusal(signature_of(annotation).encode, (value,), {})

        assert error is not None
        assert "\x1f" not in f"{error}{error.path}"
