"""A partition's log as it lies on a simulated disk, read without any code of the log: the judges trust bytes only."""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import NamedTuple

import fastcrc

from tests.sim.disk import HostDisk, Inode
from tests.sim.engine import Violated

# base offset, length, leader epoch, magic, crc | attributes, last offset delta, 2 timestamps, producer id, epoch,
# sequence, count
_HEADER = struct.Struct(">qiibIhiqqqhii")
_length, _LENGTH_AT = struct.Struct(">i").unpack_from, 8
_PREFIX = 12
_CRC_FROM = 21
_BODY_FROM = 16


class Batch(NamedTuple):
    """One batch: ``body`` is all of it that must never change."""

    base: int
    next: int
    epoch: int
    producer: int
    producer_epoch: int
    sequence: int
    body: bytes


def _parse(whole: bytes) -> Batch | None:
    """What these bytes are, whose length is right; None: no batch."""
    base, _, epoch, magic, crc, _, delta, _, _, producer, producer_epoch, sequence, count = _HEADER.unpack_from(whole)
    if magic != 2 or count < 1 or fastcrc.crc32.iscsi(whole[_CRC_FROM:]) != crc:
        return None
    return Batch(base, base + delta + 1, epoch, producer, producer_epoch, sequence, whole[_BODY_FROM:])


def parse(data: bytes) -> list[Batch]:
    """Batches as a consumer is given them: whole, one after the other; raises ``Violated`` on anything else."""
    found: list[Batch] = []
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise Violated(f"{len(data) - at} bytes at the end of {len(data)} that a consumer is given are no batch")
        base, length, epoch, magic, crc, _, delta, _, _, producer, producer_epoch, sequence, _ = _HEADER.unpack_from(
            data, at
        )
        end = at + _PREFIX + length
        body = data[at + _BODY_FROM : end]
        if magic != 2 or end > len(data) or fastcrc.crc32.iscsi(body[_CRC_FROM - _BODY_FROM :]) != crc:
            raise Violated(f"what a consumer is given at byte {at} of {len(data)} is no batch: offset {base}, {length}")
        found.append(Batch(base, base + delta + 1, epoch, producer, producer_epoch, sequence, body))
        at = end
    return found


class _File:
    __slots__ = ("batches", "inode", "parsed", "shape")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.parsed = 0
        self.shape = -1
        self.batches: list[Batch] = []


class LogView:
    """``durable``: what a power cut would leave; else what a reader finds. ``refresh`` before looking.

    ``read``: what all views of a world have made of which bytes. Most batches lie on several disks, and again on their
    devices: the same bytes are checked once.
    """

    def __init__(self, disk: HostDisk, path: str, read: dict[bytes, Batch], *, durable: bool) -> None:
        self.disk = disk
        self.read = read
        self.path = path
        self.durable = durable
        self.batches: list[Batch] = []
        self.bases: list[int] = []
        # Grows whenever something that was there is not any more, or is another.
        self.shape = 0
        # Judges note here up to which offset they have compared with the truth, at which shape.
        self.compared = 0
        self.torn = ""
        self._files: dict[str, _File] = {}
        self._order: list[_File] = []
        self._reading = 0
        self._seen = -1

    @property
    def end(self) -> int:
        """The offset after the last whole batch."""
        return self.batches[-1].next if self.batches else -1

    def refresh(self) -> bool:
        """Read what is new; True if anything was cut or replaced."""
        if self._seen == self.disk.changes and self._is_whole():
            self._read_on()
            return False
        self._seen = self.disk.changes
        tree = self.disk.durable if self.durable else self.disk.names
        names = tree.get(self.path)
        logs = [] if names is None else [name for name in names if name[-4:] == ".log"]
        files = self._files
        whole = len(logs) == len(files)
        if whole:
            for name in logs:
                assert names is not None
                known, inode = files.get(name), names[name]
                shape = inode.synced_shape if self.durable else inode.shape
                if known is None or known.inode is not inode or known.shape != shape:
                    whole = False
                    break
        if whole:
            self._read_on()
            return False
        logs.sort()
        # A power cut may bring back segments before those that are there: they were removed, and that not yet synced.
        grown = bool(files) and logs[: len(files)] == list(files)
        grown = grown and all(
            names is not None
            and names.get(name) is files[name].inode
            and files[name].shape == (files[name].inode.synced_shape if self.durable else files[name].inode.shape)
            for name in files
        )
        if not grown:
            self._files = files = {}
            self.batches, self.bases = [], []
            self.shape += 1
            self.compared = self._reading = 0
        for name in logs:
            assert names is not None
            if name not in files:
                file = files[name] = _File(names[name])
                file.shape = names[name].synced_shape if self.durable else names[name].shape
        self._order = list(files.values())
        self._read_on()
        return not grown

    def _is_whole(self) -> bool:
        """Whether each file that is known still begins with what was read of it."""
        if self.durable:
            for file in self._order:
                if file.shape != file.inode.synced_shape:
                    return False
        else:
            for file in self._order:
                if file.shape != file.inode.shape:
                    return False
        return True

    def _read_on(self) -> None:
        """From the first file that was not read to its end."""
        order = self._order
        while self._reading < len(order):
            file = order[self._reading]
            self._extend(file)
            if file.parsed < len(file.inode.data) or self._reading + 1 == len(order):
                return
            self._reading += 1

    def _extend(self, file: _File) -> None:
        data = file.inode.synced if self.durable else file.inode.data
        at, size = file.parsed, len(data)
        self.torn = ""
        if at == size:
            return
        batches, read = self.batches, self.read
        while size - at >= _HEADER.size:
            (length,) = _length(data, at + _LENGTH_AT)
            end = at + _PREFIX + length
            if length < _HEADER.size - _PREFIX or end > size:
                break
            whole = bytes(data[at:end])
            batch = read.get(whole)
            if batch is None:
                batch = _parse(whole)
                if batch is None:
                    break
                read[whole] = batch
            if batches and batch.base < batches[-1].next:
                # A cut that a crash interrupted has left a later segment; a start drops it.
                self.torn = f"offset {batch.base} follows {batches[-1].next - 1}"
                file.parsed = at
                return
            batches.append(batch)
            self.bases.append(batch.base)
            at = end
        file.parsed = at
        if at < size:
            self.torn = f"{size - at} bytes after offset {self.end - 1} are no batch"

    def from_offset(self, offset: int) -> list[Batch]:
        """The batches that begin at ``offset`` or later."""
        return self.batches[bisect_left(self.bases, offset) :]

    def holding(self, offset: int) -> list[Batch]:
        """The batches from the one that holds ``offset`` on."""
        first = bisect_left(self.bases, offset + 1) - 1
        return self.batches[max(first, 0) :]

    def at(self, offset: int) -> Batch | None:
        """The batch that begins there."""
        number = bisect_left(self.bases, offset)
        return self.batches[number] if number < len(self.bases) and self.bases[number] == offset else None
