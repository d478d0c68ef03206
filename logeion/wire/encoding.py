"""Compiles the encoder of one message in one version to straight-line Python.

The function made is ``encode(message, buffer: bytearray, out: list) -> bytearray``. It appends to the buffer and
returns the one to go on with: before records it puts the buffer and then the records, as they are, into ``out`` and
begins a new one. Adjacent fields of fixed size become one ``pack``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from .buffers import Buffer
from .error_base import EncodeError
from .fields import Struct
from .plan import FIXED, Field, fields_of, ordered
from .source import Source
from .varints import uvarint

Encoder = Callable[[Any, bytearray, list[Buffer]], bytearray]


def compile_encoder(message: type[Struct], version: int, flexible: bool) -> Encoder:
    """The encoder of this message in this version."""
    source = Source(f"encode_{message.__name__}_v{version}")
    writer = _Writer(source, version, flexible)
    writer.struct(message, "o")
    writer.flush()
    source.line("return b")
    encoder: Encoder = source.build("(o, b, out)")
    return encoder


def _uuid(text: str) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != 16:
        raise EncodeError(f"{text!r} is no id of 32 hexadecimal digits")
    return value


def _null(field: str) -> NoReturn:
    raise EncodeError(f"{field} is None, and may not be null in this version")


def _put_records(out: list[Buffer], buffer: bytearray, records: Buffer | list[Buffer]) -> bytearray:
    out.append(buffer)
    if type(records) is list:
        out.extend(records)
    else:
        out.append(records)  # type: ignore[arg-type]  # not a list, then one piece
    return bytearray()


_HELPERS = {
    "uuid": _uuid,
    "null": _null,
    "put_records": _put_records,
    "uvarint": uvarint,
    "pack": struct.pack,
}


class _Writer:
    """Emits the writing of values; ``flush`` must come before any line that touches the buffer."""

    def __init__(self, source: Source, version: int, flexible: bool) -> None:
        self.source = source
        self.version = version
        self.flexible = flexible
        self.buffer = "b"
        self.pending: list[tuple[str, str]] = []
        source.constants.update(_HELPERS)

    def fixed(self, layout: str, expression: str) -> None:
        self.pending.append((layout, expression))

    def flush(self) -> None:
        if not self.pending:
            return
        layout = self.source.layout("".join(layout for layout, _ in self.pending))
        name = self.source.constant(layout, "L")
        self.source.constants[f"{name}_p"] = layout.pack
        arguments = ", ".join(expression for _, expression in self.pending if expression)
        self.source.line(f"{self.buffer} += {name}_p({arguments})")
        self.pending.clear()

    def struct(self, message: type[Struct], value: str) -> None:
        plain, tagged = ordered(fields_of(message, self.version))
        for field in plain:
            self.field(message, field, f"{value}.{field.name}")
        if not self.flexible:
            return
        if tagged:
            self.tags(message, tagged, value)
        else:
            self.fixed("x", "")

    def field(self, message: type[Struct], field: Field, value: str) -> None:
        label = repr(f"{message.__name__}.{field.name}")
        if field.array:
            self.array(field, value, label)
        else:
            self.value(field, value, label, field.nullable)

    def value(self, field: Field, value: str, label: str, nullable: bool) -> None:
        if field.struct is not None:
            if nullable:
                self.nullable_struct(field, value)
            else:
                name = self.source.fresh("o")
                self.source.line(f"{name} = {value}")
                self.struct(field.struct, name)
        elif field.kind == "uuid":
            self.fixed("16s", f"uuid({value})")
        elif field.kind in FIXED:
            self.fixed(FIXED[field.kind], value)
        else:
            self.sized(field.kind, value, label, nullable)

    def length(self, layout: str, size: str) -> None:
        """A length or count; ``size`` names a variable that holds it, -1 for null."""
        if not self.flexible:
            self.fixed(layout, size)
            return
        self.flush()
        self.source.line(f"if {size} < 127: {self.buffer}.append({size} + 1)")
        self.source.line(f"else: {self.buffer} += uvarint({size} + 1)")

    def sized(self, kind: str, value: str, label: str, nullable: bool) -> None:
        line = self.source.line
        name, size = self.source.fresh("x"), self.source.fresh("n")
        line(f"{name} = {value}")
        if nullable:
            line(f"if {name} is None: {size} = -1; {name} = b''")
        else:
            line(f"if {name} is None: null({label})")
        line("else:" if nullable else "if True:")
        self.source.indent()
        if kind == "string":
            line(f"{name} = {name}.encode()")
        if kind == "records":
            line(f"{size} = sum(map(len, {name})) if type({name}) is list else len({name})")
        else:
            line(f"{size} = len({name})")
        self.source.dedent()
        self.length("h" if kind == "string" else "i", size)
        self.flush()
        if kind == "records":
            line(f"if {size} > 0: {self.buffer} = put_records(out, {self.buffer}, {name})")
        else:
            line(f"{self.buffer} += {name}")

    def nullable_struct(self, field: Field, value: str) -> None:
        assert field.struct is not None
        self.flush()
        name = self.source.fresh("o")
        self.source.line(f"{name} = {value}")
        self.source.line(f"if {name} is None: {self.buffer}.append(255)")
        self.source.line("else:")
        self.source.indent()
        self.fixed("b", "1")
        self.struct(field.struct, name)
        self.flush()
        self.source.dedent()

    def array(self, field: Field, value: str, label: str) -> None:
        line = self.source.line
        name, count = self.source.fresh("x"), self.source.fresh("n")
        line(f"{name} = {value}")
        if field.nullable:
            line(f"{count} = -1 if {name} is None else len({name})")
        else:
            line(f"if {name} is None: null({label})")
            line(f"{count} = len({name})")
        self.length("i", count)
        self.flush()
        line(f"if {count} > 0:")
        self.source.indent()
        if field.kind in FIXED and field.kind != "uuid":
            line(f"{self.buffer} += pack(f'>{{{count}}}{FIXED[field.kind]}', *{name})")
        else:
            element = self.source.fresh("o")
            line(f"for {element} in {name}:")
            self.source.indent()
            self.value(field, element, label, nullable=False)
            self.flush()
            self.source.dedent()
        self.source.dedent()

    def tags(self, message: type[Struct], tagged: list[Field], value: str) -> None:
        """The tagged section: what differs from its default, each field with its size before it."""
        line = self.source.line
        self.flush()
        names = {field.name: self.source.fresh("x") for field in tagged}
        for field in tagged:
            line(f"{names[field.name]} = {value}.{field.name}")
        differs = {field.name: self.differs(field, names[field.name]) for field in tagged}
        count = self.source.fresh("t")
        line(f"{count} = " + " + ".join(f"({test})" for test in differs.values()))
        line(f"{self.buffer}.append({count})")
        line(f"if {count}:")
        self.source.indent()
        outer, inner = self.buffer, self.source.fresh("c")
        for field in tagged:
            line(f"if {differs[field.name]}:")
            self.source.indent()
            line(f"{inner} = bytearray()")
            self.buffer = inner
            self.field(message, field, names[field.name])
            self.flush()
            self.buffer = outer
            line(f"{outer} += uvarint({field.tag}); {outer} += uvarint(len({inner})); {outer} += {inner}")
            self.source.dedent()
        self.source.dedent()

    def differs(self, field: Field, name: str) -> str:
        if field.default is None:
            return f"{name} is not None"
        assert field.default is not msgspec.NODEFAULT
        return f"{name} != {field.default!r}"
