"""What a test asks of the broker beside the client it tests: plain calls, against Logeion or any other Kafka."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from logeion.client.admin import Admin
from logeion.client.background import background
from logeion.client.cluster import Cluster
from logeion.client.consumer import Consumer
from logeion.client.groups import GroupInfo, Groups
from logeion.client.positions import Start, TopicPartition
from logeion.client.producer import Producer, RecordMetadata
from logeion.wire.errors import KafkaError, LogeionError, UnknownTopicOrPartitionError

# Faults spare the requests of this client.
CLIENT_ID = "logeion-testing"
CALL_S = 30.0
POLL_S = 0.01

T = TypeVar("T")


class Read(NamedTuple):
    """A record as it lies in the topic; ``timestamp_ms`` since 1970."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int


class Kafka:
    """Plain calls to the Kafka at ``bootstrap``, which other clients use at the same time.

    Text is taken as UTF-8 where bytes are wanted. Each call raises KafkaError as the broker answers it, or a
    ClientError when there is no broker. ``close`` ends its connections.
    """

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._cluster: Cluster | None = None
        self._producer: Producer | None = None
        self._topics: list[str] = []

    # Topics

    def topic(
        self,
        partitions: int = 1,
        *,
        configs: Mapping[str, str] | None = None,
        name: str = "",
        replication_factor: int = -1,
    ) -> str:
        """A new topic that is ready to use, and its name: unique, or ``name``."""
        name = name or f"test-{uuid.uuid4().hex[:12]}"

        async def work(cluster: Cluster) -> str:
            await Admin(cluster).create_topic(
                name, partitions=partitions, replication_factor=replication_factor, configs=configs
            )
            return name

        made = self._call(work)
        self._topics.append(made)
        return made

    def delete_topics(self, names: Iterable[str]) -> None:
        """Deletes them; those that are gone already are no error."""

        async def delete(admin: Admin, name: str) -> None:
            try:
                await admin.delete_topic(name)
            except UnknownTopicOrPartitionError:
                pass

        async def work(cluster: Cluster) -> None:
            await asyncio.gather(*(delete(Admin(cluster), name) for name in wanted))

        wanted = list(names)
        self._call(work)
        self._topics = [name for name in self._topics if name not in wanted]

    # Records

    def produce(
        self,
        topic: str,
        value: bytes | str | None = None,
        key: bytes | str | None = None,
        *,
        headers: Iterable[tuple[str, bytes | None]] = (),
        partition: int | None = None,
    ) -> RecordMetadata:
        """Publishes one record and waits until it is acknowledged: topic, partition, offset, timestamp_ms."""

        async def work(cluster: Cluster) -> RecordMetadata:
            if self._producer is None:
                self._producer = await Producer(cluster, linger_ms=0).__aenter__()
            return await self._producer.send(
                topic, _bytes(value), _bytes(key), headers=list(headers), partition=partition
            )

        return self._call(work)

    def records(self, topic: str) -> list[Read]:
        """All records that are there now, by partition and offset. Raises UnknownTopicOrPartitionError."""
        return self._call(lambda cluster: _records(cluster, topic, Start("start")))

    def tail(self, topic: str, count: int) -> list[Read]:
        """The last ``count`` of each partition."""
        return self._call(lambda cluster: _records(cluster, topic, Start("last", count)), 5.0)

    def assert_produced(
        self,
        topic: str,
        count: int = 1,
        *,
        value: bytes | str | None = None,
        key: bytes | str | None = None,
        timeout_s: float = 5.0,
    ) -> list[Read]:
        """Waits until ``count`` records are there that have this value and key (None: any), and returns them.

        Raises AssertionError, which shows what is there, after ``timeout_s``.
        """
        wanted_value, wanted_key = _bytes(value), _bytes(key)

        async def work(cluster: Cluster) -> list[Read]:
            seen: list[Read] = []

            async def enough() -> list[Read] | None:
                nonlocal seen
                try:
                    seen = await _records(cluster, topic, Start("start"))
                except UnknownTopicOrPartitionError:
                    return None  # the program under test may be about to create it
                found = [
                    record
                    for record in seen
                    if wanted_value in (None, record.value) and wanted_key in (None, record.key)
                ]
                return found if len(found) >= count else None

            return await _until(
                enough, timeout_s, lambda: f"{count} such records in {topic!r}; there are: {_shown(seen)}"
            )

        return self._call(work, timeout_s + CALL_S)

    # Groups

    def wait_for_group(self, group: str, members: int = 1, *, timeout_s: float = 10.0) -> GroupInfo:
        """Waits until the group is stable and has this many members, all with their assignment.

        Raises AssertionError, which shows the group, after ``timeout_s``.
        """

        async def work(cluster: Cluster) -> GroupInfo:
            seen: GroupInfo | str = "no such group"

            async def stable() -> GroupInfo | None:
                nonlocal seen
                try:
                    seen = await Groups(cluster).describe(group)
                except KafkaError as error:
                    seen = str(error)
                    return None
                return seen if seen.state == "Stable" and len(seen.members) == members else None

            return await _until(stable, timeout_s, lambda: f"group {group!r} with {members} members; it is: {seen}")

        return self._call(work, timeout_s + CALL_S)

    def offset(self, group: str, topic: str, partition: int = 0) -> int | None:
        """The offset that the group has committed: of the next record to read. None if it has committed none."""

        async def work(cluster: Cluster) -> int | None:
            return (await Groups(cluster).offsets(group)).get(TopicPartition(topic, partition))

        return self._call(work)

    def close(self) -> None:
        """Ends the connections; the broker goes on."""
        if self._cluster is not None:
            background().run(self._close(), 10.0)

    # For the reports of failures

    def dump(self, count: int) -> str:
        """The last records of the topics that this made; without any, of those the broker has."""
        lines = []
        try:
            for name in (self._topics or self._call(_names, 5.0))[:10]:
                lines.append(f"{name}:")
                lines += [f"  {_line(record)}" for record in self.tail(name, count)] or ["  (no records)"]
        except (LogeionError, OSError, TimeoutError) as error:
            lines.append(f"(not to be had: {error})")
        return "\n".join(lines)

    def _call(self, work: Callable[[Cluster], Coroutine[Any, Any, T]], timeout_s: float = CALL_S) -> T:
        async def connected() -> T:
            if self._cluster is None:
                self._cluster = Cluster(self.bootstrap, client_id=CLIENT_ID, deadline_s=CALL_S)
            return await work(self._cluster)

        return background().run(connected(), timeout_s)

    async def _close(self) -> None:
        producer, self._producer = self._producer, None
        cluster, self._cluster = self._cluster, None
        if producer is not None:
            await producer.close(flush=False)
        if cluster is not None:
            await cluster.close()


