"""One member of a group, against a coordinator without sockets."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from logeion.client import classic_member
from logeion.client.errors import ConnectError
from logeion.client.groups import Groups
from logeion.client.positions import TopicPartition
from logeion.client.subscriber import Subscriber
from logeion.errors import IllegalGenerationError, OffsetOutOfRangeError
from tests.client.fakes import HEARTBEAT, JOIN_GROUP, OFFSET_COMMIT, FakeCluster
from tests.client.test_reading import A0, A1, reader, run, until

QUICK: dict[str, Any] = {"group_id": "g", "heartbeat_interval_ms": 20, "auto_commit_interval_ms": 20}
COOPERATIVE: dict[str, Any] = {"partition_assignment_strategy": ["cooperative-sticky"]}


def gone(cluster: FakeCluster, node: int) -> None:
    """Nobody can connect to this node any more."""

    async def before(_: int, asked: int | None) -> None:
        if asked == node:
            raise ConnectError(f"fake:{node}", "metadata", "Connection refused", "start it")

    cluster.before = before


async def one(records: Subscriber[Any, Any]) -> Any:
    return await anext(aiter(records))


def test_questions_about_a_group_find_its_new_coordinator_when_the_old_one_is_gone() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.committed = {A0: 7}
        groups = Groups(cluster)
        assert await groups.offsets("g") == {A0: 7}
        gone(cluster, 1)
        cluster.coordinator = 2
        began = time.monotonic()
        assert await groups.offsets("g") == {A0: 7}
        assert time.monotonic() - began < 2.0

    run(work())


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_a_coordinator_that_is_gone_costs_neither_the_session_nor_a_commit_nor_a_rebalance(strategy: str) -> None:
    async def work() -> None:
        cluster = FakeCluster(a=2)
        cluster.write("a", 0, [b"0", b"1"])
        async with reader(cluster, partition_assignment_strategy=[strategy], **QUICK) as records:
            await one(records)
            gone(cluster, 1)
            cluster.coordinator = 2
            asked = len(cluster.asked)
            reading = asyncio.create_task(one(records))  # finishes the first
            await until(lambda: cluster.committed.get(A0) == 1)
            await until(lambda: (HEARTBEAT, 2) in cluster.asked[asked:])
            assert cluster.generation == 1, "nobody has to join again for that"
            cluster.before = None
            assert (await reading).value == b"1"

    run(work())


def test_a_commit_that_gets_no_answer_does_not_hold_up_the_heartbeats() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"0", b"1"])
        silent = asyncio.Event()

        async def before(api_key: int, _: int | None) -> None:
            if api_key == OFFSET_COMMIT:
                await silent.wait()

        async with reader(cluster, **QUICK) as records:
            await one(records)
            await one(records)
            cluster.before = before
            await until(lambda: cluster.count(OFFSET_COMMIT) > 0)
            beats = cluster.count(HEARTBEAT)
            await asyncio.sleep(1.5)  # nothing may happen to them
            assert cluster.count(HEARTBEAT) > beats
            silent.set()
            await until(lambda: cluster.committed.get(A0) == 1)

    run(work())


def test_a_topic_that_is_created_after_the_group_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classic_member, "MISSING_AGE_S", 0.05)

    async def work() -> None:
        cluster = FakeCluster()
        async with reader(cluster, **QUICK) as records:
            reading = asyncio.create_task(one(records))
            await until(lambda: cluster.count(HEARTBEAT) > 2)
            cluster.counts["a"] = 1
            cluster.write("a", 0, [b"late"])
            assert (await reading).value == b"late"

    run(work())


def test_a_seek_in_on_assigned_comes_before_the_first_record() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"%d" % n for n in range(10)])

        async def assigned(partitions: list[TopicPartition]) -> None:
            await asyncio.sleep(0.1)  # nothing may happen: no record, though it was fetched
            for tp in partitions:
                await records.seek(tp, 7)

        records = reader(cluster, on_assigned=assigned, **QUICK)
        async with records:
            assert (await one(records)).value == b"7"

    run(work())


def test_what_is_finished_after_its_partition_was_lost_is_not_committed() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"%d" % n for n in range(600)])
        lost: list[TopicPartition] = []
        async with reader(cluster, on_lost=lost.extend, **QUICK) as records:
            assert (await one(records)).offset == 0
            # Others had the partition meanwhile, and it comes back further on.
            cluster.committed[A0] = 500
            cluster.codes[HEARTBEAT] = [IllegalGenerationError.code]
            await until(lambda: lost == [A0])
            await until(lambda: cluster.generation == 2 and records.assignment == [A0])
            assert (await one(records)).offset == 500
            await asyncio.sleep(0.1)  # nothing may happen: no commit of the old record's end
            await one(records)
            await until(lambda: cluster.committed[A0] == 501)
        assert all(news[A0] >= 500 for news in cluster.commits)

    run(work())


def test_a_commit_in_on_revoked_takes_what_is_given_up_along() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=2)
        cluster.write("a", 0, [b"0", b"1"])
        revoked: list[TopicPartition] = []

        async def on_revoked(partitions: list[TopicPartition]) -> None:
            revoked.extend(partitions)
            await records.commit()

        records = reader(cluster, on_revoked=on_revoked, **{**QUICK, **COOPERATIVE, "enable_auto_commit": False})
        async with records:
            await one(records)
            await one(records)
            assert cluster.commits == []
            # The group assigns A0 to somebody else, as a coordinator with a second member would.
            cluster.counts["a"] = 0
            member = records.member
            assert member is not None
            membership: Any = member._membership
            membership.rejoin()
            cluster.codes[HEARTBEAT] = [27]  # REBALANCE_IN_PROGRESS
            reading = asyncio.create_task(one(records))
            await until(lambda: sorted(revoked) == [A0, A1])
            assert cluster.committed == {A0: 2}
            reading.cancel()

    run(work())


def test_without_a_committed_offset_and_without_a_reset_a_seek_says_where_to_begin() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"0", b"1"])
        async with reader(cluster, auto_offset_reset="none", **QUICK) as records:
            with pytest.raises(OffsetOutOfRangeError, match="has committed nothing"):
                await one(records)
            beats = cluster.count(HEARTBEAT)
            await until(lambda: cluster.count(HEARTBEAT) > beats)
            await records.seek(A0, 1)
            assert (await one(records)).value == b"1"

    run(work())


def test_a_static_member_comes_back_without_leaving() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"0", b"1"])
        async with reader(cluster, group_instance_id="i", **QUICK) as records:
            await one(records)
            await one(records)
        assert cluster.committed == {A0: 1} and 13 not in [key for key, _ in cluster.asked]

    run(work())


def test_a_loop_that_stays_away_loses_its_partitions_and_comes_back() -> None:
    async def work() -> None:
        cluster = FakeCluster(a=1)
        cluster.write("a", 0, [b"0", b"1"])
        lost: list[TopicPartition] = []
        async with reader(cluster, on_lost=lost.extend, max_poll_interval_ms=100, **QUICK) as records:
            await one(records)
            await until(lambda: lost == [A0])
            joins = cluster.count(JOIN_GROUP)
            await asyncio.sleep(0.1)  # nothing may happen
            assert cluster.count(JOIN_GROUP) == joins, "it joins once the loop is back"
            assert (await one(records)).value == b"0", "what was in hand was not finished in time"

    run(work())
