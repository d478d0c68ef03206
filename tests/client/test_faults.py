"""What goes wrong between a client and its brokers: nothing is lost, doubled or reordered, and errors say what to do.

Faults of one broker come from the proxy before it, those of a cluster from kill -9 and SIGSTOP.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import logeion
from logeion.client.errors import ClosedError, ConnectError, ConnectionLostError, DeadlineError
from logeion.errors import LogeionError, TopicAuthorizationFailedError
from logeion.testing import Broker, Cluster, Fault, Faults, TopicFactory
from tests.client.traffic import PARTITIONS, READERS, WITHIN_S, traffic
from tests.cluster.broker import running_broker
from tests.interop.peers import free_ports

# One broker, and the proxy before it

Setting = Callable[[Faults], Fault]
CUTS: dict[str, Setting] = {
    f"{api}-{at}": (lambda faults, api=api, at=at: faults.disconnect(api, at=at).times(3))  # type: ignore[misc]
    for api in ("Produce", "Fetch", "OffsetCommit", "Heartbeat")
    for at in ("request", "response")
}
SLOW: dict[str, Setting] = {
    f"{api}-slow": (lambda faults, api=api: faults.delay(api, 0.3).times(4))  # type: ignore[misc]
    for api in ("Produce", "Fetch", "OffsetCommit")
}
CODES = {
    "Produce": [
        "NOT_LEADER_OR_FOLLOWER",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "REQUEST_TIMED_OUT",
    ],
    "Fetch": ["NOT_LEADER_OR_FOLLOWER", "FENCED_LEADER_EPOCH", "UNKNOWN_LEADER_EPOCH", "FETCH_SESSION_ID_NOT_FOUND"],
    "OffsetCommit": ["NOT_COORDINATOR", "COORDINATOR_LOAD_IN_PROGRESS", "REQUEST_TIMED_OUT"],
    "Heartbeat": ["NOT_COORDINATOR", "REBALANCE_IN_PROGRESS", "UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION"],
}
ERRORS: dict[str, Setting] = {
    f"{api}-{code}": (lambda faults, api=api, code=code: faults.error(api, code).times(3))  # type: ignore[misc]
    for api, codes in CODES.items()
    for code in codes
}


@pytest.mark.parametrize("name", [*CUTS, *SLOW, *ERRORS])
def test_a_fault_of_one_broker_costs_a_pause_and_nothing_else(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults, name: str
) -> None:
    with traffic(logeion_broker.bootstrap, logeion_topic(PARTITIONS)) as running:
        fault = (CUTS | SLOW | ERRORS)[name](faults)
        deadline = time.monotonic() + WITHIN_S
        while fault.hits < 3:
            assert time.monotonic() < deadline, f"{fault.hits} of 3"
            time.sleep(0.01)
        running.more()
        running.check(logeion_broker.records)


def test_stale_metadata_and_no_leader_for_a_while(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    topic = logeion_topic(PARTITIONS)
    with traffic(logeion_broker.bootstrap, topic) as running:
        nobody = faults.error("Metadata", "LEADER_NOT_AVAILABLE").times(4)
        stale = faults.error("Produce", "NOT_LEADER_OR_FOLLOWER").times(6)
        elsewhere = faults.error("Fetch", "NOT_LEADER_OR_FOLLOWER").times(6)
        running.more(0.5)
        assert (nobody.hits, stale.hits, elsewhere.hits) == (4, 6, 6)
        running.check(logeion_broker.records)


def test_a_throttled_client_waits_and_loses_nothing(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    """A broker over its quota stops to read from the connection (KIP-219), or refuses for now (KIP-599)."""
    with traffic(logeion_broker.bootstrap, logeion_topic(PARTITIONS), buffer_memory=100_000) as running:
        quota = faults.delay("Produce", 0.2)
        running.more(1.0)
        assert quota.hits >= 3
        faults.clear()
        refused = faults.error("CreateTopics", "THROTTLING_QUOTA_EXCEEDED").times(2)
        running.client.admin.create_topic(f"{running.topic}-quota", partitions=1)
        running.client.admin.delete_topic(f"{running.topic}-quota")
        assert refused.hits == 2
        running.check(logeion_broker.records)


def test_a_broker_that_comes_back_at_another_port_is_found_again(tmp_path: Path) -> None:
    before, after = free_ports(2)
    addresses = f"127.0.0.1:{before},127.0.0.1:{after}"
    kafka = logeion.testing.Kafka(addresses)
    with running_broker(tmp_path, "--port", str(before)) as broker:
        topic = kafka.topic(PARTITIONS)
        with traffic(addresses, topic) as running:
            broker.stop()
            broker.flags = ("--port", str(after))
            broker.start()
            running.more()
            running.check(kafka.records)
        kafka.close()


# Three nodes


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("fault", ["kill node", "pause node", "kill leader", "pause leader", "restart node"])
def test_a_leader_that_is_lost_costs_a_pause_and_nothing_else(
    logeion_cluster: Cluster, logeion_topic: TopicFactory, fault: str, reader: str
) -> None:
    topic = logeion_topic(PARTITIONS)
    with traffic(logeion_cluster.bootstrap, topic, reader) as running:
        leader = logeion_cluster.leader(topic)
        began = time.monotonic()
        match fault:
            case "kill node":
                logeion_cluster.kill(leader)
            case "pause node":
                logeion_cluster.pause(leader)
            case "kill leader":
                logeion_cluster.kill(logeion_cluster.actor(f"partition/{topic}-0"))
            case "pause leader":
                logeion_cluster.pause(logeion_cluster.actor(f"partition/{topic}-0"))
            case "restart node":
                logeion_cluster.restart(leader)
        running.more()
        assert time.monotonic() - began < 15.0
        logeion_cluster.heal()
        running.more()
        running.check(logeion_cluster.records)


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_a_coordinator_that_is_lost_costs_a_pause_and_nothing_else(
    logeion_cluster: Cluster, logeion_topic: TopicFactory, how: str, reader: str
) -> None:
    topic = logeion_topic(PARTITIONS)
    with traffic(logeion_cluster.bootstrap, topic, reader) as running:
        coordinator = running.client.admin.group(running.group).coordinator
        began = time.monotonic()
        (logeion_cluster.kill if how == "kill" else logeion_cluster.pause)(coordinator)

        def committed() -> int:
            # By a client that knows nothing yet of who is where.
            with logeion.connect(logeion_cluster.bootstrap) as other:
                return sum(other.admin.group_offsets(running.group).values())

        running.more()
        before = len(running.seen)
        while committed() < before:
            assert time.monotonic() - began < 30.0, (committed(), before)
            time.sleep(0.1)
        logeion_cluster.heal()
        running.more()
        running.check(logeion_cluster.records)


# Errors: typed, and each says the address, where it was known from, what was said, and what to do


def four(error: ConnectError, address: str, learned_from: str, cause: str, hint: str) -> None:
    assert (error.address, error.learned_from) == (address, learned_from)
    assert cause in error.cause and hint in error.hint
    assert all(part in str(error) for part in (address, learned_from, error.cause))


def test_nobody_at_the_address_no_such_name_and_no_kafka_there() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ConnectError) as refused, logeion.connect(f"127.0.0.1:{port}"):
        pass
    four(refused.value, f"127.0.0.1:{port}", "bootstrap", "Connection refused", "logeion up")
    with pytest.raises(ConnectError) as unknown, logeion.connect("nobody.invalid:9092"):
        pass
    four(unknown.value, "nobody.invalid:9092", "bootstrap", "", "check the spelling of 'nobody.invalid'")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def web() -> None:
            with server.accept()[0] as sock:
                sock.recv(1000)
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=web)
        thread.start()
        with pytest.raises(ConnectError) as other, logeion.connect(address):
            pass
        thread.join()
    four(other.value, address, "bootstrap", "no broker answers there", "Kafka listener without TLS")


def test_each_of_several_addresses_says_what_was_wrong_with_it() -> None:
    (port,) = free_ports(1)
    with pytest.raises(ConnectError) as caught, logeion.connect(f"127.0.0.1:{port},nobody.invalid:9092"):
        pass
    told = str(caught.value)
    assert f"127.0.0.1:{port} (known from bootstrap): Connection refused" in told
    assert "nobody.invalid:9092 (known from bootstrap): " in told
    assert "logeion up" in told and "check the spelling of 'nobody.invalid'" in told


def test_a_lost_connection_says_where_its_address_came_from(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    with logeion.connect(logeion_broker.bootstrap, default_api_timeout_ms=500) as client:
        faults.disconnect("DescribeConfigs")
        with pytest.raises(ConnectionLostError) as lost:
            client.admin.topic_configs(logeion_topic())
        assert "known from " in str(lost.value) and f"(try: {lost.value.hint})" in str(lost.value)


def test_an_address_that_cannot_be_reached_is_named_with_who_told_it(tmp_path: Path) -> None:
    with (
        running_broker(tmp_path, "--advertise", "127.0.0.1:9") as broker,
        logeion.connect(broker.bootstrap, default_api_timeout_ms=1000) as client,
    ):
        address = "127.0.0.1:9"
        with pytest.raises(ConnectError) as unreachable:
            client.admin.create_topic("unreachable", partitions=1)
        four(unreachable.value, address, "metadata", "Connection refused", "--advertise")
        with client.producer(delivery_timeout_ms=500) as producer:
            with pytest.raises(DeadlineError) as late:
                producer.send("unreachable", b"x").result(10)
        for part in ("unreachable[0]", "127.0.0.1:9 (known from metadata)", "Connection refused"):
            assert part in str(late.value)
        assert "--advertise" in late.value.hint and "delivery_timeout_ms" in late.value.hint


def test_a_broker_that_is_too_slow_and_one_that_refuses(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    topic = logeion_topic()
    with logeion.connect(logeion_broker.bootstrap, request_timeout_ms=300) as client:
        with client.producer(delivery_timeout_ms=700, request_timeout_ms=300) as producer:
            producer.send(topic, b"first").result(10)
            faults.delay("Produce", 3600)
            with pytest.raises(DeadlineError) as late:
                producer.send(topic, b"x").result(20)
            assert "did not answer Produce within 0.3 s" in str(late.value) and " attempts" in str(late.value)
            assert "broker's load" in late.value.hint and "delivery_timeout_ms" in late.value.hint
            faults.clear()
            faults.error("Produce", "TOPIC_AUTHORIZATION_FAILED").once()
            with pytest.raises(TopicAuthorizationFailedError):
                producer.send(topic, b"x").result(20)
            assert producer.send(topic, b"last").result(20).offset >= 1
    values = [record.value for record in logeion_broker.records(topic)]
    # What was given up may have been written before that, but once, and before what was sent later.
    assert values in ([b"first", b"last"], [b"first", b"x", b"last"])


# Cancelled awaits, and ends that come too early


def test_a_cancelled_send_leaves_its_record_on_the_way_once(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults
) -> None:
    topic = logeion_topic()

    async def work() -> None:
        async with logeion.aio.connect(logeion_broker.bootstrap) as client, client.producer(linger_ms=0) as producer:
            await producer.send(topic, b"first")
            late = faults.delay("Produce", 0.3).times(2)
            tasks = [asyncio.create_task(producer.send(topic, b"%d" % number)) for number in range(100)]
            while not late.hits:
                await asyncio.sleep(0.01)
            for task in tasks[::2]:
                task.cancel()
            told = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in told] == [True, False] * 50

    asyncio.run(asyncio.wait_for(work(), WITHIN_S))
    values = [record.value for record in logeion_broker.records(topic)]
    assert values == [b"first", *(b"%d" % number for number in range(100))]


def test_cancelled_reads_lose_no_record(logeion_broker: Broker, logeion_topic: TopicFactory) -> None:
    topic = logeion_topic()
    seen: list[int] = []

    async def work() -> None:
        async with logeion.aio.connect(logeion_broker.bootstrap) as client, client.producer(linger_ms=0) as producer:
            async with client.consume(topic, group=topic, auto_offset_reset="earliest") as records:
                cancelled = number = 0
                await producer.prepare(topic)
                while len(seen) < 200 or cancelled < 50:
                    if number == len(seen):
                        producer.send_nowait(topic, b"%d" % number)
                        number += 1
                    # So short that it is cancelled at any point of the way.
                    try:
                        async with asyncio.timeout(0.0005 * (cancelled % 8)):
                            record = await anext(aiter(records))
                    except TimeoutError:
                        cancelled += 1
                        continue
                    seen.append(int(record.value))

    asyncio.run(asyncio.wait_for(work(), WITHIN_S))
    assert seen == list(range(len(seen)))


def test_an_error_in_the_body_does_not_drop_what_was_sent(logeion_broker: Broker, logeion_topic: TopicFactory) -> None:
    topic = logeion_topic()

    async def work() -> None:
        async with logeion.aio.connect(logeion_broker.bootstrap) as client:
            async with client.producer(linger_ms=60_000) as producer:
                await producer.prepare(topic)
                producer.send_nowait(topic, b"before the mistake")
                raise KeyError("a mistake")

    with pytest.raises(KeyError):
        asyncio.run(work())
    assert [record.value for record in logeion_broker.records(topic)] == [b"before the mistake"]


def test_what_a_cancelled_program_leaves_behind_is_said(
    logeion_broker: Broker, logeion_topic: TopicFactory, faults: Faults, caplog: pytest.LogCaptureFixture
) -> None:
    topic = logeion_topic()
    left = []

    async def work(leave: bool) -> None:
        async with logeion.aio.connect(logeion_broker.bootstrap) as client:
            producer = client.producer(linger_ms=0)
            await producer.__aenter__()
            await producer.send(topic, b"first")
            stuck = faults.delay("Produce", 3600)
            left.extend(producer.send_nowait(topic, b"x") for _ in range(5))
            while not stuck.hits:
                await asyncio.sleep(0.01)
            left.extend(producer.send_nowait(topic, b"x") for _ in range(2))
            if not leave:
                await producer.__aexit__(asyncio.CancelledError, None, None)

    for leave, said in ((False, "closed"), (True, "event loop ended")):
        caplog.clear()
        left.clear()
        with caplog.at_level(logging.WARNING, "logeion.client"):
            asyncio.run(work(leave))
        (line,) = [record.getMessage() for record in caplog.records if record.name == "logeion.client"]
        assert said in line and "7 records that were not acknowledged" in line
        assert all(isinstance(one.exception(), ClosedError) for one in left)
        faults.clear()


def test_an_interpreter_that_exits_in_the_middle_of_a_failover_sends_what_it_was_given(
    logeion_cluster: Cluster, logeion_topic: TopicFactory
) -> None:
    topic = logeion_topic()
    code = (
        "import logeion, sys\n"
        "producer = logeion.connect(sys.argv[1]).producer()\n"
        "producer.send(sys.argv[2], b'first').result(10)\n"
        "print(flush=True); sys.stdin.read(1)\n"
        "for n in range(1000): producer.send(sys.argv[2], b'%d' % n)\n"
    )
    command = [sys.executable, "-c", code, logeion_cluster.bootstrap, topic]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        logeion_cluster.kill(logeion_cluster.leader(topic))
        _, said = program.communicate(b"x", timeout=WITHIN_S)
    assert (program.returncode, said) == (0, b"")
    values = [record.value for record in logeion_cluster.records(topic)]
    assert values == [b"first", *(b"%d" % number for number in range(1000))]


def test_every_error_of_ours_has_its_class_and_a_text() -> None:
    for kind in (ConnectError, DeadlineError, ClosedError):
        assert issubclass(kind, LogeionError) and kind.__doc__
