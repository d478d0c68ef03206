"""Every request that Logeion knows can be refused, in every version, so that its sender reads the error."""

from __future__ import annotations

import pytest

from logeion.testing.answers import FETCH, METADATA, PRODUCE, refusal, refused_metadata, takes_no_answer
from logeion.wire.apis import (
    APIS,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    MetadataRequest,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
    ProduceRequest,
)
from logeion.wire.codec import decode_response, parse_header
from logeion.wire.fields import Struct
from tests.wire.samples import frame, full_message

CODE = 16  # NOT_COORDINATOR


def codes(message: object) -> list[int]:
    """All error codes in it."""
    found: list[int] = []
    if isinstance(message, Struct):
        for name in message.__struct_fields__:
            value = getattr(message, name)
            found += [value] if name == "error_code" else codes(value)
    elif isinstance(message, list):
        found = [code for one in message for code in codes(one)]
    return found


@pytest.mark.parametrize("key", sorted(APIS.keys() - {METADATA}), ids=lambda key: APIS[key].name)
def test_a_refusal_carries_the_error_in_every_version(key: int) -> None:
    api = APIS[key]
    for version in range(api.min_version, api.max_version + 1):
        asked = frame((key, version, "request"), full_message(api.request, version), 77)
        answer = refusal(parse_header(asked), asked, CODE)
        assert answer is not None, version
        assert int.from_bytes(answer[:4], "big") == len(answer) - 4
        correlation_id, decoded = decode_response(key, version, answer[4:])
        assert correlation_id == 77
        assert CODE in codes(decoded), (version, decoded)
        assert set(codes(decoded)) <= {CODE, 0}


def fetch(*topics: FetchTopic) -> bytes:
    return frame((FETCH, 12, "request"), FetchRequest(topics=list(topics)))


def test_a_refused_fetch_names_the_partitions_that_were_asked_for() -> None:
    asked = fetch(FetchTopic(topic="a", partitions=[FetchPartition(partition=3), FetchPartition(partition=5)]))
    answer = refusal(parse_header(asked), asked, 6)
    assert answer is not None
    _, decoded = decode_response(FETCH, 12, answer[4:])
    assert isinstance(decoded, FetchResponse)
    assert decoded.error_code == 0
    (topic,) = decoded.responses
    assert topic.topic == "a"
    assert [(p.partition_index, p.error_code, p.high_watermark) for p in topic.partitions] == [(3, 6, -1), (5, 6, -1)]


def test_a_fetch_of_nothing_is_not_refused_but_an_error_of_its_session_is_said_of_the_whole() -> None:
    asked = fetch()
    assert refusal(parse_header(asked), asked, 6) is None
    asked = fetch(FetchTopic(topic="a", partitions=[FetchPartition(partition=3)]))
    answer = refusal(parse_header(asked), asked, 70)
    assert answer is not None
    _, decoded = decode_response(FETCH, 12, answer[4:])
    assert isinstance(decoded, FetchResponse)
    assert (decoded.error_code, decoded.responses) == (70, [])


def test_refused_metadata_keeps_the_brokers() -> None:
    asked = frame((METADATA, 9, "request"), MetadataRequest(topics=None))
    topic = MetadataResponseTopic(name="a", partitions=[MetadataResponsePartition(partition_index=0, leader_id=1)])
    broker = MetadataResponseBroker(node_id=1, host="127.0.0.1", port=9092)
    told = frame((METADATA, 9, "response"), MetadataResponse(brokers=[broker], topics=[topic]))
    _, decoded = decode_response(METADATA, 9, refused_metadata(parse_header(asked), told, 5)[4:])
    assert isinstance(decoded, MetadataResponse)
    assert [one.port for one in decoded.brokers] == [9092]
    assert [(one.name, one.error_code, one.partitions) for one in decoded.topics] == [("a", 5, [])]


@pytest.mark.parametrize(("acks", "silent"), [(0, True), (1, False), (-1, False)])
def test_only_a_produce_with_acks_0_waits_for_no_answer(acks: int, silent: bool) -> None:
    asked = frame((PRODUCE, 9, "request"), ProduceRequest(acks=acks))
    assert takes_no_answer(parse_header(asked), asked) is silent
