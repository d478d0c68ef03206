"""What all clients' requests together may hold: many connections do not add up to more memory than there is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from logeion.actors.buffers import Frame
from logeion.actors.gateway.load import Load
from tests.actors.gateway_world import ORDERS
from tests.actors.test_poisoned_buffers import IN_FLIGHT, Node, contents, request, until


def test_whoever_waits_for_room_is_called_once_when_there_is_some() -> None:
    load = Load(100)
    called: list[str] = []
    a, b = (lambda: called.append("a")), (lambda: called.append("b"))
    load.add(60)
    assert not load.full
    load.add(60)
    assert load.full
    load.wait(a)
    load.wait(a)
    load.wait(b)
    load.forget(b)
    load.less(10)
    assert called == []
    load.less(50)
    load.less(60)
    assert called == ["a"] and load.bytes == 0


def test_a_frame_says_once_that_it_is_not_needed_any_more() -> None:
    ended: list[int] = []
    frame = Frame(memoryview(bytearray(b"scratch")), None)
    frame.retain()
    frame.on_end = lambda: ended.append(1)
    frame.retain()
    frame.release()
    assert ended == []
    frame.release()
    frame.handed_over()
    assert ended == [1]


def test_connections_stop_reading_while_too_much_of_all_of_them_waits_for_a_leader(tmp_path: Path) -> None:
    async def run() -> None:
        node = Node(tmp_path)
        node.gateway.load = Load(2_000_000)
        await until(lambda: node.leader._listener.lanes and (ORDERS, 0) in node.gateway.links)
        for lane in node.leader._listener.lanes:
            lane._stream.pause_reading()
        clients = [await node.client() for _ in range(30)]
        sending = [
            asyncio.ensure_future(
                node.loop.sock_sendall(sock, b"".join(request(producer, number) for number in range(IN_FLIGHT)))
            )
            for producer, sock in enumerate(clients)
        ]
        await until(lambda: node.gateway.load.full)
        highest = 0
        for _ in range(100):
            await asyncio.sleep(0.001)
            highest = max(highest, node.gateway.load.bytes)
        # One frame a connection may have been on its way in.
        assert highest < 2_000_000 + 30 * 400_000 < sum(map(len, (request(p, n) for p in range(30) for n in range(5))))
        for lane in node.leader._listener.lanes:
            lane._stream.resume_reading()
        await asyncio.gather(*sending)
        await until(lambda: node.leader.log.end_offset == IN_FLIGHT * len(clients))
        assert contents(node.leader.log) == {producer: list(range(IN_FLIGHT)) for producer in range(len(clients))}
        await until(lambda: node.gateway.load.bytes == 0)
        for sock in clients:
            sock.close()
        await until(lambda: node.connections == 0)
        node.close()

    asyncio.run(asyncio.wait_for(run(), 30))
