"""No buffer is used after it was given back: all that is released is overwritten at once, and every byte still counts.

Clients, gateway, lanes and leader are the real ones, in one loop. Lanes are cut again and again while batches of all
sizes are on their way, clients go away in the middle, and then the log must hold what they sent, once and in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logeion.actors.buffers import Pool, pool
from logeion.actors.config import Config
from logeion.actors.gateway.connection import Connection
from logeion.actors.gateway.following import Following
from logeion.actors.gateway.state import Gateway
from logeion.actors.lanes import introduce, socket_path
from logeion.actors.messages import Hello, PartitionRunning
from logeion.actors.partition.leading import Leadership
from logeion.log.log import Log
from logeion.wire.apis import PartitionProduceData, ProduceRequest, TopicProduceData
from logeion.wire.batch import read_header, verify_crc
from logeion.wire.codec import decode_response, encode_request
from logeion.wire.records import Record, batch_records, build_batch
from tests.actors.gateway_world import ORDERS, RECORDS

PRODUCE, VERSION = 0, 9
# Below a frame's scratch, around what is pooled, and far above it.
SIZES = (200, 30_000, 66_000, 140_000, 400_000)
BATCHES = 60
# What an idempotent client has on its way at most, and a log remembers.
IN_FLIGHT = 5


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    before, pool.poisons = pool.poisons, True
    yield
    pool.poisons = before


def value(producer: int, number: int) -> bytes:
    """What only this batch may hold."""
    size = SIZES[(producer + number) % len(SIZES)]
    return (b"%d:%d;" % (producer, number) * (size // 4))[:size]


def request(producer: int, number: int) -> bytes:
    batch = build_batch(
        [Record(0, 1_000, b"k", value(producer, number), [])],
        producer_id=producer,
        producer_epoch=0,
        base_sequence=number,
    )
    body = ProduceRequest(
        acks=-1,
        timeout_ms=20_000,
        topic_data=[
            TopicProduceData(name="orders", partition_data=[PartitionProduceData(index=0, records=memoryview(batch))])
        ],
    )
    return b"".join(bytes(part) for part in encode_request(PRODUCE, VERSION, number, "c", body))  # type: ignore[arg-type]


class Node:
    """A gateway with a Kafka port, and the leader of its one partition."""

    def __init__(self, data_dir: Path) -> None:
        self.loop = asyncio.get_running_loop()
        hello = Hello(
            actor="partition/orders-0", kind="partition", node=1, pid=1, topic_id=ORDERS, partition=0, epoch=3
        )
        introduce(hello)
        self.gateway = Gateway(node=1, config=Config(), data_dir=data_dir, loop=self.loop)
        self.gateway.apply(0, len(RECORDS), RECORDS, False)
        self.leader = Leadership(
            self.loop,
            hello=hello,
            path=socket_path(data_dir, f"partition-{ORDERS}-0"),
            directory=data_dir / "orders-0",
            configs={},
            fatal=lambda error: pytest.fail(str(error)),
        )
        self.following = Following(self.gateway, data_dir)
        self.following.node_said(PartitionRunning(topic_id=ORDERS, partition=0, epoch=3))
        self.connections = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = self._server.getsockname()

    async def client(self) -> socket.socket:
        """A new client's end."""
        sock = socket.socket()
        sock.setblocking(False)
        await self.loop.sock_connect(sock, self.address)
        self._server.setblocking(False)
        theirs, peer = await self.loop.sock_accept(self._server)
        Connection(self.gateway, theirs, peer, self._ended)
        self.connections += 1
        return sock

    def _ended(self, _connection: Connection) -> None:
        self.connections -= 1

    def cut(self) -> int:
        """End every lane to the leader; how many there were."""
        lanes = list(self.leader._listener.lanes)
        for lane in lanes:
            lane.close("cut by the test")
        return len(lanes)

    def close(self) -> None:
        self.following.close()
        self._server.close()
        self.leader.close()
        self.gateway.close()


async def until(condition: Callable[[], object]) -> None:
    """Within the test's time."""
    while not condition():
        await asyncio.sleep(0.002)


