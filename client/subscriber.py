"""Reading typed topics, alone or as a member of a group, with a commit only of what the program has finished."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from logeion.wire.errors import ConfigError
from logeion.wire.records import Record as RawRecord

from .classic_member import ClassicMember
from .cluster import Cluster
from .consumer import EARLIEST, LATEST, Consumer
from .consumer_member import ConsumerMember
from .consumer_membership import ConsumerMembership
from .errors import ClosedError
from .groups import Groups
from .member import Callback, GroupMember
from .membership import Membership
from .positions import Position, Start, TopicPartition
from .producer import Producer
from .settings import ConsumerSettings, FetchSettings, checked
from .topics import DecodeError, Record, Topic, dead_letter_headers, raw_topic

K = TypeVar("K")
V = TypeVar("V")

# Settings that the broker decides under KIP-848.
CLASSIC_ONLY = ("partition_assignment_strategy", "session_timeout_ms", "heartbeat_interval_ms")


class Batch(list[Record[K, V]]):
    """Records that are finished together: when the loop comes back, or with ``commit``."""

    def __init__(self, records: Iterable[Record[K, V]], subscriber: Subscriber[K, V]) -> None:
        super().__init__(records)
        self._subscriber = subscriber

    async def commit(self) -> None:
        """These records are finished: commits that now. Raises KafkaError; nothing happens without a group."""
        self._subscriber.finish()
        await self._subscriber.commit()


class Subscriber(Generic[K, V]):
    """Iterate over it inside ``async with``. A record counts as finished when the loop comes back for the next one.

    With a group, finished records are committed every ``auto_commit_interval_ms``, before a partition is given up, and
    on close; ``enable_auto_commit=False`` leaves it to ``commit``. A loop that does not come back within
    ``max_poll_interval_ms`` loses its partitions. The callbacks get lists of TopicPartition and may be coroutines.
    """

    def __init__(
        self,
        cluster: Cluster,
        topics: Sequence[Topic[K, V]],
        *,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        config: Mapping[str, Any] | None = None,
        **settings: Unpack[ConsumerSettings],
    ) -> None:
        """Raises ConfigError."""
        taken = checked(ConsumerSettings, settings, config)
        self._cluster = cluster
        self._topics = {topic.name: topic for topic in topics}
        self._group: str | None = taken.get("group_id")
        self._reset = taken.get("auto_offset_reset", "latest")
        fetch = {name: value for name, value in taken.items() if name in FetchSettings.__annotations__}
        self._consumer = Consumer(cluster, **fetch)
        self._chunks: deque[tuple[Position, deque[RawRecord]]] = deque()
        self._handed: dict[TopicPartition, int] = {}  # empty without a group: nobody commits it
        self._dead: DecodeError | None = None
        self._dead_letters: Producer | None = None
        self._closed = False
        self.member: GroupMember | None = None
        if self._group is not None:
            self.member = _member(
                cluster, self._consumer, self._group, list(self._topics), taken, (on_assigned, on_revoked, on_lost)
            )

    async def __aenter__(self) -> Subscriber[K, V]:
        if self.member is not None:
            self.member.start()
        else:
            start = Start("start" if self._reset == "earliest" else "end")
            for topic in self._topics:
                await self._consumer.assign(topic, start)
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Record[K, V]]:
        while True:
            record = self.take()
            if record is None:
                self.finish()
                await self.fill()
            else:
                yield record

    async def batches(self, *, max_records: int = 500, max_wait: float = 0.2) -> AsyncIterator[Batch[K, V]]:
        """Batches of up to ``max_records``: what came within ``max_wait`` seconds of the first of them."""
        while True:
            self.finish()
            yield await self.batch(max_records, max_wait)

    async def batch(self, max_records: int, max_wait: float) -> Batch[K, V]:
        """The next batch, of one record at least."""
        found: list[Record[K, V]] = []
        until: float | None = None
        self.finish()
        while len(found) < max_records:
            record = self.take(keep=True)
            if record is not None:
                found.append(record)
                continue
            now = time.monotonic()
            if found:
                until = now + max_wait if until is None else until
                if now >= until or (self.member is not None and self.member.wanted_back):
                    break
                await self.fill(until - now, idle=False)
            else:
                await self.fill()
        return Batch(found, self)

    # What iterating is made of; ``take`` and ``finish`` are called on whatever thread the program's loop runs

    def take(self, *, keep: bool = False) -> Record[K, V] | None:
        """The next record that is here already; what was handed out before is finished, unless ``keep``.

        None: ``fill`` is next. Raises DecodeError, and again until somebody seeks past it.
        """
        if not keep and self._handed:
            self.finish()
        member = self.member
        if member is not None:
            member.last_back = time.monotonic()
            if member.wanted_back:
                return None
        chunks = self._chunks
        while chunks and self._dead is None:
            position, records = chunks[0]
            if position.gone or position.paused or not records:
                chunks.popleft()
                continue
            raw = records[0]
            tp = position.tp
            topic = self._topics[tp.topic]
            try:
                record = topic.read(tp, raw)
            except DecodeError as error:
                policy = topic.policy
                if policy == "raise":
                    raise
                if policy == "dead-letter":
                    self._dead = error
                    return None
                records.popleft()
                if member is not None:
                    self._handed[tp] = raw.offset + 1
                continue
            records.popleft()
            if member is not None:
                self._handed[tp] = raw.offset + 1
            return record
        return None

    def finish(self) -> None:
        """What was handed out is finished."""
        if self._handed:
            if self.member is not None:
                self.member.finished(self._handed)
            self._handed.clear()

    async def fill(self, timeout_s: float | None = None, *, idle: bool = True) -> None:
        """Until there is something to take, or the time is up. Raises what reading failed with."""
        if self._closed:
            raise ClosedError("the consumer was closed")
        if self._dead is not None:
            await self._bury(self._dead)
            return
        member = self.member
        if member is None or not idle:
            await self._fetch(timeout_s)
            return
        member.back.set()
        try:
            await member.not_wanted()
            await self._fetch(timeout_s)
        finally:
            # Handed out from here on: whoever wants partitions back waits until the loop asks again.
            member.last_back = time.monotonic()
            member.back.clear()

    async def _fetch(self, timeout_s: float | None) -> None:
        for position, records in await self._consumer.getchunks(timeout_s=timeout_s):
            self._chunks.append((position, deque(records)))

    async def _bury(self, error: DecodeError) -> None:
        topic = self._topics[error.where.topic]
        if self._dead_letters is None:
            self._dead_letters = await Producer(self._cluster, linger_ms=0).__aenter__()
        raw = error.raw
        await self._dead_letters.send(topic.dead_letters, raw.value, raw.key, headers=dead_letter_headers(error))
        self._dead = None
        if self._chunks and self._chunks[0][1] and self._chunks[0][1][0] is raw:
            self._chunks[0][1].popleft()
            if self.member is not None:
                self._handed[error.where] = raw.offset + 1

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Reads exactly these partitions, from these offsets; for one without a group that was not entered."""
        for tp in self._consumer.assignment:
            if tp not in positions:
                self._consumer.drop(tp)
        for tp, offset in positions.items():
            self._consumer.place(tp, offset)

    # Where it stands

    def position(self, tp: TopicPartition) -> int:
        """The offset of the next record to be handed out. Raises KeyError for a partition that is not assigned."""
        for position, records in self._chunks:
            if position.tp == tp and not position.gone and records:
                return records[0].offset
        return self._consumer.position(*tp)

    @property
    def ready(self) -> bool:
        """Whether ``take`` has something, as far as that can be known without taking it."""
        return any(records and not at.gone and not at.paused for at, records in self._chunks)

    @property
    def reader(self) -> Consumer:
        """What fetches for it."""
        return self._consumer

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read now."""
        return self._consumer.assignment

    async def commit(self) -> None:
        """Commits what is finished, the record in hand included. Raises KafkaError if the group refuses it."""
        self.finish()
        if self.member is not None:
            await self.member.commit()

    async def committed(self) -> dict[TopicPartition, int]:
        """All that the group has committed; nothing without a group."""
        return await Groups(self._cluster).offsets(self._group) if self._group is not None else {}

    async def seek(self, tp: TopicPartition, offset: int) -> None:
        """Reads on from here. Raises KeyError for a partition that is not assigned."""
        if tp not in self._consumer.assignment:
            raise KeyError(tp)
        self._handed.pop(tp, None)
        if self._dead is not None and self._dead.where == tp:
            self._dead = None
        self._consumer.place(tp, offset)
        if self.member is not None:
            self.member.finished({tp: offset})

    async def seek_to_time(self, timestamp_ms: int) -> None:
        """Reads on, in each assigned partition, from the first record not older; from the end where there is none."""
        topics: dict[str, list[int]] = {}
        for topic, index in self._consumer.assignment:
            topics.setdefault(topic, []).append(index)
        for topic, indexes in topics.items():
            found = await self._consumer.offsets(topic, indexes, timestamp_ms)
            if min(found.values()) < 0:
                ends = await self._consumer.offsets(topic, indexes, LATEST)
                found = {index: offset if offset >= 0 else ends[index] for index, offset in found.items()}
            for index, offset in found.items():
                await self.seek(TopicPartition(topic, index), offset)

    async def seek_to_beginning(self) -> None:
        """Reads each assigned partition from its start."""
        await self.seek_to_time(EARLIEST)

    async def pause(self, *partitions: TopicPartition) -> None:
        """Hands out nothing more of these (default: of all) until ``resume``. Raises KeyError if not assigned."""
        await self._pause(partitions, True)

    async def resume(self, *partitions: TopicPartition) -> None:
        """The opposite of ``pause``."""
        await self._pause(partitions, False)

    async def _pause(self, partitions: Sequence[TopicPartition], paused: bool) -> None:
        for tp in partitions or self._consumer.assignment:
            # What was fetched and not handed out is fetched again later: nothing of it may be passed over.
            left = next(
                (records[0].offset for at, records in self._chunks if at.tp == tp and not at.gone and records), -1
            )
            if paused and left >= 0:
                self._consumer.place(tp, left)
            self._consumer.pause(tp, paused)

    async def close(self) -> None:
        """Commits what is finished (not the record in hand), leaves the group and stops reading."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.member is not None:
                await self.member.close()
        finally:
            await self._consumer.close()
            if self._dead_letters is not None:
                await self._dead_letters.close()


