"""Leader and followers with real logs, real lanes and real disks: what they end up with."""

from __future__ import annotations

import asyncio
import errno
import random
from pathlib import Path

import pytest

from logeion.actors.config import ReplicaSection
from logeion.actors.lanes import RefusedError, dial
from logeion.actors.messages import DescribeLog, LogDescribed, Ping, Pong, TrimLog
from logeion.log.files import Files
from logeion.wire.errors import StorageError
from tests.actors.replica_world import World, batch, running


async def until(condition: object) -> None:
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.005)


@running
async def test_what_is_there_is_copied_and_what_comes_follows(world: World) -> None:
    world.configs["segment.bytes"] = "250000"
    leader = await world.lead(1, isr=[1])
    await world.append(*(batch(b"%d" % n * 3_000, b"x" * n) for n in range(120)))
    assert len(leader.log.segments) > 3
    world.follow(2)
    world.follow(3)
    await world.agreed(2, 3)
    await until(lambda: sorted(world.isr) == [1, 2, 3])
    offsets = [(await world.append(batch(b"live %d" % n)))[0] for n in range(50)]
    assert offsets == list(range(240, 290))
    await world.agreed(2, 3)
    big = batch(*(random.randbytes(30_000) for _ in range(7)))
    await world.append(batch(b"a"), big, batch(b"b"))
    await world.agreed(2, 3)


@running
async def test_acks_all_waits_for_every_in_sync_replica_to_have_it_on_disk(world: World) -> None:
    world.settings = ReplicaSection(lag_time_max_ms=60_000)
    await world.lead(1, isr=[1, 2])
    asked = asyncio.ensure_future(world.append(batch(b"a")))
    await asyncio.sleep(0)
    assert await world.append(batch(b"b"), acks=1) == [1]
    await asyncio.sleep(0.05)  # nothing may happen
    assert not asked.done()
    follower = world.follow(2)
    assert await asked == [0]
    assert follower.log.synced_end >= 1


@running
async def test_a_follower_that_does_not_come_leaves_the_isr_and_acks_all_goes_on(world: World) -> None:
    await world.lead(1, isr=[1, 2])
    begun = world.loop.time()
    assert await world.append(batch(b"a")) == [0]
    assert 0.35 < world.loop.time() - begun < 2
    assert world.isr == [1]


@running
async def test_with_too_few_in_sync_acks_all_is_refused_until_one_is_back(world: World) -> None:
    world.configs["min.insync.replicas"] = "2"
    await world.lead(1, isr=[1])
    with pytest.raises(RefusedError) as refused:
        await world.append(batch(b"a"))
    assert refused.value.code == 19
    world.follow(3)
    await until(lambda: world.isr == [1, 3])
    assert await world.append(batch(b"a")) == [0]


@running
async def test_who_was_refused_for_want_of_replicas_does_not_go_on_behind_the_gap(world: World) -> None:
    world.configs["min.insync.replicas"] = "2"
    await world.lead(1, isr=[1])

    def numbered(sequence: int) -> bytes:
        return batch(b"%d" % sequence, producer=5, sequence=sequence)

    with pytest.raises(RefusedError):
        await world.append(numbered(0))
    world.follow(3)
    await until(lambda: world.isr == [1, 3])
    # It was on its way already, behind the one that was refused.
    with pytest.raises(RefusedError) as refused:
        await world.append(numbered(1))
    assert refused.value.code == 19
    assert await world.append(numbered(0), numbered(1), numbered(2)) == [0, 1, 2]


@running
async def test_an_idle_follower_hears_of_the_watermark(world: World) -> None:
    await world.lead(1, isr=[1])
    follower = world.follow(2)
    await world.append(batch(b"a"))
    await until(lambda: follower.log.high_watermark == 1)


