"""The vocabulary of the schema: what a field's annotation may say.

A message is a class, and the class is its schema table for all versions at once:

    class FetchTopic(Struct):
        topic: Annotated[String, Until(12)] = ""
        topic_id: Annotated[Uuid, Since(13)] = ZERO_UUID
        partitions: list[FetchPartition] = []

Fields stand in the order of the wire. Without ``Since`` or ``Until`` a field is there in all versions that the API
table names. ``X | None`` is nullable in all versions of the field, or from the one ``Nullable`` names. ``Tagged``
fields travel at the struct's end and only if they differ from their default; a tagged *struct* is None when it was
not sent. A field that a version lacks is not encoded, and decodes to its default, which is Kafka's.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .buffers import Buffer


class Struct(msgspec.Struct, gc=False):
    """The root of all messages and their parts. Positional order is the wire's; callers use keywords."""


class Wire(msgspec.Struct, frozen=True):
    """How a value is written; the names are those of Kafka's protocol guide."""

    kind: str


class Since(msgspec.Struct, frozen=True):
    """The first version that has the field."""

    version: int


class Until(msgspec.Struct, frozen=True):
    """The last version that has the field."""

    version: int


class Nullable(msgspec.Struct, frozen=True):
    """The first version in which the field may be null."""

    version: int


class Tagged(msgspec.Struct, frozen=True):
    """A tagged field (KIP-482) with this number; before version ``since`` an ordinary one."""

    tag: int
    since: int = 0


Bool = Annotated[bool, Wire("bool")]
Int8 = Annotated[int, Wire("int8")]
Int16 = Annotated[int, Wire("int16")]
UInt16 = Annotated[int, Wire("uint16")]
Int32 = Annotated[int, Wire("int32")]
Int64 = Annotated[int, Wire("int64")]
String = Annotated[str, Wire("string")]
Bytes = Annotated[bytes, Wire("bytes")]

# Topic and directory ids: 32 lower-case hexadecimal digits, 16 bytes on the wire.
Uuid = Annotated[str, Wire("uuid")]
ZERO_UUID = "0" * 32

# Record batches as they were received (a view of the frame, never a copy) or are to be sent.
Records = Annotated[bytes | memoryview, Wire("records")]

# Record batches on their way out: also ranges of files, also in several pieces.
RecordsOut = Annotated[Buffer | list[Buffer], Wire("records")]
