"""What a gateway has accepted when its partition's leader moves: where it goes, in which order, and who is told what.

The gateway, its connection and the lanes are the real ones, also the one to the other host; the leaders are made up.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from logeion.actors.config import ClusterSection, Config, GatewaySection
from logeion.actors.gateway.connection import Connection
from logeion.actors.gateway.following import Following
from logeion.actors.gateway.holding import Held, Holding
from logeion.actors.gateway.state import Gateway
from logeion.actors.hosts import HostPort
from logeion.actors.lanes import Lane, LaneListener, introduce, socket_path
from logeion.actors.messages import Advanced, AnyMessage, Append, Appended, Hello, PartitionRunning, Refused, Watch
from logeion.actors.metadata import BrokerChanged, BrokerRegistered
from logeion.wire.apis import (
    FetchPartition,
    FetchRequest,
    FetchTopic,
    PartitionProduceData,
    ProduceRequest,
    Struct,
    TopicProduceData,
)
from logeion.wire.batch import read_header
from logeion.wire.codec import decode_response, encode_request
from logeion.wire.records import Record, build_batch
from tests.actors.gateway_world import ORDERS, RECORDS, partition

PRODUCE, PRODUCE_VERSION = 0, 10
FETCH, FETCH_VERSION = 1, 16
SECRET = b"0123456789abcdef" * 2
NOT_LEADER, TIMED_OUT = 6, 7


def batch(number: int, producer: int) -> bytes:
    record = Record(0, 1_000, b"k", b"v%d" % number, [])
    if producer < 0:
        return build_batch([record])
    return build_batch([record], producer_id=producer, producer_epoch=0, base_sequence=number)


class Leader:
    """Whoever serves ``partition-…`` in a run directory. It notes what it is asked to append, and may answer."""

    def __init__(self, run_dir: Path, epoch: int, *, answers: bool = True) -> None:
        self.answers = answers
        self.appended: list[tuple[int, int]] = []
        self.asked: list[tuple[Lane, int]] = []
        self.epochs: set[int] = set()
        self.stopped = False
        self._run_dir, self._epoch = run_dir, epoch
        self.start()

    def start(self) -> None:
        introduce(
            Hello(
                actor="partition/orders-0",
                kind="partition",
                node=2,
                pid=os.getpid(),
                topic_id=ORDERS,
                partition=0,
                epoch=self._epoch,
            )
        )
        path = socket_path(self._run_dir, f"partition-{ORDERS}-0")
        self.listener = LaneListener(asyncio.get_running_loop(), path, self._on_lane)

    def _on_lane(self, lane: Lane) -> None:
        lane.on_message = self._on_message

    def _on_message(self, lane: Lane, request: int, message: AnyMessage, frame: Any) -> None:
        if isinstance(message, Append):
            header = read_header(frame.view)
            self.appended.append((header.producer_id, header.base_sequence))
            self.epochs.add(message.epoch)
            self.asked.append((lane, request))
            if self.answers:
                lane.reply(request, Appended(base_offset=100 + header.base_sequence, log_start=0))
        elif isinstance(message, Watch) and message.offset < 0:
            state = Advanced(
                epoch=self._epoch, epoch_start=0, log_start=0, high_watermark=0, end=0, segment=0, position=0
            )
            lane.reply(request, state)

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.listener.close()


class Client:
    """One connection; what it asks for is numbered, and so are the answers."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.answers: list[Any] = []
        self._asked: list[tuple[int, int]] = []
        self._reading = asyncio.ensure_future(self._read())

    async def ask(self, key: int, version: int, body: Struct) -> None:
        pieces = encode_request(key, version, len(self._asked), "c", body)
        self._asked.append((key, version))
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(bytes(piece) for piece in pieces))  # type: ignore[arg-type]

    async def produce(self, number: int, *, producer: int = 7, timeout_ms: int = 20_000) -> None:
        data = PartitionProduceData(index=0, records=memoryview(batch(number, producer)))
        topics = [TopicProduceData(name="orders", partition_data=[data])]
        await self.ask(PRODUCE, PRODUCE_VERSION, ProduceRequest(acks=-1, timeout_ms=timeout_ms, topic_data=topics))

    async def _read(self) -> None:
        data = b""
        while more := await asyncio.get_running_loop().sock_recv(self.sock, 65_536):
            data += more
            while len(data) >= 4 and len(data) >= (size := 4 + int.from_bytes(data[:4], "big")):
                key, version = self._asked[len(self.answers)]
                number, body = decode_response(key, version, data[4:size])
                assert number == len(self.answers), "in the order of the requests"
                self.answers.append(body)
                data = data[size:]

    @property
    def produced(self) -> list[tuple[int, int]]:
        """(error code, base offset) of each answered produce."""
        rows = [answer.responses[0].partition_responses[0] for answer in self.answers]
        return [(row.error_code, row.base_offset) for row in rows]

    def close(self) -> None:
        self._reading.cancel()
        self.sock.close()


