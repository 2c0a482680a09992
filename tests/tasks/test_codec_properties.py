"""Whatever the annotations and the values: what a signature encodes comes back equal, and of equal type."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from qtasks.errors import TaskDefinitionError
from qtasks.tasks.codec import Signature, compile_signature
from tests.support import repeats
from tests.support.typed_values import JSON, TEXT, Typed, refusal, same, signature_of, typed

PARTS = 5


def signature_of_both(one: Typed, other: Typed) -> Signature:
    def task(first, /, second, *rest, named, **more):  # type: ignore[no-untyped-def] # they are put on below
        return first

    a, b = one.annotation, other.annotation
    task.__annotations__ = {"first": a, "second": b, "rest": a, "named": b, "more": a, "return": b}
    return compile_signature(task, name="task")


# In parts, as a test of more than three minutes is taken for one that hangs.
@pytest.mark.parametrize("_part", range(PARTS))
@settings(max_examples=repeats(20_000) // PARTS, suppress_health_check=[HealthCheck.too_slow])
@given(one=typed(), other=typed(depth=0), data=st.data())
def test_what_is_encoded_comes_back_equal_and_of_equal_type(
    _part: int, one: Typed, other: Typed, data: st.DataObject
) -> None:
    try:
        signature = signature_of_both(one, other)
    except TaskDefinitionError:
        assert not (one.is_certain and other.is_certain), (one.annotation, other.annotation)
        return
    is_right = data.draw(st.booleans())
    ones, others = (each.right if is_right else each.right | each.near for each in (one, other))
    args = (data.draw(ones), data.draw(others), *data.draw(st.lists(ones, max_size=1)))
    kwargs: dict[str, Any] = {"named": data.draw(others), "first": args[0]}

    if error := refusal(signature.encode, args, kwargs):
        assert error.path.startswith(("first", "second", "rest", "named"))
        assert not (is_right and one.is_certain and other.is_certain), (
            one.annotation,
            other.annotation,
            error,
        )
        event("refused")
        return
    event("carried")
    text = orjson.dumps(signature.encode(args, kwargs))
    arrived = signature.decode(*orjson.loads(text))

    widened = one.has_float or other.has_float
    assert same((args, kwargs), arrived, widened=widened), (one.annotation, other.annotation, args, arrived)
    result = orjson.loads(orjson.dumps(signature.encode_result(kwargs["named"])))
    assert same(kwargs["named"], signature.decode_result(result), widened=widened)


@given(JSON)
def test_a_json_value_is_refused_exactly_when_orjson_would_change_it(value: Any) -> None:
    try:
        kept = same(orjson.loads(orjson.dumps(value)), value)
    except TypeError:
        kept = False

    error = refusal(signature_of(Any).encode, (value,), {})

    # Up to 2**64-1 orjson keeps an int, but many others that read JSON do not.
    assert kept if error is None else not kept or "outside -2**63" in str(error)


@given(typed(), JSON)
def test_any_json_is_read_as_the_annotation_says_or_refused(one: Typed, form: Any) -> None:
    try:
        signature = signature_of(one.annotation)
    except TaskDefinitionError:
        return

    if error := refusal(signature.decode, [form], {}):
        assert error.path.startswith("value")
        return
    (arrived,), _ = signature.decode([form], {})
    error = refusal(signature.encode, (arrived,), {})

    # What can be read can be written, but for what only another writer of JSON can have made.
    foreign = ("outside -2**63", "surrogate", "has no form in JSON")
    assert error is None or not one.is_certain or any(text in str(error) for text in foreign)


@given(TEXT)
def test_no_refusal_shows_the_text_of_a_value(text: str) -> None:
    marked = f"\x1f{text}\x1f"

    for annotation, value in ((int, marked), (dict[str, int], {marked: marked}), (Any, {marked: {marked}})):
        error = refusal(signature_of(annotation).encode, (value,), {})

        assert error is not None
        assert "\x1f" not in f"{error}{error.path}"
