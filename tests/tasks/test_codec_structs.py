"""msgspec structs as arguments: under which names they travel, and what of them cannot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

import msgspec
import pytest
from msgspec import Struct

from qtasks.errors import TaskDefinitionError
from tests.support.typed_values import refusal, same, signature_of, through_json

T = TypeVar("T")


class Line(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    article_no: int
    on_day: date
    count: int = 1
    notes: list[str] = []


class Pack(Struct, array_like=True, omit_defaults=True, weakref=True, order=True):
    lines: tuple[Line, ...] = ()
    inner: Pack | None = None


class Created(Struct, tag=True):
    at: date


class Deleted(Struct, tag=True):
    at: date


class Numbered(Struct, tag=7, tag_field="kind"):
    at: date


class Lettered(Struct, tag="seven", tag_field="kind"):
    at: date


class Choice(Struct):
    kind: Literal["choice"]
    at: date


class Key(Struct, frozen=True):
    name: str


class Open(Struct, dict=True):
    value: int

    @cached_property
    def double(self) -> int:
        return self.value * 2

    def remember(self) -> None:
        self.memory = self.value


class Twin(Struct):
    value: int


class Trimmed(Struct):
    text: str
    words: list[str] = []
    next: Trimmed | None = None

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError(f"empty: {self.words}")
        self.text = self.text.strip()
        self.words = sorted(self.words)


class Box(Struct, Generic[T]):
    value: T


class Patch(Struct):
    name: str | msgspec.UnsetType = msgspec.UNSET


class Bad(Struct):
    number: complex


@dataclass
class Holder:
    pack: Pack


def with_cached() -> Open:
    value = Open(1)
    assert value.double == 2
    return value


def kept_beside() -> Open:
    value = Open(1)
    value.remember()
    return value


def emptied() -> Open:
    value = Open(1)
    del value.value
    return value


def changed(text: str, words: list[str] | None = None) -> Trimmed:
    """Make one that its own constructor would not make."""
    value = Trimmed("x")
    value.text = text
    value.words = words or []
    return value


DAY = date(2024, 1, 2)
LINE = Line(article_no=7, on_day=DAY, notes=["a"])
EXACT: list[tuple[Any, Any, Any]] = [
    (Line, LINE, {"articleNo": 7, "onDay": "2024-01-02", "count": 1, "notes": ["a"]}),
    (Pack, Pack(inner=Pack()), {"lines": [], "inner": {"lines": [], "inner": None}}),
    (Pack | None, None, None),
    (Holder, Holder(Pack()), {"pack": {"lines": [], "inner": None}}),
    (Created, Created(DAY), {"type": "Created", "at": "2024-01-02"}),
    (Created | Deleted | None, Deleted(DAY), {"type": "Deleted", "at": "2024-01-02"}),
    (Numbered | Lettered, Numbered(DAY), {"kind": 7, "at": "2024-01-02"}),
    (Lettered | Choice, Choice("choice", DAY), {"kind": "choice", "at": "2024-01-02"}),
    (set[Key], {Key("a")}, [{"name": "a"}]),
    (
        dict[str, Line],
        {"a": LINE},
        {"a": {"articleNo": 7, "onDay": "2024-01-02", "count": 1, "notes": ["a"]}},
    ),
    (Open, with_cached(), {"value": 1}),
    (
        Trimmed,
        Trimmed("a", ["b", "c"], Trimmed("d")),
        {"text": "a", "words": ["b", "c"], "next": {"text": "d", "words": [], "next": None}},
    ),
]


@pytest.mark.parametrize(("annotation", "value", "form"), EXACT)
def test_a_struct_travels_by_its_fields_and_comes_back_equal(annotation: Any, value: Any, form: Any) -> None:
    written, arrived = through_json(annotation, value)

    assert written == form
    assert same(value, arrived)
    assert value == arrived


REFUSED: list[tuple[Any, Any, str]] = [
    (Line, msgspec.structs.replace(LINE, count="1"), "value.count: expected int, got str"),
    (Created, Deleted(DAY), "value: expected Created, got Deleted"),
    (Created | Deleted, None, "value: expected Created | Deleted, got None"),
    (Open, kept_beside(), "value: Open keeps 'memory' beside its fields, which would be lost"),
    (Open, emptied(), "value.value: expected int, got _MISSING_TYPE"),
    (Trimmed, changed(" a"), "value.text: would not arrive as it is: its __post_init__ changes it"),
    (Trimmed, changed("a", words=["c", "b"]),
     "value.words[0]: would not arrive as it is: its __post_init__ changes it"),
    (Trimmed, Trimmed("a", [], changed(" b")),
     "value.next.text: would not arrive as it is: its __post_init__ changes it"),
    (Trimmed, changed("", words=["hunter2"]),
     "value: Trimmed would not be read: Trimmed cannot be made: ValueError"),
    (Any, LINE, "value: expected a JSON value, got Line; annotate it as Line, or convert it"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "text"), REFUSED)
def test_a_struct_that_would_arrive_changed_is_refused(annotation: Any, value: Any, text: str) -> None:
    error = refusal(signature_of(annotation).encode, (value,), {})

    assert str(error) == text


def test_reading_back_leaves_the_value_of_the_caller_alone() -> None:
    words = ["b", "a"]
    value = changed("a", words=words)

    assert refusal(signature_of(Trimmed).encode, (value,), {})
    assert words == ["b", "a"]


@pytest.mark.parametrize(
    ("annotation", "form", "text"),
    [
        (Line, {"articleNo": 1, "on_day": "2024-01-02"}, "value.values()[1]: Line has no such key"),
        (Line, {"articleNo": 1}, "value: Line lacks 'onDay'"),
        (
            Created,
            {"type": "Deleted", "at": "2024-01-02"},
            "value.type: expected Literal['Created'], got str",
        ),
        (Created | Deleted, {"at": "2024-01-02"}, "value: expected Created | Deleted, got dict"),
        (
            Numbered | Lettered,
            {"kind": 7.0, "at": "2024-01-02"},
            "value: expected Numbered | Lettered, got dict",
        ),
        (Trimmed, {"text": ""}, "value: Trimmed cannot be made: ValueError"),
    ],
)
def test_an_object_that_is_no_such_struct_is_not_read(annotation: Any, form: Any, text: str) -> None:
    error = refusal(signature_of(annotation).decode, [form], {})

    assert str(error) == text


def test_a_field_or_tag_that_the_sender_did_not_know_takes_its_default() -> None:
    form = {"articleNo": 7, "onDay": "2024-01-02", "notes": ["a"]}

    assert signature_of(Line).decode([form], {})[0] == (LINE,)
    assert signature_of(Created).decode([{"at": "2024-01-02"}], {})[0] == (Created(DAY),)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Patch, r"Patch.name is str \| msgspec.UnsetType: UnsetType has no exact form"),
        (Bad, "Bad.number is complex: complex has no exact form"),
        (Box[int], r"Box\[int\] has no exact form"),
        (Open | Twin, "Open and Twin look alike in JSON"),
        (Created | dict[str, int], "Created and dict look alike in JSON"),
    ],
)
def test_what_no_struct_can_carry_is_refused_at_the_decorator(annotation: Any, text: str) -> None:
    with pytest.raises(TaskDefinitionError, match=text):
        signature_of(annotation)
