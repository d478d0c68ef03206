"""Reading a log that nobody opened: ``logeion log dump|verify``. Takes no lock and changes nothing.

A broker may be running on the directory. What it is writing at this moment looks like a torn last batch, so that alone
is no damage: it is a note, as it would be after a crash, where the next start cuts it off.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import msgspec

from logeion.wire.batch import BatchHeader
from logeion.wire.errors import MalformedError, StorageError

from . import checkpoints, names
from . import index as indexes
from .epochs import EpochCache
from .files import Entry, Files
from .producers import ProducerStates
from .store import Store
from .walk import Walk


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong: in which file, at which byte (-1: the file as a whole), and what."""

    path: str
    position: int
    what: str


class Report(msgspec.Struct, kw_only=True):
    """What was read, and what is wrong with it. ``notes`` are oddities that lose nothing."""

    directory: str
    segments: int = 0
    batches: int = 0
    records: int = 0
    bytes: int = 0
    start_offset: int = -1
    end_offset: int = -1
    problems: list[Problem] = []
    notes: list[str] = []


class OfflineSegment(msgspec.Struct, frozen=True):
    """A segment's base offset and the sizes of its files when we looked; -1 where one is missing."""

    base: int
    size: int
    index_size: int
    time_size: int


class OfflineLog:
    """A partition's directory as it is on disk. Raises ``StorageError`` if it cannot be listed or holds no segment."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        self.files: Files = files or Files()
        self.store: Store = Store(self.files, str(directory))
        self.entries: dict[str, Entry] = {entry.name: entry for entry in self.store.list()}
        parsed = [(names.parse(name), entry) for name, entry in self.entries.items()]
        bases = sorted(part.base for part, _entry in parsed if part and part.kind == names.LOG and not part.state)
        if not bases:
            raise StorageError(f"{directory} holds no segment (no 20-digit .log file)", directory)
        self.segments: list[OfflineSegment] = [
            OfflineSegment(base, *(self._size(names.stem(base) + suffix) for suffix in names.SEGMENT_FILES))
            for base in bases
        ]

    def _size(self, name: str) -> int:
        return self.entries[name].size if name in self.entries else -1

    def walk(self, segment: OfflineSegment, *, check: bool) -> Iterator[tuple[int, BatchHeader, Walk]]:
        """Position and header of each batch, and the walk, whose ``fault`` tells afterwards why it ended."""
        fd = self.store.open_read(names.stem(segment.base) + names.LOG)
        try:
            walk = Walk(
                self.files, fd, 0, segment.size, next_offset=segment.base, check_from=segment.base if check else None
            )
            for position, header in walk:
                yield position, header, walk
            self.last_walk = walk
        except OSError as error:
            path = self.store.path(names.stem(segment.base) + names.LOG)
            raise StorageError(f"cannot read {path}: {error.strerror or error}", path) from error
        finally:
            self.files.close(fd)

    def read(self, segment: OfflineSegment, position: int, size: int) -> bytes:
        """Bytes of a segment's log file."""
        fd = self.store.open_read(names.stem(segment.base) + names.LOG)
        try:
            return self.files.read_exactly(fd, size, position)
        finally:
            self.files.close(fd)