class World:
    """Node 1's gateway, and node 2's cluster port."""

    def __init__(self, tmp_path: Path) -> None:
        self.loop = asyncio.get_running_loop()
        self.here, self.there = tmp_path / "1", tmp_path / "2"
        self.here.mkdir()
        self.there.mkdir()
        secret = tmp_path / "secret"
        secret.touch(mode=0o600)
        secret.write_bytes(SECRET)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.port = HostPort(self.loop, [socket.create_server(("127.0.0.1", 0))], self.there, SECRET)
        config = Config(
            cluster=ClusterSection(secret_file=str(secret), voters=["1@127.0.0.1:1"]),
            gateway=GatewaySection(failover_wait_ms=5_000),
        )
        self.gateway = Gateway(node=1, config=config, data_dir=self.here, loop=self.loop)
        host, port = self.port.addresses[0]
        second = BrokerRegistered(
            node=2,
            incarnation="i",
            directory_id="d",
            host="other",
            port=9093,
            broker_epoch=2,
            cluster_host=host,
            cluster_port=port,
        )
        self.gateway.apply(0, len(RECORDS), RECORDS, False)
        self.say(second, BrokerChanged(node=2, broker_epoch=2, fenced=False))
        self.following = Following(self.gateway, self.here)
        self.clients: list[Client] = []
        self.leaders: list[Leader] = []

    def say(self, *records: Any) -> None:
        """The controller commits this."""
        self.gateway.apply(self.gateway.applied, self.gateway.applied + len(records), list(records), False)

    def lead(self, node: int, epoch: int, **more: Any) -> None:
        self.say(msgspec.structs.replace(partition(ORDERS, 0, node, epoch), **more))

    async def leader(self, run_dir: Path, epoch: int, *, answers: bool = True) -> Leader:
        leader = Leader(run_dir, epoch, answers=answers)
        self.leaders.append(leader)
        if run_dir == self.here:
            self.following.node_said(PartitionRunning(topic_id=ORDERS, partition=0, epoch=epoch))
            await until(lambda: self.gateway.running(ORDERS, 0) and self.gateway.links[ORDERS, 0].epoch == epoch)
        return leader

    async def leader_of(self, run_dir: Path, epoch: int) -> Leader:
        """This node leads from now on, and its leader serves."""
        self.lead(1, epoch)
        return await self.leader(run_dir, epoch)

    async def client(self) -> Client:
        sock = socket.socket()
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self._server.getsockname())
        theirs, peer = await self.loop.sock_accept(self._server)
        Connection(self.gateway, theirs, peer, lambda connection: None)
        client = Client(sock)
        self.clients.append(client)
        return client

    @property
    def held(self) -> int:
        link = self.gateway.links.get((ORDERS, 0))
        return 0 if link is None else len(link.holding._held)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.following.close()
        self.gateway.close()
        for leader in self.leaders:
            leader.stop()
        self.port.close()
        self._server.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@pytest.fixture
def in_world(tmp_path: Path) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def run(body: Callable[[World], Awaitable[None]]) -> None:
        async def main() -> None:
            world = World(tmp_path)
            try:
                await asyncio.wait_for(body(world), 20)
            finally:
                world.close()
            # What was cancelled ends before the loop does.
            await asyncio.sleep(0)

        asyncio.run(main())

    return run


