"""Three controllers that elect, commit, lose their leader and catch up, over real lanes and on real disks."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from logeion.actors import messages as m
from logeion.actors.controller import actor
from logeion.actors.controller.raft.effects import Write
from logeion.actors.controller.raft.messages import Resign, Restarted
from logeion.actors.lanes import Lane, LaneError, RefusedError, dial, socket_path
from logeion.actors.stream import Frame
from tests.actors.quorum_world import as_actor, change, ids, ids_in_the_end, quorum, run, until


def test_one_voter_leads_before_anybody_can_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch, voters=1) as world:
            host = world.hosts[1]
            assert host.shell is not None and host.shell.member.decides
            follower = await host.follow()
            assert await ids(follower) == 0
            assert follower.image.cluster_id == "a-cluster" and follower.leader == 1
            host.kill()
            await host.start()
            again = await host.follow()
            assert await ids(again) == 1000
            assert again.image.cluster_id == "a-cluster"
            assert again.applied > follower.applied

    run(test)


def test_three_voters_found_one_cluster_and_every_host_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            followers = [await host.follow() for host in world.hosts.values()]
            got = [await ids(follower) for follower in followers]
            assert got == [0, 1000, 2000], "whoever is asked, the leader answers"
            await until(lambda: len({follower.applied for follower in followers}) == 1)
            assert {follower.image.cluster_id for follower in followers} == {"a-cluster"}
            assert {follower.image.next_producer_id for follower in followers} == {3000}
            leader = await world.leader()
            assert {follower.leader for follower in followers} == {leader.node}

    run(test)


def test_the_first_election_does_not_wait_for_a_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr("tests.actors.quorum_world.ELECTION_MS", 5_000)
        async with quorum(tmp_path, monkeypatch) as world:
            began = time.monotonic()
            await world.leader()
            assert time.monotonic() - began < 2.5

    run(test)


def test_a_leader_is_killed_and_another_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            old = await world.leader()
            follower = await world.others(old)[0].follow()
            granted = [await ids(follower) for _ in range(5)]
            old.kill()
            began = time.monotonic()
            granted.append(await ids_in_the_end(follower))
            assert time.monotonic() - began < 5.0
            assert granted == sorted(set(granted)), "nothing is given away twice"
            assert (await world.leader()) is not old
            await old.start()
            back = await old.follow()
            granted.append(await ids(back))
            assert granted == sorted(set(granted))
            await until(lambda: back.image.next_producer_id == follower.image.next_producer_id == granted[-1] + 1000)

    run(test)


def test_a_leader_that_stops_hands_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr("tests.actors.quorum_world.ELECTION_MS", 5_000)
        async with quorum(tmp_path, monkeypatch) as world:
            old = await world.leader()
            follower = await world.others(old)[0].follow()
            await ids(follower)
            shell, old.shell = old.shell, None
            assert shell is not None
            began = time.monotonic()
            await shell.stop()
            await world.leader()
            assert time.monotonic() - began < 2.0, "well before an election timeout of five seconds"
            await ids_in_the_end(follower)

    run(test)


def test_a_request_under_way_when_the_leader_dies_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            old = await world.leader()
            other = world.others(old)[0]
            follower = await other.follow()
            await ids(follower)
            assert old.shell is not None
            old.shell._turn = lambda: None  # type: ignore[method-assign]
            asking = asyncio.create_task(ids(follower))
            shell = other.shell
            assert shell is not None
            await until(lambda: shell.member._relayed)
            old.kill()
            with pytest.raises(RefusedError) as refused:
                await asking
            assert refused.value.code == 7, "nobody can tell whether it was done"
            assert await ids(follower) > 0

    run(test)


def test_without_a_majority_everybody_is_refused_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr("logeion.actors.controller.member.LEADERLESS_S", 1.0)
        async with quorum(tmp_path, monkeypatch) as world:
            old = await world.leader()
            follower = await old.follow()
            await ids(follower)
            for other in world.others(old):
                other.kill()
            shell = old.shell
            assert shell is not None
            asking = asyncio.create_task(ids(follower))
            with pytest.raises(RefusedError) as refused:
                await asking
            assert refused.value.code == 7, "it may be on the leader's disk"
            await until(lambda: not shell.member.decides, what="check-quorum")
            with pytest.raises(RefusedError) as refused:
                await ids(follower)
            assert refused.value.code == 41
            assert follower.leader == -1
            before = follower.applied
            for other in world.others(old):
                await other.start()
            await ids(follower)
            assert follower.applied > before

    run(test)


def test_an_isolated_leader_steps_down_and_what_it_alone_wrote_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            old = await world.leader()
            inside = await old.follow()
            outside = await world.others(old)[0].follow()
            await ids(inside)
            old.isolate()
            lost = asyncio.create_task(ids(inside))
            await until(lambda: [h for h in world.others(old) if h.shell is not None and h.shell.member.decides])
            given = [await ids(outside) for _ in range(3)]
            with pytest.raises(LaneError):
                await lost
            assert old.shell is not None and not old.shell.member.decides
            old.kill()
            await old.start()
            again = await old.follow()
            await until(lambda: again.image.next_producer_id == given[-1] + 1000)
            await until(lambda: outside.image.next_producer_id == again.image.next_producer_id)

    run(test)


def test_a_subscriber_of_a_restarted_follower_is_never_shown_the_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            leader = await world.leader()
            host = world.others(leader)[0]
            follower = await host.follow()
            for _ in range(5):
                await ids(follower)
            await until(lambda: follower.image.next_producer_id == 5000)
            for _ in range(3):
                host.kill()
                await host.start()
                await follower.connect()
                follower.subscribe()
                await ids(follower)
            await until(lambda: follower.image.next_producer_id == 8000)
            assert follower.snapshots == 0

    run(test)


def test_a_controller_that_starts_alone_sends_nobody_back_however_long_it_reaches_no_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(actor, "BEHIND_S", 0.1)

    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            leader = await world.leader()
            host, other = world.others(leader)
            follower = await host.follow()
            await ids(follower)
            await until(lambda: follower.image.next_producer_id == 1000)
            before = follower.applied
            for each in (leader, other, host):
                each.kill()
            await host.start()
            await follower.connect()
            follower.subscribe()
            await until(lambda: f"up to offset {before}" in caplog.text)
            assert (follower.applied, follower.snapshots) == (before, 0)
            assert host.shell is not None and host.shell.member.applied < before
            await leader.start()
            await ids_in_the_end(follower)
            await until(lambda: follower.image.next_producer_id >= 2000)
            assert follower.applied > before and follower.snapshots == 0

    run(test)


def test_a_voter_that_was_away_catches_up_by_the_log_or_by_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch, snapshot_bytes=4_000) as world:
            leader = await world.leader()
            away = world.others(leader)[0]
            follower = await leader.follow()
            await ids(follower)
            for rounds, snapshots in ((3, False), (400, True)):
                away.kill()
                await asyncio.gather(*(ids(follower) for _ in range(rounds)))
                for _ in range(rounds):
                    await ids(follower)
                await away.start()
                back = await away.follow()
                await until(lambda back=back: back.image.next_producer_id == follower.image.next_producer_id)
                shell = away.shell
                assert shell is not None and shell.member.raft is not None
                assert (shell.member.raft.log.snapshot.end > 0) == snapshots
            files = list(away.directory.glob("__cluster_metadata-0/*.checkpoint"))
            assert len(files) == 1
            # Both go on from their snapshots.
            for host in world.hosts.values():
                if host.shell is not None:
                    host.kill()
            for host in world.hosts.values():
                await host.start()
            last = await (await world.leader()).follow()
            assert await ids(last) == follower.image.next_producer_id

    run(test)


def test_a_voter_whose_disk_is_lost_votes_again_once_it_has_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            leader = await world.leader()
            wiped, other = world.others(leader)
            follower = await other.follow()
            await until(lambda: not any(h.shell.member.raft.blank for h in world.running))  # type: ignore[union-attr]
            given = [await ids(follower) for _ in range(3)]
            wiped.kill()
            shutil.rmtree(wiped.directory / "__cluster_metadata-0")
            given.append(await ids_in_the_end(follower))
            await wiped.start()
            shell = wiped.shell
            assert shell is not None and shell.member.raft is not None
            raft = shell.member.raft
            assert raft.blank
            await until(lambda: not raft.blank)
            leader.kill()
            given.append(await ids_in_the_end(follower))
            assert given == sorted(set(given))

    run(test)


def test_an_observer_follows_serves_and_relays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch, voters=3, hosts=4) as world:
            await world.leader()
            observer = world.hosts[4]
            follower = await observer.follow()
            assert await ids(follower) == 0
            await until(lambda: follower.image.next_producer_id == 1000)
            assert not list(observer.directory.glob("__cluster_metadata-0"))
            # The voter that it follows may go.
            for node in world.voters:
                world.hosts[node].kill()
                given = await ids_in_the_end(follower)
                await until(lambda given=given: follower.image.next_producer_id == given + 1000)
                await world.hosts[node].start()
                await until(lambda: all(h.shell.member.leader > 0 for h in world.running if h.shell is not None))
            described = await follower.ask(m.DescribeQuorum())
            assert isinstance(described, m.QuorumDescribed)
            assert [voter.voter for voter in described.voters] == [1, 2, 3]
            assert described.leader == (await world.leader()).node

    run(test)


def test_a_voter_is_added_and_another_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch, voters=3, hosts=4) as world:
            leader = await world.leader()
            observer = world.hosts[4]
            follower = await observer.follow()
            with pytest.raises(RefusedError, match="address"):
                await follower.ask(m.ChangeVoters(add=4))
            await observer.register(follower)
            assert isinstance(await follower.ask(m.ChangeVoters(add=4)), m.Recorded)
            with pytest.raises(RefusedError) as refused:
                await follower.ask(m.ChangeVoters(add=4))
            assert refused.value.code == 126
            described = await follower.ask(m.DescribeQuorum())
            assert [voter.voter for voter in described.voters] == [1, 2, 3, 4]
            shell = observer.shell
            assert shell is not None
            await until(lambda: shell.member.votes)
            # The leader itself leaves, and what is left is a quorum.
            assert isinstance(await follower.ask(m.ChangeVoters(remove=leader.node)), m.Recorded)
            new = await world.leader()
            assert new is not leader
            given = await ids_in_the_end(follower)
            inside = await leader.follow()
            await until(lambda: inside.image.next_producer_id == given + 1000, what="the removed one observes")
            # Restarted, each knows what it is, whatever its configuration says.
            for host in (leader, observer):
                host.kill()
                await host.start()
            assert leader.shell is not None and not leader.shell.member.votes
            assert observer.shell is not None and observer.shell.member.votes
            again = await leader.follow()
            given = await ids(again)
            await until(lambda: again.image.next_producer_id == given + 1000)

    run(test)


def test_who_observes_finds_the_voters_of_today_when_none_of_the_configured_ones_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch, voters=1, hosts=3) as world:
            first, second, observer = world.hosts.values()
            followers = {node: await host.follow() for node, host in world.hosts.items()}
            for node, follower in followers.items():
                await world.hosts[node].register(follower)
            assert followers[3].image.voters == {}, "those of the configuration need no word"
            assert isinstance(await followers[1].ask(m.ChangeVoters(add=2)), m.Recorded)
            await until(lambda: second.shell is not None and second.shell.member.votes)
            assert isinstance(await followers[1].ask(m.ChangeVoters(remove=1)), m.Recorded)
            # The next request makes whoever leads by now look.
            await ids_in_the_end(followers[2])
            await until(lambda: followers[3].image.voters == {2: second.address}, what="told")
            assert first.port is not None
            first.kill()
            first.port.close()
            first.socket.close()
            observer.kill()
            await observer.start()
            again = await observer.follow()
            given = await ids_in_the_end(again)
            await until(lambda: again.image.next_producer_id == given + 1000)

    run(test)


def test_a_voter_with_a_new_disk_answers_a_leader_that_it_has_never_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch, voters=3, hosts=4) as world:
            first = await world.leader()
            added = world.hosts[4]
            follower = await added.follow()
            await added.register(follower)
            one, other = (host for node, host in world.hosts.items() if host is not first and node != 4)
            await change(follower, m.ChangeVoters(add=4))
            await change(follower, m.ChangeVoters(remove=other.node))
            await change(follower, m.ChangeVoters(remove=first.node))
            while (leader := await world.leader()) is not added:
                assert leader.shell is not None
                leader.shell._post(Resign())
                await asyncio.sleep(0.5)
            # Of the two voters that are left, the one that is configured loses all it had.
            one.kill()
            for path in one.directory.iterdir():
                if path.name != "run":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            await one.start()
            given = await ids_in_the_end(follower)
            inside = await one.follow()
            await until(lambda: inside.image.next_producer_id >= given + 1000, 30.0, what="it has the log")
            assert one.shell is not None and one.shell.member.votes and one.shell.member.leader == 4

    run(test)


def test_a_voter_is_answered_by_the_lane_that_it_speaks_by_not_by_one_that_it_has_followed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A voter that nobody leads follows others for a while; that lane comes later, and goes when it is elected."""

    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            await world.leader()
            one = world.hosts[1]
            shell = one.shell
            assert shell is not None and shell.listener is not None
            heard: list[tuple[Lane, m.AnyMessage]] = []

            async def open_it() -> Lane:
                return await dial(
                    asyncio.get_running_loop(),
                    socket_path(one.spec.run_dir, "controller"),
                    on_message=lambda lane, request, message, frame: heard.append((lane, message)),
                )

            # Nobody has told the address of node 9.
            speaks = await as_actor("controller/9", 9, open_it)
            speaks.tell(Restarted(term=0, voter=9))
            await until(lambda: 9 in shell._callers)
            follows = await as_actor("controller/9", 9, open_it)
            await follows.request(m.Subscribe(from_offset=0), timeout_s=10.0)
            told = Restarted(term=0, voter=1)
            shell.peers.tell(9, told)
            await until(lambda: (speaks, told) in heard)
            [inside] = (
                lane
                for lane in shell.listener.lanes
                if lane.peer is not None and lane.peer.node == 9 and lane is not shell._callers[9]
            )
            follows.close()
            await until(lambda: inside.closed)
            heard.clear()
            shell.peers.tell(9, told)
            await until(lambda: (speaks, told) in heard)
            speaks.close()
            await until(lambda: 9 not in shell._callers)

    run(test)