class Verifier:
    """Checks a directory file by file: CRC, order, indexes, epochs, and the small files."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        self._log = OfflineLog(directory, files)
        self._report = Report(directory=str(directory), segments=len(self._log.segments))
        self._epochs: list[tuple[int, int]] = []

    def run(self) -> Report:
        """The report; without ``problems`` all is well. Raises ``StorageError`` for a file that cannot be read."""
        report = self._report
        report.start_offset = self._log.segments[0].base
        end = -1
        for segment in self._log.segments:
            name = names.stem(segment.base) + names.LOG
            if segment.base < end:
                self._problem(name, -1, f"begins at offset {segment.base}, but the one before ends at {end}")
            end = self._segment(segment, last=segment is self._log.segments[-1])
        report.end_offset = end
        self._check_epochs(end)
        self._check_small_files(end)
        return report

    def _problem(self, name: str, position: int, what: str) -> None:
        self._report.problems.append(Problem(path=self._log.store.path(name), position=position, what=what))

    def _segment(self, segment: OfflineSegment, *, last: bool) -> int:
        name = names.stem(segment.base) + names.LOG
        places: list[tuple[int, int, int]] = []
        newest = -1
        end = segment.base
        for position, header, _walk in self._log.walk(segment, check=True):
            newest = max(newest, header.max_timestamp)
            places.append((position, header.last_offset, newest))
            end = header.next_offset
            self._report.batches += 1
            self._report.records += header.count
            if not self._epochs or self._epochs[-1][0] != header.leader_epoch:
                if self._epochs and self._epochs[-1][0] > header.leader_epoch:
                    self._problem(
                        name, position, f"leader epoch {header.leader_epoch} follows epoch {self._epochs[-1][0]}"
                    )
                self._epochs.append((header.leader_epoch, header.base_offset))
        walk = self._log.last_walk
        self._report.bytes += walk.position
        if walk.fault == "torn" and last:
            self._report.notes.append(
                f"{self._log.store.path(name)}: the last batch at byte {walk.position} is incomplete: it is being "
                "written, or the next start cuts it off"
            )
        elif walk.fault:
            what = "the last batch is incomplete" if walk.fault == "torn" else walk.fault
            self._problem(name, walk.position, what)
        elif walk.position < segment.size:
            self._problem(name, walk.position, "bytes that are no batch")
        if not walk.fault or last:
            self._check_index(segment, places)
            self._check_time_index(segment, places)
        return end

    def _entries(self, segment: OfflineSegment, suffix: str) -> list[tuple[int, int]]:
        name = names.stem(segment.base) + suffix
        entry = indexes.OFFSET_ENTRY if suffix == names.INDEX else indexes.TIME_ENTRY
        size = self._log._size(name)
        if size < 0:
            self._problem(name, -1, "is missing; the next start writes it anew")
            return []
        fd = self._log.store.open_read(name)
        try:
            data = self._log.files.read_exactly(fd, size // entry.size * entry.size, 0)
        except OSError as error:
            self._problem(name, -1, f"cannot be read: {error.strerror or error}")
            return []
        finally:
            self._log.files.close(fd)
        if size % entry.size:
            self._report.notes.append(f"{self._log.store.path(name)}: an incomplete entry at its end")
        return [(row[0], row[1]) for row in entry.iter_unpack(data[: len(data) // entry.size * entry.size])]

    def _check_index(self, segment: OfflineSegment, places: list[tuple[int, int, int]]) -> None:
        name = names.stem(segment.base) + names.INDEX
        before = (-1, -1)
        walked = self._log.last_walk.position
        for number, (relative, position) in enumerate(self._entries(segment, names.INDEX)):
            at = number * indexes.OFFSET_ENTRY.size
            if (relative, position) <= before or relative < 0:
                self._problem(name, at, "entries out of order")
                return
            before = (relative, position)
            if position >= walked:
                continue  # written since we looked
            found = bisect_left(places, position, key=lambda place: place[0])
            if places[found][0] != position or places[found][1] < segment.base + relative:
                if found + 1 < len(places) and places[found][0] == position:
                    # Kafka's own entries name the last offset of several batches written at once.
                    continue
                self._problem(name, at, f"offset {segment.base + relative} is not at byte {position} of the log")
                return

    def _check_time_index(self, segment: OfflineSegment, places: list[tuple[int, int, int]]) -> None:
        name = names.stem(segment.base) + names.TIME_INDEX
        before = (-1, -1)
        for number, (timestamp, relative) in enumerate(self._entries(segment, names.TIME_INDEX)):
            at = number * indexes.TIME_ENTRY.size
            if timestamp <= before[0] or relative < before[1]:
                self._problem(name, at, "entries out of order")
                return
            before = (timestamp, relative)
            found = bisect_left(places, segment.base + relative, key=lambda place: place[1])
            if found < len(places) and places[found][1] == segment.base + relative and places[found][2] > timestamp:
                self._problem(
                    name, at, f"a record at or before offset {segment.base + relative} is newer than the entry"
                )
                return

    def _check_epochs(self, end: int) -> None:
        data = self._log.store.read(names.EPOCHS, 1 << 24)
        if data is None:
            return
        try:
            cache = EpochCache.decode(data)
        except MalformedError as error:
            self._problem(names.EPOCHS, -1, str(error))
            return
        start = self._log_start()
        written = EpochCache(self._epochs)
        for offset in sorted({offset for _epoch, offset in self._epochs + cache.entries}):
            epoch = written.epoch_at(offset)
            if start <= offset < end and 0 <= epoch != cache.epoch_at(offset):
                self._problem(
                    names.EPOCHS, -1, f"offset {offset} was written in epoch {epoch}, not {cache.epoch_at(offset)}"
                )
                return

    def _log_start(self) -> int:
        data = self._log.store.read(names.LOG_START, checkpoints.LIMIT)
        try:
            return checkpoints.decode_offset(data) if data else self._report.start_offset
        except MalformedError as error:
            self._problem(names.LOG_START, -1, str(error))
            return self._report.start_offset

    def _check_small_files(self, end: int) -> None:
        for name, entry in sorted(self._log.entries.items()):
            parts = names.parse(name)
            if parts is not None and parts.kind == names.SNAPSHOT and not parts.state:
                try:
                    ProducerStates.decode_snapshot(self._log.store.read(name, 1 << 30) or b"")
                except MalformedError as error:
                    self._problem(name, -1, str(error))
            elif parts is None and entry.regular and names.looks_like_segment(name):
                self._problem(name, -1, "a foreign file that looks like a part of the log")
        if self._log._size(names.FAILED) >= 0:
            failure = checkpoints.decode_failure(self._log.store.read(names.FAILED, checkpoints.LIMIT) or b"")
            self._problem(names.FAILED, -1, f"a sync failed here: {failure.cause}")
        synced_end = self._log.store.read(names.SYNCED_END, checkpoints.LIMIT)
        if synced_end:
            try:
                checkpoints.decode_synced_end(synced_end)
            except MalformedError as error:
                self._report.notes.append(f"{self._log.store.path(names.SYNCED_END)}: {error}")
        state = self._log.store.read(names.STATE, checkpoints.LIMIT)
        if state:
            try:
                decoded = checkpoints.State.decode(state)
            except MalformedError as error:
                self._report.notes.append(f"{self._log.store.path(names.STATE)}: {error}")
                return
            self._report.start_offset = max(self._report.start_offset, min(decoded.log_start, end))


def verify(directory: Path, files: Files | None = None) -> Report:
    """Check a partition's directory; see ``Verifier``."""
    if not os.path.isdir(directory) and files is None:
        raise StorageError(f"there is no directory {directory}", directory)
    return Verifier(directory, files).run()
