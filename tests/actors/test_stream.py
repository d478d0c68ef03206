"""The socket pump: frames torn anywhere, hostile claims, slow readers, file ranges."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from logeion.actors import intake as intake_module
from logeion.actors.buffers import Pool, pool
from logeion.actors.intake import FIRST_BYTES, Intake
from logeion.actors.stream import Frame, FrameError, FrameStream
from logeion.wire.buffers import FileRange

LIMIT = 100 * 1024 * 1024


def measure(head: memoryview) -> int:
    (size,) = struct.unpack_from(">i", head)
    if not 0 <= size <= LIMIT:
        raise FrameError(f"a frame of {size} bytes")
    return int(4 + size)


class End:
    """One end of a connection, and what it has seen."""

    def __init__(self, sock: socket.socket, *, trusted: bool = True, high_water: int = 8 << 20) -> None:
        self.frames: list[bytes] = []
        self.reasons: list[str] = []
        self.drained = 0
        self.on_frame: Callable[[Frame], None] = lambda frame: self.frames.append(bytes(frame.view[4:]))
        self.stream = FrameStream(
            asyncio.get_running_loop(),
            sock,
            header_size=4,
            measure=measure,
            on_frame=lambda frame: self.on_frame(frame),
            on_closed=self.reasons.append,
            on_drained=self._drained,
            trusted=trusted,
            high_water=high_water,
        )

    def _drained(self) -> None:
        self.drained += 1


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


Pair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.fixture(params=["unix", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        both = socket.socketpair() if request.param == "unix" else tcp_pair()
        made.extend(both)
        return both

    yield make
    for sock in made:
        sock.close()


@pytest.fixture(autouse=True)
def fresh_intake(monkeypatch: pytest.MonkeyPatch) -> Intake:
    fresh = Intake()
    monkeypatch.setattr("logeion.actors.stream.intake", fresh)
    return fresh


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(body(), 20)

    asyncio.run(bounded())


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "not in time"
        await asyncio.sleep(0.001)


def framed(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


@pytest.mark.parametrize("trusted", [True, False])
def test_frames_of_every_size_arrive_whole_and_in_order(pair: Pair, trusted: bool) -> None:
    async def body() -> None:
        a, b = pair()
        sender, receiver = End(a), End(b, trusted=trusted)
        chance = random.Random(1)
        sizes = [0, 1, 3, 1 << 10, FIRST_BYTES, 65_531, 65_532, 65_533, 262_139, 262_140, 262_141, 3 << 20, 5, 1 << 20]
        sizes += [chance.randrange(200_000) for _ in range(50)]
        bodies = [chance.randbytes(size) for size in sizes]
        for one in bodies:
            sender.stream.write([struct.pack(">i", len(one)), memoryview(one)])
        await until(lambda: len(receiver.frames) == len(bodies))
        assert receiver.frames == bodies
        assert receiver.stream.pinned == 0
        sender.stream.close("done")
        receiver.stream.close("done")

    run(body)


@pytest.mark.parametrize("step", [1, 3, 5, 7, 1000])
def test_a_frame_torn_anywhere_is_put_together(pair: Pair, step: int) -> None:
    async def body() -> None:
        a, b = pair()
        receiver = End(b, trusted=False)
        bodies = [b"", b"x", b"hello" * 20, b"", b"y" * (2000 if step < 1000 else 300_000)]
        data = b"".join(framed(one) for one in bodies)
        a.setblocking(False)
        loop = asyncio.get_running_loop()
        for at in range(0, len(data), step):
            await loop.sock_sendall(a, data[at : at + step])
            await asyncio.sleep(0)
        await until(lambda: len(receiver.frames) == len(bodies))
        assert receiver.frames == bodies
        receiver.stream.close("done")

    run(body)


@pytest.mark.parametrize("size", [-1, -(2**31), LIMIT + 1, 2**31 - 1])
def test_an_impossible_length_closes_at_once_and_takes_no_memory(pair: Pair, size: int) -> None:
    async def body() -> None:
        a, b = pair()
        receiver = End(b, trusted=False)
        a.sendall(framed(b"good") + struct.pack(">i", size) + b"rest")
        await until(lambda: receiver.reasons)
        assert receiver.frames == [b"good"]
        assert receiver.reasons == [f"a frame of {size} bytes"]
        assert receiver.stream.pinned == 0

    run(body)


def test_the_death_of_the_peer_in_the_middle_of_a_frame_is_told_once(pair: Pair) -> None:
    async def body() -> None:
        a, b = pair()
        receiver = End(b)
        a.sendall(struct.pack(">i", 1 << 20) + b"x" * 1000)
        await until(lambda: receiver.stream.unfinished)
        a.close()
        await until(lambda: receiver.reasons)
        assert receiver.frames == [] and len(receiver.reasons) == 1
        assert receiver.stream.pinned == 0

    run(body)


def test_a_claim_takes_no_memory_before_its_bytes_arrive() -> None:
    """1,000 connections claim 100 MB each; those that sent a frame before, too."""

    async def body() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
        ends, peers = [], []
        before = resident()
        for number in range(1000):
            a, b = socket.socketpair()
            ends.append(End(b, trusted=False))
            peers.append(a)
            hello = framed(b"hello") if number % 2 else b""
            a.sendall(hello + struct.pack(">i", LIMIT) + b"x" * 100)
        await until(lambda: all(end.stream.pinned for end in ends))
        assert max(end.stream.pinned for end in ends) <= FIRST_BYTES
        assert resident() - before < 30 << 20
        for end in ends:
            end.stream.close("done")
        for peer in peers:
            peer.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(body)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_large_first_frames_come_in_through_a_few_places_and_the_rest_is_not_read(fresh_intake: Intake) -> None:
    async def body() -> None:
        pairs = [socket.socketpair() for _ in range(intake_module.SLOTS + 3)]
        ends = [End(b, trusted=False) for _, b in pairs]
        big = b"z" * 1_000_000
        senders = [End(a) for a, _ in pairs]
        for sender in senders[:-1]:
            sender.stream.write([framed(big)[:500_000]])
        senders[-1].stream.write([framed(b"small")])
        await until(lambda: ends[-1].frames == [b"small"])
        await until(lambda: sum(end.stream.pinned > FIRST_BYTES for end in ends) == intake_module.SLOTS)
        assert sum(0 < end.stream.pinned <= FIRST_BYTES for end in ends) == 2
        for sender in senders[:-1]:
            sender.stream.write([framed(big)[500_000:]])
        await until(lambda: all(end.frames for end in ends))
        assert all(end.frames == [big] for end in ends[:-1])
        for end in ends + senders:
            end.stream.close("done")

    run(body)


def test_a_place_has_a_deadline_and_then_the_next_one_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logeion.actors.stream.intake", Intake(slots=1, slot_s=0.05))

    async def body() -> None:
        slow, slow_end = socket.socketpair()
        quick, quick_end = socket.socketpair()
        first, second = End(slow_end, trusted=False), End(quick_end, trusted=False)
        slow.sendall(struct.pack(">i", 100_000) + b"x" * 20_000)
        await until(lambda: first.stream.pinned > FIRST_BYTES)
        sender = End(quick)
        sender.stream.write([framed(b"y" * 100_000)])
        await until(lambda: second.frames == [b"y" * 100_000])
        assert first.reasons == ["a large first frame did not arrive in time"]
        second.stream.close("done")
        sender.stream.close("done")
        slow.close()

    run(body)


def test_unfinished_frames_beyond_the_limit_end_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logeion.actors.stream.intake", Intake(gathered_max=1 << 20))

    async def body() -> None:
        pairs = [socket.socketpair() for _ in range(3)]
        ends = [End(b, trusted=False) for _, b in pairs]
        senders = [End(a) for a, _ in pairs]
        for sender, end in zip(senders, ends, strict=True):
            sender.stream.write([framed(b"hello"), struct.pack(">i", 600_000), b"x" * 400_000])
            await until(lambda end=end: end.stream.pinned >= 400_000 or end.reasons)
        await until(lambda: ends[0].reasons)
        assert "oldest" in ends[0].reasons[0]
        for sender in senders[1:]:
            sender.stream.write([b"x" * 200_000])
        await until(lambda: all(len(end.frames) == 2 for end in ends[1:]))
        for end in ends + senders:
            end.stream.close("done")

    run(body)


def test_a_slow_reader_costs_no_more_than_what_was_written_and_congests(pair: Pair) -> None:
    async def body() -> None:
        a, b = pair()
        sender = End(a, high_water=1 << 20)
        sent: list[int] = []
        number = 0
        while not sender.stream.congested:
            sender.stream.write([framed(b"x" * 100_000)], lambda n=number: sent.append(n))  # type: ignore[misc]
            number += 1
        assert sender.stream.waiting > 1 << 20 and len(sent) < number
        receiver = End(b)
        await until(lambda: len(receiver.frames) == number and sender.drained == 1)
        assert sent == list(range(number)) and sender.stream.waiting == 0
        sender.stream.close("done")
        receiver.stream.close("done")

    run(body)


def test_on_sent_is_called_for_everything_when_the_peer_dies_and_close_is_told_later(pair: Pair) -> None:
    async def body() -> None:
        a, b = pair()
        sender = End(a)
        sent: list[int] = []
        for number in range(200):
            sender.stream.write([b"x" * 100_000], lambda n=number: sent.append(n))  # type: ignore[misc]
        b.close()
        for number in range(200, 210):
            before = len(sender.reasons)
            sender.stream.write([b"x"], lambda n=number: sent.append(n))  # type: ignore[misc]
            assert len(sender.reasons) == before, "closed from within write"
        await until(lambda: sender.reasons)
        assert sent == list(range(210))
        sender.stream.write([b"late"], lambda: sent.append(-1))
        assert sent[-1] == -1 and len(sender.reasons) == 1

    run(body)


def test_pausing_stops_the_frames_and_the_peer(pair: Pair) -> None:
    async def body() -> None:
        a, b = pair()
        sender, receiver = End(a), End(b)
        receiver.stream.pause_reading()
        while not sender.stream.congested:
            sender.stream.write([framed(b"x" * 500_000)])
        for _ in range(200):
            await asyncio.sleep(0)
        assert receiver.frames == []
        receiver.stream.resume_reading()
        await until(lambda: receiver.frames and not sender.stream.waiting)
        sender.stream.close("done")
        receiver.stream.close("done")

    run(body)


def test_memory_and_file_ranges_leave_in_order(pair: Pair, tmp_path: Path) -> None:
    async def body() -> None:
        content = random.Random(2).randbytes(3_000_000)
        (tmp_path / "file").write_bytes(content)
        file = os.open(tmp_path / "file", os.O_RDONLY)
        a, b = pair()
        sender, receiver = End(a), End(b)
        done: list[str] = []
        head = struct.pack(">i", 2_000_000 + 6)
        sender.stream.write([head, b"abc", FileRange(file, 500_000, 2_000_000), b"def"], lambda: done.append("sent"))
        sender.stream.write([framed(b"next")])
        await until(lambda: len(receiver.frames) == 2)
        assert receiver.frames == [b"abc" + content[500_000:2_500_000] + b"def", b"next"]
        assert done == ["sent"]
        sender.stream.write([struct.pack(">i", 10), FileRange(file, 2_999_999, 10)])
        await until(lambda: sender.reasons)
        assert "the file ended" in sender.reasons[0]
        receiver.stream.close("done")
        os.close(file)

    run(body)


def test_a_retained_frame_lasts_and_goes_back_to_the_pool_once(pair: Pair) -> None:
    async def body() -> None:
        a, b = pair()
        sender, receiver = End(a), End(b)
        kept: list[Frame] = []

        def keep(frame: Frame) -> None:
            frame.retain()
            frame.retain()
            kept.append(frame)

        receiver.on_frame = keep
        bodies = [b"small", b"l" * 300_000, b"m" * 300_000, b"tiny"]
        for one in bodies:
            sender.stream.write([framed(one)])
        await until(lambda: len(kept) == 4)
        before = pool.kept
        assert [bytes(frame.view[4:]) for frame in kept] == bodies
        for frame in kept:
            frame.release()
        assert [bytes(frame.view[4:]) for frame in kept] == bodies
        for frame in kept:
            frame.release()
        assert pool.kept == before + 2 * (512 << 10)
        sender.stream.close("done")
        receiver.stream.close("done")

    run(body)


def test_the_pool_forgets_what_nobody_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logeion.actors.buffers.KEEP_S", 0.01)

    async def body() -> None:
        mine = Pool(limit=1 << 20)
        mine.loop = asyncio.get_running_loop()
        one, two = mine.take(600_000), mine.take(600_000)
        assert len(one) == 1 << 20
        mine.give(one)
        mine.give(two)
        assert mine.kept == 1 << 20, "no more than the limit is kept"
        await until(lambda: mine.kept == 0)

    run(body)
