"""A load of aiokafka at its defaults, but idempotent: all clients in one loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    InvalidRequiredAcksError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)

from tests.cluster.loads.common import COMMIT_S, FUTURE_MS, History, Told, Value, options, read_value, say

OPTIONS = options()
HISTORY = History(Path(OPTIONS.history), OPTIONS.first)
TOLD = Told()
# What of an error is sure: nothing was appended, by any attempt. All others leave it open.
REFUSED = (
    InvalidRequiredAcksError,
    InvalidTimestampError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnsupportedForMessageFormatError,
)


def key(partition: int) -> str:
    return f"{OPTIONS.topic}-{partition}"


class Sender:
    """A producer; after an answer that leaves a record's fate open it is another process with another producer."""

    def __init__(self, number: int) -> None:
        self.acked = 0
        self._number = number

    async def run(self) -> None:
        pause = OPTIONS.producers / OPTIONS.per_second
        at = self._number
        while not TOLD.stop.is_set():
            self._doubt = False
            self._proc = HISTORY.process()
            values = Value(self._proc, OPTIONS.record_bytes)
            producer = self._producer()
            if not await self._started(producer):
                continue
            due = time.monotonic()
            while not TOLD.stop.is_set() and not self._doubt:
                await self._send(producer, at % OPTIONS.partitions, *values.make())
                at += 1
                due = max(due + pause, time.monotonic() - 1.0)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
            await producer.stop()

    def _producer(self, idempotent: bool = True) -> AIOKafkaProducer:
        acks: Any = OPTIONS.acks if OPTIONS.acks == "all" else int(OPTIONS.acks)
        servers = OPTIONS.bootstrap.split(",")
        return AIOKafkaProducer(bootstrap_servers=servers, acks=acks, enable_idempotence=idempotent and acks == "all")

    async def _started(self, producer: AIOKafkaProducer) -> bool:
        try:
            await producer.start()
        except KafkaError as error:
            HISTORY.counts[f"start error {type(error).__name__}"] += 1
            await producer.stop()
            await asyncio.sleep(0.1)
            return False
        return True

    async def _send(
        self, producer: AIOKafkaProducer, partition: int, value: int, record: bytes, at_ms: int | None = None
    ) -> None:
        proc, began = self._proc, HISTORY.begin(value, partition)

        def failed(error: BaseException) -> None:
            sure = isinstance(error, REFUSED)
            self._doubt = self._doubt or not sure
            kind = "fail" if sure else "info"
            HISTORY.write("send", kind, proc, began, [["send", key(partition), [None, value]]], why=repr(error))

        def answered(future: asyncio.Future[Any]) -> None:
            error = future.exception()
            if error is None:
                self.acked += 1
                HISTORY.write("send", "ok", proc, began, [["send", key(partition), [future.result().offset, value]]])
            else:
                failed(error)

        try:
            sent = await producer.send(OPTIONS.topic, record, partition=partition, timestamp_ms=at_ms)
        except KafkaError as error:
            failed(error)
        else:
            sent.add_done_callback(answered)


class Refused(Sender):
    """Sends what the broker must refuse, each time: a value of it that anybody reads was appended all the same."""

    async def run(self) -> None:
        self._doubt = False
        self._proc = HISTORY.process()
        values = Value(self._proc, OPTIONS.record_bytes)
        # A refused batch leaves a gap in its producer's sequence, so an idempotent one would begin anew each time.
        producer = self._producer(idempotent=False)
        while not await self._started(producer):
            if TOLD.stop.is_set():
                return
            producer = self._producer(idempotent=False)
        at = 0
        while not TOLD.stop.is_set():
            future = int(time.time() * 1000) + FUTURE_MS
            await self._send(producer, at % OPTIONS.partitions, *values.make(), at_ms=future)
            at += 1
            await asyncio.sleep(1 / OPTIONS.refused_per_second)
        await producer.stop()


@contextlib.asynccontextmanager
async def running(consumer: AIOKafkaConsumer) -> AsyncIterator[AIOKafkaConsumer]:
    """Started, and stopped at the end; tried again while nobody can be reached."""
    while True:
        try:
            await consumer.start()
            break
        except KafkaError as error:
            HISTORY.counts[f"start error {type(error).__name__}"] += 1
            await asyncio.sleep(0.1)
    try:
        yield consumer
    finally:
        try:
            await consumer.stop()
        except asyncio.CancelledError:
            # aiokafka cancels a fetch of its own, and lets that out of stop().
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise


class Reader:
    """A consumer: what every poll returned, by key."""

    def __init__(self) -> None:
        self.proc = HISTORY.process()
        self.positions: dict[int, int] = {}
        self.moved: set[int] = set()

    def consumer(self, **more: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=OPTIONS.bootstrap.split(","),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            **more,
        )

    async def poll(self, consumer: AIOKafkaConsumer) -> set[int]:
        """Poll for what is there; the partitions of which something came."""
        began = time.monotonic()
        got = await consumer.getmany(timeout_ms=100)
        polled = {
            key(where.partition): [[r.offset, read_value(r.value)] for r in records] for where, records in got.items()
        }
        for where, records in got.items():
            self.positions[where.partition] = records[-1].offset + 1
        if polled or self.moved:
            self.write("poll", "ok", began, [["poll", polled]], reb=[key(number) for number in sorted(self.moved)])
            self.moved.clear()
        return {where.partition for where in got}

    def write(self, f: str, kind: str, began: float, value: Any, **more: Any) -> None:
        HISTORY.write(f, kind, self.proc, began, value, **more)

    async def run(self) -> None:
        raise NotImplementedError

    def arrived(self) -> bool:
        """Whether everything to the given ends was read."""
        return TOLD.drain.is_set() and all(self.positions.get(n, 0) >= end for n, end in TOLD.ends.items())


