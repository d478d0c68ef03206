"""What a Gateway sees of a log that another process writes: byte ranges below a watermark it was told.

A view takes no lock and trusts nothing it remembers: each slice compares the descriptor it has with the file that has
the name now (one ``stat``), so a roll, a deletion, a compaction or a truncation by a new inode is noticed before bytes
are handed out. Positions come from the sparse index and are confirmed by the batch header found there.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from sortedcontainers import SortedList

from logeion.wire.errors import KafkaStorageError, OffsetOutOfRangeError, StorageError

from . import index as indexes
from .files import Files
from .names import INDEX, LOG, parse, stem
from .store import failed
from .walk import Walk


class Descriptor:
    """One open file, shared by the slices that point into it; closed when neither cache nor slice needs it."""

    __slots__ = ("_files", "_users", "fd", "identity")

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self.fd: int = files.open(path, os.O_RDONLY)
        self._users = 1
        try:
            self.identity: tuple[int, int] = files.identity(self.fd)
        except OSError:
            self.release()
            raise

    def retain(self) -> None:
        """One more user."""
        self._users += 1

    def release(self) -> None:
        """One user fewer; the last one closes the file."""
        self._users -= 1
        if self._users == 0:
            self._files.close(self.fd)
            self.fd = -1


class Slice(NamedTuple):
    """``size`` bytes of ``file`` from ``position``: batches from the one that holds the offset asked for.

    ``first_offset`` is where that batch begins. The file stays open until ``release`` is called, exactly once, when the
    bytes were sent.
    """

    file: Descriptor
    position: int
    size: int
    first_offset: int
    segment: int

    @property
    def fd(self) -> int:
        """The descriptor to send from."""
        return self.file.fd

    def release(self) -> None:
        """The bytes were sent, or are not needed."""
        self.file.release()


class Descriptors:
    """A bounded cache of open files, shared by all the views of a process; the longest unused one goes first."""

    def __init__(self, files: Files | None = None, *, limit: int = 256) -> None:
        self.files: Files = files or Files()
        # A search needs a log and its index at once.
        self.limit: int = max(limit, 2)
        self._open: OrderedDict[str, Descriptor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, path: str) -> Descriptor:
        """The file that has this name now, opened if need be. Raises ``OSError``, ``FileNotFoundError`` above all."""
        known = self._open.get(path)
        if known is not None:
            try:
                current = self.files.identity_at(path)
            except OSError:
                self.forget(path)
                raise
            if current == known.identity:
                self._open.move_to_end(path)
                return known
            self.forget(path)
        descriptor = Descriptor(self.files, path)
        self._open[path] = descriptor
        while len(self._open) > self.limit:
            self._open.popitem(last=False)[1].release()
        return descriptor

    def forget(self, path: str) -> None:
        """Give up one file."""
        known = self._open.pop(path, None)
        if known is not None:
            known.release()

    def forget_directory(self, directory: str) -> None:
        """Give up all files of a directory."""
        prefix = directory + "/"
        for path in [path for path in self._open if path.startswith(prefix)]:
            self.forget(path)

    def close(self) -> None:
        """Give up all; those that a slice still holds are closed as they are released."""
        for path in list(self._open):
            self.forget(path)


class LogView:
    """A read-only view of one partition's directory. Not thread-safe; costs nothing until it is read from."""

    def __init__(self, directory: Path, *, descriptors: Descriptors | None = None) -> None:
        self.directory: str = str(directory)
        self._descriptors = Descriptors() if descriptors is None else descriptors
        self._own = descriptors is None
        self._files = self._descriptors.files
        self._bases: SortedList[int] = SortedList()

    def slice(
        self, offset: int, max_bytes: int, *, end_segment: int, end_position: int, log_start: int = 0
    ) -> Slice | None:
        """The batches from the one that holds ``offset`` on: at most ``max_bytes``, but at least one whole batch.

        Nothing past byte ``end_position`` of segment ``end_segment`` (where the high watermark lies) is returned; None
        when nothing lies between. The slice ends with a whole batch (KIP-74 would let it end anywhere). Raises
        ``OffsetOutOfRangeError`` below ``log_start`` or the first segment, ``StorageError`` that names the file.
        """
        if offset < log_start:
            raise OffsetOutOfRangeError(f"offset {offset} is below the log start {log_start}")
        if end_segment not in self._bases:
            self._refresh()
        for _attempt in range(4):
            try:
                return self._slice(offset, max_bytes, end_segment, end_position)
            except FileNotFoundError:
                # Deleted, compacted away or renamed since we looked; what is there now decides.
                self._refresh()
        raise KafkaStorageError(f"the segments of {self.directory} change faster than they can be read")

    def close(self) -> None:
        """Forget this directory's files."""
        self._descriptors.forget_directory(self.directory)
        if self._own:
            self._descriptors.close()

    def _refresh(self) -> None:
        try:
            entries = self._files.list(self.directory)
        except OSError as error:
            raise failed(error, "list", self.directory) from error
        parts = (parse(entry.name) for entry in entries)
        self._bases = SortedList(part.base for part in parts if part and part.kind == LOG and not part.state)

    def _slice(self, offset: int, max_bytes: int, end_segment: int, end_position: int) -> Slice | None:
        number = self._bases.bisect_right(offset) - 1
        if number < 0:
            self._refresh()
            number = self._bases.bisect_right(offset) - 1
            if number < 0:
                raise OffsetOutOfRangeError(f"offset {offset} lies before the first segment of {self.directory}")
        while number < len(self._bases):
            base: int = self._bases[number]
            if base > end_segment:
                return None
            path = f"{self.directory}/{stem(base)}{LOG}"
            try:
                log = self._descriptors.get(path)
                limit = self._files.size(log.fd)
                if base == end_segment:
                    limit = min(limit, end_position)
                found = self._find(log, base, offset, limit)
                if found is not None:
                    position, size, first = found
                    if size < max_bytes:
                        size = self._cut(base, position, size, max_bytes, limit)
                    log.retain()
                    return Slice(log, position, size, first, base)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise failed(error, "read", path) from error
            # The segment ends before the offset (compaction took its last records): the next one begins after it.
            number += 1
        return None

    def _find(self, log: Descriptor, base: int, offset: int, limit: int) -> tuple[int, int, int] | None:
        """Position, size and base offset of the first batch that reaches ``offset``; None if none does."""
        start = self._indexed(base, offset - base, 0)[1] if offset > base else 0
        if 0 < start < limit:
            found, sure = self._walk(log, base, offset, start, limit)
            if sure:
                return found
        found, sure = self._walk(log, base, offset, 0, limit)
        if not sure:
            path = f"{self.directory}/{stem(base)}{LOG}"
            raise StorageError(f"{path} is damaged before offset {offset}", path)
        return found

    def _walk(
        self, log: Descriptor, base: int, offset: int, start: int, limit: int
    ) -> tuple[tuple[int, int, int] | None, bool]:
        """What was found, and whether to believe it: a stale or damaged index leads to no batch, or to a later one."""
        walk = Walk(self._files, log.fd, start, limit, next_offset=base)
        for position, header in walk:
            if start and position == start and header.base_offset > offset:
                return None, False
            if header.last_offset >= offset:
                return (position, header.size, header.base_offset), True
        return None, not walk.fault or (walk.fault == "torn" and not start)

    def _cut(self, base: int, position: int, size: int, max_bytes: int, limit: int) -> int:
        """How many bytes to take from ``position``: up to ``limit``, or a batch boundary that the index knows."""
        if limit - position <= max_bytes:
            return limit - position
        boundary = self._indexed(base, position + max_bytes, 1)[1]
        return boundary - position if boundary >= position + size else size

    def _indexed(self, base: int, key: int, field: int) -> tuple[int, int]:
        """The index's last entry whose ``field`` (0 offset, 1 position) is not above ``key``; zeros without one.

        An index that is missing or cannot be read only makes the search longer.
        """
        try:
            descriptor = self._descriptors.get(f"{self.directory}/{stem(base)}{INDEX}")
            count = self._files.size(descriptor.fd) // indexes.OFFSET_ENTRY.size
            if not count:
                return 0, 0
            fd, pread = descriptor.fd, self._files.pread
            entry = indexes.floor(lambda size, at: pread(fd, size, at), indexes.OFFSET_ENTRY, count, key, field=field)
        except OSError:
            return 0, 0
        return entry or (0, 0)
