"""A gateway that was stopped or cut off must find out who leads before it tells where a log ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from logeion.actors import messages as m
from logeion.actors.config import ClusterSection, Config, ControllerSection
from logeion.actors.gateway.fetch import fetch
from logeion.actors.gateway.offsets import list_offsets
from logeion.actors.gateway.state import Gateway
from logeion.wire.apis import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from tests.actors.gateway_world import ORDERS, RECORDS, World
from tests.actors.test_gateway_fetch import OUT_OF_RANGE, Exchange, Leader, fetching, state

NOT_AVAILABLE, NOT_LEADER = 78, 6


class Controller:
    """The lane to the Controller. It answers with the quorum as it is told to see it; None: there is none."""

    closed = False

    def __init__(self) -> None:
        self.asked = 0
        self.quorum: m.QuorumDescribed | None = None

    async def request(self, message: m.Message, payload: object = (), *, timeout_s: float) -> m.Message:
        self.asked += 1
        if self.quorum is None:
            await asyncio.sleep(min(timeout_s, 0.05))  # nothing may happen
            return m.Refused(code=41, reason="nobody leads")
        return self.quorum


def quorum(committed: int, *contacts_ms: int) -> m.QuorumDescribed:
    followers = [m.VoterState(voter=2 + at, end=committed, contact_ms=ms) for at, ms in enumerate(contacts_ms)]
    return m.QuorumDescribed(
        leader=1, term=1, committed=committed, voters=[m.VoterState(voter=1, end=committed), *followers]
    )


Body = Callable[[Gateway, Controller], Awaitable[None]]


def in_cluster(tmp_path: Path, body: Body, *, voters: bool = True) -> None:
    async def run() -> None:
        names = [f"{node}@127.0.0.1:{node}" for node in (1, 2, 3)] if voters else []
        config = Config(cluster=ClusterSection(voters=names), controller=ControllerSection(session_ms=400))
        gateway = Gateway(node=1, config=config, data_dir=tmp_path, loop=asyncio.get_running_loop())
        gateway.apply(0, len(RECORDS), RECORDS, False)
        controller = Controller()
        gateway.controller_connected(controller)  # type: ignore[arg-type]
        await asyncio.wait_for(body(gateway, controller), 10)
        gateway.close()

    asyncio.run(run())


def test_a_node_that_is_alone_is_certain(tmp_path: Path) -> None:
    async def body(gateway: Gateway, controller: Controller) -> None:
        assert await gateway.confirming.confirm(0.1) and controller.asked == 0

    in_cluster(tmp_path, body, voters=False)


def test_one_answer_serves_all_who_ask_for_half_a_session(tmp_path: Path) -> None:
    async def body(gateway: Gateway, controller: Controller) -> None:
        controller.quorum = quorum(len(RECORDS), 20, 8_000)
        assert all(await asyncio.gather(*(gateway.confirming.confirm(5) for _ in range(20))))
        assert gateway.confirming.confirmed and controller.asked == 1
        while gateway.confirming.confirmed:
            await asyncio.sleep(0.01)
        assert await gateway.confirming.confirm(5) and controller.asked == 2

    in_cluster(tmp_path, body)


def test_what_is_committed_must_be_known_here_first(tmp_path: Path) -> None:
    async def body(gateway: Gateway, controller: Controller) -> None:
        controller.quorum = quorum(len(RECORDS) + 1, 20, 20)
        asked = asyncio.ensure_future(gateway.confirming.confirm(5))
        await asyncio.sleep(0.05)  # nothing may happen
        assert not asked.done()
        gateway.apply(gateway.applied, gateway.applied + 1, [], False)
        assert await asked

    in_cluster(tmp_path, body)


def test_a_controller_that_was_stopped_itself_is_not_believed(tmp_path: Path) -> None:
    async def body(gateway: Gateway, controller: Controller) -> None:
        controller.quorum = quorum(len(RECORDS), 8_000, -1)
        asked = asyncio.ensure_future(gateway.confirming.confirm(5))
        await asyncio.sleep(0.1)  # nothing may happen
        assert not asked.done() and controller.asked >= 1
        controller.quorum = quorum(len(RECORDS), 10, -1)
        assert await asked

    in_cluster(tmp_path, body)


def test_beyond_the_end_of_a_log_is_out_of_range_only_when_it_is_certain_whose_log_that_is(tmp_path: Path) -> None:
    async def body(gateway: Gateway, controller: Controller) -> None:
        leader, exchange = Leader(), Exchange()
        topic = gateway.image.topic_by_id(ORDERS)
        assert topic is not None
        link = gateway.link(topic, 0)
        link.lane, link.epoch = leader, 3  # type: ignore[assignment]
        link.learn(state(0))
        leader.closed = False  # type: ignore[attr-defined]
        exchange.connection = None  # type: ignore[attr-defined]
        fetch(gateway, exchange, fetching(50))  # type: ignore[arg-type]
        leader.answer(state(10))
        await asyncio.sleep(0.1)  # nothing may happen
        assert exchange.answers == [], "perhaps it is an old leader's log"
        controller.quorum = quorum(len(RECORDS), 20, 20)
        while not exchange.answers:
            await asyncio.sleep(0.01)
        assert exchange.answers[0].responses[0].partitions[0].error_code == OUT_OF_RANGE

    in_cluster(tmp_path, body)


def offsets(world: World, version: int, timestamp: int) -> tuple[int, int]:
    asked = ListOffsetsPartition(partition_index=0, timestamp=timestamp)
    request = ListOffsetsRequest(topics=[ListOffsetsTopic(name="orders", partitions=[asked])], timeout_ms=1_000)
    ours, _ = asyncio.run(world.ask(list_offsets, 2, version, request))
    [row] = ours.topics[0].partitions
    return row.error_code, row.offset


def test_the_newest_offsets_of_a_log_are_told_only_by_who_surely_leads() -> None:
    world = World()
    world.partition = lambda topic_id, index, message: m.OffsetFound(offset=42)
    for timestamp in (-1, -2, -3, 5):
        assert offsets(world, 7, timestamp) == (0, 42)
    world.confirming.confirmed = False
    assert offsets(world, 7, -1) == offsets(world, 7, -3) == offsets(world, 7, 5) == (NOT_AVAILABLE, -1)
    assert offsets(world, 3, -1) == (NOT_LEADER, -1)
    assert offsets(world, 7, -2) == (0, 42), "where it begins does not depend on who leads"
