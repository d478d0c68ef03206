"""The lanes a gateway keeps to its partitions' leaders, with real sockets in one loop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from logeion.actors.config import Config
from logeion.actors.gateway import following as following_module
from logeion.actors.gateway.asking import Deadline
from logeion.actors.gateway.following import Following
from logeion.actors.gateway.state import Gateway
from logeion.actors.lanes import Lane, LaneListener, introduce, socket_path
from logeion.actors.messages import (
    Committed,
    GroupsListed,
    Hello,
    IndexRunning,
    IndexStopped,
    ListGroups,
    PartitionRunning,
    Ping,
    Refused,
)
from logeion.wire.errors import CoordinatorLoadInProgressError
from tests.actors.gateway_world import INTERNAL, ORDERS, RECORDS


def leader(epoch: int) -> Hello:
    return Hello(
        actor="partition/orders-0", kind="partition", node=1, pid=os.getpid(), topic_id=ORDERS, partition=0, epoch=epoch
    )


def test_a_new_leader_that_node_names_before_the_old_ones_lane_is_gone_is_dialled_once(tmp_path: Path) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        failures: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: failures.append(context))
        gateway = Gateway(node=1, config=Config(), data_dir=tmp_path, loop=loop)
        gateway.apply(0, len(RECORDS), RECORDS, False)
        following = Following(gateway, tmp_path)
        path = socket_path(tmp_path, f"partition-{ORDERS}-0")
        opened: list[Lane] = []

        def on_lane(lane: Lane) -> None:
            opened.append(lane)
            lane.on_message = lambda lane, request, message, frame: lane.reply(request, Refused(code=6, reason="no"))

        async def until_epoch(epoch: int) -> None:
            while not (gateway.links.get((ORDERS, 0)) and gateway.links[ORDERS, 0].epoch == epoch):
                await asyncio.sleep(0.005)

        introduce(leader(3))
        first = LaneListener(loop, path, on_lane)
        following.node_said(PartitionRunning(topic_id=ORDERS, partition=0, epoch=3))
        await asyncio.wait_for(until_epoch(3), 5)
        introduce(leader(4))
        opened.clear()
        second = LaneListener(loop, path, on_lane)
        following.node_said(PartitionRunning(topic_id=ORDERS, partition=0, epoch=4))
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(until_epoch(4), 5)
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert len(opened) == 1
        assert failures == []
        following.close()
        first.close()
        second.close()
        gateway.close()

    asyncio.run(run())


def test_a_leader_that_node_says_serves_is_dialled_at_once_however_long_the_retries_have_become(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_module, "FIRST_RETRY_S", 30.0)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        gateway = Gateway(node=1, config=Config(), data_dir=tmp_path, loop=loop)
        gateway.apply(0, len(RECORDS), RECORDS, False)
        following = Following(gateway, tmp_path)
        following.node_said(PartitionRunning(topic_id=ORDERS, partition=0, epoch=3))
        await asyncio.sleep(0.02)  # nothing may happen
        assert not gateway.running(ORDERS, 0), "nobody listens yet"
        introduce(leader(4))
        listener = LaneListener(loop, socket_path(tmp_path, f"partition-{ORDERS}-0"), lambda lane: None)
        following.node_said(PartitionRunning(topic_id=ORDERS, partition=0, epoch=4))
        while not gateway.running(ORDERS, 0):
            await asyncio.sleep(0.002)
        following.close()
        listener.close()
        gateway.close()

    asyncio.run(asyncio.wait_for(run(), 10))


class Silent:
    """A lane to somebody who accepts and says nothing more; only that it is there counts."""

    closed = False

    async def request(self, message: object, payload: object = (), *, timeout_s: float) -> object:
        return Refused(code=0, reason="reached")


def test_a_controller_that_comes_and_goes_at_once_is_waited_for_again(tmp_path: Path) -> None:
    async def run() -> None:
        gateway = Gateway(node=1, config=Config(), data_dir=tmp_path, loop=asyncio.get_running_loop())
        asked = asyncio.ensure_future(gateway.ask_controller(Ping(), 5))
        await asyncio.sleep(0)
        gateway.controller_connected(Silent())  # type: ignore[arg-type]
        gateway.controller_connected(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asked.done()
        gateway.controller_connected(Silent())  # type: ignore[arg-type]
        assert await asked == Refused(code=0, reason="reached")
        gateway.close()

    asyncio.run(run())


def test_a_leader_that_comes_and_goes_at_once_is_waited_for_again(tmp_path: Path) -> None:
    async def run() -> None:
        gateway = Gateway(node=1, config=Config(), data_dir=tmp_path, loop=asyncio.get_running_loop())
        gateway.apply(0, len(RECORDS), RECORDS, False)
        topic = gateway.image.topic_by_id(ORDERS)
        assert topic is not None
        link = gateway.link(topic, 0)
        asked = asyncio.ensure_future(gateway.ask_partition(ORDERS, 0, lambda epoch: Ping(), 5))
        await asyncio.sleep(0)
        link.lane = Silent()  # type: ignore[assignment]
        gateway.changed()
        link.lane = None
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asked.done()
        link.lane = Silent()  # type: ignore[assignment]
        gateway.changed()
        assert await asked == Refused(code=0, reason="reached")
        gateway.close()

    asyncio.run(run())


def test_a_group_index_that_comes_and_goes_at_once_is_waited_for_again(tmp_path: Path) -> None:
    async def run() -> None:
        gateway = Gateway(node=1, config=Config(), data_dir=tmp_path, loop=asyncio.get_running_loop())
        groups = gateway.groups
        asked = asyncio.ensure_future(groups.ask_index((INTERNAL, 0), ListGroups(), GroupsListed, Deadline(0.2)))
        await asyncio.sleep(0)
        groups.node_said(IndexRunning(topic_id=INTERNAL, partition=0, epoch=3, incarnation=5))
        groups.node_said(IndexStopped(topic_id=INTERNAL, partition=0, incarnation=5))
        with pytest.raises(CoordinatorLoadInProgressError):
            await asked
        gateway.close()

    asyncio.run(run())


def test_a_snapshot_that_leads_back_is_not_taken_and_its_lane_ends(tmp_path: Path) -> None:
    """A controller that has just started may know less of the metadata log than we have heard."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        gateway = Gateway(node=1, config=Config(), data_dir=tmp_path, loop=loop)
        gateway.apply(0, len(RECORDS), RECORDS, False)
        following = Following(gateway, tmp_path)
        over: list[str] = []

        def on_lane(lane: Lane) -> None:
            lane.on_message = lambda lane, request, message, frame: lane.reply(
                request, Committed(offset=0, next_offset=1, records=[], snapshot=True)
            )
            lane.on_closed = lambda lane, reason: over.append(reason)

        introduce(Hello(actor="controller/1", kind="controller", node=1, pid=os.getpid()))
        controller = LaneListener(loop, socket_path(tmp_path, "controller"), on_lane)
        following.start()
        async with asyncio.timeout(5):
            while not over:
                await asyncio.sleep(0.005)
        assert gateway.applied == len(RECORDS) and gateway.image.topic_by_id(ORDERS) is not None
        following.close()
        controller.close()
        gateway.close()

    asyncio.run(run())
