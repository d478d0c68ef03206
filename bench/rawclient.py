"""A client of a few requests on one socket, for measuring a broker without measuring a client.

It sends batches built beforehand, so that batch size, batch count and request count are exactly what is asked for.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator

from fastcrc import crc32

PRODUCE, FETCH, LIST_OFFSETS, API_VERSIONS, CREATE_TOPICS = 0, 1, 2, 18, 19


def varint(value: int) -> bytes:
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def batch(count: int, value: bytes) -> bytes:
    """A RecordBatch v2 of `count` records with the same value, no key, no producer id, made now."""
    records = bytearray()
    for i in range(count):
        record = b"\0" + varint(0) + varint(i) + varint(-1) + varint(len(value)) + value + varint(0)
        records += varint(len(record)) + record
    now = int(time.time() * 1000)
    checked = struct.pack(">hiqqqhii", 0, count - 1, now, now, -1, -1, -1, count) + bytes(records)
    return struct.pack(">qiibI", 0, len(checked) + 9, -1, 2, crc32.iscsi(checked)) + checked


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">h", len(data)) + data


class RawClient:
    """One connection; requests may be sent ahead of their answers, which come in order."""

    def __init__(self, bootstrap: str, timeout_s: float = 30.0) -> None:
        host, _, port = bootstrap.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, key: int, version: int, *body: bytes) -> None:
        size = sum(map(len, body)) + 10
        self.socket.sendall(b"".join((struct.pack(">ihhih", size, key, version, 1, -1), *body)))

    def receive(self) -> bytes:
        """The body of the next answer, after its correlation id."""
        (size,) = struct.unpack(">i", self.exactly(4))
        return self.exactly(size)[4:]

    def exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self.socket.recv(size - len(data))
            if not chunk:
                raise ConnectionError("the broker closed the connection")
            data += chunk
        return bytes(data)

    def create_topic(
        self,
        topic: str,
        partitions: int,
        configs: dict[str, str] | None = None,
        within_s: float = 60.0,
        *,
        factor: int = 1,
    ) -> None:
        """Create a topic, trying again while a broker that has just opened its port is not yet a member of its own."""
        entries = b"".join(text(name) + text(value) for name, value in (configs or {}).items())
        body = struct.pack(">i", 1) + text(topic) + struct.pack(">ihi", partitions, factor, 0)
        body += struct.pack(">i", len(configs or {})) + entries + struct.pack(">ib", 30_000, 0)
        deadline = time.monotonic() + within_s
        while True:
            self.send(CREATE_TOPICS, 2, body)
            (code,) = struct.unpack_from(">h", self.receive(), 4 + 4 + len(text(topic)))
            if not code:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"creating {topic}: error {code}")
            time.sleep(0.002)

    def produce(self, topic: str, partition: int, records: bytes, *, acks: int = -1) -> None:
        """Send one batch, with acks=all if not told otherwise; its answer is taken by `produced`."""
        head = struct.pack(">hhii", -1, acks, 30_000, 1) + text(topic) + struct.pack(">iii", 1, partition, len(records))
        self.send(PRODUCE, 7, head, records)

    def produced(self, topic: str) -> int:
        """The error code of the next Produce answer."""
        answer = self.receive()
        (code,) = struct.unpack_from(">h", answer, 4 + len(text(topic)) + 4 + 4)
        return int(code)

    def produce_many(self, topic: str, partitions: int, records: bytes, count: int, in_flight: int = 5) -> None:
        """`count` requests of one batch each, around the partitions in turn."""
        waiting: deque[int] = deque()
        for i in range(count):
            if len(waiting) == in_flight:
                waiting.popleft()
                self.must_be_acked(topic)
            self.produce(topic, i % partitions, records)
            waiting.append(i)
        for _ in waiting:
            self.must_be_acked(topic)

    def settle(self, topic: str, partitions: int, value: bytes = b"settle", within_s: float = 60.0) -> None:
        """Write one record to each partition, trying until its leader is there."""
        record = batch(1, value)
        deadline = time.monotonic() + within_s
        for partition in range(partitions):
            self.produce(topic, partition, record)
            while code := self.produced(topic):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{topic}-{partition} not writable in {within_s} s, last error {code}")
                time.sleep(0.01)
                self.produce(topic, partition, record)

    def fetch(self, topic: str, partition: int, offset: int, max_bytes: int) -> bytes:
        """The record bytes of one Fetch v4, waiting at most half a second for any."""
        body = struct.pack(">iiiib", -1, 500, 1, max_bytes, 0) + struct.pack(">i", 1) + text(topic)
        self.send(FETCH, 4, body, struct.pack(">iiqi", 1, partition, offset, max_bytes))
        answer = self.receive()
        at = 4 + 4 + len(text(topic)) + 4
        _, code, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
        if code:
            raise RuntimeError(f"fetch of {topic}-{partition} at {offset}: error {code}")
        at += 26 + max(aborted, 0) * 16
        (size,) = struct.unpack_from(">i", answer, at)
        return answer[at + 4 : at + 4 + max(size, 0)]

    def end_offset(self, topic: str, partition: int) -> int:
        """ListOffsets v1 for the latest offset."""
        body = struct.pack(">ii", -1, 1) + text(topic) + struct.pack(">iiq", 1, partition, -1)
        self.send(LIST_OFFSETS, 1, body)
        answer = self.receive()
        _, code, _, offset = struct.unpack_from(">ihqq", answer, 4 + len(text(topic)) + 4)
        if code:
            raise RuntimeError(f"end of {topic}-{partition}: error {code}")
        return int(offset)

    def fetch_many(self, topic: str, partition: int, offset: int, end: int, max_bytes: int = 1 << 20) -> int:
        """Read from an offset to an end, batch header by batch header; the bytes received."""
        total = 0
        while offset < end:
            records = self.fetch(topic, partition, offset, max_bytes)
            total += len(records)
            at = 0
            while at + 61 <= len(records):
                base, length = struct.unpack_from(">qi", records, at)
                (last,) = struct.unpack_from(">i", records, at + 23)
                if at + 12 + length > len(records):
                    break
                offset = base + last + 1
                at += 12 + length
        return total

    def must_be_acked(self, topic: str) -> None:
        code = self.produced(topic)
        if code:
            raise RuntimeError(f"produce to {topic}: error {code}")


@contextlib.contextmanager
def connected_when_up(bootstrap: str, within_s: float) -> Iterator[RawClient]:
    """Knock every 2 ms until the broker opens its port and answers ApiVersions."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError):
            client = RawClient(bootstrap, timeout_s=within_s)
            client.send(API_VERSIONS, 0)
            client.receive()
            break
        if time.monotonic() > deadline:
            raise TimeoutError(f"{bootstrap} does not answer after {within_s} s")
        time.sleep(0.002)
    with client:
        yield client


def first_ack(bootstrap: str, topic: str, *, create: bool, within_s: float = 60.0) -> float:
    """The monotonic time of the first acknowledged record, trying until there is one."""
    record = batch(1, b"first")
    deadline = time.monotonic() + within_s
    with connected_when_up(bootstrap, within_s) as client:
        if create:
            client.create_topic(topic, 1)
        while True:
            client.produce(topic, 0, record)
            code = client.produced(topic)
            if code == 0:
                return time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError(f"no ack in {within_s} s, last error {code}")
            time.sleep(0.002)
