"""What a fetch may conclude from a leader that does not answer: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from logeion.actors.config import Config
from logeion.actors.gateway.fetch import fetch
from logeion.actors.gateway.holding import Held
from logeion.actors.gateway.state import Gateway
from logeion.actors.lanes import LaneClosed, LaneError, LaneTimeout
from logeion.actors.messages import Advanced, Message, Watch
from logeion.wire.apis import FetchPartition, FetchRequest, FetchResponse, FetchTopic
from logeion.wire.codec import RequestHeader
from logeion.wire.errors import KafkaError
from tests.actors.gateway_world import ORDERS, RECORDS

OUT_OF_RANGE = 1


class Leader:
    """The lane to a leader: what it was asked, and the test's answers."""

    def __init__(self) -> None:
        self.asked: list[tuple[Watch, Callable[[Message | LaneError], None]]] = []

    def call(self, message: Any, payload: Any = (), *, on_reply: Any, timeout_s: float, on_sent: Any = None) -> None:
        self.asked.append((message, on_reply))

    def answer(self, reply: Message | LaneError) -> None:
        """To the newest question for its state as it is."""
        at = max(number for number, (message, _) in enumerate(self.asked) if message.offset == -1)
        self.asked.pop(at)[1](reply)


class Exchange:
    """A client that waits."""

    def __init__(self) -> None:
        self.header = RequestHeader(1, 12, 1, "c", 0)
        self.closed = False
        self.on_closed: Any = None
        self.answers: list[FetchResponse] = []

    def answer(self, body: FetchResponse, on_sent: Callable[[], None] | None = None) -> None:
        self.answers.append(body)
        self.closed = True
        if on_sent is not None:
            on_sent()


def state(end: int, epoch: int = 3) -> Advanced:
    return Advanced(epoch=epoch, epoch_start=0, log_start=0, high_watermark=end, end=end, segment=0, position=0)


def fetching(offset: int, *, wait_ms: int = 60_000) -> FetchRequest:
    partition = FetchPartition(partition=0, fetch_offset=offset, current_leader_epoch=-1, partition_max_bytes=1 << 20)
    return FetchRequest(
        max_wait_ms=wait_ms, min_bytes=1, max_bytes=1 << 20, topics=[FetchTopic(topic="orders", partitions=[partition])]
    )


def world(tmp_path: Path) -> tuple[Gateway, Leader]:
    """A gateway that knows of a leader whose log was empty when last heard of."""
    gateway = Gateway(node=1, config=Config(), data_dir=tmp_path, loop=asyncio.get_running_loop())
    gateway.apply(0, len(RECORDS), RECORDS, False)
    topic = gateway.image.topic_by_id(ORDERS)
    assert topic is not None
    leader = Leader()
    gateway.link(topic, 0).connected(leader, 3)  # type: ignore[arg-type]
    leader.answer(state(0))
    return gateway, leader


def test_an_offset_past_what_is_known_is_out_of_range_once_the_leader_has_said_so(tmp_path: Path) -> None:
    async def run() -> None:
        gateway, leader = world(tmp_path)
        exchange = Exchange()
        fetch(gateway, exchange, fetching(500))  # type: ignore[arg-type]
        assert exchange.answers == []
        leader.answer(state(100))
        assert exchange.answers[0].responses[0].partitions[0].error_code == OUT_OF_RANGE
        gateway.close()

    asyncio.run(run())


def test_a_leader_that_dies_over_the_question_does_not_put_the_consumers_offset_out_of_range(tmp_path: Path) -> None:
    async def run() -> None:
        for failure in (LaneClosed("killed"), LaneTimeout("hung")):
            gateway, leader = world(tmp_path)
            exchange = Exchange()
            fetch(gateway, exchange, fetching(500))  # type: ignore[arg-type]
            # A lane that closes tells those who asked before it tells the link.
            leader.answer(failure)
            assert exchange.answers == []
            gateway.close()

    asyncio.run(run())


def test_a_fetch_that_does_not_wait_is_answered_though_the_leader_does_not(tmp_path: Path) -> None:
    async def run() -> None:
        gateway, leader = world(tmp_path)
        exchange = Exchange()
        fetch(gateway, exchange, fetching(500, wait_ms=0))  # type: ignore[arg-type]
        leader.answer(LaneTimeout("hung"))
        assert [one.error_code for one in exchange.answers[0].responses[0].partitions] == [0]
        gateway.close()

    asyncio.run(run())


def test_a_batch_that_expires_may_make_its_client_speak_to_another_partition(tmp_path: Path) -> None:
    async def run() -> None:
        gateway, leader = world(tmp_path)
        link = gateway.links[ORDERS, 0]
        link.disconnected(leader)  # type: ignore[arg-type]
        topic = gateway.image.topic_by_id(ORDERS)
        assert topic is not None
        failed: list[KafkaError] = []

        class Part:
            """What waits behind it in its connection is started as soon as it is answered."""

            def failed(self, error: KafkaError) -> None:
                failed.append(error)
                gateway.link(topic, 1)

        link.submit(Held(Part(), True, -1, 0))  # type: ignore[arg-type]
        gateway.timers._fire()
        assert [error.code for error in failed] == [6]
        assert (ORDERS, 1) in gateway.links
        gateway.close()

    asyncio.run(run())
