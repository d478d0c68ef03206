"""What stands between a test and its broker, as a process of its own: it passes frames on, and commits faults.

The broker advertises this address, so every client comes through here, whatever it learns from metadata. Frames are
passed on as they are; a request that a rule is about is delayed, refused in the broker's name, or answered by the end
of the connection. Rules come as lines of JSON over a socket inherited from the test; its end is the end of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from collections import deque
from typing import Any

from logeion.wire.codec import parse_header
from logeion.wire.errors import WireError

from .answers import refusal, refused_metadata, takes_no_answer

FRAME_MAX = 128 * 1024 * 1024
METADATA = 3
_PRODUCE_KEY = b"\0\0"
_LENGTH = struct.Struct(">i")
_HEAD = struct.Struct(">hhih")


class Rule:
    """One fault. ``kind`` is error, delay or disconnect; fires for ``times`` requests, None is for all."""

    kind: str
    api: int
    code: int
    seconds: float
    at: str

    def __init__(self, kind: str, api: int, code: int, seconds: float, at: str, times: int | None) -> None:
        self.kind, self.api, self.code, self.seconds, self.at = kind, api, code, seconds, at
        self.times = times
        self.hits = 0
        self.gone: asyncio.Event = asyncio.Event()

    async def wait(self) -> None:
        """Its delay, or until it is removed."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), self.seconds)

    @property
    def live(self) -> bool:
        """Whether it still fires."""
        return not self.gone.is_set() and (self.times is None or self.hits < self.times)


class Proxy:
    """All connections, and the rules in force by their number."""

    def __init__(self, exempt: str) -> None:
        self.exempt: bytes = exempt.encode()
        self.target: tuple[str, int] | None = None
        self.rules: dict[int, Rule] = {}
        self.removed: dict[int, int] = {}  # their hits, for whoever still asks
        self._passing: set[asyncio.Task[None]] = set()

    def matching(self, api: int, client_id: bytes) -> list[Rule]:
        """The rules about such a request; not for the test tools' own client."""
        if not self.rules or client_id == self.exempt:
            return []
        return [rule for rule in self.rules.values() if rule.api == api and rule.live]

    def command(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out what the test says."""
        match order["do"]:
            case "target":
                self.target = (order["host"], order["port"])
            case "add":
                self.rules[order["id"]] = Rule(
                    order["kind"], order["api"], order["code"], order["seconds"], order["at"], order["times"]
                )
            case "limit":
                if order["id"] in self.rules:
                    self.rules[order["id"]].times = order["times"]
            case "hits":
                rule = self.rules.get(order["id"])
                return {"hits": self.removed.get(order["id"], 0) if rule is None else rule.hits}
            case "remove":
                for number in order["ids"]:
                    rule = self.rules.pop(number)
                    rule.gone.set()
                    self.removed[number] = rule.hits
        return {}

    async def serve(self, listener: socket.socket, control: socket.socket) -> None:
        """Until the test's end of ``control`` is closed."""
        server = await asyncio.start_server(self._accept, sock=listener, limit=1 << 20)
        reader, writer = await asyncio.open_connection(sock=control)
        while line := await reader.readline():
            writer.write(json.dumps(self.command(json.loads(line))).encode() + b"\n")
            await writer.drain()
        server.close()
        for task in self._passing:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        try:
            if self.target is not None:
                broker = await asyncio.open_connection(*self.target, limit=1 << 20)
                await Passage(self, (reader, writer), broker).run()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one side has ended; so does the other, below
        finally:
            writer.transport.abort()
            self._passing.discard(task)


class Awaited:
    """A request that the broker has: its answer is changed where ``refuse`` is an error code, cut short if ``cut``."""

    frame: bytes
    refuse: int | None
    cut: bool

    def __init__(self, frame: bytes, refuse: int | None = None, cut: bool = False) -> None:
        self.frame, self.refuse, self.cut = frame, refuse, cut


class Passage:
    """One client's connection, and the one to the broker made for it. Answers keep the order of the requests."""

    def __init__(
        self,
        proxy: Proxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_broker, self._to_broker = broker
        self._order: deque[Awaited | bytes] = deque()

    async def run(self) -> None:
        """Until one side ends it, or a rule does."""
        ways = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._answers())]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._to_broker.transport.abort()

    async def _requests(self) -> None:
        while True:
            frame = await _frame(self._from_client)
            judged = await self._judged(frame)
            if isinstance(judged, bytes):
                self._order.append(judged)
                await self._flush()
                continue
            if not _takes_no_answer(frame):
                self._order.append(judged)
            self._to_broker.writelines((_LENGTH.pack(len(frame)), frame))
            await self._to_broker.drain()

    async def _judged(self, frame: bytes) -> Awaited | bytes:
        """What becomes of a request: to be passed on, or the answer to it. Raises ConnectionAbortedError."""
        api, _, _, size = _HEAD.unpack_from(frame)
        for rule in self._proxy.matching(api, frame[10 : 10 + max(size, 0)]):
            if not rule.live:
                continue  # a delay of another rule outlived it
            if rule.kind == "delay":
                rule.hits += 1
                await rule.wait()
            elif rule.kind == "disconnect":
                rule.hits += 1
                if rule.at == "response":
                    return Awaited(frame, cut=True)
                raise ConnectionAbortedError
            elif api == METADATA:
                rule.hits += 1
                return Awaited(frame, refuse=rule.code)
            else:
                answer = _refusal(frame, rule.code)
                if answer is None:
                    continue
                rule.hits += 1
                if _takes_no_answer(frame):
                    raise ConnectionAbortedError  # as Kafka does: there is no other way to say it
                return answer
        return Awaited(frame)

    async def _answers(self) -> None:
        while True:
            frame = await _frame(self._from_broker)
            awaited = self._order.popleft()
            assert isinstance(awaited, Awaited), "the broker answered a request that it was not given"
            if awaited.cut:
                self._to_client.writelines((_LENGTH.pack(len(frame)), frame[: len(frame) // 2]))
                self._to_client.close()
                await self._to_client.wait_closed()
                return
            if awaited.refuse is None:
                self._to_client.writelines((_LENGTH.pack(len(frame)), frame))
            else:
                self._to_client.write(refused_metadata(parse_header(awaited.frame), frame, awaited.refuse))
            await self._flush()

    async def _flush(self) -> None:
        """Our own answers, as far as it is their turn."""
        while self._order and isinstance(own := self._order[0], bytes):
            self._order.popleft()
            self._to_client.write(own)
        await self._to_client.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame without its length. Raises IncompleteReadError; ConnectionAbortedError if none of Kafka's."""
    (size,) = _LENGTH.unpack(await reader.readexactly(4))
    if not _LENGTH.size <= size <= FRAME_MAX:
        raise ConnectionAbortedError
    return await reader.readexactly(size)


def _takes_no_answer(frame: bytes) -> bool:
    if frame[:2] != _PRODUCE_KEY:
        return False
    try:
        return takes_no_answer(parse_header(frame), frame)
    except WireError:
        return False  # the broker will say what it thinks of it


def _refusal(frame: bytes, code: int) -> bytes | None:
    try:
        return refusal(parse_header(frame), frame, code)
    except WireError:
        return None


def main() -> None:
    """``python -m logeion.testing.proxy LISTENER CONTROL EXEMPT``: two inherited descriptors, and whom to spare."""
    listener, control = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    for sock in (listener, control):
        sock.setblocking(False)
    asyncio.run(Proxy(sys.argv[3]).serve(listener, control))


if __name__ == "__main__":
    main()
