"""What a reader gets when something is in its way: no sockets. Groups are in test_member.py."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from logeion.client import subscriber as subscribers
from logeion.client.positions import TopicPartition
from logeion.client.subscriber import Subscriber, typed
from logeion.client.topics import DecodeError, Topic
from logeion.errors import CorruptMessageError, OffsetOutOfRangeError, TopicAuthorizationFailedError
from logeion.wire.records import Record, build_batch
from tests.client.fakes import FETCH, FakeCluster

A0, A1 = TopicPartition("a", 0), TopicPartition("a", 1)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def reader(cluster: FakeCluster, topic: Any = "a", **settings: Any) -> Subscriber[Any, Any]:
    return Subscriber(cluster, typed([topic]), **{"auto_offset_reset": "earliest", **settings})


NUMBERS = Topic("a", value=int)


def test_a_batch_that_ends_in_a_mistake_hands_out_what_came_before_it_and_loses_nothing() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"1", b"2", b"three", b"4"])
        async with reader(cluster, NUMBERS, group_id="g") as numbers:
            first = await numbers.batch(500, 0.2)
            assert [one.value for one in first] == [1, 2]
            for _ in range(2):
                with pytest.raises(DecodeError, match="offset 2"):
                    await numbers.batch(500, 0.2)
            await numbers.commit()
            assert cluster.committed == {A0: 2}, "the record that nobody could read is not finished"
            await numbers.seek(A0, 3)
            assert [one.value for one in await numbers.batch(500, 0.05)] == [4]
        # The loop did not come back for another: this batch is read again.
        assert cluster.committed == {A0: 3}

    run(work())


def test_a_batch_that_is_cancelled_keeps_its_records_for_the_next() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"%d" % n for n in range(5)])
        async with reader(cluster, group_id="g") as records:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await records.batch(500, 60.0)
            await records.commit()
            assert cluster.committed == {}, "nothing was handed out"
            assert records.position(A0) == 0
            batches = records.batches(max_records=3, max_wait=0.05)
            assert [one.value for one in await anext(batches)] == [b"0", b"1", b"2"]
            assert [one.value for one in await anext(batches)] == [b"3", b"4"]
            await records.commit()
        assert cluster.committed == {A0: 5}

    run(work())


def test_what_was_gathered_for_a_partition_that_moved_meanwhile_is_not_handed_out_twice() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"0", b"1"])
        async with reader(cluster) as records:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await records.batch(500, 60.0)
            await records.pause()
            await records.resume()
            assert [one.value for one in await records.batch(500, 0.05)] == [b"0", b"1"]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await records.batch(500, 60.0)
            await records.seek(A0, 1)
            assert [one.value for one in await records.batch(500, 0.05)] == [b"1"]

    run(work())


def test_skipped_records_are_finished_with_those_before_them_and_not_sooner() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"1", b"x", b"y"])
        async with reader(cluster, Topic("a", value=int, on_decode_error="skip"), group_id="g") as numbers:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await numbers.batch(500, 60.0)
            await numbers.commit()
            assert cluster.committed == {}
            assert [one.value for one in await numbers.batch(500, 0.01)] == [1]
        async with reader(cluster, Topic("a", value=int, on_decode_error="skip"), group_id="g") as numbers:
            assert [one.value for one in await numbers.batch(500, 0.01)] == [1]
            await numbers.commit()
        assert cluster.committed == {A0: 3}

    run(work())


def damaged(values: list[bytes], first: int) -> bytes:
    batch = bytearray(build_batch([Record(first + n, 1, None, value) for n, value in enumerate(values)]))
    batch[-2] ^= 1
    return bytes(batch)


def test_a_damaged_batch_takes_no_other_records_with_it() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=2)
        cluster.write("a", 0, [b"good"])
        cluster.write("a", 1, [b"before"])
        cluster.put(A1, damaged([b"bad", b"worse"], 1), 2)
        cluster.write("a", 1, [b"after"])
        async with reader(cluster) as records:
            seen = sorted([(await anext(aiter(records))).value for _ in range(2)])
            assert seen == [b"before", b"good"]
            for _ in range(2):
                with pytest.raises(CorruptMessageError, match=r"a\[1\].*seek past it"):
                    await anext(aiter(records))
            assert records.position(A1) == 1
            await records.seek(A1, 3)
            assert (await anext(aiter(records))).value == b"after"
            assert records.reader._buffered == 0

    run(work())


def test_a_position_that_is_gone_is_said_until_somebody_seeks_and_costs_no_fetches() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=2)
        cluster.starts[A0] = 5
        cluster.write("a", 0, [b"five"])
        cluster.write("a", 1, [b"other"])
        async with reader(cluster, auto_offset_reset="none") as records:
            await records.seek(A0, 2)
            await records.seek(A1, 0)
            said, seen = 0, []
            while said < 2 or len(seen) < 2:
                try:
                    seen.append((await anext(aiter(records))).value)
                except OffsetOutOfRangeError:
                    said += 1
                    cluster.write("a", 1, [b"more"])
            assert said == 2 and seen[:2] == [b"other", b"more"], "one partition does not stop the others"
            assert await fetches(cluster, records) < 100
            await records.seek(A0, 5)
            while (record := await anext(aiter(records))).value == b"more":
                pass
            assert record.value == b"five"

    run(work())


async def fetches(cluster: FakeCluster, records: Subscriber[Any, Any]) -> int:
    """How many in half a second, while a program catches every error and goes on."""
    before = cluster.count(FETCH)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        with contextlib.suppress(TopicAuthorizationFailedError, OffsetOutOfRangeError):
            await records.fill(0.05)
    return cluster.count(FETCH) - before


def test_an_error_for_good_is_not_asked_for_again_and_again() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.refusals[A0] = TopicAuthorizationFailedError.code
        async with reader(cluster) as records:
            with pytest.raises(TopicAuthorizationFailedError):
                await records.fill()
            assert await fetches(cluster, records) <= 5
            cluster.refusals.clear()
            cluster.write("a", 0, [b"allowed"])
            assert (await anext(aiter(records))).value == b"allowed"

    run(work())


def test_out_of_range_with_records_still_here_waits_until_they_are_taken() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"old"])
        async with reader(cluster) as records:
            await until(lambda: bool(records.reader.positions) and bool(records.reader.positions[0].batches))
            # The log is cut and begins anew beyond: what was fetched is still good.
            cluster.logs.clear()
            cluster.starts[A0] = 10
            cluster.write("a", 0, [b"new"])
            await asyncio.sleep(0.05)  # nothing may happen to what was fetched
            before = cluster.count(FETCH)
            await asyncio.sleep(0.2)  # nothing may happen: hardly a fetch
            assert cluster.count(FETCH) - before <= 2
            assert [(await anext(aiter(records))).value for _ in range(2)] == [b"old", b"new"]

    run(work())


def test_a_consumer_starts_when_it_is_first_asked_for_a_record() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"1", b"2"])
        for settings in ({}, {"group_id": "g"}):
            async for record in (records := reader(cluster, **settings)):
                assert record.value == b"1"
                break
            await records.close()
            async for batch in (records := reader(cluster, **settings)).batches(max_wait=0.01):
                assert [one.value for one in batch] == [b"1", b"2"]
                break
            await records.close()

    run(work())


def test_partitions_that_are_added_later_are_read_without_a_group_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribers, "METADATA_AGE_S", 0.05)

    async def work() -> None:
        cluster = FakeCluster(a=1)
        async with reader(cluster, auto_offset_reset="latest") as records:
            cluster.counts["a"] = 2
            cluster.write("a", 1, [b"there before anybody looked"])
            assert (await anext(aiter(records))).value == b"there before anybody looked"
            assert records.assignment == [A0, A1]

    run(work())


def transactional(cluster: FakeCluster, producer: int, values: list[bytes]) -> None:
    at = cluster.end(A0)
    rows = [Record(at + n, 1, None, value) for n, value in enumerate(values)]
    batch = build_batch(rows, producer_id=producer, producer_epoch=0, base_sequence=0, transactional=True)
    cluster.put(A0, batch, len(rows))


def ended(cluster: FakeCluster, producer: int, *, commit: bool) -> None:
    marker = [Record(cluster.end(A0), 1, b"\0\0\0" + bytes([commit]), b"\0\0\0\0\0\0")]
    batch = build_batch(marker, producer_id=producer, producer_epoch=0, transactional=True, control=True)
    cluster.put(A0, batch, 1)


@pytest.mark.parametrize("level", ["read_committed", "read_uncommitted"])
def test_what_an_aborted_transaction_wrote_is_left_out_if_asked_for(level: str) -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        transactional(cluster, 7, [b"lost"])
        transactional(cluster, 8, [b"kept"])
        ended(cluster, 7, commit=False)
        transactional(cluster, 7, [b"again"])
        ended(cluster, 8, commit=True)
        ended(cluster, 7, commit=True)
        cluster.write("a", 0, [b"plain"])
        if level == "read_committed":
            cluster.aborted[A0] = [(7, 0)]
        async with reader(cluster, isolation_level=level) as records:
            values = [one.value for one in await records.batch(500, 0.05)]
        lost = [b"lost"] if level == "read_uncommitted" else []
        assert values == [*lost, b"kept", b"again", b"plain"]

    run(work())


def test_max_poll_records_is_what_a_batch_holds_by_itself() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"%d" % n for n in range(10)])
        async with reader(cluster, max_poll_records=4) as records:
            async for batch in records.batches(max_wait=0.01):
                assert len(batch) == 4
                break

    run(work())
