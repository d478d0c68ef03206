"""Groups and typed reading, against a real broker."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import pytest

import logeion
from logeion import Record, Topic, TopicPartition
from logeion.client import Client
from logeion.client.topics import DecodeError
from tests.client.brokers import some_broker


class Order(msgspec.Struct):
    id: int


# Tansu lets a group that has no member wait for half of the first one's session before it is given anything.
CLASSIC: dict[str, Any] = {"heartbeat_interval_ms": 100, "session_timeout_ms": 6000}


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with some_broker(tmp_path_factory) as (address, _):
        yield address


@pytest.fixture
def orders(bootstrap: str) -> Topic[str, Order]:
    name = f"g-{uuid.uuid4().hex[:12]}"
    with logeion.connect(bootstrap) as client:
        client.admin.create_topic(name, partitions=4)
    return Topic(name, key=str, value=Order)


def run(bootstrap: str, work: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with logeion.aio.connect(bootstrap) as client:
            await work(client)

    asyncio.run(asyncio.wait_for(main(), 40))


def fill(client: logeion.Client, orders: Topic[str, Order], numbers: range) -> None:
    with client.producer() as producer:
        for number in numbers:
            producer.send(orders, Order(number), key=f"k{number}", timestamp_ms=1_000_000 + number)


def read(consumer: logeion.Consumer[str, Order], count: int) -> list[int]:
    found = []
    for record in consumer:
        found.append(record.value.id)
        if len(found) == count:
            return found
    return found


PROTOCOLS: dict[str, dict[str, Any]] = {
    "range": {**CLASSIC, "partition_assignment_strategy": ["range"]},
    "cooperative-sticky": {**CLASSIC, "partition_assignment_strategy": ["cooperative-sticky"]},
    "consumer": {"group_protocol": "consumer"},
}


NEWER = pytest.param("consumer", marks=pytest.mark.not_on_tansu("it has no groups of KIP-848"))


@pytest.mark.parametrize("protocol", ["range", NEWER])
def test_a_record_is_committed_when_the_loop_comes_back_and_not_before(
    bootstrap: str, orders: Topic[str, Order], protocol: str
) -> None:
    with logeion.connect(bootstrap) as client:
        fill(client, orders, range(100))
        with client.consume(orders, group=orders.name, auto_offset_reset="earliest", **PROTOCOLS[protocol]) as consumer:
            first = read(consumer, 60)
            assert len(consumer.assignment) == 4
        # Sixty were handed out; for the last of them the loop did not come back.
        assert sum(client.admin.group_offsets(orders.name).values()) == 59
        with client.consume(orders, group=orders.name, auto_offset_reset="earliest", **PROTOCOLS[protocol]) as consumer:
            rest = read(consumer, 41)
            consumer.commit()
            assert sum(consumer.committed().values()) == 100
        assert rest.count(first[-1]) == 1 and sorted(first[:-1] + rest) == list(range(100))


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky", NEWER])
def test_members_share_the_partitions_and_take_over_where_another_left(
    bootstrap: str, orders: Topic[str, Order], strategy: str
) -> None:
    assigned: dict[int, list[TopicPartition]] = {1: [], 2: []}
    revoked: list[TopicPartition] = []

    async def work(client: Client) -> None:
        seen: list[int] = []
        stop = asyncio.Event()

        async def member(number: int, until: asyncio.Event) -> None:
            settings = {"on_assigned": assigned[number].extend, "on_revoked": revoked.extend}
            async with client.consume(
                orders,
                group=orders.name,
                auto_offset_reset="earliest",
                **PROTOCOLS[strategy],
                **settings,  # type: ignore[arg-type]
            ) as subscriber:

                async def reading() -> None:
                    async for batch in subscriber.batches(max_wait=0.01):
                        seen.extend(record.value.id for record in batch)
                        await batch.commit()

                task = asyncio.create_task(reading())
                await until.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        async def until(condition: Callable[[], bool]) -> None:
            while not condition():
                await asyncio.sleep(0.01)

        one = asyncio.create_task(member(1, stop))
        await until(lambda: len(assigned[1]) == 4)
        leave = asyncio.Event()
        two = asyncio.create_task(member(2, leave))
        await until(lambda: len(assigned[2]) == 2)
        assert len(revoked) == (4 if strategy == "range" else 2)
        async with client.producer() as producer:
            await producer.prepare(orders.name)
            for number in range(100):
                producer.send_nowait(orders, Order(number), key=f"k{number}")
        await until(lambda: len(seen) == 100)
        leave.set()
        await two
        before = len(assigned[1])
        await until(lambda: len(assigned[1]) > before)
        async with client.producer() as producer:
            await producer.prepare(orders.name)
            for number in range(100, 200):
                producer.send_nowait(orders, Order(number), key=f"k{number}")
        await until(lambda: len(seen) >= 200)
        assert sorted(seen) == list(range(200))
        stop.set()
        await one

    run(bootstrap, work)


@pytest.mark.parametrize("protocol", ["range", NEWER])
@pytest.mark.not_on_tansu("it has no static members")
def test_a_static_member_that_comes_back_in_time_moves_nothing(
    bootstrap: str, orders: Topic[str, Order], protocol: str
) -> None:
    moved: list[TopicPartition] = []
    with logeion.connect(bootstrap) as client:
        fill(client, orders, range(40))
        settings: dict[str, Any] = {"auto_offset_reset": "earliest", **PROTOCOLS[protocol]}

        def static() -> logeion.Consumer[str, Order]:
            return client.consume(orders, group=orders.name, group_instance_id="one", **settings)

        with client.consume(orders, group=orders.name, on_revoked=moved.extend, **settings) as other:
            with static() as first:
                while not (len(first.assignment) == len(other.assignment) == 2):
                    other.poll(0.05)
                    first.poll(0.05)
                had, before = first.assignment, list(moved)
                first.commit()
            with static() as again:
                while not again.assignment:
                    other.poll(0.05)
                    again.poll(0.05)
                assert again.assignment == had and moved == before


@pytest.mark.not_on_tansu("groups wait for half of the default session")
@pytest.mark.parametrize("protocol", ["range", NEWER])
def test_a_loop_that_stays_away_is_told_that_others_have_its_partitions(
    bootstrap: str, orders: Topic[str, Order], protocol: str
) -> None:
    lost: list[TopicPartition] = []
    settings: dict[str, Any] = {"auto_offset_reset": "earliest", "group": orders.name, **PROTOCOLS[protocol]}
    with logeion.connect(bootstrap) as client, logeion.connect(bootstrap) as other:
        fill(client, orders, range(40))
        with client.consume(orders, on_lost=lost.extend, max_poll_interval_ms=500, **settings) as sleepy:
            held = next(iter(sleepy))
            with other.consume(orders, **settings) as awake:
                assert sorted(read(awake, 40)) == list(range(40)), "the one in hand is read again"
                awake.commit()
                deadline = time.monotonic() + 10
                while len(lost) < 4:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                assert sleepy.poll(0.1) is None and held is not None
                assert sum(awake.committed().values()) == 40


def test_a_partition_is_not_taken_from_under_a_record_in_hand(bootstrap: str, orders: Topic[str, Order]) -> None:
    with logeion.connect(bootstrap) as client, logeion.connect(bootstrap) as other:
        fill(client, orders, range(40))
        with client.consume(orders, group=orders.name, auto_offset_reset="earliest", **CLASSIC) as consumer:
            records = iter(consumer)
            held = next(records)
            found: list[Record[str, Order]] = []
            joined = threading.Event()

            def second() -> None:
                with other.consume(
                    orders,
                    group=orders.name,
                    auto_offset_reset="earliest",
                    on_assigned=lambda _: joined.set(),
                    **CLASSIC,
                ) as rival:
                    while len(found) < 1 and (record := rival.poll(20)) is not None:
                        found.append(record)

            thread = threading.Thread(target=second)
            thread.start()
            assert not joined.wait(0.5)
            mine = [held, next(records)]
            thread.join(20)
            assert found and held.value not in [record.value for record in found] and len(mine) == 2


def test_what_cannot_be_decoded_stops_is_skipped_or_goes_elsewhere(bootstrap: str, orders: Topic[str, Order]) -> None:
    dead = orders.name + "-dead"
    with logeion.connect(bootstrap) as client:
        client.admin.create_topic(dead, partitions=1)
        with client.producer() as producer:
            producer.send(orders.name, b'{"id":"one"}', b"k", partition=0, timestamp_ms=1_600_000_000_000)
            producer.send(orders.name, b'{"id":2}', b"k", partition=0)
        with client.consume(orders, group="raise-" + dead, auto_offset_reset="earliest", **CLASSIC) as consumer:
            for _ in range(2):
                with pytest.raises(DecodeError, match=r"Expected `int`, got `str` - at `\$.id`"):
                    next(iter(consumer))
        for policy in ("skip", f"dead-letter:{dead}"):
            topic = Topic(orders.name, key=str, value=Order, on_decode_error=policy)
            with client.consume(topic, group=policy[:4] + dead, auto_offset_reset="earliest", **CLASSIC) as consumer:
                assert next(iter(consumer)).value == Order(2)
        with client.consume(dead, auto_offset_reset="earliest") as letters:
            (letter,) = next(letters.batches())
            assert letter.value == b'{"id":"one"}' and letter.timestamp_ms == 1_600_000_000_000
            assert dict(letter.headers)["logeion.dead-letter.offset"] == b"0"


@pytest.mark.not_on_tansu("ListOffsets by time finds another record")
def test_a_consumer_seeks_by_time_and_pauses(bootstrap: str, orders: Topic[str, Order]) -> None:
    with logeion.connect(bootstrap) as client:
        fill(client, orders, range(20))
        with client.consume(orders, auto_offset_reset="earliest") as consumer:
            assert sorted(read(consumer, 20)) == list(range(20))
            consumer.seek_to_time(1_000_015)
            assert sorted(read(consumer, 5)) == [15, 16, 17, 18, 19]
            consumer.seek_to_beginning()
            first = next(iter(consumer))
            consumer.pause()
            assert consumer.poll(0.1) is None
            consumer.resume()
            assert sorted([first.value.id, *read(consumer, 19)]) == list(range(20))