def test_what_arrives_together_is_one_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with quorum(tmp_path, monkeypatch) as world:
            leader = await world.leader()
            follower = await leader.follow()
            await ids(follower)
            shell = leader.shell
            assert shell is not None and shell.storage is not None
            rounds = 0
            honest = shell.storage.carry_out

            def counted(writes: object) -> None:
                nonlocal rounds
                rounds += 1
                honest(writes)  # type: ignore[arg-type]

            monkeypatch.setattr(shell.storage, "carry_out", counted)
            got = await asyncio.gather(*(ids(follower) for _ in range(200)))
            assert sorted(got) == [1000 * number for number in range(1, 201)]
            assert rounds <= 10

    run(test)


def test_a_full_disk_refuses_and_is_used_again_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        import errno

        from logeion.log.files import Files

        full = False

        class Disk(Files):
            def pwritev(self, fd: int, buffers: object, at: int) -> int:
                if full:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return super().pwritev(fd, buffers, at)  # type: ignore[arg-type]

        monkeypatch.setattr("logeion.actors.controller.storage.Files", Disk)
        monkeypatch.setattr("logeion.actors.controller.actor.FULL_AGAIN_S", 0.05)
        async with quorum(tmp_path, monkeypatch, voters=1) as world:
            host = world.hosts[1]
            follower = await host.follow()
            assert await ids(follower) == 0
            full = True
            ask_during_the_next_write(host.shell)
            for _ in range(3):
                with pytest.raises(RefusedError) as refused:
                    await ids(follower)
                assert refused.value.code == 56
            late = await host.follow()
            full = False
            shell = host.shell
            assert shell is not None
            await until(lambda: shell.member.decides)
            assert await ids(follower) == 1000, "nothing of what was refused is there"
            await until(lambda: late.image.next_producer_id == follower.image.next_producer_id == 2000)
            assert late.snapshots == follower.snapshots == 0

    run(test)


def ask_during_the_next_write(shell: actor.ControllerShell | None) -> None:
    """One more question arrives while what was asked before is being written: the member has not heard of it."""
    assert shell is not None and shell.storage is not None
    storage, honest = shell.storage, shell.storage.carry_out

    def carry_out(writes: Sequence[Write]) -> None:
        storage.carry_out = honest  # type: ignore[method-assign]
        ((lane, request),) = shell._tickets.values()
        shell._on_message(lane, request + 1, m.AllocateProducerIds(node=1), Frame(memoryview(b""), None))
        honest(writes)

    storage.carry_out = carry_out  # type: ignore[method-assign]
