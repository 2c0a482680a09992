"""Pydantic models as arguments: what arrives is the same model, or the caller is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID, uuid4

import orjson
import pytest
from pydantic import (
    AliasPath,
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass

from qtasks.errors import EncodeError, TaskDefinitionError
from tests.support import ROOT
from tests.support.typed_values import refusal, same, signature_of, through_json

T = TypeVar("T")
LEFT_OUT = (
    "would not arrive as it is: Pydantic leaves it out, as a secret or private attribute, "
    "or a serializer or validator changes it"
)


class Item(BaseModel):
    name: str
    price: Decimal = Decimal("1.50")
    tags: set[int] = set()


class Order(BaseModel):
    id: UUID = Field(default_factory=uuid4)
    items: list[Item]
    at: datetime
    url: AnyUrl | None = None
    more: Any = None

    @computed_field  # type: ignore[prop-decorator] # mypy knows no decorated properties
    @property
    def count(self) -> int:
        return len(self.items)

    @cached_property
    def names(self) -> list[str]:
        return [each.name for each in self.items]


class Heir(Item):
    size: int = 1


class Aliased(BaseModel):
    first: int = Field(alias="First")
    second: int = Field(validation_alias=AliasPath("x", "y"), serialization_alias="Second")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    first: int


class Strict(BaseModel, strict=True, frozen=True):
    day: date
    row: tuple[int, ...]
    ids: frozenset[UUID]


class Box(BaseModel, Generic[T]):
    value: T


class Items(RootModel[list[Item]]):
    pass


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    lives: int


class Tree(BaseModel):
    leaf: int = 0
    branches: list[Tree] = []


class Account(BaseModel):
    name: str
    password: SecretStr | None = None


class Counting(BaseModel):
    first: int
    _seen: int = PrivateAttr(default=0)

    def look(self) -> Counting:
        self._seen += 1
        return self


class Child(BaseModel):
    first: int = 0
    _parent: Parent | None = None


class Parent(BaseModel):
    child: Child

    def model_post_init(self, _context: object) -> None:
        self.child._parent = self


class Tagless(BaseModel):
    kind: Literal["cat"] = "cat"

    @field_serializer("kind")
    def write(self, kind: str) -> list[str]:
        return [kind]


class Excluding(BaseModel):
    first: int = Field(default=1, exclude=True)


class Shouting(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def shout(cls, text: str) -> str:
        return f"{text}!"


class Rounding(BaseModel):
    price: float

    @field_serializer("price")
    def write(self, price: float) -> float:
        return round(price, 1)


class Bare(BaseModel):
    first: int

    @model_serializer
    def write(self) -> int:
        return self.first


class Failing(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def check(cls, text: str) -> str:
        if text == "hunter2":
            raise KeyError(text)
        return text


class Coded(BaseModel):
    payload: Json[list[int]]
    either: datetime | date | str = ""
    number: int | float | str = 0


@pydantic_dataclass
class Checked:
    first: int
    second: int = Field(default=3, gt=1)


@dataclass
class Holder:
    item: Item | None


class Unfinished(BaseModel):
    later: Later


AT = datetime(2024, 1, 2, tzinfo=UTC)
ORDER = Order(items=[Item(name="tea"), Item(name="cup", tags={1, 2})], at=AT, url=AnyUrl("http://x.example"))
assert ORDER.names == ["tea", "cup"]


def value_of(kind: Any, /, **members: Any) -> Any:
    """Make a model that no validator has seen."""
    return kind.model_construct(**members)


EXACT: list[tuple[Any, Any]] = [
    (Order, ORDER),
    (list[Order] | None, [ORDER]),
    (dict[str, Item], {"a": Item(name="tea")}),
    (Holder, Holder(Item(name="tea"))),
    (Aliased, Aliased.model_validate({"First": 1, "x": {"y": 2}})),
    (Open, Open.model_validate({"first": 1, "other": [1, "a"]})),
    (Strict, Strict(day=AT.date(), row=(1, 2), ids=frozenset({UUID(int=1)}))),
    (frozenset[Strict], frozenset({Strict(day=AT.date(), row=(), ids=frozenset())})),
    (Box[int], Box[int](value=1)),
    (Box[Box[date]], Box[Box[date]](value=Box[date](value=AT.date()))),
    (Box, Box(value="a")),
    (Items, Items([Item(name="tea"), Item(name="cup", price=Decimal(2), tags=set())])),
    (Cat | Dog | None, Dog(lives=1)),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Cat(lives=9)),
    (Tree, Tree(branches=[Tree(leaf=1), Tree(branches=[Tree()])])),
    (Account, Account(name="ann")),
    (Counting, Counting(first=1)),
    (Excluding, Excluding()),
    (Coded, Coded.model_validate({"payload": "[1, 2]", "either": AT.date(), "number": 1.0})),
    (Coded, Coded.model_validate({"payload": "[1, 2]", "either": AT, "number": 1})),
    (Checked, Checked(first=1)),
]


@pytest.mark.parametrize(("annotation", "value"), EXACT)
def test_a_model_arrives_equal_also_in_which_fields_were_set(annotation: Any, value: Any) -> None:
    _, arrived = through_json(annotation, value)

    assert arrived == value
    assert same(value, arrived)


def test_a_model_is_written_by_the_names_of_its_fields() -> None:
    assert through_json(Aliased, Aliased.model_validate({"First": 1, "x": {"y": 2}}))[0] == {
        "first": 1,
        "second": 2,
    }
    assert through_json(Tree, Tree(branches=[Tree(leaf=1)]))[0] == {
        "leaf": 0,
        "branches": [{"leaf": 1, "branches": []}],
        "$unset": [["leaf"], ["branches"]],
    }
    assert through_json(Items, Items([Item(name="a")]))[0] == {
        "$root": [{"name": "a", "price": "1.50", "tags": []}],
        "$unset": [[], ["price", "tags"]],
    }


def test_a_plain_object_is_read_as_a_model() -> None:
    arrived = signature_of(Item).decode([{"name": "tea"}], {})[0][0]

    assert arrived == Item(name="tea")


REFUSED: list[tuple[Any, Any, str]] = [
    (Item, Heir(name="tea"), "value: expected Item, got Heir"),
    (Items, [Item(name="tea")], "value: expected Items, got list"),
    (Box[int], Box(value=1), "value: expected Box[int], got Box"),
    (Order, Order(items=[Heir(name="tea")], at=AT), f"value.items[0]: {LEFT_OUT}"),
    (Account, Account(name="ann", password=SecretStr("hunter2")), f"value.password: {LEFT_OUT}"),
    (Counting, Counting(first=1).look(), f"value.__pydantic_private__.values()[0]: {LEFT_OUT}"),
    (Excluding, Excluding(first=2), f"value.first: {LEFT_OUT}"),
    (Shouting, Shouting(text="a"), f"value.text: {LEFT_OUT}"),
    (Rounding, Rounding(price=1.25), f"value.price: {LEFT_OUT}"),
    (Order, Order(items=[], at=AT, more=(1, 2)), f"value.more: {LEFT_OUT}"),
    (Order, Order(items=[], at=AT, more=float("nan")), f"value.more: {LEFT_OUT}"),
    (Order, Order(items=[], at=AT, more=2**70),
     "value.more: int of 71 bits is outside -2**63 .. 2**63-1; pass a Decimal or a str"),
    (Order, Order(items=[], at=AT, more="\ud800"),
     "value.more: str holds a lone surrogate, which JSON cannot carry; pass bytes"),
    (Order, Order(items=[], at=AT, more=object()),
     "value: Order cannot be written: PydanticSerializationError"),
    (Open, Open.model_validate({"first": 1, "at": AT}), f"value.model_extra.values()[0]: {LEFT_OUT}"),
    (Open, Open.model_validate({"first": 1, "$unset": 1}),
     "value: a key of a model cannot be '$unset' or '$root'"),
    (Item, value_of(Item, name="tea", price=1), "value: Item cannot be written: PydanticSerializationError"),
    (Item, value_of(Item, name=5), "value: Item cannot be written: PydanticSerializationError"),
    (Item, value_of(Item, price=Decimal(1)),
     "value: Item would not be read: Item is not valid: 1 errors, such as 'missing'"),
    (Rounding, value_of(Rounding, price=1), f"value.price: {LEFT_OUT}"),
    (Cat | Dog, value_of(Dog, kind="cat", lives=1),
     "value: Dog is not written as an object with its fields, by its serializer"),
    (Tagless | Dog, Tagless(),
     "value: Tagless is not written as an object with its fields, by its serializer"),
    (Parent, Parent(child=Child()), "value: Parent contains itself, perhaps in a private attribute"),
    (Bare, Bare(first=1), "value: Bare is not written as an object with its fields, by its serializer"),
    (Failing, value_of(Failing, text="hunter2"),
     "value: Failing would not be read: Failing is not valid: KeyError"),
    (Coded, Coded.model_validate({"payload": "[]", "either": "2024-01-02"}), f"value.either: {LEFT_OUT}"),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value", "text"), REFUSED)
def test_a_model_that_would_arrive_changed_is_refused(annotation: Any, value: Any, text: str) -> None:
    error = refusal(signature_of(annotation).encode, (value,), {})

    assert str(error) == text


def test_a_model_nested_deeper_than_a_hundred_levels_is_refused() -> None:
    tree = Tree()
    for _ in range(60):
        tree = Tree(branches=[tree])

    assert "nested deeper than 100 levels" in str(refusal(signature_of(Tree).encode, (tree,), {}))


@pytest.mark.parametrize(
    ("annotation", "form", "text"),
    [
        (Item, {"name": "hunter2", "price": "x", "tags": ["y"]}, "2 errors, such as 'decimal_parsing'"),
        (Failing, {"text": "hunter2"}, "Failing is not valid: KeyError"),
        (Item, {"name": "a", "$unset": [7]}, "Item is not valid: TypeError"),
        (Cat | Dog, {"lives": 1}, "expected Cat | Dog, got dict"),
        (Item, "hunter2", "Item is not valid: 1 errors, such as 'model_type'"),
    ],
)
def test_json_that_is_no_such_model_is_not_read_nor_shown(annotation: Any, form: Any, text: str) -> None:
    error = refusal(signature_of(annotation).decode, [form], {})

    assert text in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (BaseModel, "BaseModel itself has no fields; name the model"),
        (Item | Heir, "Item and Heir look alike in JSON"),
        (Items | None, "Items and None look alike in JSON"),
    ],
)
def test_a_model_that_cannot_be_told_from_others_is_refused_at_the_decorator(
    annotation: Any, text: str
) -> None:
    with pytest.raises(TaskDefinitionError, match=text):
        signature_of(annotation)


EARLY = signature_of(Unfinished)


class Later(BaseModel):
    first: int


def test_a_model_that_is_finished_after_the_decorator_is_found_at_the_first_call() -> None:
    value = Unfinished(later=Later(first=1))

    args, _ = EARLY.encode((value,), {})

    assert EARLY.decode(orjson.loads(orjson.dumps(args)), {})[0] == (value,)


def test_a_model_without_an_annotation_is_refused_with_advice() -> None:
    with pytest.raises(EncodeError, match="got Item; annotate it as Item, or convert it"):
        signature_of(Any).encode((Item(name="tea"),), {})


def test_neither_pydantic_nor_msgspec_is_loaded_for_tasks_that_need_neither() -> None:
    code = (
        "import sys, dataclasses; from qtasks.tasks.codec import compile_signature\n"
        "@dataclasses.dataclass\nclass Line:\n    count: int\n"
        "def task(line: Line) -> Line: ...\n"
        "print(compile_signature(task, name='task').encode((Line(1),), {}))\n"
        "print({'pydantic', 'msgspec'} & {*sys.modules})"
    )

    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert run.stdout.splitlines() == ["([{'count': 1}], {})", "set()"]
