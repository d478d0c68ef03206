"""The batch headers of a partition as the broker sends them, read with nothing but `struct`.

Clients decompress silently and hide producer ids; this shows what was really stored: a client that falls back to no
compression, or to a producer without id, is noticed here and nowhere else.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

CODEC_NAMES = ("none", "gzip", "snappy", "lz4", "zstd")
BATCH_HEADER = struct.Struct(">qiibIhiqqqhii")


@dataclass(frozen=True)
class Batch:
    base_offset: int
    magic: int
    codec: str
    producer_id: int
    base_sequence: int
    count: int


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack(">h", len(data)) + data


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        assert chunk, "the broker closed the connection"
        data += chunk
    return data


def exchange(bootstrap: str, key: int, version: int, body: bytes) -> bytes:
    """One request with header v1, one response; the body after its correlation id."""
    host, _, port = bootstrap.rpartition(":")
    request = struct.pack(">hhih", key, version, 7, -1) + body
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", receive(connection, 4))
        answer = receive(connection, size)
    assert struct.unpack(">i", answer[:4])[0] == 7
    return answer[4:]


def batches(bootstrap: str, topic: str, partition: int) -> list[Batch]:
    """Fetch v4 from offset 0 with room for everything the tests write."""
    room = 64 << 20
    body = struct.pack(">iiiib", -1, 100, 1, room, 0)
    body += struct.pack(">i", 1) + text(topic) + struct.pack(">iiqi", 1, partition, 0, room)
    answer = exchange(bootstrap, 1, 4, body)
    at = 4 + 4 + 2 + len(topic.encode()) + 4  # throttle, topic count, name, partition count
    index, error, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
    assert (index, error) == (partition, 0)
    at += 26 + max(aborted, 0) * 16
    (size,) = struct.unpack_from(">i", answer, at)
    at += 4
    end = at + size
    found = []
    while at + BATCH_HEADER.size <= end:
        header = BATCH_HEADER.unpack_from(answer, at)
        base, length, _, magic, _, attributes, _, _, _, producer_id, _, sequence, count = header
        found.append(Batch(base, magic, CODEC_NAMES[attributes & 7], producer_id, sequence, count))
        at += 12 + length
    return found
