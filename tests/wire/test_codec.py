"""The codec by itself: bytes that were worked out by hand, what it refuses, and what it never copies."""

from __future__ import annotations

import tracemalloc
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from logeion.wire.apis import (
    APIS,
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
    FetchableTopicResponse,
    FetchResponse,
    ListOffsetsRequest,
    MetadataRequest,
    MetadataRequestTopic,
    PartitionData,
    PartitionProduceData,
    ProduceRequest,
    Struct,
    TopicProduceData,
)
from logeion.wire.buffers import FileRange
from logeion.wire.codec import (
    RequestHeader,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    parse_header,
    unsupported_api_versions,
)
from logeion.wire.decoding import compile_decoder
from logeion.wire.encoding import compile_encoder
from logeion.wire.errors import (
    EncodeError,
    MalformedError,
    TruncatedError,
    UnknownApiError,
    UnknownVersionError,
    WireError,
)
from logeion.wire.fields import Int32, Tagged
from logeion.wire.varints import uvarint

from .samples import SLOTS, frame, full_message, message_class, slot_id


def joined(pieces: list[Any]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


def header(key: int, version: int) -> RequestHeader:
    return RequestHeader(key, version, 7, None, 0)


GOLDEN_REQUESTS = [
    # length, key, version, correlation, client id "c"
    (18, 0, ApiVersionsRequest(), "0000000b 0012 0000 00000007 0001 63"),
    # … header tags, name "n" and version "1" as compact strings, tags
    (
        18,
        3,
        ApiVersionsRequest(client_software_name="n", client_software_version="1"),
        "00000011 0012 0003 00000007 0001 63 00 02 6e 02 31 00",
    ),
    # … null array of topics: all of them
    (3, 1, MetadataRequest(topics=None), "0000000f 0003 0001 00000007 0001 63 ffffffff"),
    # … one topic: zero id, name "t", tags; auto-create, topic operations, tags
    (
        3,
        12,
        MetadataRequest(topics=[MetadataRequestTopic(name="t")], allow_auto_topic_creation=False),
        "00000023 0003 000c 00000007 0001 63 00 02 00000000000000000000000000000000 02 74 00 00 00 00",
    ),
    # … null transactional id, acks -1, 1 s, one topic, one partition 5, three bytes of records
    (
        0,
        3,
        ProduceRequest(
            acks=-1,
            timeout_ms=1000,
            topic_data=[TopicProduceData(name="t", partition_data=[PartitionProduceData(index=5, records=b"abc")])],
        ),
        "00000029 0000 0003 00000007 0001 63 ffff ffff 000003e8 00000001 0001 74 00000001 00000005 00000003 616263",
    ),
]


@pytest.mark.parametrize(("key", "version", "message", "expected"), GOLDEN_REQUESTS)
def test_requests_have_exactly_these_bytes(key: int, version: int, message: Struct, expected: str) -> None:
    raw = joined(encode_request(key, version, 7, "c", message))
    assert raw == bytes.fromhex(expected)
    assert decode_request(parse_header(raw[4:]), raw[4:]) == message


def test_responses_have_exactly_these_bytes() -> None:
    body = ApiVersionsResponse(api_keys=[ApiVersion(api_key=18, min_version=0, max_version=4)])
    assert joined(encode_response(header(18, 0), body)) == bytes.fromhex(
        "00000010 00000007 0000 00000001 0012 0000 0004"
    )
    # Flexible, and still no tags in the header: the client does not know us yet.
    assert joined(encode_response(header(18, 3), body)) == bytes.fromhex(
        "00000013 00000007 0000 02 0012 0000 0004 00 00000000 00"
    )
    fetched = FetchResponse(
        responses=[
            FetchableTopicResponse(
                topic="t",
                partitions=[PartitionData(high_watermark=9, last_stable_offset=9, log_start_offset=0, records=b"ab")],
            )
        ]
    )
    assert joined(encode_response(header(1, 12), fetched)) == bytes.fromhex(
        "0000003c 00000007 00 00000000 0000 00000000 02 02 74 02 00000000 0000"
        "0000000000000009 0000000000000009 0000000000000000 01 ffffffff 03 6162 00 00 00"
    )


def test_an_unknown_version_of_api_versions_is_answered_in_version_zero() -> None:
    asked = parse_header(bytes.fromhex("0012 0063 00000007 ffff 00"))
    assert (asked.api_version, asked.correlation_id) == (99, 7)
    raw = joined(unsupported_api_versions(asked.correlation_id))
    assert raw == bytes.fromhex("00000010 00000007 0023 00000001 0012 0000 0004")
    with pytest.raises(UnknownVersionError):
        decode_request(asked, b"")


def test_records_leave_as_they_are_and_arrive_as_views() -> None:
    piece = memoryview(b"x" * 1000)
    tail = FileRange(fd=3, position=4096, size=500)
    partitions = [
        PartitionData(partition_index=0, records=piece),
        PartitionData(partition_index=1, records=[tail, b"y" * 10]),
        PartitionData(partition_index=2, records=None),
    ]
    out = encode_response(header(1, 11), FetchResponse(responses=[FetchableTopicResponse("t", partitions=partitions)]))
    assert any(element is piece for element in out)
    assert any(element is tail for element in out)
    head = out[0]
    assert isinstance(head, bytearray)
    assert int.from_bytes(head[:4], "big") == sum(map(len, out)) - 4

    raw = frame((0, 9, "request"), full_message(ProduceRequest, 9))
    produce = decode_request(parse_header(raw), raw)
    assert isinstance(produce, ProduceRequest)
    records = produce.topic_data[0].partition_data[0].records
    assert isinstance(records, memoryview)
    assert records.obj is raw


@pytest.mark.parametrize("slot", SLOTS, ids=slot_id)
def test_every_proper_prefix_of_a_frame_is_refused(slot: tuple[int, int, str]) -> None:
    raw = frame(slot, full_message(message_class(slot), slot[1]))
    step = max(1, len(raw) // 60)
    for size in range(0, len(raw), step):
        with pytest.raises(WireError):
            decode(slot, raw[:size])


@pytest.mark.parametrize("slot", SLOTS, ids=slot_id)
def test_bytes_after_a_response_are_refused_and_after_a_request_ignored(slot: tuple[int, int, str]) -> None:
    raw = frame(slot, full_message(message_class(slot), slot[1]))
    if slot[2] == "request":
        assert decode(slot, raw + bytes(3)) == decode(slot, raw)
    else:
        with pytest.raises(MalformedError, match="left over"):
            decode(slot, raw + b"\0")


def test_librdkafkas_metadata_request_for_all_topics_is_understood() -> None:
    # captured from librdkafka 2.16: it reserves four bytes for the length of the list, and uses one
    raw = bytes.fromhex("0003000d00000003000772646b61666b610000000000010000")
    assert decode_request(parse_header(raw), raw) == MetadataRequest(topics=None, allow_auto_topic_creation=False)


def decode(slot: tuple[int, int, str], raw: bytes | memoryview) -> Struct:
    if slot[2] == "request":
        return decode_request(parse_header(raw), raw)
    return decode_response(slot[0], slot[1], raw)[1]


def with_unknown_tags(struct: type[Struct]) -> type[Struct]:
    """The same message from a future version of Kafka: every struct in it has two more tagged fields."""
    known = _FUTURE.get(struct)
    if known is not None:
        return known
    hints = get_type_hints(struct, include_extras=True)
    fields: list[Any] = []
    for field in msgspec.structs.fields(struct):
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory
        value = default if field.default is not msgspec.NODEFAULT else msgspec.field(default_factory=default)
        fields.append((field.name, _future(hints[field.name]), value))
    fields.append(("low_tag", Annotated[Int32, Tagged(31)], 5))
    fields.append(("high_tag", Annotated[Int32, Tagged(70_000)], 6))
    made: type[Struct] = msgspec.defstruct(struct.__name__, fields, bases=(Struct,))  # type: ignore[assignment]
    _FUTURE[struct] = made
    return made


_FUTURE: dict[type[Struct], type[Struct]] = {}


def _future(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Struct):
        return with_unknown_tags(hint)
    arguments = get_args(hint)
    if get_origin(hint) is Annotated:
        return Annotated[(_future(hint.__origin__), *hint.__metadata__)]
    if get_origin(hint) is list:
        return list[_future(arguments[0])]  # type: ignore[misc]
    if arguments and type(None) in arguments:
        return _future(arguments[0]) | None
    return hint


def copied(value: Any) -> Any:
    """The same values in the future's classes, whose extra fields differ from their defaults."""
    if isinstance(value, Struct):
        values = {name: copied(getattr(value, name)) for name in value.__struct_fields__}
        return with_unknown_tags(type(value))(**values, low_tag=-1, high_tag=1)
    return [copied(element) for element in value] if isinstance(value, list) else value


@pytest.mark.parametrize("slot", [slot for slot in SLOTS if APIS[slot[0]].flexible(slot[1])], ids=slot_id)
def test_tagged_fields_nobody_knows_are_skipped(slot: tuple[int, int, str]) -> None:
    struct, version = message_class(slot), slot[1]
    for message in (struct(), full_message(struct, version)):
        out: list[Any] = []
        buffer = compile_encoder(with_unknown_tags(struct), version, True)(copied(message), bytearray(), out)
        body = joined([*out, buffer])
        assert len(body) > len(frame(slot, message)) - 14
        decoded, end = compile_decoder(struct, version, True, 10_000)(memoryview(body), 0, len(body))
        assert (decoded, end) == (message, len(body))


def test_counts_are_held_against_the_bytes_that_are_there() -> None:
    # ListOffsets v1: replica id, then two billion topics
    raw = bytes.fromhex("0002 0001 00000007 ffff ffffffff 7fffffff")
    with pytest.raises(TruncatedError, match=r"ListOffsetsRequest\.topics: 2147483647 elements"):
        decode_request(parse_header(raw), raw)
    # the same in a compact array, and a length of five full bytes
    raw = bytes.fromhex("0002 0006 00000007 ffff 00 ffffffff 00 ffffffff07")
    with pytest.raises(TruncatedError, match="2147483646 elements"):
        decode_request(parse_header(raw), raw)
    raw = bytes.fromhex("0002 0006 00000007 ffff 00 ffffffff 00 ffffffffff01")
    with pytest.raises(MalformedError, match="varint"):
        decode_request(parse_header(raw), raw)
    # Produce v3: records of two billion bytes, and of a negative length other than null
    raw = bytes.fromhex("0000 0003 00000007 ffff ffff ffff 000003e8 00000001 0001 74 00000001 00000005 7fffffff 61")
    with pytest.raises(TruncatedError, match=r"PartitionProduceData\.records"):
        decode_request(parse_header(raw), raw)


def test_a_large_frame_of_tiny_elements_is_refused_before_it_grows_tenfold() -> None:
    # Produce v9 with topics of three bytes each: an empty name, no partitions, no tags
    count = 3_000_000
    raw = bytes.fromhex("0000 0009 00000007 ffff 00 00 ffff 000003e8") + uvarint(count + 1) + b"\x01\x01\x00" * count
    tracemalloc.start()
    try:
        with pytest.raises(MalformedError, match="too many"):
            decode_request(parse_header(raw), raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_null_where_none_may_be_is_refused_both_ways() -> None:
    raw = bytes.fromhex("0002 0001 00000007 ffff ffffffff ffffffff")
    with pytest.raises(MalformedError, match=r"ListOffsetsRequest\.topics is null"):
        decode_request(parse_header(raw), raw)
    with pytest.raises(EncodeError, match="topics"):
        encode_request(2, 1, 7, None, ListOffsetsRequest(topics=None))  # type: ignore[arg-type]
    with pytest.raises(EncodeError):
        encode_request(2, 1, 7, None, ListOffsetsRequest(replica_id=1 << 31))


def test_what_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(UnknownApiError):
        parse_header(bytes.fromhex("7fff 0000 00000007 ffff"))
    with pytest.raises(UnknownVersionError, match="Produce version 2: we speak 3 to 13"):
        parse_header(bytes.fromhex("0000 0002 00000007 ffff"))
    with pytest.raises(UnknownVersionError):
        parse_header(bytes.fromhex("0001 ffff 00000007 ffff"))
    with pytest.raises(TruncatedError):
        parse_header(b"\0\0")
    with pytest.raises(TruncatedError, match="client id"):
        parse_header(bytes.fromhex("0001 0004 00000007 0100 61"))
    with pytest.raises(MalformedError, match="UTF-8"):
        parse_header(bytes.fromhex("0001 0004 00000007 0001 ff"))


def test_the_advertised_table_is_the_agreed_one() -> None:
    advertised = {api.key: (api.advertised_min, api.max_version) for api in APIS.values() if api.advertised}
    assert advertised == {
        0: (0, 13), 1: (4, 18), 2: (1, 11), 3: (0, 13), 8: (2, 10), 9: (1, 10), 10: (0, 6), 11: (0, 9), 12: (0, 4),
        13: (0, 5), 14: (0, 5), 15: (0, 6), 16: (0, 5), 18: (0, 4), 19: (2, 7), 20: (1, 6), 21: (0, 2), 22: (0, 5),
        23: (2, 4), 32: (1, 4), 33: (0, 2), 35: (1, 5), 37: (0, 3), 42: (0, 2), 43: (0, 2), 44: (0, 1), 45: (0, 1),
        46: (0, 0), 47: (0, 0), 55: (0, 2), 57: (0, 2), 60: (0, 2), 64: (0, 0), 68: (0, 1), 69: (0, 1), 75: (0, 0),
        80: (0, 1), 81: (0, 0),
    }  # fmt: skip
    assert APIS[0].min_version == 3
