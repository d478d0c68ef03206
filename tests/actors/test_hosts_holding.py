"""A follower that dials a leader before its process is up is kept, and is its guest as soon as it listens."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from logeion.actors import hosts, lanes
from logeion.actors.hosts import HostPort, dial_host
from logeion.actors.lanes import Lane, LaneError, LaneListener, introduce
from logeion.actors.messages import Hello, Ping, Pong

SECRET = b"correct horse battery staple"
LEADER = "partition-abc-0"


@pytest.fixture(autouse=True)
def introduced() -> Iterator[None]:
    before = lanes._myself
    introduce(Hello(actor="test/7", kind="test", node=7, pid=os.getpid()))
    yield
    lanes._myself = before


Body = Callable[[HostPort, Callable[[], Awaitable[Lane]]], Awaitable[None]]


def run(folder: Path, body: Body) -> None:
    async def bounded() -> None:
        loop = asyncio.get_running_loop()
        port = HostPort(loop, [socket.create_server(("127.0.0.1", 0))], folder, SECRET)
        try:
            await asyncio.wait_for(body(port, lambda: dial_host(loop, *port.addresses[0], LEADER, secret=SECRET)), 20)
        finally:
            port.close()

    asyncio.run(bounded())


def listening(folder: Path) -> LaneListener:
    def on_lane(lane: Lane) -> None:
        lane.on_message = lambda lane, request, _message, _frame: lane.reply(request, Pong())

    return LaneListener(asyncio.get_running_loop(), folder / f"{LEADER}.sock", on_lane)


async def waiting(port: HostPort, count: int) -> None:
    while len(port._waiting) != count:
        await asyncio.sleep(0.001)


def test_who_comes_before_the_leader_listens_is_served_as_soon_as_it_does(tmp_path: Path) -> None:
    async def body(port: HostPort, dial: Callable[[], Awaitable[Lane]]) -> None:
        first = asyncio.ensure_future(dial())
        await waiting(port, 1)
        second = asyncio.ensure_future(dial())
        await waiting(port, 2)
        # What else appears does not disturb them.
        (tmp_path / "other.sock").touch()
        await asyncio.sleep(0.05)  # nothing may happen
        assert not first.done() and not second.done()
        leader = listening(tmp_path)
        for lane in await asyncio.gather(first, second):
            assert await lane.request(Ping(), timeout_s=5) == Pong()
            lane.close()
        await waiting(port, 0)
        leader.close()

    run(tmp_path, body)


def test_what_a_dead_leader_left_behind_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    async def body(port: HostPort, dial: Callable[[], Awaitable[Lane]]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
            dead.bind(str(tmp_path / f"{LEADER}.in"))
        asked = asyncio.ensure_future(dial())
        await waiting(port, 1)
        leader = listening(tmp_path)
        lane = await asked
        assert await lane.request(Ping(), timeout_s=5) == Pong()
        lane.close()
        leader.close()

    run(tmp_path, body)


def test_a_leader_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "HOLD_S", 0.2)

    async def body(port: HostPort, dial: Callable[[], Awaitable[Lane]]) -> None:
        begun = time.monotonic()
        with pytest.raises(LaneError, match="it does not run"):
            await dial()
        assert time.monotonic() - begun >= 0.2
        assert not port._waiting and not port._passing

    run(tmp_path, body)


def test_who_waits_is_let_go_when_the_port_closes(tmp_path: Path) -> None:
    async def body(port: HostPort, dial: Callable[[], Awaitable[Lane]]) -> None:
        asked = asyncio.ensure_future(dial())
        await waiting(port, 1)
        port.close()
        with pytest.raises(LaneError):
            await asked
        assert not port._waiting

    run(tmp_path, body)
