"""Typed topics: what keys and values are, and how they become bytes. Pure.

>>> import msgspec
>>> class Order(msgspec.Struct):
...     id: int
...     amount: float
>>> orders = Topic("orders", key=str, value=Order)
>>> orders.encode(Order(1, 9.5), "ada")
(b'{"id":1,"amount":9.5}', b'ada')
>>> orders.decode_value(b'{"id":2,"amount":1}')
Order(id=2, amount=1.0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, overload

import msgspec

from logeion.wire.errors import ConfigError
from logeion.wire.records import Record as RawRecord

from .errors import ClientError
from .positions import TopicPartition

K = TypeVar("K")
V = TypeVar("V")
Codec = Literal["json", "msgpack"]


class Record(msgspec.Struct, Generic[K, V], frozen=True):
    """One record as a topic's types say; ``timestamp_ms`` since 1970, headers in order and names may repeat."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: K | None
    value: V
    headers: list[tuple[str, bytes | None]]


class DecodeError(ClientError):
    """A record is not what its topic says. ``raw`` is the record as it was read, ``where`` its partition."""

    def __init__(self, where: TopicPartition, raw: RawRecord, message: str) -> None:
        super().__init__(
            f"{where.topic}[{where.partition}] offset {raw.offset}: {message}",
            'read on with Topic(…, on_decode_error="skip") or "dead-letter:<topic>"',
        )
        self.where = where
        self.raw = raw


class Topic(Generic[K, V]):
    """A topic's name with the types of its keys and values.

    ``bytes`` are themselves, ``str`` is UTF-8; everything else goes through ``codec``: JSON or MessagePack by msgspec,
    and pydantic's models (recognised by ``model_validate_json``) by their own JSON. No key is None. No value is a
    tombstone: it reads as None where the type allows None (or is bytes), and is a decode error elsewhere.

    ``on_decode_error``: "raise" stops before the record, "skip" leaves it out, "dead-letter:<topic>" publishes it there
    as it is, with headers that say where it stood and what was wrong, and goes on once that is acknowledged.
    """

    decode_key: Callable[[bytes], Any]

    @overload
    def __init__(self: Topic[bytes, bytes], name: str, *, codec: Codec = ..., on_decode_error: str = ...) -> None: ...

    @overload
    def __init__(
        self: Topic[K, bytes], name: str, *, key: type[K], codec: Codec = ..., on_decode_error: str = ...
    ) -> None: ...

    @overload
    def __init__(
        self: Topic[bytes, V], name: str, *, value: type[V], codec: Codec = ..., on_decode_error: str = ...
    ) -> None: ...

    @overload
    def __init__(
        self, name: str, *, key: type[K], value: type[V], codec: Codec = ..., on_decode_error: str = ...
    ) -> None: ...

    def __init__(
        self,
        name: str,
        *,
        key: Any = bytes,
        value: Any = bytes,
        codec: Codec = "json",
        on_decode_error: str = "raise",
    ) -> None:
        """Raises ConfigError: a type msgspec cannot encode, an unknown codec or policy."""
        if codec not in ("json", "msgpack"):
            raise ConfigError(f"codec={codec!r}: it is 'json' or 'msgpack'")
        policy, _, where = on_decode_error.partition(":")
        if policy not in ("raise", "skip", "dead-letter") or (policy == "dead-letter") != bool(where):
            raise ConfigError(f"on_decode_error={on_decode_error!r}: it is 'raise', 'skip' or 'dead-letter:<topic>'")
        self.name = name
        self.policy = policy
        self.dead_letters = where
        self._encode_key, self.decode_key = _coding(key, codec)
        self._encode_value, self._decode_value = _coding(value, codec)
        self._allows_none = value is bytes or _allows_none(value)
        self.is_raw: bool = key is bytes and value is bytes  # nothing is to be decoded

    def __repr__(self) -> str:
        return f"Topic({self.name!r})"

    def encode(self, value: V | None, key: K | None) -> tuple[bytes | None, bytes | None]:
        """(value, key) as bytes. Raises TypeError for what is not of the topic's types, or what the codec raises.

        Of a class the object is asked, not its fields: those of a Struct are its own business, as msgspec has it.
        """
        return (
            None if value is None else self._encode_value(value),
            None if key is None else self._encode_key(key),
        )

    def decode_value(self, data: bytes | None) -> Any:
        """Raises ValueError (msgspec's, pydantic's and that of str are all of this kind)."""
        if data is None:
            if self._allows_none:
                return None
            raise ValueError("there is no value (a tombstone), and the topic's type does not allow None")
        return self._decode_value(data)

    def read(self, where: TopicPartition, raw: RawRecord) -> Record[K, V]:
        """Raises DecodeError."""
        key: Any = raw.key
        value: Any = raw.value
        if self.is_raw:  # what most read
            return Record(where.topic, where.partition, raw.offset, raw.timestamp, key, value, raw.headers)
        part = "key"
        try:
            key = None if raw.key is None else self.decode_key(raw.key)
            part = "value"
            value = self.decode_value(raw.value)
        except ValueError as cause:
            raise DecodeError(where, raw, f"the {part} cannot be decoded: {cause}") from cause
        return Record(where.topic, where.partition, raw.offset, raw.timestamp, key, value, raw.headers)


