"""A partition's leader with a real log and real lanes, in one loop; and what is told when the disk misbehaves."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from logeion.actors.lanes import Lane, RefusedError, dial, introduce
from logeion.actors.messages import (
    Advanced,
    Append,
    Appended,
    Configure,
    DescribeLog,
    FindOffset,
    Hello,
    LogDescribed,
    LogTrimmed,
    OffsetFound,
    TrimLog,
    Watch,
)
from logeion.actors.partition.actor import PartitionShell
from logeion.actors.partition.leading import Leadership
from logeion.log.files import Files
from logeion.wire.errors import StorageError
from logeion.wire.records import Record, build_batch

TOPIC = "a" * 32


def batch(*values: bytes) -> bytes:
    return bytes(build_batch([Record(n, 1_000 + n, None, value, []) for n, value in enumerate(values)]))


@asynccontextmanager
async def serving(
    tmp_path: Path, *, epoch: int = 1, **configs: str
) -> AsyncIterator[tuple[Leadership, Lane, list[StorageError]]]:
    """A leader and a lane to it."""
    loop = asyncio.get_running_loop()
    hello = Hello(
        actor="partition/t-0", kind="partition", node=1, pid=os.getpid(), topic_id=TOPIC, partition=0, epoch=epoch
    )
    introduce(hello)
    ended: list[StorageError] = []
    named = {name.replace("_", "."): value for name, value in configs.items()}
    leader = Leadership(
        loop, hello=hello, path=tmp_path / "p.sock", directory=tmp_path / "t-0", configs=named, fatal=ended.append
    )
    lane = await dial(loop, tmp_path / "p.sock")
    try:
        yield leader, lane, ended
    finally:
        lane.close()
        leader.close()


def running(test: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(test(tmp_path), 20)

        asyncio.run(bounded())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


def append(epoch: int = 1, acks: int = -1) -> Append:
    return Append(epoch=epoch, acks=acks, timeout_ms=5_000)


@running
async def test_batches_of_one_turn_are_appended_in_order_and_found_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_leader, lane, _ended):
        asked = [lane.request(append(), [batch(b"%d" % n, b"x")], timeout_s=5) for n in range(5)]
        assert [reply.base_offset for reply in await asyncio.gather(*asked) if isinstance(reply, Appended)] == [
            0,
            2,
            4,
            6,
            8,
        ]
        state = await lane.request(Watch(epoch=1, offset=9), timeout_s=5)
        assert isinstance(state, Advanced) and (state.high_watermark, state.end, state.log_start) == (10, 10, 0)
        latest = await lane.request(FindOffset(epoch=1, timestamp=-1), timeout_s=5)
        by_time = await lane.request(FindOffset(epoch=1, timestamp=1_001), timeout_s=5)
        assert isinstance(latest, OffsetFound) and latest.offset == 10
        assert isinstance(by_time, OffsetFound) and by_time.offset == 1


@running
async def test_a_damaged_batch_is_refused_and_its_neighbours_are_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_leader, lane, _ended):
        bad = bytearray(batch(b"bad"))
        bad[-1] ^= 1
        good, refused = await asyncio.gather(
            lane.request(append(), [batch(b"good")], timeout_s=5),
            lane.request(append(), [bytes(bad)], timeout_s=5),
            return_exceptions=True,
        )
        assert isinstance(good, Appended) and good.base_offset == 0
        assert isinstance(refused, RefusedError) and refused.code == 2


@running
async def test_an_earlier_epoch_is_refused_with_the_one_that_leads_now(tmp_path: Path) -> None:
    async with serving(tmp_path, epoch=4) as (_leader, lane, _ended):
        with pytest.raises(RefusedError) as refused:
            await lane.request(append(epoch=3), [batch(b"late")], timeout_s=5)
        assert (refused.value.code, refused.value.leader_epoch) == (6, 4)


@running
async def test_a_full_disk_is_a_retriable_error_after_which_appends_resume(tmp_path: Path) -> None:
    async with serving(tmp_path) as (leader, lane, ended):
        await lane.request(append(), [batch(b"before")], timeout_s=5)
        files = leader.log.store.files

        class Full(Files):
            def pwritev(self, *_arguments: object) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        full = Full()
        leader.log.store.files = full
        leader.log.active.store.files = full
        with pytest.raises(RefusedError) as refused:
            await lane.request(append(), [batch(b"no room")], timeout_s=5)
        assert refused.value.code == 56 and "No space left" in refused.value.reason
        leader.log.store.files = files
        leader.log.active.store.files = files
        reply = await lane.request(append(), [batch(b"after")], timeout_s=5)
        assert isinstance(reply, Appended) and reply.base_offset == 1
        assert ended == []


@running
async def test_a_sync_that_fails_ends_the_replica_and_acknowledges_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (leader, lane, ended):
        await lane.request(append(), [batch(b"before")], timeout_s=5)

        class Failing(Files):
            def fdatasync(self, fd: int) -> None:
                raise OSError(errno.EIO, "Input/output error")

        leader.log.store.files = Failing()
        asked = asyncio.ensure_future(lane.request(append(), [batch(b"lost")], timeout_s=1))
        while not ended:
            await asyncio.sleep(0.01)
        assert "Input/output error" in str(ended[0])
        assert not asked.done() and leader.machine.high_watermark == 1
        asked.cancel()


@running
async def test_deleted_records_move_the_start_and_every_lane_is_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_leader, lane, _ended):
        told: list[object] = []
        other = await dial(
            asyncio.get_running_loop(), tmp_path / "p.sock", on_message=lambda _l, _r, message, _f: told.append(message)
        )
        lane.on_message = lambda _l, _r, message, _f: None
        await lane.request(append(), [batch(b"0", b"1", b"2")], timeout_s=5)
        trimmed = await lane.request(TrimLog(epoch=1, offset=2), timeout_s=5)
        assert isinstance(trimmed, LogTrimmed) and trimmed.low_watermark == 2
        while not told:
            await asyncio.sleep(0.01)
        assert isinstance(told[0], Advanced) and told[0].log_start == 2
        described = await lane.request(DescribeLog(), timeout_s=5)
        assert isinstance(described, LogDescribed) and (described.log_start, described.end) == (2, 3)
        other.close()


@running
async def test_a_new_configuration_counts_from_the_next_append_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_leader, lane, _ended):
        await lane.request(Configure(configs={"max.message.bytes": "100"}), timeout_s=5)
        with pytest.raises(RefusedError) as refused:
            await lane.request(append(), [batch(b"x" * 200)], timeout_s=5)
        assert refused.value.code == 10


def keyed(*pairs: tuple[bytes, bytes]) -> bytes:
    return bytes(build_batch([Record(n, 1_000 + n, key, value, []) for n, (key, value) in enumerate(pairs)]))


@running
async def test_appends_are_answered_while_the_log_is_compacted(tmp_path: Path) -> None:
    async with serving(tmp_path, cleanup_policy="compact", segment_bytes="2000") as (leader, lane, ended):
        for n in range(60):
            await lane.request(append(), [keyed((b"key", b"%d" % n))], timeout_s=5)
        first = leader.log.segments[0].size
        leader.upkeep.compaction.turn_s = 0.0  # one step a turn of the loop
        leader.upkeep.compaction.begin()
        answered = 0
        while leader.upkeep.compaction.busy:
            await lane.request(append(), [keyed((b"key", b"more"))], timeout_s=5)
            answered += 1
        assert answered > 5
        assert leader.log.segments[0].size < first
        assert ended == []
        found = await lane.request(FindOffset(epoch=1, timestamp=-1), timeout_s=5)
        assert isinstance(found, OffsetFound) and found.offset == 60 + answered


@running
async def test_a_leader_that_ends_while_it_compacts_leaves_a_log_that_opens_again(tmp_path: Path) -> None:
    async with serving(tmp_path, cleanup_policy="compact", segment_bytes="2000") as (leader, lane, _ended):
        for n in range(100):
            await lane.request(append(), [keyed((b"key", b"%d" % n))], timeout_s=5)
        leader.upkeep.compaction.turn_s = 0.0
        leader.upkeep.compaction.begin()
        await lane.request(append(), [keyed((b"key", b"last"))], timeout_s=5)
        assert leader.upkeep.compaction.busy
    async with serving(tmp_path, epoch=2, cleanup_policy="compact", segment_bytes="2000") as (leader, lane, _ended):
        assert leader.log.was_clean and leader.log.end_offset == 101
        assert not list((tmp_path / "t-0").glob("*.cleaned"))


@running
async def test_a_compaction_that_cannot_be_undone_ends_the_replica(tmp_path: Path) -> None:
    async with serving(tmp_path, cleanup_policy="compact", segment_bytes="2000") as (leader, lane, ended):
        for n in range(100):
            await lane.request(append(), [keyed((b"key", b"%d" % n))], timeout_s=5)

        class Full(Files):
            def link(self, source: str, target: str) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

        leader.log.store.files = Full()
        leader.upkeep.compaction.begin()
        while not ended:
            await asyncio.sleep(0.01)
        assert leader.log.failed is not None
        leader.log.store.files = Files()


@running
async def test_a_sync_that_finds_no_descriptor_ends_the_replica_but_does_not_condemn_its_directory(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as (leader, lane, ended):
        await lane.request(append(), [batch(b"before")], timeout_s=5)

        class Exhausted(Files):
            def duplicate(self, fd: int) -> int:
                raise OSError(errno.EMFILE, "Too many open files")

        leader.log.store.files = Exhausted()
        asked = asyncio.ensure_future(lane.request(append(), [batch(b"unsynced")], timeout_s=1))
        while not ended:
            await asyncio.sleep(0.01)
        assert "Too many open files" in str(ended[0])
        assert not asked.done() and leader.machine.high_watermark == 1
        asked.cancel()
        leader.log.store.files = Files()
    async with serving(tmp_path, epoch=2) as (leader, _lane, _ended):
        assert leader.log.end_offset == 2 and leader.machine.high_watermark == 2


@running
async def test_a_fenced_log_ends_the_replica_even_if_a_full_disk_fenced_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as (leader, lane, ended):
        error = StorageError("the log is fenced", leader.log.store.path("x"))
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
        leader.log.failed = error
        with pytest.raises(RefusedError) as refused:
            await lane.request(append(), [batch(b"never")], timeout_s=5)
        assert refused.value.code == 56
        assert ended == [error]


def test_a_partition_that_could_not_open_its_log_can_be_stopped() -> None:
    shell = object.__new__(PartitionShell)
    asyncio.run(shell.stop())
