"""One segment: a ``.log`` file with its two indexes.

A sealed segment holds no descriptor; what it needs is opened for the moment. The active one keeps its three open for
writing. Appending is the only way a segment grows, and a failed append leaves it as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from struct import Struct
from typing import NamedTuple

from logeion.wire.batch import BatchHeader
from logeion.wire.errors import StorageError

from . import index as indexes
from .files import Data
from .names import INDEX, LOG, SEGMENT_FILES, TIME_INDEX, stem
from .store import Store, failed
from .walk import Walk


class Placed(NamedTuple):
    """One batch as it lies in a segment: its last offset, where it begins, its size and its newest timestamp."""

    last_offset: int
    position: int
    size: int
    max_timestamp: int


class Segment:
    """A run of batches from offset ``base``; ``size`` is the length of the ``.log`` file in bytes."""

    fd: int
    index_fd: int
    time_fd: int

    __slots__ = (
        "_first_timestamp",
        "_newest",
        "base",
        "fd",
        "index_count",
        "index_fd",
        "indexed_time",
        "name",
        "since_index",
        "size",
        "store",
        "time_count",
        "time_fd",
        "torn",
    )

    def __init__(self, store: Store, base: int, *, size: int = 0, index_size: int = 0, time_size: int = 0) -> None:
        self.store: Store = store
        self.base: int = base
        self.name: str = stem(base)
        self.size: int = size
        self.index_count: int = index_size // indexes.OFFSET_ENTRY.size
        self.time_count: int = time_size // indexes.TIME_ENTRY.size
        self.fd = self.index_fd = self.time_fd = -1
        self.since_index: int = 0
        # A failed write whose bytes could not be cut off yet.
        self.torn: bool = False
        # The timestamp of the time index's last entry, -1 without one.
        self.indexed_time: int = -1
        self._first_timestamp: int | None = None
        self._newest: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<Segment {self.name} of {self.size} bytes>"

    # Descriptors ---------------------------------------------------------------------------------------------------

    def open_for_append(self, *, create: bool = False) -> None:
        """Open the three files for writing. A new segment's files are made empty."""
        opened: list[int] = []
        try:
            for suffix in SEGMENT_FILES:
                opened.append(self.store.open_write(self.name + suffix, create=True, empty=create))
        except StorageError:
            for fd in opened:
                self.store.files.close(fd)
            raise
        self.fd, self.index_fd, self.time_fd = opened

    def close(self) -> None:
        """Give the descriptors back."""
        self.close_indexes()
        if self.fd >= 0:
            self.store.files.close(self.fd)
        self.fd = -1

    def close_indexes(self) -> None:
        """Give the indexes' descriptors back, once the segment is sealed."""
        for fd in (self.index_fd, self.time_fd):
            if fd >= 0:
                self.store.files.close(fd)
        self.index_fd = self.time_fd = -1

    @contextmanager
    def reading(self, suffix: str = LOG) -> Iterator[int]:
        """A descriptor for reading one of the files, opened if it is not open."""
        kept = self.fd if suffix == LOG else self.index_fd if suffix == INDEX else self.time_fd
        if kept >= 0:
            yield kept
            return
        fd = self.store.open_read(self.name + suffix)
        try:
            yield fd
        finally:
            self.store.files.close(fd)

    # Appending -------------------------------------------------------------------------------------------------------

    def append(self, buffers: Sequence[Data], batches: Sequence[Placed], index_interval: int) -> None:
        """Write whole batches at the end in one go, then the index entries that are due.

        Raises ``StorageError`` that names the file, with the segment as before. An index that cannot be written costs
        an entry, not the append: it is sparse anyway.
        """
        if self.torn:
            self._cut_back()
        try:
            written = self.store.files.write_all(self.fd, buffers, self.size)
        except OSError as error:
            self.torn = True
            try:
                self._cut_back()
            except StorageError:
                pass  # the next append tries again before it writes
            raise failed(error, "append to", self.store.path(self.name + LOG)) from error
        self.size += written
        offsets: list[bytes] = []
        times: list[bytes] = []
        newest, indexed_time = self.newest(), self.indexed_time
        for batch in batches:
            if batch.max_timestamp > newest[0]:
                newest = (batch.max_timestamp, batch.last_offset)
            if self.since_index > index_interval:
                offsets.append(indexes.OFFSET_ENTRY.pack(batch.last_offset - self.base, batch.position))
                if newest[0] > indexed_time:
                    times.append(indexes.TIME_ENTRY.pack(newest[0], newest[1] - self.base))
                    indexed_time = newest[0]
                self.since_index = 0
            self.since_index += batch.size
        self._newest = newest
        if offsets and self._extend(self.index_fd, INDEX, offsets, self.index_count * indexes.OFFSET_ENTRY.size):
            self.index_count += len(offsets)
        if times and self._extend(self.time_fd, TIME_INDEX, times, self.time_count * indexes.TIME_ENTRY.size):
            self.time_count += len(times)
            self.indexed_time = indexed_time

    def _cut_back(self) -> None:
        self.store.cut(self.fd, self.name + LOG, self.size)
        self.torn = False

    def _extend(self, fd: int, suffix: str, entries: list[bytes], at: int) -> bool:
        try:
            self.store.files.write_all(fd, [b"".join(entries)], at)
        except OSError:
            # What was written of it is overwritten by the next entry; a start ignores what it cannot trust.
            return False
        return True

    def seal(self) -> None:
        """Write the final entry of the time index, from which retention and lookups read the newest timestamp.

        Raises ``StorageError``: unlike the other entries this one must be there.
        """
        timestamp, offset = self.newest()
        if timestamp > self.indexed_time:
            entry = indexes.TIME_ENTRY.pack(timestamp, offset - self.base)
            self.store.write(self.time_fd, self.name + TIME_INDEX, [entry], self.time_count * indexes.TIME_ENTRY.size)
            self.time_count += 1
            self.indexed_time = timestamp

    # Reading -------------------------------------------------------------------------------------------------------

    def newest(self) -> tuple[int, int]:
        """The newest timestamp and the last offset of the batch that brought it; (-1, base) when there is none.

        Of a sealed segment it is the time index's last entry, read when first asked for.
        """
        if self._newest is None:
            self._newest = (-1, self.base)
            if self.time_count:
                size = indexes.TIME_ENTRY.size
                with self.reading(TIME_INDEX) as fd:
                    data = self._pread(fd, TIME_INDEX, size, (self.time_count - 1) * size)
                if len(data) == size:
                    timestamp, relative = indexes.TIME_ENTRY.unpack(data)
                    self._newest = (timestamp, self.base + relative)
                    self.indexed_time = timestamp
        return self._newest

    def note_newest(self, timestamp: int, offset: int) -> None:
        """Take a batch into account that a walk found."""
        if timestamp > self.newest()[0]:
            self._newest = (timestamp, offset)

    def first_timestamp(self) -> int:
        """The newest timestamp of the first batch, from which a segment's age counts; -1 when it is empty."""
        if self._first_timestamp is None:
            for _position, header in self.walk(0):
                self._first_timestamp = header.max_timestamp
                break
        return -1 if self._first_timestamp is None else self._first_timestamp

    def floor_position(self, offset: int) -> int:
        """Where to begin to look for ``offset``: the start of a batch at or before it, by the index; 0 without one."""
        if not self.index_count:
            return 0
        with self.reading(INDEX) as fd:
            found = indexes.floor(
                lambda size, at: self._pread(fd, INDEX, size, at),
                indexes.OFFSET_ENTRY,
                self.index_count,
                offset - self.base,
            )
        return found[1] if found is not None and found[1] < self.size else 0

    def walk(self, position: int, *, check_from: int | None = None) -> Iterator[tuple[int, BatchHeader]]:
        """The batches from ``position``, which is the start of one; raises ``StorageError`` where they are damaged."""
        with self.reading() as fd:
            walk = Walk(self.store.files, fd, position, self.size, next_offset=self.base, check_from=check_from)
            path = self.store.path(self.name + LOG)
            try:
                yield from walk
            except OSError as error:
                raise failed(error, "read", path) from error
            if walk.fault:
                raise StorageError(f"{path} is damaged at byte {walk.position}: {walk.fault}", path)

    def locate(self, offset: int) -> tuple[int, BatchHeader] | None:
        """Position and header of the batch that holds ``offset``, or of the first one after it; None past the end."""
        start = 0
        try:
            start = self.floor_position(offset)
            return self._first_reaching(start, offset)
        except StorageError as error:
            if start == 0 and error.path.suffix == LOG:
                raise
            # An index that cannot be read, or sends us astray: the log itself is right.
            self.store.warn(str(error))
            return self._first_reaching(0, offset)

    def _first_reaching(self, start: int, offset: int) -> tuple[int, BatchHeader] | None:
        for position, header in self.walk(start):
            if position == start and start and header.base_offset > offset:
                path = self.store.path(self.name + INDEX)
                raise StorageError(f"{path} points past offset {offset}", path)
            if header.last_offset >= offset:
                return position, header
        return None

    def read(self, position: int, size: int, suffix: str = LOG) -> bytes:
        """Bytes of the log file, or of an index; raises ``StorageError``."""
        if suffix == LOG and self.fd >= 0:
            return self._pread(self.fd, suffix, size, position)
        with self.reading(suffix) as fd:
            return self._pread(fd, suffix, size, position)

    def _pread(self, fd: int, suffix: str, size: int, at: int) -> bytes:
        try:
            return self.store.files.read_exactly(fd, size, at)
        except OSError as error:
            raise failed(error, "read", self.store.path(self.name + suffix)) from error

    # Indexes ---------------------------------------------------------------------------------------------------------

    def rebuild_indexes(
        self,
        interval: int,
        *,
        check_from: int | None = None,
        on_batch: Callable[[BatchHeader], None] | None = None,
    ) -> Walk:
        """Write both indexes anew from the log file, and return the walk that did it.

        The walk's ``position`` is the end of the last good batch; cutting what lies beyond is the caller's decision.
        """
        builder = indexes.IndexBuilder(self.base, interval)
        with self.reading() as fd:
            walk = Walk(self.store.files, fd, 0, self.size, next_offset=self.base, check_from=check_from)
            try:
                for position, header in walk:
                    if on_batch is not None:
                        on_batch(header)
                    builder.add(header.last_offset, position, header.size, header.max_timestamp)
            except OSError as error:
                raise failed(error, "read", self.store.path(self.name + LOG)) from error
        builder.finish()
        was_open = self.fd >= 0
        self.close()
        self.store.replace(self.name + INDEX, bytes(builder.offsets), durable=True)
        self.store.replace(self.name + TIME_INDEX, bytes(builder.times), durable=True)
        self.take_index(builder)
        if was_open:
            self.open_for_append()
        return walk

    def take_index(self, builder: indexes.IndexBuilder) -> None:
        """The index files were written from this builder."""
        self.index_count = len(builder.offsets) // indexes.OFFSET_ENTRY.size
        self.time_count = len(builder.times) // indexes.TIME_ENTRY.size
        self.since_index, self._newest, self._first_timestamp = builder.since, builder.newest, builder.first_timestamp
        self.indexed_time = builder.indexed_time

    def cut(self, position: int, last_offset: int) -> None:
        """Cut the open segment in place to its first ``position`` bytes, whose last offset is ``last_offset``."""
        self.store.cut(self.fd, self.name + LOG, position)
        self.size = position
        self.torn = False
        self.index_count = self._cut_index(
            self.index_fd, INDEX, indexes.OFFSET_ENTRY, self.index_count, position - 1, 1
        )
        relative = last_offset - self.base
        self.time_count = self._cut_index(self.time_fd, TIME_INDEX, indexes.TIME_ENTRY, self.time_count, relative, 1)
        self._newest, self.indexed_time = None, -1
        if not position:
            self._first_timestamp = None

    def _cut_index(self, fd: int, suffix: str, entry: Struct, count: int, key: int, field: int) -> int:
        kept = indexes.rank(lambda size, at: self._pread(fd, suffix, size, at), entry, count, key, field=field)[0]
        self.store.cut(fd, self.name + suffix, kept * entry.size)
        return kept