async def _records(cluster: Cluster, topic: str, start: Start) -> list[Read]:
    await cluster.topic(topic, fresh=True)
    found = []
    async with Consumer(cluster, fetch_max_wait_ms=50) as consumer:
        await consumer.assign(topic, start, to_end=True)
        async for (_, partition), r in consumer:
            found.append(Read(partition, r.offset, r.key, r.value, r.headers, r.timestamp))
    return sorted(found, key=lambda record: record[:2])


async def _names(cluster: Cluster) -> list[str]:
    return [info.name for info in await Admin(cluster).topics() if not info.name.startswith("__")]


async def _until(
    attempt: Callable[[], Coroutine[Any, Any, T | None]], timeout_s: float, wanted: Callable[[], str]
) -> T:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        found = await attempt()
        if found is not None:
            return found
        if loop.time() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {wanted()}")
        await asyncio.sleep(POLL_S)


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _shown(records: list[Read]) -> str:
    lines = [f"\n  {_line(record)}" for record in records[-20:]]
    return f"{len(records)}" + ("" if len(records) <= 20 else ", the last of them") + "".join(lines)


def _line(record: Read) -> str:
    shown = repr(record.value)
    if len(shown) > 200:
        shown = f"{shown[:200]}… ({len(record.value or b'')} bytes)"
    headers = f" {record.headers}" if record.headers else ""
    return f"[{record.partition}] @ {record.offset} {record.key!r}: {shown}{headers}"
