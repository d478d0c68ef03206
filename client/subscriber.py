"""Reading typed topics, alone or as a member of a group, with a commit only of what the program has finished."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from logeion.wire.errors import LogeionError
from logeion.wire.records import Record as RawRecord

from .classic_member import METADATA_AGE_S
from .cluster import Cluster
from .consumer import EARLIEST, LATEST, Consumer
from .errors import ClosedError
from .groups import Groups
from .joining import member_of
from .member import Callback, GroupMember
from .positions import Position, Start, TopicPartition
from .producer import Producer
from .settings import ConsumerSettings, FetchSettings, checked
from .topics import DecodeError, Record, Topic, dead_letter_headers, raw_topic

K = TypeVar("K")
V = TypeVar("V")

# Where a record stood, as it was read, and as it is handed out.
Taken = tuple[Position, RawRecord, Record[K, V]]


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
    """Iterate over it; inside ``async with`` it is closed at the end. A record counts as finished when the loop comes
    back for the next one.

    With a group, finished records are committed every ``auto_commit_interval_ms``, before a partition is given up, and
    on close; ``enable_auto_commit=False`` leaves it to ``commit``. A loop that does not come back within
    ``max_poll_interval_ms`` loses its partitions. The callbacks get lists of TopicPartition and may be coroutines.
    Without a group all partitions are read, those that are added later from their beginning.
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
        self.max_records: int = taken.get("max_poll_records", 500)
        fetch = {name: value for name, value in taken.items() if name in FetchSettings.__annotations__}
        self._consumer = Consumer(cluster, **fetch)
        self._consumer.endless = True
        self._chunks: deque[tuple[Position, deque[RawRecord]]] = deque()
        # What the program has in hand; empty without a group: nobody commits it.
        self._handed: dict[Position, int] = {}
        self._passed: dict[Position, int] = {}  # what nobody gets, skipped or buried: finished with what is next
        # A subclass may read in its own way.
        self._made: Any = Record
        self._raw = {topic.name for topic in topics if topic.is_raw and type(topic) is Topic}
        self._stopped = False
        self._dead: DecodeError | None = None
        self._dead_letters: Producer | None = None
        self._started = False
        self._growth: asyncio.Task[None] | None = None
        self._closed = False
        self.member: GroupMember | None = None
        if self._group is not None:
            self.member = member_of(
                cluster, self._consumer, self._group, list(self._topics), taken, (on_assigned, on_revoked, on_lost)
            )

    async def __aenter__(self) -> Subscriber[K, V]:
        await self._start()
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        await self.close()

    async def _start(self) -> None:
        if self._started:
            return
        if self.member is not None:
            self.member.start()
        else:
            start = Start("start" if self._reset == "earliest" else "end")
            for topic in self._topics:
                await self._consumer.assign(topic, start)
            if self._topics:
                self._growth = asyncio.create_task(self._grow())
        self._started = True

    async def _grow(self) -> None:
        """Partitions that were not there at the start are all news: they are read from their beginning."""
        while True:
            await asyncio.sleep(METADATA_AGE_S)
            with contextlib.suppress(LogeionError):  # whoever fetches meets it too, and says so
                for topic in self._topics:
                    known = {index for name, index in self._consumer.assignment if name == topic}
                    info = await self._cluster.topic(topic, fresh=True)
                    added = [one.index for one in info.partitions if one.index not in known]
                    if added:
                        await self._consumer.assign(topic, Start("start"), partitions=added)

    async def __aiter__(self) -> AsyncIterator[Record[K, V]]:
        while True:
            for record in self.here():
                yield record
            await self.fill()

    async def batches(self, *, max_records: int | None = None, max_wait: float = 0.2) -> AsyncIterator[Batch[K, V]]:
        """Batches of up to ``max_records`` (default: ``max_poll_records``): what came within ``max_wait`` seconds of
        the first of them."""
        while True:
            yield await self.batch(max_records, max_wait)

    async def batch(self, max_records: int | None = None, max_wait: float = 0.2) -> Batch[K, V]:
        """The next batch, of one record at least. What is raised, or cancels it, takes no record along: those that
        were gathered by then are in the next batch."""
        most = self.max_records if max_records is None else max_records
        self.finish()
        gathered: list[Taken[K, V]] = []
        until: float | None = None
        try:
            while len(gathered) < most:
                if self._gather(gathered, most):
                    continue
                now = time.monotonic()
                if gathered:
                    until = now + max_wait if until is None else until
                    if now >= until or self._stopped or (self.member is not None and self.member.wanted_back):
                        break
                    await self.fill(until - now, idle=False)
                else:
                    await self.fill()
        except BaseException:
            self._put_back(gathered)
            raise
        return Batch(self._hand_out(gathered), self)

    def ready_batch(self, max_records: int) -> list[Record[K, V]]:
        """What is here already, up to so many records; what was handed out before is finished. Raises as ``take``."""
        self.finish()
        gathered: list[Taken[K, V]] = []
        self._gather(gathered, max_records)
        return self._hand_out(gathered)

    def _gather(self, gathered: list[Taken[K, V]], most: int) -> bool:
        """Moves what is here to ``gathered``; whether there was something. Raises what the types raise, once what
        stands before it was handed out."""
        had = len(gathered)
        self._stopped = False
        try:
            while len(gathered) < most:
                # What most read, without a call for each record.
                while (chunk := self._chunk()) is not None and chunk[0].tp.topic in self._raw:
                    position, records = chunk
                    tp, pop = position.tp, records.popleft
                    for _ in range(min(most - len(gathered), len(records))):
                        raw = pop()
                        record = self._made(*tp, raw.offset, raw.timestamp, raw.key, raw.value, raw.headers)
                        gathered.append((position, raw, record))
                    if len(gathered) == most:
                        return True
                if (found := self._next()) is None:
                    break
                gathered.append(found)
        except Exception:
            if not gathered:
                raise
            self._stopped = True  # it comes again with the next batch
        return len(gathered) > had

    def _hand_out(self, gathered: Sequence[Taken[K, V]]) -> list[Record[K, V]]:
        if self.member is not None:
            for position, raw, _ in gathered:
                self._handed[position] = raw.offset + 1
            self._hand_passed()
        return [record for _, _, record in gathered]

    def _hand_passed(self) -> None:
        for position, offset in self._passed.items():
            self._handed[position] = max(offset, self._handed.get(position, 0))
        self._passed.clear()

    def _put_back(self, gathered: Sequence[Taken[K, V]]) -> None:
        first: dict[Position, int] = {}
        for position, raw, _ in gathered:
            first.setdefault(position, raw.offset)
        for position, offset in first.items():
            self._passed.pop(position, None)  # it may stand behind what is put back
            if position.paused and not position.gone:
                self._read_again(position, offset)
        for position, raw, _ in reversed(gathered):
            if self._chunks and self._chunks[0][0] is position:
                self._chunks[0][1].appendleft(raw)
            else:
                self._chunks.appendleft((position, deque([raw])))

    # What iterating is made of; these are called on whatever thread the program's loop runs

    def here(self) -> Iterator[Record[K, V]]:
        """Record by record what is here already, each finished when the next is asked for; ``fill`` is next.

        Raises DecodeError, and again until somebody seeks past it.
        """
        member, handed, clock, make = self.member, self._handed, time.monotonic, self._made
        while True:
            # The same as ``take`` again and again, without the calls.
            while (chunk := self._chunk()) is not None:
                if handed:
                    self.finish()
                position, records = chunk
                tp = position.tp
                topic, partition = tp
                raw_topic, read, pop = topic in self._raw, self._topics[topic].read, records.popleft
                while records and not (position.gone or position.paused):
                    raw = records[0]
                    offset = raw.offset
                    if raw_topic:
                        record = make(topic, partition, offset, raw.timestamp, raw.key, raw.value, raw.headers)
                    else:
                        try:
                            record = read(tp, raw)
                        except DecodeError:
                            break  # ``take`` knows what to do
                    pop()
                    if member is None:
                        yield record
                        continue
                    handed[position] = offset + 1
                    yield record
                    if handed.pop(position, 0):  # else it is read again since: what is in hand went along
                        position.done = offset + 1
                    member.last_back = clock()
                    if member.wanted_back:
                        return
                else:
                    continue
                break
            taken = self.take()
            if taken is None:
                return
            yield taken

    def take(self) -> Record[K, V] | None:
        """The next record that is here already; what was handed out before is finished.

        None: ``fill`` is next. Raises DecodeError, and again until somebody seeks past it.
        """
        if self._handed:
            self.finish()
        found = self._next()
        if self.member is not None:
            if found is not None:
                self._handed[found[0]] = found[1].offset + 1
            if self._passed:
                self._hand_passed()
        return None if found is None else found[2]

    def _chunk(self) -> tuple[Position, deque[RawRecord]] | None:
        """Where the next record is; None if there is none, or none may be handed out now."""
        member = self.member
        if member is not None:
            member.last_back = time.monotonic()
            if member.wanted_back:
                return None
        if self._dead is not None:
            return None
        chunks = self._chunks
        while chunks:
            position, records = chunks[0]
            if records and not (position.gone or position.paused):
                return chunks[0]
            chunks.popleft()
        return None

    def _next(self) -> Taken[K, V] | None:
        """Takes the next one out, by its topic's policy. Raises DecodeError and leaves it in."""
        while (chunk := self._chunk()) is not None:
            position, records = chunk
            raw = records[0]
            topic = self._topics[position.tp.topic]
            try:
                record = topic.read(position.tp, raw)
            except DecodeError as error:
                if topic.policy == "raise":
                    raise
                if topic.policy == "dead-letter":
                    self._dead = error
                    return None
                records.popleft()
                self._passed[position] = raw.offset + 1
                continue
            records.popleft()
            return position, raw, record
        return None

    def finish(self) -> None:
        """What was handed out is finished."""
        if self._handed:
            for position, offset in self._handed.items():
                position.done = offset
            self._handed.clear()

    async def fill(self, timeout_s: float | None = None, *, idle: bool = True) -> None:
        """Until there is something to take, or the time is up. Raises what reading failed with."""
        if self._closed:
            raise ClosedError("the consumer was closed", "make another one")
        if not self._started:
            await self._start()
        if self._dead is not None:
            await self._bury(self._dead)
            return
        if idle:
            self._hand_passed()
            self.finish()
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
        await self._dead_letters.send(
            topic.dead_letters,
            raw.value,
            raw.key,
            headers=dead_letter_headers(error),
            timestamp_ms=raw.timestamp if raw.timestamp >= 0 else None,
        )
        self._dead = None
        if self._chunks and self._chunks[0][1] and self._chunks[0][1][0] is raw:
            position, records = self._chunks[0]
            records.popleft()
            self._passed[position] = raw.offset + 1

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Reads exactly these partitions, from these offsets; for one without a group that was not entered."""
        self._started = True
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
        if self._dead is not None and self._dead.where == tp:
            self._dead = None
        # What is in hand of the position before is finished there, which nobody looks at any more.
        before = self._consumer.at(tp)
        position = self._consumer.place(tp, offset)
        position.done = offset
        position.committed = before.committed if before is not None else -1

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
            before = self._consumer.at(tp)
            if paused and left >= 0 and before is not None:
                self._read_again(before, left)
            self._consumer.pause(tp, paused)

    def _read_again(self, before: Position, offset: int) -> None:
        """Fetches it again from here, without a change of what is finished and in hand."""
        position = self._consumer.place(before.tp, offset)
        position.done, position.committed = before.done, before.committed
        for offsets in (self._handed, self._passed):
            if before in offsets:
                offsets[position] = offsets.pop(before)

    async def close(self) -> None:
        """Commits what is finished (not the record in hand), leaves the group and stops reading."""
        if self._closed:
            return
        self._closed = True
        if self._growth is not None:
            self._growth.cancel()
            await asyncio.gather(self._growth, return_exceptions=True)
        try:
            if self.member is not None:
                await self.member.close()
        finally:
            await self._consumer.close()
            if self._dead_letters is not None:
                await self._dead_letters.close()


def typed(topics: Sequence[Any]) -> list[Topic[Any, Any]]:
    """Names stand for topics of bytes."""
    return [raw_topic(topic) if isinstance(topic, str) else topic for topic in topics]
