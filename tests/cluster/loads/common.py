"""What the loads share: options, the history's file, values, and the conversation with the test. Nothing of ours."""

from __future__ import annotations

import json
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

ENCODE = msgspec.json.Encoder().encode
# Before the padding: the value and the CRC-32 of its eight bytes.
HEAD = struct.Struct(">QI")
# What a broker refuses: a timestamp this far in the future. Its configuration allows an hour.
FUTURE_MS = 10 * 3600 * 1000
# How often a member commits what it has read: a commit is a record of three replicas, too.
COMMIT_S = 0.1


class Options(NamedTuple):
    """What a load is. ``first`` is the number of its first process in the history: those of two loads never meet."""

    bootstrap: str
    history: str
    topic: str
    partitions: int
    first: int
    producers: int = 1
    per_second: float = 300.0
    followers: int = 1
    group: str = ""
    members: int = 0
    record_bytes: int = 100
    acks: str = "all"
    # How long the producers of confluent-kafka wait for an answer before they try again; 0: its default, 30 s.
    request_ms: int = 0
    # Ends of partitions asked for per second.
    ends_per_second: float = 0.0
    # Records per second that the broker must refuse.
    refused_per_second: float = 0.0
    # After what silence a member of the group is taken for dead: the brokers' least, as clients are killed, too.
    session_ms: int = 6_000
    # After how long the last member of the group leaves it, and another joins; 0: never.
    churn_s: float = 0.0


def options() -> Options:
    """From the command line."""
    return Options(**json.loads(sys.argv[1]))


class Value:
    """Values of one producer: (its number << 40) | how many it made before; unique over the whole history."""

    def __init__(self, client: int, size: int) -> None:
        self._next = client << 40
        self._padding = bytes(max(0, size - HEAD.size))

    def make(self) -> tuple[int, bytes]:
        """The next value, and the record that carries it."""
        value = self._next
        self._next += 1
        return value, HEAD.pack(value, zlib.crc32(value.to_bytes(8, "big"))) + self._padding


def read_value(record: bytes | None) -> int | None:
    """The value in a record; None if it is not one that was sent."""
    if record is None or len(record) < HEAD.size:
        return None
    value, check = HEAD.unpack_from(record)
    return int(value) if zlib.crc32(value.to_bytes(8, "big")) == check else None


class Sending(NamedTuple):
    """A send that has begun: all that is known of it if its process does not live to write how it went."""

    value: int
    partition: int
    t: float


SENDING = struct.Struct(">Qid")


def begun(path: Path) -> Iterator[Sending]:
    """The sends that the process of this history began, in order."""
    data = path.with_suffix(".begun").read_bytes()
    yield from (Sending(*one) for one in SENDING.iter_unpack(data[: len(data) // SENDING.size * SENDING.size]))


class History:
    """A file of operations; any thread may write to it. Each line is with the kernel before the next: it survives a
    ``kill -9`` of this process, as what it began does (in a file beside it)."""

    def __init__(self, path: Path, first: int) -> None:
        self._file = path.open("wb", buffering=0)
        self._begun = path.with_suffix(".begun").open("wb", buffering=0)
        self._lock = threading.Lock()
        self._number = 0
        self._process = first
        self.counts: Counter[str] = Counter()

    def process(self) -> int:
        """A process number that nobody has had."""
        with self._lock:
            self._process += 1
            return self._process

    def write(self, f: str, kind: str, proc: int, began: float, value: Any, **more: Any) -> None:
        """One operation that has ended now, asked at ``began``."""
        entry = {"f": f, "type": kind, "proc": proc, "t_inv": began, "t_ret": time.monotonic(), "value": value, **more}
        with self._lock:
            self._number += 1
            entry["i"] = self._number
            self.counts[f"{f} {kind}"] += 1
            self._file.write(ENCODE(entry) + b"\n")

    def begin(self, value: int, partition: int) -> float:
        """A send of this value begins now; when that is."""
        now = time.monotonic()
        self._begun.write(SENDING.pack(value, partition, now))
        return now

    def close(self) -> None:
        """All is in the file."""
        self._file.close()
        self._begun.close()


class Told:
    """What the test has said so far; the end of input is both."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.drain = threading.Event()
        # Partition to the end that is to be reached.
        self.ends: dict[int, int] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            if word == "drain":
                self.ends = {int(number): end for number, end in json.loads(rest or "{}").items()}
                self.drain.set()
            elif word == "stop":
                self.stop.set()
        self.stop.set()
        self.drain.set()


def say(event: str, **details: Any) -> None:
    """One line to the test."""
    sys.stdout.write(json.dumps({"event": event, "t": time.monotonic(), **details}) + "\n")
    sys.stdout.flush()
