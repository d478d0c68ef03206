"""What a Controller learns of another one whose lane broke, from that one's host."""

from __future__ import annotations

from pathlib import Path

import pytest

from logeion.actors import messages as m
from tests.actors.quorum_world import ids, ids_in_the_end, quorum, run, until


def test_a_node_whose_port_refuses_is_fenced_well_before_its_session_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        monkeypatch.setattr("logeion.actors.controller.actor.STARTING_S", 0.0)
        async with quorum(tmp_path, monkeypatch) as world:
            followers = {host.node: await host.follow() for host in world.hosts.values()}
            for host in world.hosts.values():
                answer = await host.register(followers[host.node], boot_id="b")
                beat = m.Heartbeat(node=host.node, broker_epoch=answer.broker_epoch, applied=answer.committed)
                assert await followers[host.node].ask(beat) == m.HeartbeatAnswered(fenced=False)
            dead = await world.leader()
            alive, other = world.others(dead)
            image = followers[alive.node].image
            await until(lambda: not image.fenced)
            # A controller alone dies, and comes back: its host still answers.
            shell = dead.shell
            assert shell is not None
            answers: list[bool | None] = []
            honest = shell.probing._ask

            async def ask(node: int) -> bool | None:
                answers.append(await honest(node))
                return answers[-1]

            monkeypatch.setattr(shell.probing, "_ask", ask)
            other.kill()
            await until(lambda: answers)
            assert answers == [True]
            await other.start()
            assert not image.fenced
            # A whole host dies, with the controller that leads.
            assert dead.port is not None
            dead.kill()
            dead.port.close()
            dead.socket.close()
            await until(lambda: followers[alive.node].image.fenced, what="fenced")
            assert followers[alive.node].image.fenced == {dead.node}

    run(test)


def test_a_leader_whose_host_says_that_it_has_ended_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody but its host could know: its lease would end in 20 s, and it does not start again."""

    async def test() -> None:
        monkeypatch.setattr("tests.actors.quorum_world.ELECTION_MS", 20_000)
        async with quorum(tmp_path, monkeypatch) as world:
            first = await world.leader()
            others = world.others(first)
            followers = [await host.follow() for host in others]
            assert await ids(followers[0]) == 0
            first.kill()
            second = await world.leader()
            assert second in others
            assert await ids_in_the_end(followers[1]) > 0
            (third,) = (host for host in others if host is not second)

            # One that only hides is no case for that: its host sees that it runs.
            await first.start()
            assert first.shell is not None
            rejoined = first.shell.member
            await until(lambda: rejoined.leader == second.node)
            assert third.shell is not None and second.shell is not None and second.shell.listener is not None
            asked: list[bool | None] = []
            honest = third.shell.probing._ask

            async def ask(node: int) -> bool | None:
                asked.append(await honest(node))
                return asked[-1]

            monkeypatch.setattr(third.shell.probing, "_ask", ask)
            for lane in list(second.shell.listener.lanes):
                if lane.peer is not None and lane.peer.kind == "controller":
                    lane.close("cut")
            await until(lambda: not third.shell.probing._tasks and asked)
            assert set(asked) == {False} and third.shell.member.led_by(second.node) is not None

    run(test)
