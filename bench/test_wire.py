"""What the wire costs a request: ``python -m pytest bench/test_wire.py`` (needs pytest-benchmark).

Shapes are those of reference measurements: one batch of 64 KiB in a Produce or Fetch; Metadata of 3 brokers and
20 topics of 6 partitions with 3 replicas.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from logeion.wire.apis import (
    FetchableTopicResponse,
    FetchPartition,
    FetchRequest,
    FetchResponse,
    FetchTopic,
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
    PartitionData,
    PartitionProduceData,
    PartitionProduceResponse,
    ProduceRequest,
    ProduceResponse,
    Struct,
    TopicProduceData,
    TopicProduceResponse,
)
from logeion.wire.batch import check_produced, read_header, stamped, verify_crc
from logeion.wire.buffers import FileRange
from logeion.wire.codec import (
    RequestHeader,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    parse_header,
)
from logeion.wire.compression import CODECS, compress, decompress
from logeion.wire.records import Record, build_batch, read_records

BATCH = memoryview(build_batch([Record(0, 1_700_000_000_000, None, os.urandom(65_536))]))
RECORDS = [Record(i, 1_700_000_000_000 + i, b"key-%d" % i, os.urandom(50).hex().encode()) for i in range(500)]
TEXT = b"".join(b'{"user": %d, "event": "click", "page": "/item/%d"}\n' % (i % 997, i * 7) for i in range(1200))
TOPIC_ID = "0123456789abcdef" * 2


def joined(pieces: list[Any]) -> memoryview:
    return memoryview(b"".join(bytes(piece) for piece in pieces))[4:]


def asked(key: int, version: int) -> RequestHeader:
    return RequestHeader(key, version, 7, "bench", 0)


@pytest.mark.parametrize("version", [3, 9, 13])
def test_produce_header_and_decode(benchmark: Any, version: int) -> None:
    part = PartitionProduceData(index=0, records=BATCH)
    topic = TopicProduceData(name="orders", topic_id=TOPIC_ID, partition_data=[part])
    frame = joined(
        encode_request(0, version, 7, "bench", ProduceRequest(acks=-1, timeout_ms=30_000, topic_data=[topic]))
    )
    benchmark(lambda: decode_request(parse_header(frame), frame))


@pytest.mark.parametrize("version", [7, 11, 13])
def test_produce_response_build_and_encode(benchmark: Any, version: int) -> None:
    def answer() -> object:
        part = PartitionProduceResponse(index=0, base_offset=12_345, log_start_offset=0)
        body = ProduceResponse(responses=[TopicProduceResponse(name="orders", partition_responses=[part])])
        return encode_response(asked(0, version), body)

    benchmark(answer)


@pytest.mark.parametrize("version", [11, 12, 16])
def test_fetch_header_and_decode(benchmark: Any, version: int) -> None:
    part = FetchPartition(partition=0, fetch_offset=12_345, partition_max_bytes=1 << 20)
    topic = FetchTopic(topic="orders", topic_id=TOPIC_ID, partitions=[part])
    frame = joined(encode_request(1, version, 7, "bench", FetchRequest(max_wait_ms=500, min_bytes=1, topics=[topic])))
    benchmark(lambda: decode_request(parse_header(frame), frame))


@pytest.mark.parametrize("version", [11, 12, 16])
def test_fetch_response_build_and_encode(benchmark: Any, version: int) -> None:
    def answer() -> object:
        part = PartitionData(
            high_watermark=9, last_stable_offset=9, log_start_offset=0, records=FileRange(3, 0, 65_597)
        )
        return encode_response(
            asked(1, version), FetchResponse(responses=[FetchableTopicResponse("orders", partitions=[part])])
        )

    benchmark(answer)


def test_fetch_response_decode(benchmark: Any) -> None:
    part = PartitionData(high_watermark=9, records=BATCH)
    body = FetchResponse(responses=[FetchableTopicResponse("orders", partitions=[part])])
    frame = joined(encode_response(asked(1, 12), body))
    benchmark(lambda: decode_response(1, 12, frame))


def metadata() -> Struct:
    brokers = [MetadataResponseBroker(node_id=node, host=f"host-{node}", port=9092) for node in range(3)]
    topics = [
        MetadataResponseTopic(
            name=f"topic-{number}",
            topic_id=TOPIC_ID,
            partitions=[
                MetadataResponsePartition(
                    partition_index=index, leader_id=index % 3, replica_nodes=[0, 1, 2], isr_nodes=[0, 1, 2]
                )
                for index in range(6)
            ],
        )
        for number in range(20)
    ]
    return MetadataResponse(brokers=brokers, cluster_id="bench", topics=topics)


def test_metadata_response_encode(benchmark: Any) -> None:
    body = metadata()
    benchmark(lambda: encode_response(asked(3, 12), body))


def test_metadata_response_decode(benchmark: Any) -> None:
    frame = joined(encode_response(asked(3, 12), metadata()))
    benchmark(lambda: decode_response(3, 12, frame))


def test_batch_header(benchmark: Any) -> None:
    benchmark(lambda: read_header(BATCH))


def test_batch_crc(benchmark: Any) -> None:
    header = read_header(BATCH)
    benchmark(lambda: verify_crc(BATCH, header))


def test_batch_check_produced(benchmark: Any) -> None:
    benchmark(lambda: check_produced(BATCH, 1 << 20))


def test_batch_stamp(benchmark: Any) -> None:
    benchmark(lambda: stamped(BATCH, 12_345, 7))


def test_build_500_records(benchmark: Any) -> None:
    benchmark(lambda: build_batch(RECORDS))


def test_read_500_records(benchmark: Any) -> None:
    batch = build_batch(RECORDS)
    benchmark(lambda: read_records(batch, max_bytes=1 << 20))


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])
def test_compress_64k(benchmark: Any, name: str) -> None:
    benchmark(lambda: compress(CODECS[name], TEXT))


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])
def test_decompress_64k(benchmark: Any, name: str) -> None:
    packed = compress(CODECS[name], TEXT)
    benchmark(lambda: decompress(CODECS[name], packed, 1 << 20))
