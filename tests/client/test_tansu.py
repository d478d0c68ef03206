"""The client's integration tests against Tansu, and what Tansu lacks, as another client finds it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import IncompatibleBrokerVersion, KafkaError

from tests.interop.peers import TANSU_VENV, tansu_broker
from tests.tools import ROOT, require_file

FILES = ("test_broker", "test_sync", "test_subscriber", "test_compat", "test_guide")
SKIPPED = re.compile(r"^SKIPPED \[(\d+)\] .*?: (.*)$", re.MULTILINE)


def needs_tansu() -> None:
    require_file(TANSU_VENV / "fetched.txt", "make tools")


@pytest.mark.timeout(240)
def test_the_clients_tests_pass_on_tansu() -> None:
    needs_tansu()
    # Most of it waits for Tansu's groups, so it waits for several at once.
    tests = [f"tests/client/{name}.py" for name in FILES]
    command = [sys.executable, "-m", "tests.interop.peers", "run", "tansu", "--", sys.executable, "-m", "pytest"]
    command += ["-q", "-rs", "-n", "4", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= 26, done.stdout[-2000:]
    # Nothing is left out but what Tansu lacks, and what needs the processes of Logeion.
    for _, why in SKIPPED.findall(done.stdout):
        assert why.startswith("Tansu: ") or "KAFKA_BOOTSTRAP names another broker" in why, why


@pytest.fixture(scope="module")
def tansu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    needs_tansu()
    with tansu_broker(tmp_path_factory.mktemp("tansu")) as peer:
        yield peer.bootstrap


@pytest.fixture
def topic(tansu: str) -> str:
    """Ten records in one batch, a millisecond apart."""
    name = f"lacks-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=tansu)
    admin.create_topics({name: {"num_partitions": 1}}, wait_for_metadata=True)
    admin.close()
    producer = KafkaProducer(bootstrap_servers=tansu, linger_ms=200)
    for number in range(10):
        producer.send(name, b"%d" % number, partition=0, timestamp_ms=1_000_000 + number)
    producer.close()
    return name


def test_the_end_that_tansu_tells_is_that_of_no_record(tansu: str, topic: str) -> None:
    consumer = KafkaConsumer(bootstrap_servers=tansu, auto_offset_reset="earliest", consumer_timeout_ms=2000)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    assert [record.offset for record in consumer] == list(range(10))
    assert consumer.end_offsets([partition])[partition] < 10
    consumer.close()


def test_tansu_finds_no_record_by_its_time(tansu: str, topic: str) -> None:
    consumer = KafkaConsumer(bootstrap_servers=tansu)
    partition = TopicPartition(topic, 0)
    found = consumer.offsets_for_times({partition: 1_000_004})[partition]
    assert found is None or found.offset != 4
    consumer.close()


def test_tansu_takes_what_is_larger_than_it_allows(tansu: str) -> None:
    name = f"lacks-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=tansu)
    admin.create_topics({name: {"num_partitions": 1, "configs": {"max.message.bytes": "500"}}}, wait_for_metadata=True)
    admin.close()
    producer = KafkaProducer(bootstrap_servers=tansu)
    assert producer.send(name, b"x" * 1000).get(10).offset == 0
    producer.close()


def test_tansu_deletes_no_records_and_makes_no_partitions(tansu: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=tansu, request_timeout_ms=3000)
    with pytest.raises(KafkaError):
        admin.delete_records({TopicPartition(topic, 0): 3}, timeout_ms=3000)
    with pytest.raises(IncompatibleBrokerVersion):
        admin.create_partitions({topic: 3})
    admin.close()


def test_tansus_groups_keep_no_metadata_and_wait_for_half_a_session(tansu: str, topic: str) -> None:
    began = time.monotonic()
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=tansu,
        group_id=topic,
        auto_offset_reset="earliest",
        session_timeout_ms=8000,
        enable_auto_commit=False,
    )
    next(consumer)
    assert time.monotonic() - began > 3.0
    partition = TopicPartition(topic, 0)
    consumer.commit({partition: OffsetAndMetadata(6, "note", -1)})
    assert consumer.committed(partition, metadata=True).metadata != "note"
    consumer.close()
