"""Carries Pydantic models, and Pydantic's dataclasses, as Pydantic writes and reads them itself.

Loaded only where Pydantic is. Serializers and validators may do anything, so each value is read back in the
caller: what arrives is equal, also in which fields were set, or the call raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orjson import dumps
from pydantic import VERSION, BaseModel, RootModel, TypeAdapter, ValidationError
from pydantic.dataclasses import is_pydantic_dataclass
from pydantic.errors import PydanticUndefinedAnnotation

from qtasks.errors import DecodeError, EncodeError, TaskDefinitionError
from qtasks.tasks.checking import checked, opener
from qtasks.tasks.converters import FORMS, JSON, OBJECT, is_tagged, structure
from qtasks.tasks.scalars import Converter, wrong

LEAST = (2, 11)
_UNSET, _ROOT = "$unset", "$root"
_HINT = "Pydantic leaves it out, as a secret or private attribute, or a serializer or validator changes it"


def is_model(kind: type) -> bool:
    """Tell whether values of a type are models."""
    return issubclass(kind, BaseModel) or is_pydantic_dataclass(kind)


def model_fields(kind: type) -> dict[str, Any]:
    """Give the annotations of a model's fields."""
    if not issubclass(kind, BaseModel) or issubclass(kind, RootModel):
        return {}
    return {name: each.annotation for name, each in kind.model_fields.items()}


def model(kind: type, tags: Mapping[str, frozenset[object]]) -> Converter:
    """Convert a model; raises `TaskDefinitionError` if Pydantic is too old, or the model incomplete.

    Fields are written by their names, not their aliases, and computed ones not at all.
    """
    adapter = _adapter(kind)
    is_root = issubclass(kind, RootModel)
    label = kind.__name__
    # The fields are known to the paths of refusals, where other keys are not shown.
    written = JSON if is_root else structure(dict, dict.fromkeys(model_fields(kind), JSON), other=JSON)

    def encode(value: Any, depth: int) -> Any:
        if type(value) is not kind:
            raise wrong(EncodeError, label, value)
        try:
            form = adapter.dump_python(value, mode="json", by_alias=False, round_trip=True, warnings="error")
        except Exception as error:  # a serializer may raise anything
            raise EncodeError(f"{label} cannot be written: {type(error).__name__}") from error
        if not is_root and not (isinstance(form, dict) and is_tagged(form, tags)):
            raise EncodeError(f"{label} is not written as an object with its fields, by its serializer")
        return written.encode(_with_unset(form, value), depth)

    def decode(value: Any, depth: int) -> Any:
        form, unset = _without_unset(value)
        try:
            made = adapter.validate_json(dumps(form), by_alias=False, by_name=True)
            for each, names in zip(_models(made), unset, strict=False):
                each.model_fields_set.difference_update(names)
        except Exception as error:  # so may a validator
            raise DecodeError(f"{label} is not valid: {_reason(error)}") from error
        return made

    forms = FORMS if is_root else OBJECT
    return checked(Converter(label, encode, decode, frozenset({kind}), forms, tags=tags), _HINT)


def _adapter(kind: type) -> TypeAdapter[Any]:
    if tuple(int(part) for part in VERSION.split(".")[:2]) < LEAST:
        raise TaskDefinitionError(f"Pydantic {VERSION} is too old for models to travel; 2.11 is needed")
    if kind in (BaseModel, RootModel):
        raise TaskDefinitionError(f"{kind.__name__} itself has no fields; name the model")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        adapter.rebuild(raise_errors=True)
    except PydanticUndefinedAnnotation as error:
        raise TaskDefinitionError(
            f"an annotation of {kind.__qualname__} cannot be resolved: {error}"
        ) from NameError(str(error))
    return adapter


def _models(value: object) -> list[BaseModel]:
    """Give all models in a value, always in the same order."""
    kind: Any = type(value)
    opened = opener(kind)
    if opened is None:
        return []
    found = [value] if isinstance(value, BaseModel) else []
    for part in opened(value):
        found += _models(part)
    return found


def _with_unset(form: Any, value: object) -> Any:
    """Note in an object which fields were not set, for `exclude_unset`: a list for each model in it."""
    if isinstance(form, dict) and not form.keys().isdisjoint((_UNSET, _ROOT)):
        raise EncodeError(f"a key of a model cannot be {_UNSET!r} or {_ROOT!r}")
    unset = [sorted(type(each).model_fields.keys() - each.model_fields_set) for each in _models(value)]
    if not any(unset):
        return form
    return {**(form if isinstance(form, dict) else {_ROOT: form}), _UNSET: unset}


def _without_unset(form: Any) -> tuple[Any, list[list[str]]]:
    if not isinstance(form, dict) or _UNSET not in form:
        return form, []
    rest = {name: each for name, each in form.items() if name != _UNSET}
    return rest.get(_ROOT, rest), form[_UNSET]


def _reason(error: Exception) -> str:
    """Say what a validator finds, without the value."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{error.error_count()} errors, such as {first['type']!r}"
