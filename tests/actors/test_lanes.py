"""Lanes: every request is answered once, whatever happens to the peer."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from logeion.actors import lanes
from logeion.actors.blocking import BlockingLane
from logeion.actors.lanes import (
    Lane,
    LaneBusy,
    LaneClosed,
    LaneError,
    LaneListener,
    LaneTimeout,
    RefusedError,
    dial,
    introduce,
)
from logeion.actors.messages import AnyMessage, Done, Hello, Message, Ping, Pong, Refused, StateChanged
from logeion.actors.stream import Frame


@pytest.fixture(autouse=True)
def introduced() -> Iterator[None]:
    before = lanes._myself
    introduce(Hello(actor="test/1", kind="test", node=1, pid=os.getpid()))
    yield
    lanes._myself = before


class Server:
    """Answers Ping with Pong, refuses Done, echoes the payload of StateChanged, and never answers ``silent``."""

    def __init__(self, path: Path) -> None:
        self.lanes: list[Lane] = []
        self.heard: list[Message] = []
        self.unanswered: list[tuple[Lane, int]] = []
        self.closed: list[str] = []
        self.listener = LaneListener(asyncio.get_running_loop(), path, self._on_lane)

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message
        lane.on_closed = lambda _, reason: self.closed.append(reason)
        self.lanes.append(lane)

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Frame) -> None:
        self.heard.append(message)
        if isinstance(message, Ping):
            lane.reply(request, Pong())
        elif isinstance(message, Done):
            lane.reply(request, Refused(code=42, reason="not this", leader_epoch=7))
        elif isinstance(message, StateChanged) and message.state == "size":
            lane.reply(request, StateChanged(state=str(len(frame.view))))
        else:
            self.unanswered.append((lane, request))


Body = Callable[[Server, Path], Awaitable[None]]


def run(folder: Path, body: Body) -> None:
    async def bounded() -> None:
        path = folder / "far.sock"
        server = Server(path)
        try:
            await asyncio.wait_for(body(server, path), 20)
        finally:
            server.listener.close()
        assert not path.exists()

    asyncio.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + 5
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "not in time"
        await asyncio.sleep(0.001)


async def turns() -> None:
    """Let the loop do all that it could do by now; whoever calls this looks for something that must not happen."""
    for _ in range(200):
        await asyncio.sleep(0)


async def connected(path: Path) -> Lane:
    return await dial(asyncio.get_running_loop(), path)


def test_questions_are_answered_or_refused_and_both_ends_know_each_other(tmp_path: Path) -> None:
    async def body(server: Server, path: Path) -> None:
        lane = await connected(path)
        assert await lane.request(Ping(), timeout_s=5) == Pong()
        with pytest.raises(RefusedError) as refused:
            await lane.request(Done(), timeout_s=5)
        assert (refused.value.code, refused.value.reason, refused.value.leader_epoch) == (42, "not this", 7)
        payload = [b"abc", memoryview(bytes(3_000_000))]
        assert await lane.request(StateChanged(state="size"), payload, timeout_s=5) == StateChanged(state="3000003")
        assert lane.peer is not None and lane.peer.actor == "test/1"
        assert server.lanes[0].peer is not None and server.lanes[0].peer.pid == os.getpid()
        lane.tell(Ping())
        await until(lambda: len(server.heard) == 4)
        lane.close()

    run(tmp_path, body)


@pytest.mark.parametrize("who", ["here", "there"])
def test_a_lane_that_closes_fails_all_its_requests_at_once(tmp_path: Path, who: str) -> None:
    async def body(server: Server, path: Path) -> None:
        lane = await connected(path)
        replies: list[object] = []
        sent: list[int] = []
        count = lanes.REQUESTS_MAX + 50
        for number in range(count):
            lane.call(
                StateChanged(state="silent"),
                (b"x" * 100,),
                on_reply=replies.append,
                timeout_s=60,
                on_sent=lambda n=number: sent.append(n),  # type: ignore[misc]
            )
        await until(lambda: len(server.unanswered) == lanes.REQUESTS_MAX)
        if who == "here":
            lane.close()
        else:
            server.lanes[0].close()
        await until(lambda: len(replies) == count)
        assert all(isinstance(reply, LaneClosed) for reply in replies)
        assert sorted(sent) == list(range(count)), "every payload is released"
        with pytest.raises(LaneClosed):
            await lane.request(Ping(), timeout_s=5)
        await until(lambda: server.closed)

    run(tmp_path, body)


def test_a_request_has_a_deadline_and_a_late_answer_is_dropped(tmp_path: Path) -> None:
    async def body(server: Server, path: Path) -> None:
        lane = await connected(path)
        with pytest.raises(LaneTimeout):
            await lane.request(StateChanged(state="silent"), timeout_s=0.02)
        ((far, request),) = server.unanswered
        far.reply(request, Pong())
        assert await lane.request(Ping(), timeout_s=5) == Pong()
        lane.close()

    run(tmp_path, body)


def test_an_answer_is_never_given_from_within_the_call(tmp_path: Path) -> None:
    async def body(server: Server, path: Path) -> None:
        lane = await connected(path)
        server.lanes[0].close()
        replies: list[AnyMessage | LaneError] = []
        for number in range(100):
            lane.call(Ping(), (b"x" * 10_000,), on_reply=replies.append, timeout_s=5)
            assert len(replies) <= number
        await until(lambda: len(replies) == 100)

    run(tmp_path, body)


def test_flight_is_bounded_by_requests_and_by_bytes_and_order_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "REQUESTS_MAX", 4)
    monkeypatch.setattr(lanes, "BYTES_MAX", 1000)

    async def body(server: Server, path: Path) -> None:
        lane = await connected(path)
        replies: list[object] = []
        for number in range(10):
            lane.call(StateChanged(state="silent", cause=str(number)), on_reply=replies.append, timeout_s=5)
        await until(lambda: len(server.unanswered) == 4)
        await turns()
        assert len(server.unanswered) == 4
        for at in range(10):
            await until(lambda at=at: len(server.unanswered) > at)
            far, request = server.unanswered[at]
            far.reply(request, Pong())
        await until(lambda: len(replies) == 10)
        assert [m.cause for m in server.heard if isinstance(m, StateChanged)] == [str(n) for n in range(10)]
        for _ in range(3):
            lane.call(StateChanged(state="silent"), (b"x" * 900,), on_reply=replies.append, timeout_s=5)
        await until(lambda: len(server.unanswered) == 11)
        await turns()
        assert len(server.unanswered) == 11, "one of 900 bytes at a time"
        lane.close()

    run(tmp_path, body)


def test_more_than_may_wait_is_refused_without_being_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "REQUESTS_MAX", 1)
    monkeypatch.setattr(lanes, "QUEUED_MAX", 2)

    async def body(server: Server, path: Path) -> None:
        lane = await connected(path)
        replies: list[object] = []
        for _ in range(5):
            lane.call(StateChanged(state="silent"), on_reply=replies.append, timeout_s=5)
        await until(lambda: len(replies) == 2)
        assert all(isinstance(reply, LaneBusy) for reply in replies)
        lane.close()

    run(tmp_path, body)


HELLO = lanes.pack(0, Hello(actor="raw/1", kind="raw", node=1, pid=1), ())[0][0]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">II", 0xFFFFFFFF, 0),
        struct.pack(">II", 8, 0xFFFFFFFF),
        struct.pack(">II", 0, 0),
        lanes.pack(0, Ping(), ())[0][0],
        struct.pack(">IIQ", 8 + 3, 0, 1) + b"\xc1\xc1\xc1",
        bytes(HELLO) + struct.pack(">IIQ", 8 + 3, 0, 1) + b"abc",
        bytes(HELLO) + lanes.pack(1 << 63 | 99, Pong(), ())[0][0] + struct.pack(">II", 1, 1),
    ],
    ids=["header", "payload", "empty", "no-hello", "garbage", "garbage-later", "unasked-answer"],
)
def test_what_is_not_a_lanes_frame_closes_that_lane_only(tmp_path: Path, data: bytes) -> None:
    async def body(server: Server, path: Path) -> None:
        good = await connected(path)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as raw:
            raw.setblocking(False)
            await loop.sock_connect(raw, str(path))
            await loop.sock_sendall(raw, data)
            while await loop.sock_recv(raw, 4096):
                pass
        assert await good.request(Ping(), timeout_s=5) == Pong()
        good.close()

    run(tmp_path, body)


def test_who_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "HELLO_S", 0.02)

    async def body(server: Server, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as raw:
            raw.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(raw, str(path))
            while await loop.sock_recv(raw, 4096):
                pass
        assert server.lanes == []

    run(tmp_path, body)


def test_nobody_there_is_an_os_error_and_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    stale = tmp_path / "far.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))

    async def nobody() -> None:
        with pytest.raises(OSError):
            await connected(stale)
        with pytest.raises(OSError):
            await connected(tmp_path / "never.sock")

    asyncio.run(nobody())

    async def body(server: Server, path: Path) -> None:
        lane = await connected(path)
        assert await lane.request(Ping(), timeout_s=5) == Pong()
        lane.close()

    run(tmp_path, body)


def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()

    async def body(server: Server, path: Path) -> None:
        lane = await connected(path)
        assert await lane.request(Ping(), timeout_s=5) == Pong()
        lane.close()

    run(folder, body)


def test_a_command_without_a_loop_can_ask(tmp_path: Path) -> None:
    async def body(server: Server, path: Path) -> None:
        answers: list[AnyMessage] = []

        def ask() -> None:
            def waits() -> Iterator[float]:
                while True:
                    yield 0.5

            with BlockingLane(path, "command") as lane:
                answers.append(lane.ask(Ping(), waits()))

        thread = threading.Thread(target=ask)
        thread.start()
        await until(lambda: answers)
        thread.join()
        assert answers == [Pong()]

    run(tmp_path, body)