def raw_topic(name: str) -> Topic[bytes, bytes]:
    """Bytes in, bytes out: what a plain topic name stands for."""
    return Topic(name)


def dead_letter_headers(error: DecodeError) -> list[tuple[str, bytes | None]]:
    """The record's own headers, then where it stood and what was wrong."""
    where, raw = error.where, error.raw
    return [
        *raw.headers,
        ("logeion.dead-letter.topic", where.topic.encode()),
        ("logeion.dead-letter.partition", b"%d" % where.partition),
        ("logeion.dead-letter.offset", b"%d" % raw.offset),
        ("logeion.dead-letter.error", str(error).encode()),
    ]


def _coding(kind: Any, codec: Codec) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    if kind is bytes:
        return _checked_bytes, bytes
    if kind is str:
        return _encode_text, _decode_text
    if hasattr(kind, "model_validate_json"):
        if codec != "json":
            raise ConfigError(f"{kind.__name__} is a pydantic model, which has JSON only, not {codec}")
        return _of_class(kind, lambda value: value.model_dump_json().encode()), kind.model_validate_json
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    try:
        if codec == "json":
            encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(kind).decode
        else:
            encode, decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(kind).decode
    except TypeError as cause:
        raise ConfigError(f"{kind!r} cannot be encoded as {codec}: {cause}") from cause
    if kind in (Any, object):
        return encode, decode
    try:
        plain = isinstance(kind, type) and not isinstance(None, kind)
    except TypeError:  # a TypedDict is a class that cannot be asked
        plain = False
    return (_of_class(kind, encode) if plain else _of_shape(kind, encode, decode)), decode


def _of_class(kind: Any, encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    # As type checkers have it, an int will do for a float; and True is no number, as its JSON is none either.
    also = int if kind is float else kind

    def encode_checked(value: Any) -> bytes:
        if type(value) is kind:
            return encode(value)
        if not isinstance(value, (kind, also)) or (isinstance(value, bool) and kind in (int, float)):
            raise TypeError(f"the topic's type is {_named(kind)}, not {type(value).__name__}")
        return encode(value)

    return encode_checked


def _of_shape(kind: Any, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> Callable[[Any], bytes]:
    """What is not a plain class is of the type if it can be read as one."""

    def encode_checked(value: Any) -> bytes:
        data = encode(value)
        try:
            decode(data)
        except msgspec.ValidationError as cause:
            raise TypeError(f"the topic's type is {_named(kind)}, not {type(value).__name__}: {cause}") from None
        return data

    return encode_checked


def _named(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)


def _checked_bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"bytes are needed, not {type(value).__name__}; a Topic(name, key=…, value=…) encodes other types")


def _encode_text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"the topic's type is str, not {type(value).__name__}")
    return value.encode()


def _decode_text(data: bytes) -> str:
    return bytes(data).decode()


def _allows_none(kind: Any) -> bool:
    if hasattr(kind, "model_validate_json") or kind is str:
        return False
    try:
        msgspec.convert(None, kind)
    except (msgspec.ValidationError, TypeError):
        return False
    return True
