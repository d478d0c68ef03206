"""Compiles the decoder of one message in one version to straight-line Python.

The function made is ``decode(data: memoryview, at: int, end: int) -> (message, position after it)``. Adjacent fields
of fixed size, and the length or count that follows them, become one ``unpack_from``; nested structs are unrolled in
place. Every length and count is held against what is left before anything is allocated for it, and all elements of
all arrays together against a limit: three bytes can make an element of a hundred. Reading past the end shows as
struct.error or IndexError, which ``codec`` turns into TruncatedError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from .error_base import MalformedError, TruncatedError
from .fields import Struct
from .plan import FIXED, Field, fields_of, ordered, size_min
from .source import Source
from .varints import read_uvarint, skip_tags

Decoder = Callable[[memoryview, int, int], tuple[Any, int]]


def compile_decoder(message: type[Struct], version: int, flexible: bool, elements_max: int) -> Decoder:
    """The decoder of this message in this version, for at most so many array elements in all."""
    source = Source(f"decode_{message.__name__}_v{version}")
    source.line(f"k = {elements_max}")
    writer = _Writer(source, version, flexible)
    value = writer.struct(message)
    writer.flush()
    source.line(f"return {value}, p")
    decoder: Decoder = source.build("(d, p, end)")
    return decoder


def _short(field: str, size: int, at: int, end: int) -> NoReturn:
    raise TruncatedError(f"{field}: {size} bytes announced at byte {at}, {end - at} left")


def _few(field: str, count: int, at: int, end: int) -> NoReturn:
    raise TruncatedError(f"{field}: {count} elements announced at byte {at}, {end - at} bytes left")


def _many(field: str, count: int) -> NoReturn:
    raise MalformedError(f"{field}: {count} elements more are too many for one message")


def _null(field: str, at: int) -> NoReturn:
    raise MalformedError(f"{field} is null at byte {at}, and may not be")


def _tag_size(tag: int, at: int, expected: int) -> NoReturn:
    raise MalformedError(f"tagged field {tag} ends at byte {at} instead of {expected}")


_HELPERS = {
    "short": _short,
    "few": _few,
    "many": _many,
    "null": _null,
    "tag_size": _tag_size,
    "read_uvarint": read_uvarint,
    "skip_tags": skip_tags,
    "unpack_from": struct.unpack_from,
}


class _Writer:
    """Emits the reading of values; ``flush`` must come before any line that needs ``p`` or a pending variable."""

    def __init__(self, source: Source, version: int, flexible: bool) -> None:
        self.source = source
        self.version = version
        self.flexible = flexible
        self.pending: list[tuple[str, str]] = []
        source.constants.update(_HELPERS)

    def fixed(self, layout: str, stem: str) -> str:
        name = self.source.fresh(stem)
        self.pending.append((layout, name))
        return name

    def flush(self) -> None:
        if not self.pending:
            return
        if [layout for layout, _ in self.pending] == ["B"]:
            self.source.line(f"{self.pending[0][1]} = d[p]; p += 1")
        else:
            layout = self.source.layout("".join(layout for layout, _ in self.pending))
            unpack = self.source.constant(layout, "L")
            self.source.constants[f"{unpack}_u"] = layout.unpack_from
            names = ", ".join(name for _, name in self.pending)
            self.source.line(f"{names}, = {unpack}_u(d, p); p += {layout.size}")
        self.pending.clear()

    def struct(self, message: type[Struct]) -> str:
        """Reads all fields; returns the expression that makes the struct of them."""
        fields = fields_of(message, self.version)
        plain, tagged = ordered(fields)
        values: dict[str, str] = {}
        for field in plain:
            values[field.name] = self.field(message, field)
        if self.flexible:
            self.tags(message, tagged, values)
        maker = self.source.constant(message, message.__name__)
        arguments = [values.get(field.name) or self.default(field) for field in fields]
        return f"{maker}({', '.join(arguments)})"

    def default(self, field: Field) -> str:
        if field.default is msgspec.NODEFAULT:
            assert field.struct is not None
            return f"{self.source.constant(field.struct, field.struct.__name__)}()"
        return repr(field.default)

    def field(self, message: type[Struct], field: Field) -> str:
        label = repr(f"{message.__name__}.{field.name}")
        if field.array:
            return self.array(field, label)
        return self.value(field, label, field.nullable)

    def value(self, field: Field, label: str, nullable: bool) -> str:
        """One value; returns the expression for it, valid once flushed."""
        if field.struct is not None:
            if nullable:
                return self.nullable_struct(field)
            return self.struct(field.struct)
        if field.kind in FIXED:
            name = self.fixed(FIXED[field.kind], "x")
            return f"{name}.hex()" if field.kind == "uuid" else name
        return self.sized(field.kind, label, nullable)

    def length(self, layout: str) -> str:
        """A length or count, -1 for null; ``p`` stands behind it."""
        if not self.flexible:
            name = self.fixed(layout, "n")
            self.flush()
            return name
        name = self.fixed("B", "n")
        self.flush()
        self.source.line(f"if {name} > 127: {name}, p = read_uvarint(d, {name}, p)")
        self.source.line(f"{name} -= 1")
        return name

    def sized(self, kind: str, label: str, nullable: bool) -> str:
        size = self.length("h" if kind == "string" else "i")
        line = self.source.line
        name = self.source.fresh("x")
        stop = self.source.fresh("q")
        line(f"if {size} < 0:")
        self.source.indent()
        line(f"{name} = None" if nullable else f"null({label}, p)")
        self.source.dedent()
        line("else:")
        self.source.indent()
        line(f"{stop} = p + {size}")
        line(f"if {stop} > end: short({label}, {size}, p, end)")
        piece = f"d[p:{stop}]"
        made = {"string": f"str({piece}, 'utf-8')", "bytes": f"bytes({piece})", "records": piece}[kind]
        line(f"{name} = {made}; p = {stop}")
        self.source.dedent()
        return name

    def nullable_struct(self, field: Field) -> str:
        assert field.struct is not None
        marker = self.fixed("b", "m")
        self.flush()
        name = self.source.fresh("x")
        self.source.line(f"if {marker} < 0: {name} = None")
        self.source.line("else:")
        self.source.indent()
        value = self.struct(field.struct)
        self.flush()
        self.source.line(f"{name} = {value}")
        self.source.dedent()
        return name

    def array(self, field: Field, label: str) -> str:
        line = self.source.line
        count = self.length("i")
        name = self.source.fresh("x")
        line(f"if {count} < 0:")
        self.source.indent()
        line(f"{name} = None" if field.nullable else f"null({label}, p)")
        self.source.dedent()
        line("else:")
        self.source.indent()
        smallest = size_min(field, self.version, self.flexible)
        assert smallest > 0, f"{label} has elements without bytes"
        line(f"if {count} * {smallest} > end - p: few({label}, {count}, p, end)")
        line(f"k -= {count}")
        line(f"if k < 0: many({label}, {count})")
        if field.kind in FIXED and field.kind != "uuid":
            line(f"{name} = list(unpack_from(f'>{{{count}}}{FIXED[field.kind]}', d, p)); p += {count} * {smallest}")
        else:
            line(f"{name} = []")
            line(f"for _ in range({count}):")
            self.source.indent()
            value = self.value(field, label, nullable=False)
            self.flush()
            line(f"{name}.append({value})")
            self.source.dedent()
        self.source.dedent()
        return name

    def tags(self, message: type[Struct], tagged: list[Field], values: dict[str, str]) -> None:
        """The tagged section that ends every struct of a flexible version."""
        count = self.fixed("B", "t")
        self.flush()
        line = self.source.line
        if not tagged:
            line(f"if {count}: p = skip_tags(d, {count}, p, end)")
            return
        for field in tagged:
            values[field.name] = self.source.fresh("x")
            line(f"{values[field.name]} = {self.default(field)}")
        tag, size, stop = (self.source.fresh(stem) for stem in ("t", "n", "q"))
        line(f"if {count}:")
        self.source.indent()
        line(f"if {count} > 127: {count}, p = read_uvarint(d, {count}, p)")
        line(f"if 2 * {count} > end - p: few('{message.__name__} tags', {count}, p, end)")
        line(f"for _ in range({count}):")
        self.source.indent()
        for name in (tag, size):
            line(f"{name} = d[p]; p += 1")
            line(f"if {name} > 127: {name}, p = read_uvarint(d, {name}, p)")
        line(f"{stop} = p + {size}")
        line(f"if {stop} > end: short('{message.__name__} tag', {size}, p, end)")
        branch = "if"
        for field in tagged:
            line(f"{branch} {tag} == {field.tag}:")
            self.source.indent()
            value = self.field(message, field)
            self.flush()
            line(f"{values[field.name]} = {value}")
            self.source.dedent()
            branch = "elif"
        line(f"else: p = {stop}")
        line(f"if p != {stop}: tag_size({tag}, p, {stop})")
        self.source.dedent()
        self.source.dedent()