@running
async def test_tails_that_part_are_cut_and_producers_with_them(world: World) -> None:
    await world.lead(1, isr=[1, 2, 3])
    world.follow(2)
    world.follow(3)
    await world.append(*(batch(b"%d" % n, producer=5, sequence=n) for n in range(10)))
    await world.agreed(2, 3)
    world.kill_follower(2)
    world.kill_follower(3)
    # Nobody else has these.
    assert await world.append(*(batch(b"zombie", producer=5, sequence=n) for n in (10, 11)), acks=1) == [10, 11]
    world.kill_leader()
    leader = await world.lead(2)
    world.follow(1)
    world.follow(3)
    assert await world.append(batch(b"new", producer=5, sequence=10)) == [10]
    await world.agreed(1, 3)
    mine, theirs = world.followers[1].log.producers.get(5), leader.log.producers.get(5)
    assert mine is not None and theirs is not None and mine.batches[-1] == theirs.batches[-1]
    # The next leader knows what it has seen, and no more.
    world.kill_leader()
    world.kill_follower(1)
    await world.lead(1)
    world.follow(2)
    assert await world.append(batch(b"new", producer=5, sequence=10)) == [10]
    assert await world.append(batch(b"newer", producer=5, sequence=11)) == [11]
    await world.agreed(2, 3)


@running
async def test_a_follower_that_is_killed_goes_on_where_it_was(world: World) -> None:
    await world.lead(1, isr=[1, 2])
    world.follow(2)
    for number in range(5):
        await world.append(*(batch(b"%d.%d" % (number, n)) for n in range(20)))
        world.kill_follower(2)
        await world.append(batch(b"meanwhile"), acks=1)
        world.follow(2)
        await world.agreed(2)
    assert world.proposals == []


@running
async def test_a_leader_that_is_killed_comes_back_in_another_epoch(world: World) -> None:
    await world.lead(1)
    world.follow(2)
    world.follow(3)
    for number in range(5):
        await world.append(*(batch(b"%d.%d" % (number, n)) for n in range(20)))
        world.kill_leader()
        await world.lead(1)
        await world.append(batch(b"again"))
        await world.agreed(2, 3)


@running
async def test_leadership_goes_round_under_load_and_nothing_acknowledged_is_lost(world: World) -> None:
    acknowledged: dict[int, bytes] = {}
    await world.lead(1)
    world.follow(2)
    world.follow(3)
    number = 0
    for turn in range(6):
        for _ in range(10):
            payloads = [b"%d" % (number + n) for n in range(3)]
            for base, payload in zip(await world.append(*map(batch, payloads)), payloads, strict=True):
                assert base not in acknowledged
                acknowledged[base] = payload
            number += 3
        await world.append(*(batch(b"perhaps") for _ in range(3)), acks=1)
        old = world.leading
        new = old % 3 + 1
        world.kill_leader()
        world.kill_follower(new)
        await world.lead(new)
        world.follow(old)
        if turn % 2:
            await world.agreed(*world.followers)
    await world.agreed(*world.followers)
    assert world.leader is not None
    data = world.bytes_of(world.leading)
    for payload in acknowledged.values():
        assert payload in data


@running
async def test_a_follower_far_behind_begins_where_the_leader_does(world: World) -> None:
    world.configs["segment.bytes"] = "1024"
    leader = await world.lead(1, isr=[1, 2])
    world.follow(2)
    await world.append(*(batch(b"%d" % n * 100) for n in range(10)))
    await world.agreed(2)
    world.kill_follower(2)
    await world.append(*(batch(b"%d" % n * 100) for n in range(40)), timeout_s=10)
    assert world.lane is not None
    await world.lane.request(TrimLog(epoch=world.epoch, offset=35), timeout_s=5)
    follower = world.follow(2)
    await world.agreed(2)
    assert (follower.log.start_offset, follower.log.high_watermark) == (35, leader.log.high_watermark)
    # It may lead at once (KAFKA-9491).
    world.kill_leader()
    world.kill_follower(2)
    await world.lead(2, isr=[2])
    assert await world.append(batch(b"next")) == [50]


@running
async def test_deleted_records_are_deleted_on_followers_too(world: World) -> None:
    await world.lead(1, isr=[1])
    follower = world.follow(2)
    await world.append(batch(b"0"), batch(b"1"), batch(b"2"))
    await world.agreed(2)
    assert world.lane is not None
    await world.lane.request(TrimLog(epoch=1, offset=2), timeout_s=5)
    await until(lambda: follower.log.start_offset == 2)


