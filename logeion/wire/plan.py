"""Reads the schema off the message classes: which fields a version has, in which order and form."""

from __future__ import annotations

import types
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from .fields import Nullable, Since, Struct, Tagged, Until, Wire

# Bytes of the kinds that have a fixed size, and their struct format.
FIXED = {"bool": "?", "int8": "b", "int16": "h", "uint16": "H", "int32": "i", "int64": "q", "uuid": "16s"}
FIXED_SIZE = {"bool": 1, "int8": 1, "int16": 2, "uint16": 2, "int32": 4, "int64": 8, "uuid": 16}


class Field(msgspec.Struct, frozen=True):
    """One field in one version. ``kind`` is a wire kind or "struct"; of an array, that of its elements."""

    name: str
    kind: str
    struct: type[Struct] | None
    array: bool
    nullable: bool
    tag: int | None
    present: bool
    default: Any


def fields_of(struct: type[Struct], version: int) -> list[Field]:
    """All fields of the class in the wire's order, those that the version lacks marked as not present."""
    return [_in_version(entry, version) for entry in _entries(struct)]


def ordered(fields: list[Field]) -> tuple[list[Field], list[Field]]:
    """The fields that are there: the ordinary ones in order, and the tagged ones by tag."""
    present = [field for field in fields if field.present]
    tagged = sorted((field for field in present if field.tag is not None), key=lambda field: field.tag or 0)
    return [field for field in present if field.tag is None], tagged


def size_min(field: Field, version: int, flexible: bool) -> int:
    """The fewest bytes one value of an array takes: what bounds a claimed count by the bytes that are there."""
    if field.struct is not None:
        plain, _ = ordered(fields_of(field.struct, version))
        return sum(_value_min(part, version, flexible) for part in plain) + flexible
    if field.kind in FIXED_SIZE:
        return FIXED_SIZE[field.kind]
    return 1 if flexible else 2 if field.kind == "string" else 4


def _value_min(field: Field, version: int, flexible: bool) -> int:
    if field.array:
        return 1 if flexible else 4
    if field.struct is not None and field.nullable:
        return 1
    return size_min(field, version, flexible)


class _Entry(msgspec.Struct, frozen=True):
    """A field as its class declares it."""

    name: str
    kind: str
    struct: type[Struct] | None
    array: bool
    optional: bool
    marks: tuple[Any, ...]
    default: Any


def _in_version(entry: _Entry, version: int) -> Field:
    first, last, nullable_from, tag = 0, 32767, 0, None
    for mark in entry.marks:
        match mark:
            case Since():
                first = mark.version
            case Until():
                last = mark.version
            case Nullable():
                nullable_from = mark.version
            case Tagged():
                tag = mark.tag if version >= mark.since else None
    # A tagged struct is None when it was not sent; it is not nullable on the wire.
    sent_or_none = tag is not None and entry.struct is not None and not entry.array
    return Field(
        name=entry.name,
        kind=entry.kind,
        struct=entry.struct,
        array=entry.array,
        nullable=entry.optional and version >= nullable_from and not sent_or_none,
        tag=tag,
        present=first <= version <= last,
        default=entry.default,
    )


@cache
def _entries(struct: type[Struct]) -> tuple[_Entry, ...]:
    hints = get_type_hints(struct, include_extras=True)
    return tuple(_entry(field, hints[field.name]) for field in msgspec.structs.fields(struct))


def _entry(field: msgspec.structs.FieldInfo, hint: Any) -> _Entry:
    hint, marks = _unwrap(hint)
    kind = _kind(marks)
    optional = array = False
    if kind is None and get_origin(hint) in (Union, types.UnionType):
        optional = True
        (hint,) = (part for part in get_args(hint) if part is not type(None))
        hint, inner = _unwrap(hint)
        kind = _kind(inner)
    if kind is None and get_origin(hint) is list:
        array = True
        hint, inner = _unwrap(get_args(hint)[0])
        kind = _kind(inner)
    default = field.default
    if default is msgspec.NODEFAULT:
        default = [] if field.default_factory is list else msgspec.NODEFAULT
    return _Entry(
        name=field.name,
        kind=kind or "struct",
        struct=None if kind else hint,
        array=array,
        optional=optional,
        marks=tuple(mark for mark in marks if not isinstance(mark, Wire)),
        default=default,
    )


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()


def _kind(marks: tuple[Any, ...]) -> str | None:
    return next((mark.kind for mark in marks if isinstance(mark, Wire)), None)
