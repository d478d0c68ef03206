"""The asyncio face: made alone or by a client, started by being used."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Iterator
from typing import Any

import msgspec
import pytest

import logeion
from logeion import aio
from logeion.client.connecting import Client
from tests.client.brokers import some_broker
from tests.client.fakes import FakeCluster
from tests.client.test_reading import A0


class Order(msgspec.Struct):
    id: int


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with some_broker(tmp_path_factory) as (address, _):
        yield address


@pytest.fixture
def topic(bootstrap: str) -> str:
    name = f"aio-{uuid.uuid4().hex[:12]}"
    with logeion.connect(bootstrap) as client:
        client.admin.create_topic(name, partitions=2)
    return name


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def test_nothing_needs_to_be_entered_and_the_clients_end_commits(bootstrap: str, topic: str) -> None:
    orders = logeion.Topic(topic, key=str, value=Order)

    async def work() -> None:
        async with aio.connect(bootstrap) as client:
            producer = client.producer()
            assert (await producer.send(orders, Order(1), "ada")).offset == 0
            later = producer.send_nowait(orders, Order(2), "ada")
            seen = []
            async for record in client.consume(orders, auto_offset_reset="earliest"):
                seen.append(record.value.id)
                if len(seen) == 2:
                    break
            assert seen == [1, 2] and (await later).offset == 1
            async for batch in client.consume(orders, group=topic, auto_offset_reset="earliest").batches(max_wait=0.5):
                assert [record.value.id for record in batch] == [1, 2]
                await batch.commit()
                break
            assert sum((await client.admin.group_offsets(topic)).values()) == 2
            assert topic in [one.group for one in await client.admin.groups()]
            producer.send_nowait(orders, Order(3), "ada")
        async with aio.Admin(bootstrap_servers=bootstrap) as admin:
            assert (await admin.group(topic)).members == [], "the client's end was the consumer's"
            await admin.commit_group_offsets(topic, {logeion.TopicPartition(topic, 0): 0})
            await admin.delete_group(topic)
        records = aio.Consumer(orders, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        async for record in records:
            if record.value.id == 3:
                break
        await records.close()

    run(work())


def test_producers_consumers_and_admins_also_stand_alone(bootstrap: str, topic: str) -> None:
    async def work() -> None:
        async with aio.Producer(bootstrap_servers=bootstrap, client_id="alone", linger_ms=0) as producer:
            await producer.send(topic, b"one", partition=0)
        unentered = aio.Producer(config={"bootstrap.servers": bootstrap})
        await unentered.send(topic, b"two", partition=0)
        await unentered.close()
        with pytest.raises(logeion.ClosedError):
            await unentered.send(topic, b"three")
        settings: dict[str, Any] = {"bootstrap_servers": [bootstrap], "auto_offset_reset": "earliest"}
        async with aio.Consumer(topic, group_id=topic, request_timeout_ms=20_000, **settings) as records:
            seen = [(await anext(aiter(records))).value for _ in range(2)]
            await records.commit()
        assert seen == [b"one", b"two"]
        async with aio.Admin(bootstrap_servers=bootstrap) as admin:
            assert (await admin.group_offsets(topic))[logeion.TopicPartition(topic, 0)] == 2
            await admin.delete_topic(topic)

    run(work())


def test_an_end_that_fails_does_not_skip_the_others() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"0", b"1"])

        async def told(_: object) -> None:
            raise KeyError("a mistake")

        client = Client(cluster)
        with pytest.raises(KeyError, match="a mistake"):
            async with client:
                settings: dict[str, Any] = {"auto_offset_reset": "earliest"}
                ends = [client.consume("a", group=f"g{n}", on_revoked=told, **settings) for n in range(2)]
                ends.append(client.consume("a", **settings))
                for one in ends:
                    async for record in one:
                        assert record.value == b"0"
                        break
        assert all(one._closed for one in ends) and cluster._closed
        assert A0 not in cluster.committed

    run(work())
