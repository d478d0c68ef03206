"""The command asks Supervisor and Node for signs of life over sockets of their own."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from logeion.actors.hangs import Hangs, Line, NodeLine, look
from logeion.actors.lanes import Lane, LaneListener, introduce, socket_path
from logeion.actors.messages import AnyMessage, Hello, Ping, Pong
from logeion.actors.supervising import LIFE, Life


def heard(line: Line, poll: select.poll, turn: Life | None = None) -> bool | None:
    """What the line says of the next thing that can be read."""
    deadline = time.monotonic() + 5
    while True:
        if turn is not None:
            turn.answer()
        if poll.poll(2) and (answered := line.answered()) is not False:
            return answered
        assert time.monotonic() < deadline


def test_the_supervisor_answers_whoever_asks_last(tmp_path: Path) -> None:
    poll = select.poll()
    line = Line(socket_path(tmp_path, LIFE), poll)
    assert not line.ask(), "nobody is there yet"
    assert line.descriptor == -1
    life = Life(tmp_path)
    for _ in range(3):
        assert line.ask()
        assert heard(line, poll, life)
    assert line.pid == os.getpid()
    line.close()
    other = Line(socket_path(tmp_path, LIFE), poll)
    assert other.ask()
    assert heard(other, poll, life)
    assert len(life.descriptors) == 2
    other.close()
    life.answer()
    assert len(life.descriptors) == 1, "who has left is forgotten"


def test_node_is_asked_over_a_lane_and_its_end_is_seen(tmp_path: Path) -> None:
    poll = select.poll()
    line = NodeLine(socket_path(tmp_path, "node"), poll)
    told: list[bool | None] = []

    async def node() -> None:
        loop = asyncio.get_running_loop()
        introduce(Hello(actor="node/1", kind="node", node=1, pid=os.getpid()))
        lanes: list[Lane] = []

        def on_lane(lane: Lane) -> None:
            def on_message(lane: Lane, request: int, message: AnyMessage, frame: object) -> None:
                assert isinstance(message, Ping)
                lane.reply(request, Pong())

            lane.on_message = on_message
            lanes.append(lane)

        listener = LaneListener(loop, socket_path(tmp_path, "node"), on_lane)

        def ask() -> None:
            for _ in range(3):
                assert line.ask()
                told.append(heard(line, poll))
            loop.call_soon_threadsafe(lanes[0].close)
            told.append(heard(line, poll))

        asking = threading.Thread(target=ask)
        asking.start()
        while asking.is_alive():
            await asyncio.sleep(0.002)
        listener.close()

    asyncio.run(node())
    assert told == [True, True, True, None]
    assert line.descriptor == -1
    assert not line.ask(), "nobody listens any more"


def test_the_kernel_tells_who_is_stopped_who_sleeps_and_who_computes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input(); exec('while True: pass')"], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        try:
            deadline = time.monotonic() + 5
            while set(look(process.pid).states) != {"S"}:
                assert time.monotonic() < deadline
            process.stdin.write(b"\n")
            process.stdin.flush()
            before = look(process.pid).ticks
            while look(process.pid).ticks == before:
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGSTOP)
            while set(look(process.pid).states) != {"T"}:
                assert time.monotonic() < deadline
        finally:
            process.kill()
    assert look(process.pid) == ("", 0)


@pytest.mark.parametrize("hung_s", [0.0, 2.0])
def test_who_is_not_there_is_not_killed(tmp_path: Path, hung_s: float) -> None:
    hangs = Hangs(tmp_path, os.getpid(), hung_s, select.poll(), 0.0)
    now = 0.0
    while now < 60.0:
        now += min(hangs.wait_ms(now), 10_000) / 1000
        assert not hangs.turn(set(), now)
    hangs.close()
