"""Which leader epoch every record was written in, also those that a log held for a moment only; and who led when.

An acknowledgement does not say who gave it. The raw logs do: each batch carries the epoch of the leader that appended
it. A leader that was deposed and acknowledges nevertheless has the record in its log until it truncates it, so all
replicas' logs are followed during the run, and what vanishes from one is kept. Who led in which epoch is in the
cluster's own metadata log.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from logeion.wire.batch import HEADER_SIZE, BatchHeader, iter_headers, read_header, verify_crc
from logeion.wire.errors import LogeionError
from logeion.wire.records import batch_records
from tests.cluster.loads.common import read_value

TICK_S = 0.03
# A truncation goes back to the watermark: what lies so many batches behind the end is out of its reach.
KEPT = 4_000
METADATA = "__cluster_metadata-0"
BATCH_MAX = 64 << 20
# (offset, value) of each record of a batch.
Records: TypeAlias = "list[tuple[int, int]]"


class Batch(NamedTuple):
    """What tells a batch from any other of its partition."""

    base: int
    last: int
    epoch: int
    crc: int


class Gone(NamedTuple):
    """A record that a replica's log held and does not hold any more."""

    offset: int
    value: int
    batch: Batch
    node: int


class Segment:
    """One file of a log: its whole batches so far, newest last, with where each begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: list[tuple[int, Batch]] = []
        self._end = 0
        self._stamp = (-1, -1)

    def follow(self, known: OrderedDict[Batch, Records]) -> list[Batch]:
        """The batches that vanished since the last call; what the new ones hold is in ``known``."""
        vanished: list[Batch] = []
        try:
            file = self.path.open("rb", buffering=0)
        except FileNotFoundError:
            vanished = [batch for _, batch in self.held]
            self.held.clear()
            return vanished
        with file:
            stat = os.fstat(file.fileno())
            if self._stamp == (stat.st_size, stat.st_mtime_ns):
                return vanished
            self._stamp = (stat.st_size, stat.st_mtime_ns)
            # Shrunk, or shrunk and grown again: what is there no more is taken back first.
            while self.held and not self._stands(file.fileno(), stat.st_size):
                vanished.append(self.held.pop()[1])
            if vanished:
                self._end = self._end_of_last(file.fileno()) if self.held else 0
            data = os.pread(file.fileno(), max(0, stat.st_size - self._end), self._end)
            begin = self._end
            with contextlib.suppress(LogeionError):
                for at, header in iter_headers(data):
                    # What is being written may be there in part.
                    verify_crc(data, header, at)
                    batch = named(header)
                    self.held.append((begin + at, batch))
                    self._end = begin + at + header.size
                    if batch not in known:
                        known[batch] = values(memoryview(data)[at : at + header.size], header)
        del self.held[:-KEPT]
        return vanished

    def _stands(self, descriptor: int, size: int) -> bool:
        at, batch = self.held[-1]
        head = os.pread(descriptor, HEADER_SIZE, at) if at + HEADER_SIZE <= size else b""
        try:
            header = read_header(head)
        except LogeionError:
            return False
        return named(header) == batch and at + header.size <= size

    def _end_of_last(self, descriptor: int) -> int:
        at, _ = self.held[-1]
        return at + read_header(os.pread(descriptor, HEADER_SIZE, at)).size


def named(header: BatchHeader) -> Batch:
    return Batch(header.base_offset, header.base_offset + header.last_offset_delta, header.leader_epoch, header.crc)


def values(batch: memoryview, header: BatchHeader) -> Records:
    """(offset, value) of its records; nothing of what is no record of the loads."""
    found = []
    with contextlib.suppress(LogeionError):
        for record in () if header.is_control else batch_records(batch, header, max_bytes=BATCH_MAX):
            if (value := read_value(record.value)) is not None:
                found.append((record.offset, value))
    return found


class Tail(threading.Thread):
    """Follows the logs of some partitions on all nodes; ``folders`` are (node, key, folder)."""

    def __init__(self, folders: Iterable[tuple[int, str, Path]]) -> None:
        super().__init__(daemon=True, name="tail")
        self._segments: list[tuple[int, str, Path, dict[str, Segment]]] = [
            (node, key, folder, {}) for node, key, folder in folders
        ]
        self._ended = threading.Event()
        self._values: dict[str, OrderedDict[Batch, Records]] = {}
        self.gone: dict[str, list[Gone]] = {key: [] for _, key, _, _ in self._segments}
        self.failure = ""

    def run(self) -> None:
        try:
            while not self._ended.wait(TICK_S):
                self.look()
        except Exception as error:
            # Nobody waits for this thread: whoever takes the result is told.
            self.failure = repr(error)

    def look(self) -> None:
        """One pass over all files."""
        for node, key, folder, segments in self._segments:
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(folder):
                    if entry.name.endswith(".log") and entry.name not in segments:
                        segments[entry.name] = Segment(folder / entry.name)
            known = self._values.setdefault(key, OrderedDict())
            for name in sorted(segments):
                for batch in segments[name].follow(known):
                    self.gone[key] += [Gone(*one, batch, node) for one in known.get(batch, ())]
            while len(known) > KEPT:
                known.popitem(last=False)

    def end(self) -> None:
        """No more of it; the files were seen as they are now."""
        if self._ended.is_set():
            return
        self._ended.set()
        if self.is_alive():
            self.join()
        if not self.failure:
            self.look()

    def strays(self, key: str, final: set[Batch], leaders: dict[int, int]) -> list[tuple[int, int, int, int | str]]:
        """(offset, value, epoch, leader) of the records whose batch is in no final log.

        Where that batch and a final one of the same epoch have an offset in common, two have led in that epoch.
        """
        spans: dict[int, list[tuple[int, int]]] = {}
        for batch in final:
            spans.setdefault(batch.epoch, []).append((batch.base, batch.last))
        found = set()
        for offset, value, batch, node in self.gone[key]:
            if batch not in final:
                doubled = any(base <= offset <= last for base, last in spans.get(batch.epoch, ()))
                leader: int | str = leaders.get(batch.epoch, node)
                found.add((offset, value, batch.epoch, f"another than {leader} (node {node})" if doubled else leader))
        return sorted(found, key=str)


class _Topic(msgspec.Struct, tag="TopicCreated"):
    topic_id: str
    name: str


class _Partition(msgspec.Struct, tag="PartitionChanged"):
    topic_id: str
    partition: int
    leader: int
    leader_epoch: int


_TAG = msgspec.msgpack.Decoder(dict)
_KNOWN = msgspec.msgpack.Decoder(_Topic | _Partition)


def leaders(folders: Iterable[Path]) -> dict[str, set[tuple[int, int]]]:
    """Of each partition all (epoch, leader) that these nodes' metadata logs and snapshots name.

    What was never committed is in no log once every node follows the quorum's leader again.
    """
    found: dict[str, set[tuple[int, int]]] = {}
    for folder in folders:
        names: dict[str, str] = {}
        for record in _metadata(folder / METADATA):
            if isinstance(record, _Topic):
                names[record.topic_id] = record.name
            elif record.leader >= 0 and record.topic_id in names:
                key = f"{names[record.topic_id]}-{record.partition}"
                found.setdefault(key, set()).add((record.leader_epoch, record.leader))
    return found


def _metadata(folder: Path) -> Iterator[_Topic | _Partition]:
    for path in (*sorted(folder.glob("*.checkpoint")), *sorted(folder.glob("*.log"))):
        data = path.read_bytes()
        with contextlib.suppress(LogeionError):
            for at, header in iter_headers(data):
                verify_crc(data, header, at)
                batch = memoryview(data)[at : at + header.size]
                for record in () if header.is_control else batch_records(batch, header, max_bytes=BATCH_MAX):
                    if _TAG.decode(record.value or b"\x80").get("type") in ("TopicCreated", "PartitionChanged"):
                        yield _KNOWN.decode(record.value or b"")
