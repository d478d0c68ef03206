"""Reading by assignment: partitions and where to begin are the caller's choice; groups come on top of this."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import cast

from logeion.wire.apis import (
    FetchRequest,
    FetchResponse,
    ListOffsetsPartition,
    ListOffsetsPartitionResponse,
    ListOffsetsRequest,
    ListOffsetsResponse,
    ListOffsetsTopic,
)
from logeion.wire.errors import (
    KafkaError,
    LogeionError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from logeion.wire.records import Record

from .cluster import Cluster
from .fetch_session import FetchSession
from .positions import Position, Start, TopicPartition
from .retries import advise, backoff_s

FETCH, LIST_OFFSETS = 1, 2
LATEST, EARLIEST = -1, -2
ISOLATION = {"read_uncommitted": 0, "read_committed": 1}
# After an error that will not pass by itself a partition is asked again, and the error said again, this much later.
QUIET_S = 1.0


class Consumer:
    """Fetches ahead from every leader at once, within ``buffer_bytes``. Use with ``async with``, then ``assign``.

    ``getmany`` hands out what came; iterating hands out (TopicPartition, Record) one by one.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        fetch_min_bytes: int = 1,
        fetch_max_wait_ms: int = 500,
        fetch_max_bytes: int = 8 * 1024 * 1024,
        max_partition_fetch_bytes: int = 1024 * 1024,
        buffer_bytes: int = 32 * 1024 * 1024,
        auto_offset_reset: str = "latest",
        isolation_level: str = "read_uncommitted",
    ) -> None:
        """``auto_offset_reset``: where to go on when the position is gone: "earliest", "latest" or "none" (raise).
        ``isolation_level="read_committed"`` leaves out what aborted and unfinished transactions wrote."""
        self._cluster = cluster
        self._purpose = cluster.own_purpose("fetch")
        self._fetch_min_bytes = fetch_min_bytes
        self._fetch_max_wait_ms = fetch_max_wait_ms
        self._fetch_max_bytes = fetch_max_bytes
        self._max_partition_fetch_bytes = max_partition_fetch_bytes
        self._buffer_bytes = buffer_bytes
        self._reset = auto_offset_reset
        self._isolation = ISOLATION[isolation_level]
        # What is fetched and not handed out yet: a rebalance callback may still seek there.
        self.held: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, Position] = {}
        self.endless = False  # partitions may still be placed: what is assigned now is not all
        self._buffered = 0
        self._fetchers: dict[int, asyncio.Task[None]] = {}
        self._sessions: dict[int, FetchSession] = {}
        self._arrived = asyncio.Event()
        self._wanted = asyncio.Event()
        self._error: LogeionError | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Consumer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def assign(
        self, topic: str, start: Start, *, partitions: Iterable[int] | None = None, to_end: bool = False
    ) -> None:
        """Reads these partitions (default: all) from ``start``; ``to_end``: up to what is there now, then finish.

        Raises UnknownTopicOrPartitionError and what else the broker says; OffsetOutOfRangeError for an offset outside
        the log.
        """
        info = await self._cluster.retrying(
            lambda: self._cluster.topic(topic, fresh=True), what=f"metadata of {topic!r}"
        )
        wanted = [entry.index for entry in info.partitions] if partitions is None else list(partitions)
        for index in wanted:
            if not 0 <= index < len(info.partitions):
                raise UnknownTopicOrPartitionError(
                    f"topic {topic!r} has {len(info.partitions)} partitions, none is {index}"
                )
        ends = await self.offsets(topic, wanted, LATEST)
        begins = await self.offsets(topic, wanted, EARLIEST) if start.kind in ("start", "last", "offset") else {}
        times = await self.offsets(topic, wanted, start.value) if start.kind == "time" else {}
        for index in wanted:
            end = ends[index]
            match start.kind:
                case "start":
                    offset = begins[index]
                case "last":
                    offset = max(end - start.value, begins[index])
                case "time":
                    offset = times[index] if times[index] >= 0 else end
                case "offset":
                    offset = min(max(start.value, begins[index]), end) if len(wanted) > 1 else start.value
                    if not begins[index] <= offset <= end:
                        raise OffsetOutOfRangeError(
                            f"{topic}[{index}]: offset {offset} is not between {begins[index]} and {end}"
                        )
                case _:
                    offset = end
            tp = TopicPartition(topic, index)
            self.place(tp, offset, end if to_end else None)

    def place(self, tp: TopicPartition, offset: int, stop_at: int | None = None) -> Position:
        """Reads this partition from ``offset`` on; what was fetched of it before is forgotten."""
        paused = self.drop(tp)
        position = self._positions[tp] = Position(tp, offset, stop_at)
        position.paused = paused
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_fetching())
        self._wanted.set()
        return position

    def drop(self, tp: TopicPartition) -> bool:
        """Reads this partition no more; whether it was paused."""
        position = self._positions.pop(tp, None)
        if position is None:
            return False
        position.gone = True
        self._buffered -= position.buffered
        return position.paused

    def pause(self, tp: TopicPartition, paused: bool) -> None:
        """Stops or resumes fetching it. Raises KeyError if not assigned."""
        self._positions[tp].paused = paused
        self._wanted.set()

    def release(self, partitions: Iterable[TopicPartition]) -> None:
        """These are ``held`` no more."""
        self.held.difference_update(partitions)
        self._arrived.set()

    def at(self, tp: TopicPartition) -> Position | None:
        """Where it stands in this partition; None if that is not assigned."""
        return self._positions.get(tp)

    @property
    def positions(self) -> list[Position]:
        """Where it stands, in each partition."""
        return list(self._positions.values())

    @property
    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        return {tp for tp, position in self._positions.items() if position.paused}

    @property
    def assignment(self) -> list[TopicPartition]:
        """The partitions that are read now."""
        return sorted(self._positions)

    async def offsets(self, topic: str, partitions: Iterable[int], timestamp: int) -> dict[int, int]:
        """Partition -> the first offset whose record is not older than ``timestamp`` (ms; -1 the end, -2 the start);
        -1 where there is none. Raises KafkaError."""
        found = await self.found_offsets(topic, partitions, timestamp)
        return {index: one.offset for index, one in found.items()}

    async def found_offsets(
        self, topic: str, partitions: Iterable[int], timestamp: int
    ) -> dict[int, ListOffsetsPartitionResponse]:
        """What ``offsets`` finds, with that record's own timestamp and leader epoch."""
        left = set(partitions)
        found: dict[int, ListOffsetsPartitionResponse] = {}

        async def ask() -> None:
            by_leader: dict[int, list[int]] = {}
            for index in sorted(left):
                by_leader.setdefault(self._cluster.metadata.leader(topic, index), []).append(index)
            for node, indexes in by_leader.items():
                wanted = [ListOffsetsPartition(partition_index=index, timestamp=timestamp) for index in indexes]
                request = ListOffsetsRequest(
                    replica_id=-1,
                    isolation_level=self._isolation,
                    topics=[ListOffsetsTopic(name=topic, partitions=wanted)],
                    timeout_ms=int(self._cluster.request_timeout_s * 1000),
                )
                answer = cast(ListOffsetsResponse, await self._cluster.call(LIST_OFFSETS, request, node=node))
                for entry in (entry for answered in answer.topics for entry in answered.partitions):
                    if entry.error_code:
                        raise _about(topic, entry.partition_index, entry.error_code)
                    found[entry.partition_index] = entry
                    left.discard(entry.partition_index)

        await self._cluster.retrying(ask, what=f"offsets of {topic!r}")
        return found

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record to be handed out. Raises KeyError if not assigned."""
        return self._positions[TopicPartition(topic, partition)].next_record

    def high_watermark(self, tp: TopicPartition) -> int:
        """The end of what was committed there as of the last fetch, -1 before. Raises KeyError if not assigned."""
        return self._positions[tp].high_watermark

    @property
    def finished(self) -> bool:
        """Whether every partition was read to where ``to_end`` said."""
        return not self.endless and all(position.finished for position in self._positions.values())

    async def getmany(self, *, timeout_s: float | None = None) -> dict[TopicPartition, list[Record]]:
        """What came, by partition and in order; waits for some. Empty when finished or after ``timeout_s``.

        Raises what fetching failed with: KafkaError that is not retriable, CorruptMessageError.
        """
        return {position.tp: records for position, records in await self.getchunks(timeout_s=timeout_s)}

    async def getchunks(self, *, timeout_s: float | None = None) -> list[tuple[Position, list[Record]]]:
        """What ``getmany`` hands out, with positions, whose ``gone`` says later that nobody wants it any more."""
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s
        while True:
            if self._error is not None:
                raise self._error
            self._raise_trouble(loop)
            found = []
            for position in self._positions.values():
                if not position.batches or position.paused or position.tp in self.held:
                    continue
                records, freed = position.take()
                self._buffered -= freed
                if records:
                    found.append((position, records))
            if found:
                self._wanted.set()
                return found
            self._raise_trouble(loop)  # what the taking came upon
            if self.finished:
                return []
            self._arrived.clear()
            self._wanted.set()
            try:
                async with asyncio.timeout_at(until):
                    await self._arrived.wait()
            except TimeoutError:
                return []

    def _raise_trouble(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises what a partition stopped with, once all before it was handed out; again only after a while, so that
        a program that goes on gets the other partitions' records meanwhile."""
        now = loop.time()
        for position in self._positions.values():
            error = position.error
            if error is None or position.batches or position.paused or now < position.quiet_until:
                continue
            position.quiet_until = now + QUIET_S
            loop.call_at(position.quiet_until, self._look_again)
            if not isinstance(error, OffsetOutOfRangeError):
                position.error = None  # asked again then; only a seek helps one that is out of range
            raise error

    def _look_again(self) -> None:
        self._wanted.set()
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[tuple[TopicPartition, Record]]:
        while records := await self.getmany():
            for tp, some in records.items():
                for record in some:
                    yield tp, record

    async def close(self) -> None:
        """Stops fetching."""
        tasks = [*self._fetchers.values(), *([self._keeper] if self._keeper is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._cluster.release(self._purpose)

    # Fetching: one task that keeps one fetch in flight at every leader that something is wanted from

    async def _keep_fetching(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            leaderless = False
            by_leader: dict[int, list[Position]] = {}
            now = loop.time()
            for position in self._positions.values():
                if not position.fetchable or position.buffered >= 2 * self._max_partition_fetch_bytes:
                    continue
                if now < position.quiet_until:
                    continue
                try:
                    node = self._cluster.metadata.leader(*position.tp)
                except KafkaError as error:
                    if advise(error).retry:
                        leaderless = True
                    else:
                        self._stop([position], error)
                    continue
                by_leader.setdefault(node, []).append(position)
            if self._buffered < self._buffer_bytes:
                for node, positions in by_leader.items():
                    if node not in self._fetchers:
                        task = asyncio.create_task(self._fetch(node, positions))
                        self._fetchers[node] = task
                        task.add_done_callback(lambda done, node=node: self._fetched(node, done))  # type: ignore[misc]
            if leaderless:
                failures += 1
                await asyncio.sleep(backoff_s(failures))
                await self._refresh()
                continue
            failures = 0
            await self._wanted.wait()
            self._wanted.clear()

    def _fetched(self, node: int, done: asyncio.Task[None]) -> None:
        self._fetchers.pop(node, None)
        self._wanted.set()
        if not done.cancelled() and done.exception() is not None:
            cause = done.exception()
            self.fail(cause if isinstance(cause, LogeionError) else LogeionError(f"fetching stopped: {cause!r}"))

    def fail(self, error: LogeionError) -> None:
        """Whoever reads gets this error, for good: nothing goes on by itself."""
        self._error = error
        self._arrived.set()

    def _stop(self, positions: Iterable[Position], error: LogeionError) -> None:
        for position in positions:
            position.error = error
        self._arrived.set()

    async def _refresh(self) -> None:
        try:
            await self._cluster.refresh({tp.topic for tp in self._positions})
        except LogeionError as error:
            if not advise(error).retry:
                self._stop(self._positions.values(), error)

    async def _fetch(self, node: int, positions: list[Position]) -> None:
        # The partitions that were behind go first next time: an answer is cut at fetch_max_bytes.
        positions.sort(key=lambda position: position.buffered)
        asked = {position.tp: (position, position.next_fetch) for position in positions}
        wanted = {tp: (offset, self._max_partition_fetch_bytes) for tp, (_, offset) in asked.items()}
        session = self._sessions.setdefault(node, FetchSession())
        ask = session.ask(wanted)
        request = FetchRequest(
            max_wait_ms=self._fetch_max_wait_ms,
            min_bytes=self._fetch_min_bytes,
            max_bytes=self._fetch_max_bytes,
            isolation_level=self._isolation,
            session_id=ask.session_id,
            session_epoch=ask.session_epoch,
            topics=ask.topics,
            forgotten_topics_data=ask.forgotten,
        )
        timeout_s = self._cluster.request_timeout_s + self._fetch_max_wait_ms / 1000
        try:
            answer = cast(
                FetchResponse,
                await self._cluster.call(FETCH, request, node=node, timeout_s=timeout_s, purpose=self._purpose),
            )
            if not session.answered(answer.error_code, answer.session_id):
                return
            if answer.error_code:
                raise for_code(answer.error_code)(f"broker {node} refused a fetch")
        except LogeionError as error:
            session.broken()
            await self._after(error, positions)
            return
        trouble: KafkaError | None = None
        for topic_answer in answer.responses:
            for entry in topic_answer.partitions:
                tp = TopicPartition(topic_answer.topic, entry.partition_index)
                if tp not in asked:
                    continue
                position, offset = asked[tp]
                if position.gone or position.next_fetch != offset:
                    continue  # somebody sought elsewhere meanwhile
                if entry.error_code:
                    refused = _about(*tp, entry.error_code)
                    if isinstance(refused, OffsetOutOfRangeError):
                        await self._out_of_range(position, refused)
                    elif advise(refused).retry:
                        trouble = refused
                    else:
                        self._stop([position], refused)
                    continue
                if entry.records is not None and len(cast(memoryview, entry.records)):
                    gone = [(one.producer_id, one.first_offset) for one in entry.aborted_transactions or ()]
                    try:
                        more = position.fetched(cast(memoryview, entry.records), entry.high_watermark, gone)
                    except LogeionError as unreadable:
                        self._stop([position], unreadable)
                        continue
                    self._buffered += more
                    self._arrived.set()
        if trouble is not None:
            await self._after(trouble, ())

    async def _out_of_range(self, position: Position, error: OffsetOutOfRangeError) -> None:
        position.out_of_range = True
        if position.batches:
            return  # what came before it is handed out first; then it is asked again
        if self._reset == "none":
            self._stop([position], error)
            return
        topic, partition = position.tp
        where = EARLIEST if self._reset == "earliest" else LATEST
        try:
            offset = (await self.offsets(topic, [partition], where))[partition]
        except LogeionError as failure:
            await self._after(failure, [position])
            return
        if not position.gone:
            position.seek(offset)

    async def _after(self, error: LogeionError, positions: Iterable[Position]) -> None:
        advice = advise(error)
        if not advice.retry:
            self._stop(positions, error)
            return
        await asyncio.sleep(backoff_s(2))
        if advice.refresh:
            await self._refresh()


def _about(topic: str, partition: int, code: int) -> KafkaError:
    kind = for_code(code)
    return kind(f"{topic}[{partition}]: {(kind.__doc__ or '').strip()}")