async def produce(node: Node, producer: int, *, leaves: bool = False) -> list[int]:
    """Send all batches, a few ahead of the answers; their error codes, or none if it leaves before it has them."""
    loop = node.loop
    sock = await node.client()
    with contextlib.closing(sock):
        codes: list[int] = []
        room = asyncio.Semaphore(IN_FLIGHT)

        async def receive() -> None:
            data = b""
            while len(codes) < BATCHES:
                data += await loop.sock_recv(sock, 65_536)
                while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4], "big"):
                    size = int.from_bytes(data[:4], "big")
                    _, body = decode_response(PRODUCE, VERSION, data[4 : 4 + size])
                    codes.append(body.responses[0].partition_responses[0].error_code)  # type: ignore[attr-defined]
                    data = data[4 + size :]
                    room.release()

        receiving = asyncio.ensure_future(receive())
        for number in range(BATCHES):
            await room.acquire()
            await loop.sock_sendall(sock, request(producer, number))
            if leaves and number == BATCHES // 2:
                receiving.cancel()
                return []
        await receiving
        return codes


def contents(log: Log) -> dict[int, list[int]]:
    """Producer -> the numbers of its batches in the order of the log; every one is checked, byte for byte."""
    found: dict[int, list[int]] = {}
    for segment in log.segments.values():
        for position, header in segment.walk(0):
            data = memoryview(segment.read(position, header.size))
            verify_crc(data, read_header(data))
            (record,) = batch_records(data, header, max_bytes=1 << 24)
            assert record.value == value(header.producer_id, header.base_sequence)
            found.setdefault(header.producer_id, []).append(header.base_sequence)
    return found


def test_every_batch_is_whole_though_lanes_are_cut_and_clients_leave(tmp_path: Path) -> None:
    async def run() -> None:
        node = Node(tmp_path)
        stay, leave = range(6), range(6, 10)
        work = [asyncio.ensure_future(produce(node, producer)) for producer in stay]
        work += [asyncio.ensure_future(produce(node, producer, leaves=True)) for producer in leave]
        cuts = 0
        done = asyncio.gather(*work)
        while not done.done():
            await asyncio.sleep(0.01)
            cuts += node.cut()
        assert cuts > 4
        for codes in (await done)[: len(stay)]:
            assert codes == [0] * BATCHES
        found = contents(node.leader.log)
        for producer in stay:
            assert found[producer] == list(range(BATCHES))
        for producer in leave:
            numbers = found.get(producer, [])
            assert numbers == list(range(len(numbers)))
        node.close()

    asyncio.run(asyncio.wait_for(run(), 50))


def test_a_batch_whose_client_left_while_it_waited_in_the_lane_is_written_whole(tmp_path: Path) -> None:
    async def run() -> None:
        node = Node(tmp_path)
        await until(lambda: node.leader._listener.lanes and (ORDERS, 0) in node.gateway.links)
        for lane in node.leader._listener.lanes:
            lane._stream.pause_reading()
        # More than the lane's socket takes, so that some of it waits in the gateway.
        producers = range(12)
        for producer in producers:
            sock = await node.client()
            for number in range(IN_FLIGHT):
                await node.loop.sock_sendall(sock, request(producer, number))
            sock.close()
        await until(lambda: node.connections == 0)
        assert node.gateway.links[ORDERS, 0].lane._stream.waiting  # type: ignore[union-attr]
        assert node.leader.log.end_offset == 0
        for lane in node.leader._listener.lanes:
            lane._stream.resume_reading()
        await until(lambda: node.leader.log.end_offset == IN_FLIGHT * len(producers))
        assert contents(node.leader.log) == {producer: list(range(IN_FLIGHT)) for producer in producers}
        node.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_is_given_back_is_overwritten_when_that_is_asked_for() -> None:
    one = Pool()
    one.poisons = True
    buffer = one.take(100_000)
    view = buffer[:5]
    view[:] = b"bytes"
    one.give(buffer)
    assert bytes(view) == b"\xdb" * 5