class Follower(Reader):
    """Reads all partitions by assignment, from the beginning."""

    async def run(self) -> None:
        async with running(self.consumer()) as consumer:
            self.write("assign", "ok", time.monotonic(), [key(number) for number in range(OPTIONS.partitions)])
            consumer.assign([TopicPartition(OPTIONS.topic, number) for number in range(OPTIONS.partitions)])
            while not self.arrived():
                await self.poll(consumer)


class Member(Reader, ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of the group, which commits what it has read ten times a second. When its client gives up, it is another
    process, with another consumer; and so after ``stay_s``, when it leaves."""

    def __init__(self, stay_s: float = 0.0) -> None:
        super().__init__()
        self._stay_s = stay_s or float("inf")
        self._uncommitted: set[int] = set()
        self._owned: set[int] = set()

    async def run(self) -> None:
        while not (TOLD.drain.is_set() and GROUP.arrived()):
            try:
                await self._live()
            except KafkaError as error:
                HISTORY.counts[f"member ended {type(error).__name__} {error}"[:100]] += 1
                self._disown(self._owned)
            self.proc = HISTORY.process()
            self.positions.clear()
            self.moved.clear()
            self._uncommitted.clear()
            self._owned = set()

    async def _live(self) -> None:
        consumer = self.consumer(
            group_id=OPTIONS.group,
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=OPTIONS.session_ms,
            heartbeat_interval_ms=OPTIONS.session_ms // 3,
        )
        async with running(consumer) as self._consumer:
            self.write("subscribe", "ok", time.monotonic(), [key(number) for number in range(OPTIONS.partitions)])
            consumer.subscribe([OPTIONS.topic], listener=self)
            due, leaves = 0.0, time.monotonic() + self._stay_s
            while not (GROUP.arrived() if TOLD.drain.is_set() else time.monotonic() > leaves):
                # Not in one statement: what a rebalance does to the set while this waits would be undone.
                polled = await self.poll(consumer)
                self._uncommitted |= polled
                if time.monotonic() >= due:
                    await self._commit()
                    due = time.monotonic() + COMMIT_S
            self._disown(self._owned)

    def write(self, f: str, kind: str, began: float, value: Any, **more: Any) -> None:
        super().write(f, kind, began, value, group=OPTIONS.group, member=str(self.proc), **more)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self._owned = {where.partition for where in assigned}
        self.moved |= self._owned
        self._uncommitted.clear()
        keys = [key(number) for number in sorted(self._owned)]
        self.write("own", "ok", time.monotonic(), keys, gen=self._consumer._coordinator.generation)

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._commit()
        self.moved |= {where.partition for where in revoked}
        self._disown(self._owned)
        self._owned = set()

    def _disown(self, partitions: set[int]) -> None:
        if partitions:
            self.write("disown", "ok", time.monotonic(), [key(number) for number in sorted(partitions)])

    async def _commit(self) -> None:
        wanted = {number: self.positions[number] for number in self._uncommitted & self._owned}
        if not wanted:
            return
        before = self._consumer._coordinator.generation
        began = time.monotonic()
        value = {key(number): at for number, at in wanted.items()}
        try:
            await self._consumer.commit({TopicPartition(OPTIONS.topic, number): at for number, at in wanted.items()})
        except KafkaError as error:
            self.write("commit", "info", began, value, why=repr(error), gen=before)
        else:
            # What the client sent between two generations may have been of either.
            same = before == self._consumer._coordinator.generation
            self.write("commit", "ok", began, value, gen=before if same else -1)
            GROUP.committed(wanted)
            self._uncommitted.difference_update(wanted)


class Group:
    """What the members of this process have committed together."""

    def __init__(self) -> None:
        self._positions: dict[int, int] = {}

    def committed(self, positions: dict[int, int]) -> None:
        for number, at in positions.items():
            self._positions[number] = max(at, self._positions.get(number, 0))

    def arrived(self) -> bool:
        return all(self._positions.get(number, 0) >= end for number, end in TOLD.ends.items())


GROUP = Group()


async def main() -> int:
    senders = [Sender(number) for number in range(OPTIONS.producers)]
    readers: list[Reader] = [Follower() for _ in range(OPTIONS.followers)]
    readers += [Member() for _ in range(OPTIONS.members - 1)]
    # One alone has nobody to leave its partitions to.
    readers += [Member(OPTIONS.churn_s if OPTIONS.members > 1 else 0.0)] * bool(OPTIONS.members)
    sending = [asyncio.create_task(one.run()) for one in senders]
    sending += [asyncio.create_task(Refused(0).run())] if OPTIONS.refused_per_second else []
    reading = [asyncio.create_task(one.run()) for one in readers]
    everybody = asyncio.gather(*sending, *reading)
    while not (all(one.acked for one in senders) and all(one.positions for one in readers[: OPTIONS.followers])):
        if TOLD.stop.is_set() or everybody.done():
            break
        await asyncio.sleep(0.02)
    say("running")
    told = time.monotonic()
    while not TOLD.stop.is_set() and not everybody.done():
        await asyncio.sleep(0.05)
        if time.monotonic() - told >= 1.0:
            told = time.monotonic()
            say("counts", **HISTORY.counts)
    await asyncio.gather(*sending)
    say("stopped", **HISTORY.counts)
    await everybody
    HISTORY.close()
    say("ended", **HISTORY.counts)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
