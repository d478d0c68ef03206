"""What every foreign client does at its defaults: topics, codecs, keys, headers, timestamps, positions, sizes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.interop import raw
from tests.interop.clients import CODECS, Client, ProduceFailed, Record
from tests.interop.conftest import CLIENTS

MakeTopic = Callable[..., str]
ClientNamed = Callable[[str], Client]

EVERY = tuple(CLIENTS)
TOPIC_MAKERS = tuple(name for name in EVERY if name != "kcat")
MESSAGE_TOO_LARGE = 10
BASE_TIME = 1_600_000_000_000


def clients(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", names, indirect=True)


def samples() -> list[Record]:
    """Keys and none, values and none (never neither), headers and none, several lengths, rising timestamps."""
    records = []
    for i in range(40):
        records.append(
            Record(
                key=None if i % 4 == 0 else f"key-{i % 7}".encode(),
                value=None if i % 5 == 3 and i % 4 else f"value {i} ".encode() * (1 + i % 3 * 40),
                headers=() if i < 20 else (("trace", f"t{i // 10}".encode()), ("sort", b"\xc3\xa9clair")),
                timestamp=BASE_TIME + i * 1000,
            )
        )
    return records


def same(client: Client, sent: list[Record], got: list[Record]) -> None:
    assert [each.offset for each in got] == list(range(len(sent)))
    assert [(each.key, each.value, each.headers) for each in got] == [
        (each.key, each.value, each.headers) for each in sent
    ]
    if client.sets_timestamps:
        assert [each.timestamp for each in got] == [each.timestamp for each in sent]
    else:
        now = time.time() * 1000
        assert all(each.timestamp is not None and abs(now - each.timestamp) < 60_000 for each in got)


def wait_for_partitions(client: Client, topic: str, count: int) -> None:
    """Metadata may lag an answer by a moment, in Kafka too."""
    deadline = time.monotonic() + 10
    while (seen := client.partitions(topic)) != count:
        assert time.monotonic() < deadline, f"{client.name} sees {seen} partitions of {topic}, not {count}"
        time.sleep(0.05)


@clients(*TOPIC_MAKERS)
def test_a_topic_is_created_seen_written_read_and_deleted(client: Client, topic_name: str) -> None:
    client.create_topic(topic_name, 3, {"retention.ms": "3600000"})
    wait_for_partitions(client, topic_name, 3)
    client.produce(topic_name, 2, [Record(key=b"k", value=b"v")])
    reader = client.read(topic_name, 2, "start")
    try:
        (got,) = reader.take(1)
    finally:
        reader.close()
    assert (got.key, got.value, got.offset) == (b"k", b"v", 0)
    client.delete_topic(topic_name)
    wait_for_partitions(client, topic_name, 0)


@pytest.mark.parametrize("codec", CODECS)
@clients(*EVERY)
def test_every_codec_keeps_keys_values_headers_and_timestamps(
    client: Client, codec: str, make_topic: MakeTopic, bootstrap: str
) -> None:
    topic = make_topic()
    sent = samples()
    client.produce(topic, 0, sent, codec=codec)
    stored = {batch.codec for batch in raw.batches(bootstrap, topic, 0)}
    assert codec in stored
    assert stored <= {codec, "none"}  # a client leaves a batch that would only grow as it is
    reader = client.read(topic, 0, "start")
    try:
        same(client, sent, reader.take(len(sent)))
    finally:
        reader.close()


def test_what_one_client_wrote_every_other_reads(make_topic: MakeTopic, client_named: ClientNamed) -> None:
    """Each writes its own partition with a codec of its own; all others read it."""
    topic = make_topic(partitions=len(EVERY))
    sent = samples()
    for partition, name in enumerate(EVERY):
        client_named(name).produce(topic, partition, sent, codec=CODECS[partition % len(CODECS)])
    for partition, writer in enumerate(EVERY):
        for name in EVERY:
            if name != writer:
                reader = client_named(name).read(topic, partition, "start")
                try:
                    same(client_named(writer), sent, reader.take(len(sent)))
                finally:
                    reader.close()


@clients(*EVERY)
def test_an_idempotent_producer_with_five_in_flight_keeps_order(
    client: Client, make_topic: MakeTopic, bootstrap: str
) -> None:
    topic = make_topic()
    values = [f"{i:06d}".encode() for i in range(400)]
    client.produce_in_flight(topic, 0, values)
    stored = raw.batches(bootstrap, topic, 0)
    assert len(stored) > 5
    assert all(batch.magic == 2 and batch.producer_id >= 0 for batch in stored)
    reader = client.read(topic, 0, "start")
    try:
        got = [each.value for each in reader.take(len(values))]
        assert got == values if client.orders_concurrent_sends else sorted(got) == values
    finally:
        reader.close()


@pytest.fixture(scope="module")
def numbered(client_named: ClientNamed) -> str:
    """A topic of 100 records a second apart, read by every client from every kind of position."""
    maker = client_named("confluent-kafka")
    topic = f"interop-numbered-{time.time_ns()}"
    maker.create_topic(topic, 1, {"retention.ms": "-1"})
    for begin in range(0, 100, 10):  # several batches, so that a position can lie between and inside them
        run = [Record(value=str(i).encode(), timestamp=BASE_TIME + i * 1000) for i in range(begin, begin + 10)]
        maker.produce(topic, 0, run)
    return topic


@pytest.mark.parametrize(
    ("at", "first"),
    [("start", 0), (0, 0), (37, 37), (99, 99), (f"@{BASE_TIME}", 0), (f"@{BASE_TIME + 41_500}", 42)],
    ids=["start", "offset 0", "offset 37", "last offset", "first time", "between two times"],
)
@clients(*EVERY)
def test_reading_starts_where_it_was_assigned(client: Client, numbered: str, at: int | str, first: int) -> None:
    reader = client.read(numbered, 0, at)
    try:
        got = reader.take(100 - first)
    finally:
        reader.close()
    assert [each.offset for each in got] == list(range(first, 100))
    assert [each.value for each in got] == [str(i).encode() for i in range(first, 100)]
    assert got[0].timestamp == BASE_TIME + first * 1000


@clients(*EVERY)
def test_reading_from_the_end_sees_only_what_is_written_later(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic()
    client.produce(topic, 0, [Record(value=b"before")])
    reader = client.read(topic, 0, "end")
    try:
        client.produce(topic, 0, [Record(value=b"after")])
        (got,) = reader.take(1)
    finally:
        reader.close()
    assert (got.value, got.offset) == (b"after", 1)


@clients(*EVERY)
def test_a_record_of_five_megabytes_where_the_topic_allows_it(client: Client, make_topic: MakeTopic) -> None:
    topic = make_topic(max_message_bytes=str(8 << 20))
    sent = [Record(value=b"small"), Record(value=b"0123456789abcde " * (5 << 16)), Record(value=b"small again")]
    client.produce(topic, 0, sent, max_bytes=8 << 20)
    reader = client.read(topic, 0, "start")
    try:
        assert [each.value for each in reader.take(3)] == [each.value for each in sent]
    finally:
        reader.close()


@clients(*EVERY)
def test_a_record_larger_than_the_topic_allows_is_refused_and_the_next_one_taken(
    client: Client, make_topic: MakeTopic
) -> None:
    topic = make_topic()
    with pytest.raises(ProduceFailed) as refused:
        client.produce(topic, 0, [Record(value=b"0123456789abcde " * (2 << 16))], max_bytes=8 << 20)
    assert refused.value.code in (MESSAGE_TOO_LARGE, None)
    assert refused.value.code is not None or "large" in str(refused.value).lower()
    client.produce(topic, 0, [Record(value=b"fits")])
    reader = client.read(topic, 0, "start")
    try:
        assert reader.take(1)[0].value == b"fits"
    finally:
        reader.close()
