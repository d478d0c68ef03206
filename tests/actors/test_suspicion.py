"""Who does not answer is suspected, and who may take his time is asked something cheap first."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from logeion.actors import suspicion as module
from logeion.actors.lanes import Lane, LaneError, LaneListener, dial, introduce
from logeion.actors.messages import AnyMessage, DescribeLog, Done, Hello, Message, Suspect, Watch
from logeion.actors.suspicion import Suspicion

Body = Callable[[Suspicion, Lane, list[Message], list[AnyMessage]], Awaitable[None]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(module, "PROBE_AFTER_S", 0.01)


def with_peer(tmp_path: Path, answers: tuple[type[Message], ...], body: Body) -> None:
    """A peer that answers these messages and no other; ``body`` gets what was told to Node, and what the peer heard."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        introduce(Hello(actor="partition/orders-0", kind="partition", node=1, pid=os.getpid(), incarnation=7))
        heard: list[AnyMessage] = []

        def on_lane(lane: Lane) -> None:
            def on_message(lane: Lane, request: int, message: AnyMessage, frame: object) -> None:
                heard.append(message)
                if isinstance(message, answers):
                    lane.reply(request, Done())

            lane.on_message = on_message

        listener = LaneListener(loop, tmp_path / "peer.sock", on_lane)
        lane = await dial(loop, tmp_path / "peer.sock")
        told: list[Message] = []
        suspicion = Suspicion(loop, told.append)
        await asyncio.wait_for(body(suspicion, lane, told, heard), 10)
        suspicion.close()
        lane.close()
        listener.close()

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


SUSPECT = Suspect(actor="partition/orders-0", incarnation=7)


def test_a_request_that_is_not_answered_at_once_is_told_to_node_again_and_again(tmp_path: Path) -> None:
    async def body(suspicion: Suspicion, lane: Lane, told: list[Message], heard: list[AnyMessage]) -> None:
        replies: list[AnyMessage | LaneError] = []
        for _ in range(3):
            suspicion.call(lane, DescribeLog(), on_reply=replies.append, timeout_s=0.5)
        await until(lambda: len(told) >= 2)
        assert set(map(repr, told)) == {repr(SUSPECT)}
        assert len(told) < 6, "one suspicion a lane, not one a request"
        await until(lambda: len(replies) == 3)
        told.clear()
        await asyncio.sleep(0.12)  # nothing may happen
        assert told == [], "nobody waits any more"

    with_peer(tmp_path, (), body)


def test_who_answers_is_not_suspected(tmp_path: Path) -> None:
    async def body(suspicion: Suspicion, lane: Lane, told: list[Message], heard: list[AnyMessage]) -> None:
        for _ in range(20):
            assert await suspicion.request(lane, DescribeLog(), timeout_s=5) == Done()
            await asyncio.sleep(0.005)
        assert told == []

    with_peer(tmp_path, (DescribeLog,), body)


def test_an_answer_that_may_take_its_time_has_the_peer_asked_for_its_state(tmp_path: Path) -> None:
    async def body(suspicion: Suspicion, lane: Lane, told: list[Message], heard: list[AnyMessage]) -> None:
        probe = Watch(epoch=3, offset=-1)
        numbers = [suspicion.begin(lane, probe) for _ in range(3)]
        await until(lambda: len(heard) >= 3)
        assert set(map(repr, heard)) == {repr(probe)} and told == []
        for number in numbers:
            suspicion.end(number)
        await asyncio.sleep(0.06)  # nothing may happen
        heard.clear()
        await asyncio.sleep(0.12)  # nothing may happen
        assert heard == []

    with_peer(tmp_path, (Watch,), body)


def test_a_peer_that_does_not_even_tell_its_state_is_suspected(tmp_path: Path) -> None:
    async def body(suspicion: Suspicion, lane: Lane, told: list[Message], heard: list[AnyMessage]) -> None:
        suspicion.begin(lane, Watch(epoch=3, offset=-1))
        await until(lambda: told)
        assert told[0] == SUSPECT

    with_peer(tmp_path, (), body)


def test_a_lane_that_has_closed_is_no_suspicion(tmp_path: Path) -> None:
    async def body(suspicion: Suspicion, lane: Lane, told: list[Message], heard: list[AnyMessage]) -> None:
        suspicion.begin(lane)
        lane.close()
        await asyncio.sleep(0.12)  # nothing may happen
        assert told == []

    with_peer(tmp_path, (), body)
