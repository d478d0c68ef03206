"""Addresses, partitioners, record bytes, positions, metadata and the retry rule."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from logeion.client.addresses import Address, parse_bootstrap
from logeion.client.errors import ConnectError, ConnectionLostError
from logeion.client.metadata import Metadata
from logeion.client.partitioner import by_murmur2, murmur2
from logeion.client.positions import Position, TopicPartition
from logeion.client.record_bytes import Encoded
from logeion.client.retries import advise, backoff_s
from logeion.errors import (
    ConfigError,
    LeaderNotAvailableError,
    MessageTooLargeError,
    NotLeaderOrFollowerError,
    UnknownTopicOrPartitionError,
)
from logeion.wire.apis import (
    MetadataResponse,
    MetadataResponseBroker,
    MetadataResponsePartition,
    MetadataResponseTopic,
)
from logeion.wire.batch import check_produced
from logeion.wire.records import Record, build_batch, read_records


@pytest.mark.parametrize("text", ["", ",", ":9092", "a:b", "a:0", "a:70000", "[::1", "[::1]9092"])
def test_a_bootstrap_address_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_bootstrap(text)


def test_bootstrap_addresses_are_names_or_numbers_with_or_without_port() -> None:
    assert parse_bootstrap("a,b:1,[::1]:2,::1,127.0.0.1") == [
        Address("a", 9092),
        Address("b", 1),
        Address("::1", 2),
        Address("::1", 9092),
        Address("127.0.0.1", 9092),
    ]


@given(st.binary(max_size=40))
def test_murmur2_is_that_of_other_clients(key: bytes) -> None:
    assert murmur2(key) == kafka_murmur2(key) & 0xFFFFFFFF


def test_murmur2_places_a_known_key() -> None:
    assert murmur2(b"user-1234567890ab") == 752553288
    assert by_murmur2(b"user-1234567890ab", 12) == 752553288 % 12


headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)), max_size=2)
entries = st.tuples(
    st.integers(0, 2**45), st.none() | st.binary(max_size=200), st.none() | st.binary(max_size=9000), headers
)


@settings(deadline=None)
@given(st.lists(entries, min_size=1, max_size=20), st.integers(0, 4))
def test_batches_hold_the_records_that_went_in(
    given_entries: list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]], codec: int
) -> None:
    data = Encoded(given_entries, codec).batch(5, 1, 9)
    header = check_produced(data, 1 << 30)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (5, 1, 9)
    assert header.max_timestamp == max(entry[0] for entry in given_entries)
    read = [(r.timestamp, r.key, r.value, r.headers) for r in read_records(data, max_bytes=1 << 30)]
    assert read == given_entries


def batches(*spans: tuple[int, int]) -> memoryview:
    """Batches of records from the first offset to the last, their value the offset."""
    return memoryview(
        b"".join(
            build_batch([Record(offset, 1, None, b"%d" % offset) for offset in range(first, last + 1)])
            for first, last in spans
        )
    )


def test_a_fetch_that_begins_inside_a_batch_and_ends_inside_another_gives_what_was_asked() -> None:
    position = Position(TopicPartition("t", 0), 3, 8)
    whole = batches((0, 4), (5, 9))
    assert position.fetched(memoryview(bytes(whole) + bytes(whole)[:30]), 10) == len(whole)
    assert position.next_fetch == 10 and not position.fetchable
    records, freed = position.take()
    assert [record.offset for record in records] == [3, 4, 5, 6, 7]
    assert freed == len(whole) and position.finished


def test_an_older_leader_epoch_never_replaces_a_newer_one() -> None:
    def heard(leader: int, epoch: int) -> MetadataResponse:
        partition = MetadataResponsePartition(partition_index=0, leader_id=leader, leader_epoch=epoch)
        brokers = [MetadataResponseBroker(node_id=node, host="h", port=node) for node in (1, 2)]
        return MetadataResponse(brokers=brokers, topics=[MetadataResponseTopic(name="t", partitions=[partition])])

    known = Metadata()
    known.apply(heard(2, 5), everything=True)
    known.apply(heard(1, 4), everything=True)
    assert known.leader("t", 0) == 2
    known.apply(heard(-1, 6), everything=True)
    with pytest.raises(LeaderNotAvailableError):
        known.leader("t", 0)
    with pytest.raises(UnknownTopicOrPartitionError, match="partitions 0 to 0, none is 7"):
        known.leader("t", 7)


def test_the_retry_rule_tells_temporary_from_final_and_done_from_unknown() -> None:
    assert advise(NotLeaderOrFollowerError("x"))[:3] == (True, True, False)
    assert advise(MessageTooLargeError("x"))[:3] == (False, False, False)
    assert advise(ConnectionLostError("x"))[:3] == (True, True, True)
    assert advise(ConnectError("a", "bootstrap", "b", "c")).maybe_done is False
    assert [backoff_s(attempt) for attempt in (1, 2, 100)] == [0.02, 0.04, 1.0]


def test_the_client_imports_without_what_only_linux_has() -> None:
    script = """
import os, select, socket, sys
for module, names in (
    (os, ["eventfd", "sendfile", "pidfd_open", "fdatasync", "preadv", "preadv2"]),
    (socket, ["SO_PEERCRED"]),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
import logeion.client, logeion.aio, logeion.cli.main, logeion.cli.produce, logeion.cli.consume
import logeion.cli.topic, logeion.cli.actors
sys.exit(any(name.startswith(("logeion.log", "logeion.actors", "thespian")) for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
