"""KafkaConsumer: subscribe or assign, poll or iterate."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, cast

from logeion.client.background import own_cluster
from logeion.client.consumer import EARLIEST, LATEST, Consumer
from logeion.client.groups import Groups
from logeion.client.settings import StandaloneConsumerSettings, checked
from logeion.client.subscriber import Subscriber
from logeion.client.sync_consumer import on_thread
from logeion.client.topics import Topic
from logeion.wire.errors import KafkaError, OffsetOutOfRangeError, UnknownTopicOrPartitionError
from logeion.wire.records import Record as RawRecord

from .configs import Coder, deserializer, taken
from .errors import IllegalArgumentError, IllegalStateError, translated
from .structs import (
    ConsumerGroupMetadata,
    ConsumerRebalanceListener,
    ConsumerRecord,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    TopicPartition,
    headers_size,
    size,
)

FETCH = {
    "fetch_min_bytes",
    "fetch_max_wait_ms",
    "fetch_max_bytes",
    "max_partition_fetch_bytes",
    "auto_offset_reset",
    "isolation_level",
}
GROUP = {
    "group_id",
    "group_instance_id",
    "enable_auto_commit",
    "auto_commit_interval_ms",
    "session_timeout_ms",
    "heartbeat_interval_ms",
    "max_poll_interval_ms",
    "partition_assignment_strategy",
    "group_protocol",
    "group_remote_assignor",
}
OWN = {"key_deserializer", "value_deserializer", "max_poll_records", "consumer_timeout_ms"}
# How often a subscription by pattern looks for new topics, in seconds (kafka-python: metadata_max_age_ms).
PATTERN_S = 5.0
ONE_WAY = "You must choose only one way to configure your consumer: topics, a pattern, or assigned partitions"


class _Raw(Topic[Any, Any]):
    """A topic whose records come as kafka-python hands them out."""

    def __init__(self, name: str, key: Coder | None, value: Coder | None) -> None:
        super().__init__(name)
        self._decode = (key, value)
        self.is_raw = False

    def read(self, where: TopicPartition, raw: RawRecord) -> Any:
        key, value = self._decode
        return ConsumerRecord(
            *where,
            None,
            raw.offset,
            raw.timestamp,
            0,
            raw.key if key is None else key(where.topic, raw.headers, raw.key),
            raw.value if value is None else value(where.topic, raw.headers, raw.value),
            raw.headers,
            None,
            size(raw.key),
            size(raw.value),
            headers_size(raw.headers),
        )


class KafkaConsumer(Iterator[ConsumerRecord]):
    """See kafka-python for the settings. Use in one thread; heartbeats are sent while nobody polls, too."""

    def __init__(self, *topics: str, **configs: Any) -> None:
        settings = taken("KafkaConsumer", FETCH | GROUP | OWN, configs)
        self._key = deserializer(settings.pop("key_deserializer", None))
        self._value = deserializer(settings.pop("value_deserializer", None))
        self._max_poll_records: int = settings.pop("max_poll_records", 500)
        self._timeout_s: float = settings.pop("consumer_timeout_ms", float("inf")) / 1000
        settings.setdefault("bootstrap_servers", "localhost:9092")
        strategy = settings.get("partition_assignment_strategy")
        if strategy is not None:
            settings["partition_assignment_strategy"] = [getattr(one, "name", one) for one in strategy]
        with translated():
            checked(StandaloneConsumerSettings, settings)
            self._background, self._cluster = own_cluster(settings)
        settings.pop("request_timeout_ms", None)
        self._settings = settings
        self._group: str | None = settings.get("group_id")
        self._auto_commit = settings.get("enable_auto_commit", True) and self._group is not None
        self._commit_s = settings.get("auto_commit_interval_ms", 5000) / 1000
        self._commit_at = time.monotonic() + self._commit_s
        self._core: Subscriber[Any, Any] | None = None
        self._asker = self._run(_make(lambda: Consumer(self._cluster)))
        self._topics: frozenset[str] | None = None
        self._pattern: re.Pattern[str] | None = None
        self._look_at = 0.0
        self._listener: ConsumerRebalanceListener | None = None
        self._manual = False
        self._closed = False
        if topics:
            self.subscribe(topics)

    def __enter__(self) -> KafkaConsumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work: Any) -> Any:
        with translated():
            return self._background.run(work)

    # What is read

    def subscribe(
        self,
        topics: Iterable[str] = (),
        pattern: str | None = None,
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """These topics, or all that match from their start on, now and later."""
        if self._manual:
            raise IllegalStateError(ONE_WAY)
        names = frozenset(topics)
        if bool(names) == (pattern is not None):
            raise IllegalStateError(ONE_WAY if names else "Must provide topics or a pattern")
        self._listener = listener
        self._pattern = re.compile(pattern) if pattern is not None else None
        if self._pattern is not None:
            names = self._matching()
        self._follow(names)

    def _matching(self) -> frozenset[str]:
        assert self._pattern is not None
        self._look_at = time.monotonic() + PATTERN_S
        self._run(self._cluster.retrying(self._cluster.refresh, what="the list of topics"))
        found = self._cluster.metadata.topics.values()
        return frozenset(one.name for one in found if not one.internal and self._pattern.match(one.name))

    def _follow(self, topics: frozenset[str]) -> None:
        """Become a reader of these topics, unless it is one already."""
        if self._core is not None and topics == self._topics:
            return
        self._end(autocommit=True)
        self._topics = topics
        if topics:
            self._run(self._begin(topics, self._settings).__aenter__())

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """These and no others, without being a member of the group; goes on where the group has committed."""
        if self._topics is not None:
            raise IllegalStateError(ONE_WAY)
        wanted = [TopicPartition(*tp) for tp in partitions]
        self._manual = True
        positions = self._run(self._starts(wanted))
        self._end(autocommit=True)
        settings = {k: v for k, v in self._settings.items() if k in FETCH}
        core = self._begin(frozenset(tp.topic for tp in wanted), settings)
        self._run(_make(lambda: core.assign(positions)))

    async def _starts(self, wanted: list[TopicPartition]) -> dict[TopicPartition, int]:
        committed = await Groups(self._cluster).offsets(self._group) if self._group is not None else {}
        known = self._core
        found = {}
        for tp in wanted:
            if known is not None and tp in known.assignment:
                found[tp] = known.position(tp)
            elif tp in committed:
                found[tp] = committed[tp]
            else:
                reset = self._settings.get("auto_offset_reset", "latest")
                if reset == "none":
                    raise OffsetOutOfRangeError(f"no position is committed for {tp}, and auto_offset_reset is none")
                await self._cluster.topic(tp.topic)
                where = EARLIEST if reset == "earliest" else LATEST
                found[tp] = (await self._asker.offsets(tp.topic, [tp.partition], where))[tp.partition]
        return found

    def _begin(self, topics: Collection[str], settings: Mapping[str, Any]) -> Subscriber[Any, Any]:
        raw = [_Raw(name, self._key, self._value) for name in topics]
        told = self._listener
        callbacks = {
            "on_assigned": on_thread(told.on_partitions_assigned) if told is not None else None,
            "on_revoked": on_thread(told.on_partitions_revoked) if told is not None else None,
            "on_lost": on_thread(told.on_partitions_lost) if told is not None else None,
        }
        options = {**settings, **callbacks}
        core: Subscriber[Any, Any] = self._run(_make(lambda: Subscriber(self._cluster, raw, **options)))
        self._core = core
        return core

    def _end(self, *, autocommit: bool) -> None:
        core, self._core = self._core, None
        if core is None:
            return
        if autocommit and self._auto_commit:
            core.finish()
            if core.member is None:
                self._commit_positions(core)
        elif core.member is not None:
            core.member.keep_uncommitted()
        self._run(core.close())

    def unsubscribe(self) -> None:
        """Reads nothing any more."""
        self._end(autocommit=True)
        self._topics, self._pattern, self._manual = None, None, False

    def subscription(self) -> set[str] | None:
        """The topics it is subscribed to."""
        return None if self._topics is None else set(self._topics)

    def assignment(self) -> set[TopicPartition]:
        """The partitions it reads now."""
        return set() if self._core is None else set(self._core.assignment)

    # Reading

    def poll(
        self, timeout_ms: float = 0, max_records: int | None = None, update_offsets: bool = True
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What is there, by partition; waits for some at most so long. What the last call returned is finished now."""
        core = self._reading()
        if max_records is not None and max_records <= 0:
            raise IllegalArgumentError("max_records must be at least 1")
        until = time.monotonic() + timeout_ms / 1000
        core.finish()
        self._commit_when_due(core)
        while not (rows := core.ready_batch(max_records or self._max_poll_records)):
            left_s = until - time.monotonic()
            if left_s < -0.001:
                break
            self._run(core.fill(max(left_s, 0.0)))
            if not core.ready and time.monotonic() >= until:
                break
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        for row in cast("list[ConsumerRecord]", rows):
            found.setdefault(TopicPartition(row.topic, row.partition), []).append(row)
        return found

    def __iter__(self) -> Iterator[ConsumerRecord]:
        return self

    def __next__(self) -> ConsumerRecord:
        core = self._reading()
        until = time.monotonic() + self._timeout_s
        while True:
            record = core.take()
            if record is not None:
                return cast(ConsumerRecord, record)
            self._commit_when_due(core)
            wait = min(until - time.monotonic(), PATTERN_S)
            if wait <= 0:
                raise StopIteration
            self._run(core.fill(wait))
            core = self._reading()

    def _reading(self) -> Subscriber[Any, Any]:
        if self._closed:
            raise IllegalStateError("KafkaConsumer is closed")
        if self._pattern is not None and time.monotonic() >= self._look_at:
            self._follow(self._matching())
        if self._core is None:
            if self._pattern is None:
                raise IllegalStateError("Consumer is not subscribed to any topics or assigned any partitions")
            # Nothing matches yet.
            self._begin((), {k: v for k, v in self._settings.items() if k in FETCH})
        core = self._core
        assert core is not None
        return core

    # Positions

    def _assigned(self, partition: TopicPartition) -> Subscriber[Any, Any]:
        if self._core is None or partition not in self._core.assignment:
            raise IllegalStateError("Partition is not assigned")
        return self._core

    def position(self, partition: TopicPartition, timeout_ms: float | None = None) -> int:
        """The offset of the next record that will be returned."""
        return self._assigned(partition).position(TopicPartition(*partition))

    def highwater(self, partition: TopicPartition) -> int | None:
        """The end of what is committed there, as of the last fetch; None before the first."""
        found = self._assigned(partition).reader.high_watermark(TopicPartition(*partition))
        return None if found < 0 else found

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Reads on from this offset. Raises ValueError for a partition that is not assigned, or a negative offset."""
        if not isinstance(offset, int) or offset < 0:
            raise ValueError("Offset must be a non-negative integer")
        if partition not in self.assignment():
            raise ValueError("Unassigned partition")
        self._run(self._reading().seek(TopicPartition(*partition), offset))

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """These, or all that are assigned, from their first record."""
        self._seek_all(self.beginning_offsets, partitions)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """These, or all that are assigned, from their end."""
        self._seek_all(self.end_offsets, partitions)

    def _seek_all(self, where: Callable[[Any], dict[TopicPartition, int]], given: Collection[TopicPartition]) -> None:
        for tp, offset in where(given or self.assignment()).items():
            self.seek(tp, offset)

    def pause(self, *partitions: TopicPartition) -> None:
        """Returns nothing of these until ``resume``."""
        self._run(self._reading().pause(*(TopicPartition(*tp) for tp in partitions)))

    def resume(self, *partitions: TopicPartition) -> None:
        """The opposite of ``pause``."""
        self._run(self._reading().resume(*(TopicPartition(*tp) for tp in partitions)))

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        return set() if self._core is None else self._core.reader.paused

    def beginning_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: float | None = None
    ) -> dict[TopicPartition, int]:
        """The offset of each one's first record."""
        return {tp: one.offset for tp, one in self._found(dict.fromkeys(partitions, EARLIEST)).items()}

    def end_offsets(
        self, partitions: Iterable[TopicPartition], timeout_ms: float | None = None
    ) -> dict[TopicPartition, int]:
        """The offset of each one's next record."""
        return {tp: one.offset for tp, one in self._found(dict.fromkeys(partitions, LATEST)).items()}

    def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int], timeout_ms: float | None = None
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record of each that is not older (milliseconds since 1970); None where there is none."""
        return {
            tp: OffsetAndTimestamp(one.offset, one.timestamp, one.leader_epoch) if one.offset >= 0 else None
            for tp, one in self._found(timestamps).items()
        }

    def _found(self, wanted: Mapping[TopicPartition, int]) -> dict[TopicPartition, Any]:
        async def ask() -> dict[TopicPartition, Any]:
            found = {}
            for (topic, partition), timestamp in wanted.items():
                await self._cluster.topic(topic)
                one = await self._asker.found_offsets(topic, [partition], timestamp)
                found[TopicPartition(topic, partition)] = one[partition]
            return found

        return cast("dict[TopicPartition, Any]", self._run(ask()))

    # Committing

    def commit(self, offsets: Mapping[TopicPartition, Any] | None = None, timeout_ms: float | None = None) -> None:
        """Commits these positions, or those of everything that was returned. Raises KafkaError."""
        if self._group is None:
            raise IllegalStateError("Requires group_id")
        core = self._core
        if offsets is None:
            if core is None:
                return
            wanted = {tp: core.position(tp) for tp in core.assignment}
            notes: dict[TopicPartition, str] = {}
        else:
            wanted = {TopicPartition(*tp): int(getattr(one, "offset", one)) for tp, one in offsets.items()}
            notes = {TopicPartition(*tp): getattr(one, "metadata", "") or "" for tp, one in offsets.items()}
        if core is not None and core.member is not None:
            self._run(core.member.commit_offsets(wanted, notes))
        else:
            self._run(Groups(self._cluster).commit(self._group, wanted, notes))

    def commit_async(
        self,
        offsets: Mapping[TopicPartition, Any] | None = None,
        callback: Callable[[Any, Any], object] | None = None,
    ) -> None:
        """As ``commit``; the callback gets (offsets, None or the error). It is done when this returns."""
        error: Exception | None = None
        try:
            self.commit(offsets)
        except KafkaError as refused:
            error = refused
        if callback is not None:
            callback(offsets, error)

    def committed(
        self, partition: TopicPartition, metadata: bool = False, timeout_ms: float | None = None
    ) -> int | OffsetAndMetadata | None:
        """What the group has committed there."""
        if self._group is None:
            raise IllegalStateError("Requires group_id")
        found = self._run(Groups(self._cluster).committed(self._group)).get(TopicPartition(*partition))
        if found is None:
            return None
        return OffsetAndMetadata(found.offset, found.metadata, found.leader_epoch) if metadata else int(found.offset)

    def _commit_when_due(self, core: Subscriber[Any, Any]) -> None:
        """For assigned partitions; a member commits by itself."""
        now = time.monotonic()
        if self._auto_commit and core.member is None and now >= self._commit_at:
            self._commit_at = now + self._commit_s
            self._commit_positions(core)

    def _commit_positions(self, core: Subscriber[Any, Any]) -> None:
        assert self._group is not None
        self._run(Groups(self._cluster).commit(self._group, {tp: core.position(tp) for tp in core.assignment}))

    # The cluster

    def topics(self) -> set[str]:
        """The names of all topics."""
        self._run(self._cluster.retrying(self._cluster.refresh, what="the list of topics"))
        return {name for name, info in self._cluster.metadata.topics.items() if not info.internal}

    def partitions_for_topic(self, topic: str) -> set[int]:
        """Its partitions; none if there is no such topic."""
        try:
            info = self._run(self._cluster.topic(topic))
        except UnknownTopicOrPartitionError:
            return set()
        return {one.index for one in info.partitions}

    def group_metadata(self) -> ConsumerGroupMetadata:
        """Who it is in its group."""
        member = self._core.member if self._core is not None else None
        if member is None:
            return ConsumerGroupMetadata(self._group)
        return ConsumerGroupMetadata(self._group, *member.identity)

    def bootstrap_connected(self) -> bool:
        """Whether a broker was found; the constructor has seen to it."""
        return not self._closed

    def metrics(self, raw: bool = False) -> dict[str, Any]:
        """None are kept here."""
        return {}

    def close(self, autocommit: bool = True, timeout_ms: float | None = None) -> None:
        """Commits what was returned, if it commits by itself, leaves the group and disconnects."""
        if self._closed:
            return
        self._closed = True
        try:
            self._end(autocommit=autocommit)
            self._run(self._asker.close())
        finally:
            self._run(self._cluster.close())


async def _make(build: Callable[[], Any]) -> Any:
    """On the background loop, where everything of the client lives."""
    return build()