def test_what_was_held_goes_to_the_new_leader_in_order_and_newer_requests_are_sent_there(in_world: Any) -> None:
    async def body(world: World) -> None:
        one, two = await world.client(), await world.client()
        for number in range(3):
            await one.produce(number)
            await until(lambda number=number: world.held == 2 * number + 1)
            await two.produce(number, producer=8)
            await until(lambda number=number: world.held == 2 * number + 2)
        world.lead(2, 4)
        await one.produce(3)
        remote = await world.leader(world.there, 4)
        await until(lambda: len(one.answers) == 4 and len(two.answers) == 3)
        assert remote.appended == [(producer, number) for number in range(3) for producer in (7, 8)]
        assert remote.epochs == {4}
        assert one.produced == [(0, 100), (0, 101), (0, 102), (NOT_LEADER, -1)]
        row = one.answers[3].responses[0].partition_responses[0]
        assert (row.current_leader.leader_id, row.current_leader.leader_epoch) == (2, 4)
        assert [(end.node_id, end.host, end.port) for end in one.answers[3].node_endpoints] == [(2, "other", 9093)]
        await until(lambda: not remote.listener.lanes)
        assert (ORDERS, 0) not in world.gateway.links, "nothing is left to be forwarded"

    in_world(body)


def test_what_the_old_leader_did_not_answer_is_forwarded_if_its_copy_would_be_recognised(in_world: Any) -> None:
    async def body(world: World) -> None:
        local = await world.leader(world.here, 3, answers=False)
        one, two = await world.client(), await world.client()
        await one.produce(0)
        await two.produce(0, producer=-1)
        await until(lambda: len(local.appended) == 2)
        world.lead(2, 4)
        await until(lambda: two.answers)
        assert two.produced == [(NOT_LEADER, -1)]
        remote = await world.leader(world.there, 4)
        await until(lambda: one.answers)
        assert remote.appended == [(7, 0)] and one.produced == [(0, 100)]

    in_world(body)


def test_a_change_of_the_isr_alone_sends_nothing_again(in_world: Any) -> None:
    async def body(world: World) -> None:
        client = await world.client()
        await client.produce(0)
        await until(lambda: world.held)
        remote = await world.leader(world.there, 4, answers=False)
        world.lead(2, 4)
        await until(lambda: remote.appended)
        world.lead(2, 4, isr=[2], partition_epoch=2)
        await asyncio.sleep(0.05)  # nothing may happen
        assert remote.appended == [(7, 0)] and len(remote.listener.lanes) == 1

    in_world(body)


def test_a_leader_that_comes_back_gets_what_was_held_before_what_is_new(in_world: Any) -> None:
    async def body(world: World) -> None:
        client = await world.client()
        await client.produce(0)
        await client.produce(1)
        await until(lambda: world.held == 2)
        remote = await world.leader(world.there, 4, answers=False)
        world.lead(2, 4)
        await until(lambda: len(remote.appended) == 2)
        world.lead(1, 5)
        await client.produce(2)
        await until(lambda: world.held == 3)
        local = await world.leader(world.here, 5)
        await until(lambda: len(client.answers) == 3)
        assert local.appended == [(7, 0), (7, 1), (7, 2)] and local.epochs == {5}
        assert client.produced == [(0, 100), (0, 101), (0, 102)]
        await until(lambda: not remote.listener.lanes)

    in_world(body)


def test_it_moves_on_when_the_leader_moves_on_and_waits_while_nobody_leads(in_world: Any) -> None:
    async def body(world: World) -> None:
        client = await world.client()
        await client.produce(0)
        await until(lambda: world.held)
        world.lead(-1, 4)
        first = await world.leader(world.there, 5, answers=False)
        await asyncio.sleep(0.02)  # nothing may happen
        assert world.held == 1
        world.lead(2, 5)
        await until(lambda: first.appended)
        first.stop()
        world.lead(2, 6)
        second = await world.leader(world.there, 6)
        await until(lambda: client.answers)
        assert second.appended == [(7, 0)] and second.epochs == {6} and client.produced == [(0, 100)]

    in_world(body)


def test_a_lane_that_is_cut_is_dialled_again(in_world: Any) -> None:
    async def body(world: World) -> None:
        client = await world.client()
        for number in range(2):
            await client.produce(number)
        await until(lambda: world.held == 2)
        remote = await world.leader(world.there, 4, answers=False)
        world.lead(2, 4)
        await until(lambda: len(remote.appended) == 2)
        remote.answers = True
        for lane in list(remote.listener.lanes):
            lane.close("cut by the test")
        await until(lambda: len(client.answers) == 2)
        assert remote.appended == [(7, 0), (7, 1)] * 2 and client.produced == [(0, 100), (0, 101)]

    in_world(body)


