"""Our codec against kafka-python's and kio's, for every (key, version) of the table, both ways.

What we encode they must read, field by field, and what they encode of it must be our bytes again (and so readable).
"""

from __future__ import annotations

import datetime
import enum
import importlib
import io
import pkgutil
import uuid
from functools import cache
from random import Random
from typing import Any

import kafka.protocol  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.protocol.api_message import ApiMessage  # type: ignore[import-untyped]
from kio.index import load_payload_module
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType

from logeion.wire.apis import APIS, ZERO_UUID, ApiVersionsResponse, Struct
from logeion.wire.codec import RequestHeader, decode_request, decode_response, parse_header
from logeion.wire.plan import fields_of

from .samples import SLOTS, bare_message, frame, full_message, message_class, random_message, slot_id

pytestmark = pytest.mark.oracle

EXAMPLES = 8


def ours_back(slot: tuple[int, int, str], raw: bytes) -> Struct:
    key, version, kind = slot
    if kind == "request":
        header = parse_header(raw)
        assert (header.api_key, header.api_version, header.client_id) == (key, version, "tester")
        return decode_request(header, raw)
    return decode_response(key, version, raw)[1]


def body_of(slot: tuple[int, int, str], raw: bytes) -> bytes:
    """The frame without its header, whose size is known from what we wrote into it."""
    key, version, kind = slot
    flexible = APIS[key].flexible(version)
    if kind == "request":
        return raw[10 + len("tester") + flexible :]
    return raw[4 + (flexible and key != 18) :]


@cache
def kafka_python_classes() -> dict[tuple[int, str], Any]:
    for module in pkgutil.walk_packages(kafka.protocol.__path__, "kafka.protocol."):
        if ".old" not in module.name and "generate" not in module.name and "schemas" not in module.name:
            importlib.import_module(module.name)
    found: dict[tuple[int, str], Any] = {}
    todo: list[Any] = list(ApiMessage.__subclasses__())
    while todo:
        cls = todo.pop()
        todo += type.__subclasses__(cls)
        if getattr(cls, "_json", None) and cls._class_version is None:
            found.setdefault((cls.API_KEY, cls.type), cls)
    return found


def same(ours: Any, theirs: Any, version: int, path: str) -> None:
    """Asserts that two libraries' values mean the same, whatever types they chose."""
    if isinstance(ours, Struct):
        for field in fields_of(type(ours), version):
            if not field.present:
                continue
            value = getattr(ours, field.name)
            if value is None and field.struct is not None and field.tag is not None:
                continue  # not sent: they show a struct of defaults
            same(value, _attribute(theirs, field.name), version, f"{path}.{field.name}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), path
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            same(mine, other, version, f"{path}[{index}]")
    elif isinstance(ours, bytes | memoryview):
        assert bytes(ours) == bytes(theirs or b""), path
    else:
        assert ours == _plain(theirs, ours), path


def _attribute(theirs: Any, name: str) -> Any:
    for candidate in (name, name.removesuffix("_ms"), name.removeprefix("topic_"), name.removeprefix("cluster_")):
        if hasattr(theirs, candidate):
            return getattr(theirs, candidate)
    raise AssertionError(f"{type(theirs).__name__} has no {name}")


def _plain(value: Any, like: Any) -> Any:
    match value:
        case enum.Enum():
            return value.value
        case uuid.UUID():
            return value.hex
        case datetime.timedelta():
            return value // datetime.timedelta(milliseconds=1)
        case datetime.datetime():
            return (value - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(milliseconds=1)
        case set():
            bits = sum(1 << bit for bit in value)
            return bits - (1 << 32) if bits >> 31 else bits
        case None if like == -(1 << 31):
            return like  # no operations were asked for
        case None if like == ZERO_UUID:
            return ZERO_UUID
        case None if like == -1:
            return -1
    return value


def check_kafka_python(slot: tuple[int, int, str], message: Struct) -> None:
    key, version, kind = slot
    if isinstance(message, ApiVersionsResponse):
        message.error_code = 0  # with an error they always read version 0
    raw = frame(slot, message)
    assert ours_back(slot, raw) == message
    theirs = kafka_python_classes()[key, kind]
    body = body_of(slot, raw)
    decoded = theirs.decode(body, version=version)
    same(message, decoded, version, theirs.__name__)
    decoded._header = None  # their decoder leaves it out, their encoder asks for it
    assert bytes(decoded.encode(version=version)) == body


def check_kio(slot: tuple[int, int, str], message: Struct) -> None:
    key, version, kind = slot
    raw = frame(slot, message)
    assert ours_back(slot, raw) == message
    module = load_payload_module(key, version, EntityType[kind])  # type: ignore[arg-type]  # one of the two
    theirs = getattr(module, message_class(slot).__name__)
    body = body_of(slot, raw)
    decoded, size = entity_reader(theirs)(body, 0)
    assert size == len(body)
    same(message, decoded, version, theirs.__name__)
    out = io.BytesIO()
    entity_writer(theirs)(out, decoded)
    assert out.getvalue() == body


@pytest.mark.parametrize(
    "slot", [slot for slot in SLOTS if slot[0] in {key for key, _ in kafka_python_classes()}], ids=slot_id
)
def test_kafka_python_reads_and_repeats_what_we_write(slot: tuple[int, int, str]) -> None:
    check_kafka_python(slot, full_message(message_class(slot), slot[1]))
    check_kafka_python(slot, bare_message(message_class(slot), slot[1]))

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        check_kafka_python(slot, random_message(message_class(slot), slot[1], Random(seed)))

    check()


@pytest.mark.parametrize("slot", SLOTS, ids=slot_id)
def test_kio_reads_and_repeats_what_we_write(slot: tuple[int, int, str]) -> None:
    check_kio(slot, full_message(message_class(slot), slot[1]))
    check_kio(slot, bare_message(message_class(slot), slot[1]))

    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        check_kio(slot, random_message(message_class(slot), slot[1], Random(seed)))

    check()


def test_the_header_of_a_request_is_what_kafka_python_writes() -> None:
    for (key, kind), theirs in kafka_python_classes().items():
        if kind != "request" or key not in APIS:
            continue
        api = APIS[key]
        for version in (api.min_version, api.max_version):
            ask = theirs(version=version)
            ask.with_header(correlation_id=99, client_id="λ")
            header = parse_header(bytes(ask.encode(header=True)))
            assert header == RequestHeader(key, version, 99, "λ", header.body_at)
