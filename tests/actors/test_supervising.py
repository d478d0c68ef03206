"""The lane between Supervisor and Node: nothing waits, and whoever comes back asks who runs."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from logeion.actors import lanes, supervising
from logeion.actors.lanes import introduce, pack
from logeion.actors.messages import ActorExited, ActorsListed, AnyMessage, Hello, ListActors, Ping, StopActor
from logeion.actors.supervising import NodeEnd, SupervisorEnd


@pytest.fixture(autouse=True)
def introduced() -> Iterator[None]:
    before = lanes._myself
    introduce(Hello(actor="node/1", kind="node", node=1, pid=os.getpid()))
    yield
    lanes._myself = before


def node_end(folder: Path) -> NodeEnd:
    return NodeEnd(folder, Hello(actor="supervisor/1", kind="supervisor", node=1, pid=os.getpid()))


def stop(number: int) -> StopActor:
    return StopActor(actor="partition/t-0", incarnation=number)


def exited(number: int) -> ActorExited:
    return ActorExited(actor="partition/t-0", incarnation=number)


async def received(end: NodeEnd, heard: list[AnyMessage], count: int) -> None:
    """As Thespian would: whenever a descriptor is readable."""
    deadline = time.monotonic() + 10
    while len(heard) < count:
        assert time.monotonic() < deadline, heard
        if select.select(end.descriptors, [], [], 0)[0]:
            heard += end.receive()
        end.flush()
        await asyncio.sleep(0)


async def until(heard: list[AnyMessage], count: int, end: NodeEnd) -> None:
    deadline = time.monotonic() + 10
    while len(heard) < count:
        assert time.monotonic() < deadline, len(heard)
        end.flush()
        await asyncio.sleep(0)


def test_both_may_say_a_thousand_things_at_once_and_all_arrive_in_order(tmp_path: Path) -> None:
    async def body() -> None:
        end = node_end(tmp_path)
        theirs: list[AnyMessage] = []
        ours: list[AnyMessage] = []
        node = SupervisorEnd(asyncio.get_running_loop(), tmp_path, theirs.append)
        node.tell(ListActors(number=1))
        await received(end, ours, 1)
        for number in range(1000):
            end.tell(exited(number))
            node.tell(stop(number))
        await received(end, ours, 1001)
        await until(theirs, 1000, end)
        assert ours == [ListActors(number=1), *map(stop, range(1000))]
        assert theirs == [exited(number) for number in range(1000)]

    asyncio.run(body())


def test_what_node_says_before_the_supervisor_listens_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[Path] = []
    dial = supervising.dial

    async def counted(loop: asyncio.AbstractEventLoop, path: Path, **how: Any) -> lanes.Lane:
        dialled.append(path)
        return await dial(loop, path, **how)

    monkeypatch.setattr(supervising, "dial", counted)

    async def body() -> None:
        node = SupervisorEnd(asyncio.get_running_loop(), tmp_path, lambda message: None)
        node.tell(stop(1))
        node.tell(stop(2))
        while len(dialled) < 2:
            await asyncio.sleep(0)
        end = node_end(tmp_path)
        ours: list[AnyMessage] = []
        await received(end, ours, 2)
        assert ours == [stop(1), stop(2)]

    asyncio.run(body())


def test_a_node_that_lost_its_lane_asks_who_runs(tmp_path: Path) -> None:
    async def body() -> None:
        end = node_end(tmp_path)
        ours: list[AnyMessage] = []
        theirs: list[AnyMessage] = []
        node = SupervisorEnd(asyncio.get_running_loop(), tmp_path, theirs.append)
        node.tell(stop(1))
        await received(end, ours, 1)
        end._close("as if it had broken")
        await received(end, ours, 2)
        assert ours == [stop(1), ListActors()]
        end.tell(ActorsListed(actors=[]))
        await until(theirs, 1, end)

    asyncio.run(body())


def connected(folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(folder / "supervisor.sock"))
    return sock


def said(*messages: AnyMessage) -> bytes:
    data = b""
    for message in (Hello(actor="node/1", kind="node", node=1, pid=1), *messages):
        head = pack(0, message, ())[0][0]
        assert isinstance(head, bytes)
        data += head
    return data


def test_the_next_node_takes_the_place_of_the_last(tmp_path: Path) -> None:
    end = node_end(tmp_path)
    with connected(tmp_path) as old, connected(tmp_path) as new:
        old.sendall(said(stop(1)))
        new.sendall(said(stop(2), stop(3)))
        assert end.receive()[-2:] == [stop(2), stop(3)]
        assert len(end.descriptors) == 2
        end.tell(exited(1))
        assert len(new.recv(4096)) > 16
        while old.recv(4096):
            pass
    assert end.receive() == []
    assert len(end.descriptors) == 1
    end.tell(exited(2))


def test_what_a_node_said_with_its_last_breath_is_heard(tmp_path: Path) -> None:
    end = node_end(tmp_path)
    with connected(tmp_path) as node:
        node.sendall(said(stop(1)))
    assert end.receive() == [stop(1)]
    assert len(end.descriptors) == 1


def test_a_node_that_reads_nothing_loses_the_lane_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "UNREAD_MAX", 100_000)
    end = node_end(tmp_path)
    with connected(tmp_path) as node:
        node.sendall(said())
        end.receive()
        for number in range(20_000):
            end.tell(exited(number))
            if len(end.descriptors) == 1:
                break
        assert len(end.descriptors) == 1 and not end.unsent


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 16,
        bytes(16),
        said()[: len(said()) // 2] + bytes(40),
        said() + b"\x00\x00\x00\x0b" + bytes(12) + b"abc",
    ],
)
def test_what_is_no_frame_ends_the_lane(tmp_path: Path, data: bytes) -> None:
    end = node_end(tmp_path)
    with connected(tmp_path) as node:
        node.sendall(data)
        assert end.receive() == []
        assert len(end.descriptors) == 1
    with connected(tmp_path) as node:
        node.sendall(said(Ping()))
        assert end.receive() == [Ping()]