def test_a_host_that_is_not_reached_in_time_costs_an_error_that_names_the_leader(in_world: Any) -> None:
    async def body(world: World) -> None:
        client = await world.client()
        await client.produce(0, timeout_ms=600)
        await until(lambda: world.held)
        world.port.close()
        world.lead(2, 4)
        await until(lambda: client.answers)
        assert client.produced == [(NOT_LEADER, -1)]
        assert client.answers[0].responses[0].partition_responses[0].current_leader.leader_id == 2
        assert not world.gateway.links

    in_world(body)


def test_without_its_secret_a_gateway_lives_and_says_who_leads(in_world: Any, tmp_path: Path) -> None:
    async def body(world: World) -> None:
        client = await world.client()
        await client.produce(0, timeout_ms=300)
        await until(lambda: world.held)
        (tmp_path / "secret").unlink()
        world.lead(2, 4)
        await until(lambda: client.answers)
        assert client.produced == [(NOT_LEADER, -1)]

    in_world(body)


def test_what_was_sent_behind_a_refused_batch_does_not_pass_it_when_a_leader_serves_meanwhile(in_world: Any) -> None:
    async def body(world: World) -> None:
        client = await world.client()
        world.lead(2, 4)
        await client.produce(0)
        await until(lambda: client.answers)
        local = await world.leader_of(world.here, 5)
        for number in (1, 2):
            await client.produce(number)
        await client.produce(0, producer=8)
        await until(lambda: len(client.answers) == 4)
        assert client.produced == [(NOT_LEADER, -1)] * 3 + [(0, 100)]
        for number in range(3):
            await client.produce(number)
        await until(lambda: len(client.answers) == 7)
        assert client.produced[4:] == [(0, 100), (0, 101), (0, 102)]
        assert local.appended == [(8, 0), (7, 0), (7, 1), (7, 2)]

    in_world(body)


def test_what_was_sent_behind_a_batch_that_was_not_confirmed_does_not_go_to_the_next_leader(in_world: Any) -> None:
    async def body(world: World) -> None:
        local = await world.leader(world.here, 3, answers=False)
        client = await world.client()
        for number in (0, 1):
            await client.produce(number)
        await until(lambda: len(local.asked) == 2)
        lane, request = local.asked[0]
        lane.reply(request, Refused(code=TIMED_OUT, reason="written, but not acknowledged in time"))
        await until(lambda: client.answers)
        remote = await world.leader(world.there, 4)
        world.lead(2, 4)
        await until(lambda: len(client.answers) == 2)
        assert client.produced == [(TIMED_OUT, -1), (NOT_LEADER, -1)]
        assert remote.appended == []

    in_world(body)


def test_a_parked_fetch_is_told_at_once_who_leads_now(in_world: Any) -> None:
    async def body(world: World) -> None:
        await world.leader(world.here, 3)
        client = await world.client()
        asked = FetchTopic(topic_id=ORDERS, partitions=[FetchPartition(partition=0, partition_max_bytes=1000)])
        await client.ask(
            FETCH, FETCH_VERSION, FetchRequest(max_wait_ms=20_000, min_bytes=1, max_bytes=1000, topics=[asked])
        )
        await until(lambda: len(world.gateway.parking))
        world.lead(2, 4)
        await until(lambda: client.answers)
        [row] = client.answers[0].responses[0].partitions
        assert (row.error_code, row.current_leader.leader_id, row.current_leader.leader_epoch) == (NOT_LEADER, 2, 4)
        assert [end.node_id for end in client.answers[0].node_endpoints] == [2]

    in_world(body)


def test_an_old_leader_that_still_runs_here_is_not_dialled(in_world: Any) -> None:
    async def body(world: World) -> None:
        local = await world.leader(world.here, 3)
        world.lead(2, 4)
        await until(lambda: not local.listener.lanes)
        await asyncio.sleep(0.05)  # nothing may happen
        assert not local.listener.lanes and not world.gateway.links
        world.lead(1, 5)
        local.stop()
        await world.leader(world.here, 5)

    in_world(body)


def test_only_what_a_log_would_recognise_moves_to_another_host() -> None:
    holding: Holding[str] = Holding()
    sent = [Held(name, idempotent, -1, 1_000) for name, idempotent in (("a", True), ("b", False))]
    assert holding.serving() == [] and [holding.submit(one, 0) for one in sent] == [True, True]
    holding.lost(1)
    for name, idempotent in (("c", False), ("d", True)):
        holding.submit(Held(name, idempotent, -1, 1_000), 2)
    assert [held.work for held in holding.moved(3)] == ["c"]
    assert not holding.empty
    assert [held.work for held in holding.serving()] == ["a", "d"]