def _member(
    cluster: Cluster,
    consumer: Consumer,
    group: str,
    topics: Sequence[str],
    taken: Mapping[str, Any],
    callbacks: tuple[Callback | None, Callback | None, Callback | None],
) -> GroupMember:
    """By the protocol that the settings name. Raises ConfigError."""
    protocol = taken.get("group_protocol", "classic")
    options: dict[str, Any] = {
        "heartbeat_s": taken.get("heartbeat_interval_ms", 3000) / 1000,
        "commit_s": taken.get("auto_commit_interval_ms", 5000) / 1000,
        "auto_commit": taken.get("enable_auto_commit", True),
        "reset": taken.get("auto_offset_reset", "latest"),
        "callbacks": callbacks,
    }
    instance_id, poll_ms = taken.get("group_instance_id"), taken.get("max_poll_interval_ms", 300_000)
    if protocol == "consumer":
        for name in CLASSIC_ONLY:
            if name in taken:
                raise ConfigError(f"{name} is the broker's with group_protocol='consumer': leave it out")
        newer = ConsumerMembership(
            group,
            topics,
            member_id=str(uuid.uuid4()),
            instance_id=instance_id,
            rebalance_timeout_ms=poll_ms,
            assignor=taken.get("group_remote_assignor"),
        )
        return ConsumerMember(cluster, newer, consumer, **options)
    if protocol != "classic":
        raise ConfigError(f"group_protocol={protocol!r}: it is 'classic' or 'consumer'")
    classic = Membership(
        group,
        topics,
        assignors=taken.get("partition_assignment_strategy", ("range", "cooperative-sticky")),
        instance_id=instance_id,
        session_timeout_ms=taken.get("session_timeout_ms", 45_000),
        rebalance_timeout_ms=poll_ms,
    )
    return ClassicMember(cluster, classic, consumer, **options)


def typed(topics: Sequence[Any]) -> list[Topic[Any, Any]]:
    """Names stand for topics of bytes."""
    return [raw_topic(topic) if isinstance(topic, str) else topic for topic in topics]