@running
async def test_without_flush_nothing_is_synced_for_an_acknowledgement(world: World) -> None:
    world.configs["logeion.flush"] = "os"
    await world.lead(1, isr=[1, 2])
    follower = world.follow(2)
    assert await world.append(batch(b"a"), batch(b"b")) == [0, 1]
    assert follower.log.synced_end == 0
    await world.agreed(2)


@running
async def test_a_follower_that_lost_its_disk_is_out_of_the_isr_before_it_is_fed(world: World) -> None:
    await world.lead(1, isr=[1, 2])
    world.follow(2)
    await world.append(batch(b"a"))
    world.kill_follower(2)
    world.directory(2).rename(world.root / "lost")
    world.follow(2)
    await world.agreed(2)
    assert [proposal.isr for proposal in world.proposals[:2]] == [[1], [1, 2]]


@running
async def test_a_full_disk_holds_a_follower_up_and_a_broken_one_ends_it(world: World) -> None:
    await world.lead(1, isr=[1, 2])
    follower = world.follow(2)
    await world.append(batch(b"a"))
    files = follower.log.store.files

    class Failing(Files):
        number = errno.ENOSPC

        def pwritev(self, *_arguments: object) -> int:
            raise OSError(self.number, "no")

    follower.log.store.files = Failing()
    assert await world.append(batch(b"b"), acks=1) == [1]
    await until(lambda: world.isr == [1])
    follower.log.store.files = files
    await until(lambda: world.isr == [1, 2])
    await world.agreed(2)
    Failing.number = errno.EIO
    follower.log.store.files = Failing()
    assert await world.append(batch(b"c"), acks=1) == [2]
    await until(lambda: world.ended)
    assert "cannot append" in str(world.ended.pop())
    follower.log.store.files = files


@running
async def test_a_follower_whose_sync_fails_ends_and_vouches_for_nothing(world: World) -> None:
    leader = await world.lead(1, isr=[1, 2])
    follower = world.follow(2)
    await world.append(batch(b"a"))

    class Failing(Files):
        def fdatasync(self, fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

    follower.log.store.files = Failing()
    await world.append(batch(b"b"), acks=1)
    await until(lambda: world.ended)
    assert follower.lost and leader.machine.followers[2].end == 1
    world.ended.clear()


@running
async def test_both_tell_how_far_they_are(world: World) -> None:
    leader = await world.lead(1, isr=[1])
    world.follow(2)
    await world.append(batch(b"a"))
    await world.agreed(2)
    await until(lambda: world.isr == [1, 2])
    assert world.lane is not None
    described = await world.lane.request(DescribeLog(), timeout_s=5)
    assert isinstance(described, LogDescribed) and described.isr == [1, 2]
    assert [(one.node, one.end, one.lag_ms, one.connected) for one in described.followers] == [
        (2, 1, 0, True),
        (3, -1, -1, False),
    ]
    lane = await dial(world.loop, world.root / "node2" / "r.sock")
    described = await lane.request(DescribeLog(), timeout_s=5)
    assert isinstance(described, LogDescribed)
    assert (described.end, described.high_watermark) == (1, leader.log.high_watermark)
    assert isinstance(await lane.request(Ping(), timeout_s=5), Pong)
    with pytest.raises(RefusedError):
        await lane.request(TrimLog(epoch=1, offset=0), timeout_s=5)
    lane.close()


@running
async def test_a_topic_can_change_its_flush_while_it_is_replicated(world: World) -> None:
    leader = await world.lead(1, isr=[1, 2])
    follower = world.follow(2)
    for flush in ("os", "ack", "interval", "ack"):
        configs = {**world.configs, "logeion.flush": flush}
        leader.configure(configs)
        follower.configure(configs)
        await world.append(*(batch(b"%d" % n) for n in range(10)))
        await world.agreed(2)
    assert world.proposals == []


def test_a_log_that_another_process_holds_is_not_taken(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path)
        try:
            await world.lead(1)
            with pytest.raises(StorageError) as error:
                world.follow(1)
            assert isinstance(error.value.__cause__, BlockingIOError)
        finally:
            world.close()

    asyncio.run(run())
