"""Keeping the last record of every key (KIP-58), tombstones for a while (KIP-534), and every producer's last sequence.

Only closed segments that are synced and wholly below the watermark are touched. The result is written beside them and
swapped in so that a crash at any point leaves either the old segments or the new one:

1. ``.cleaned`` files are written and synced, indexes first renamed to ``.swap``, the log last: that rename decides.
2. The log is linked in place of the first old segment, its indexes after it; then the other old segments are put aside.
3. ``.log.swap`` is removed. As long as it exists a start repeats steps 2 and 3.

A reader never misses a record: the new segment is in place before the ones it replaces go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from logeion.wire.batch import BatchHeader, read_header
from logeion.wire.errors import CorruptMessageError, MalformedError, StorageError
from logeion.wire.records import Record, build_batch

from . import checkpoints, names
from . import index as indexes
from .config import LONG_MAX
from .lookup import read_batch
from .producers import ProducerStates
from .segment import Segment
from .store import Store
from .walk import Walk

if TYPE_CHECKING:
    from .log import Log

# Output is written in pieces of about this size.
_PIECE = 1 << 20
# It is synced as it grows, so that no step waits for the device longer than this many bytes take.
_SYNC_BYTES = 4 << 20
_MAX_RELATIVE = 2**31 - 1


def compact(log: Log, now_ms: int) -> int:
    """See ``Log.compact``."""
    before = log.size
    for _ in compaction(log, now_ms):
        pass
    return int(before - log.size)


def compaction(log: Log, now_ms: int) -> Iterator[None]:
    """The same in small steps, one batch each, between which the log may append, roll and be read.

    A truncation, a reset or retention in between ends it without effect. Raises ``StorageError``.
    """
    log.check_usable()
    if not log.config.compact:
        return
    if log.synced_end > log.recovery_point:
        log.write_recovery_point(log.synced_end)
    candidates = _cleanable(log, now_ms)
    first_dirty = _first_dirty(log)
    dirty = [segment for segment in candidates if segment.base >= first_dirty]
    if not dirty or not _worthwhile(log, candidates, dirty, now_ms):
        return
    generation, start = log.generation, log.start_offset
    latest: dict[bytes, int] = {}
    mapped = 0
    for segment in dirty:
        for position, header in segment.walk(0):
            if not header.is_control:
                for record in read_batch(segment, position, header, log.config) or ():
                    if record.key is not None:
                        latest[_hashed(record.key)] = record.offset
            yield
            if log.generation != generation or log.start_offset != start:
                return
        mapped += 1
        if len(latest) >= log.config.compaction_keys:
            break
    done = dirty[:mapped]
    stop = _next_base(log, done[-1])
    for group in _groups(log, [segment for segment in candidates if segment.base < stop]):
        cleaner = _Cleaner(log, group, latest, now_ms)
        try:
            for _ in cleaner.run():
                yield
                if log.generation != generation or log.start_offset != start:
                    return
            cleaner.swap()
        finally:
            cleaner.discard()
    log.store.replace(names.CLEANER, checkpoints.encode_offset(stop), durable=False)


def _cleanable(log: Log, now_ms: int) -> list[Segment]:
    limit = min(log.high_watermark, log.recovery_point)
    youngest = now_ms - log.config.min_compaction_lag_ms
    found = []
    for segment in log.segments.values():
        if segment is log.active or _next_base(log, segment) > limit:
            break
        if log.config.min_compaction_lag_ms and segment.newest()[0] > youngest:
            break
        found.append(segment)
    return found


def _next_base(log: Log, segment: Segment) -> int:
    number = log.segments.bisect_right(segment.base)
    return int(log.segments.peekitem(number)[0]) if number < len(log.segments) else log.end_offset


def _first_dirty(log: Log) -> int:
    data = log.store.read(names.CLEANER, checkpoints.LIMIT)
    try:
        checkpoint = checkpoints.decode_offset(data) if data else 0
    except MalformedError:
        checkpoint = 0  # everything is compacted once more, which changes nothing
    return checkpoint if checkpoint <= log.end_offset else 0


def _worthwhile(log: Log, candidates: list[Segment], dirty: list[Segment], now_ms: int) -> bool:
    total = sum(segment.size for segment in candidates)
    share = sum(segment.size for segment in dirty) / total if total else 0.0
    if share > log.config.min_cleanable_dirty_ratio or share == 1.0:
        return True
    if log.config.max_compaction_lag_ms == LONG_MAX:
        return False
    first = dirty[0].first_timestamp()
    return first >= 0 and now_ms - first > log.config.max_compaction_lag_ms


def _groups(log: Log, segments: list[Segment]) -> Iterator[list[Segment]]:
    """Neighbours that fit into one segment together."""
    group: list[Segment] = []
    for segment in segments:
        fits = (
            group
            and sum(one.size for one in group) + segment.size <= log.config.segment_bytes
            and _next_base(log, segment) - group[0].base <= _MAX_RELATIVE
        )
        if group and not fits:
            yield group
            group = []
        group.append(segment)
    if group:
        yield group


def _hashed(key: bytes) -> bytes:
    """The key, or 16 bytes that stand for it; a length no short key has tells them apart."""
    return key if len(key) < 16 else hashlib.blake2b(key, digest_size=16).digest()


class _Cleaner:
    """One group of segments on its way to being one segment."""

    def __init__(self, log: Log, group: list[Segment], latest: dict[bytes, int], now_ms: int) -> None:
        self._log = log
        self._group = group
        self._latest = latest
        self._now_ms = now_ms
        self._store = log.store
        self._name = names.stem(group[0].base)
        self._builder = indexes.IndexBuilder(group[0].base, log.config.index_interval_bytes)
        self._fd = -1
        self._size = self._synced = 0
        self._last_offset = group[0].base
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._changed = len(group) > 1

    def run(self) -> Iterator[None]:
        """Write what is kept, a step a batch."""
        self._fd = self._store.open_write(self._name + names.LOG + names.CLEANED, create=True, empty=True)
        for segment in self._group:
            for position, header in segment.walk(0):
                kept = self._keep(segment, position, header)
                if kept is not None:
                    self._add(kept)
                yield
        self._flush()
        self._sync()

    def _keep(self, segment: Segment, position: int, header: BatchHeader) -> bytes | None:
        """The batch as it stays: as it is, with fewer records, without any, or not at all."""
        if header.is_control or not header.count:
            keeps = header.is_control or self._is_last_of_producer(header)
            self._changed |= not keeps
            return segment.read(position, header.size) if keeps else None
        records = read_batch(segment, position, header, self._log.config)
        if records is None:
            return segment.read(position, header.size)
        horizon = header.delete_horizon_ms
        expired = horizon is not None and self._now_ms > horizon
        kept = [record for record in records if self._retained(record, expired)]
        tombstones = any(record.value is None for record in kept)
        if len(kept) == len(records) and (horizon is not None or not tombstones):
            return segment.read(position, header.size)
        self._changed = True
        if not kept and not self._is_last_of_producer(header):
            return None
        if tombstones and horizon is None:
            horizon = self._now_ms + self._log.config.delete_retention_ms
        return build_batch(
            kept,
            codec=header.codec if kept else 0,
            base_offset=header.base_offset,
            last_offset=header.last_offset,
            leader_epoch=header.leader_epoch,
            producer_id=header.producer_id,
            producer_epoch=header.producer_epoch,
            base_sequence=header.base_sequence,
            transactional=header.is_transactional,
            append_time_ms=header.max_timestamp if header.log_append_time else None,
            delete_horizon_ms=horizon if tombstones else None,
        )

    def _retained(self, record: Record, expired: bool) -> bool:
        if record.key is None:
            return False
        if record.value is None and expired:
            return False
        return record.offset >= self._latest.get(_hashed(record.key), -1)

    def _is_last_of_producer(self, header: BatchHeader) -> bool:
        """Its sequence is what the producer's next batch is checked against, also after a start without snapshot."""
        if header.producer_id < 0:
            return False
        state = self._producers.get(header.producer_id)
        return state is not None and state.batches[-1].last_offset == header.last_offset

    @property
    def _producers(self) -> ProducerStates:
        return self._log.producers

    def _add(self, batch: bytes) -> None:
        header = read_header(batch)
        self._builder.add(header.last_offset, self._size + self._waiting, header.size, header.max_timestamp)
        self._last_offset = header.last_offset
        self._pieces.append(batch)
        self._waiting += len(batch)
        if self._waiting >= _PIECE:
            self._flush()

    def _flush(self) -> None:
        if self._pieces:
            name = self._name + names.LOG + names.CLEANED
            self._size += self._store.write(self._fd, name, self._pieces, self._size)
            self._pieces, self._waiting = [], 0
            if self._size - self._synced >= _SYNC_BYTES:
                self._sync()

    def _sync(self) -> None:
        self._store.sync(self._fd, self._name + names.LOG + names.CLEANED)
        self._synced = self._size

    def swap(self) -> None:
        """Put the result in place of the group, unless nothing changed."""
        if not self._changed:
            return
        store, log = self._store, self._log
        self._builder.finish()
        for suffix, data in ((names.INDEX, self._builder.offsets), (names.TIME_INDEX, self._builder.times)):
            store.replace(self._name + suffix + names.SWAP, bytes(data), durable=True)
        store.rename(self._name + names.LOG + names.CLEANED, self._name + names.LOG + names.SWAP)
        store.sync_names()
        try:
            finish_swap(store, self._group[0].base, self._last_offset)
        except StorageError as error:
            # Decided but not done: what is in memory no longer fits the files, and the next start finishes it.
            log.failed = error
            raise
        for segment in self._group:
            segment.close()
            log.size -= segment.size
            del log.segments[segment.base]
        new = Segment(store, self._group[0].base, size=self._size)
        new.take_index(self._builder)
        log.segments[new.base] = new
        log.size += new.size
        # Old segments all of whose records are gone need not have been covered by the swap.
        for segment in self._group[1:]:
            for suffix in names.SEGMENT_FILES:
                if store.put_aside(segment.name + suffix, names.DELETED):
                    log.put_aside.append((None, segment.name + suffix + names.DELETED))
        log.forget_positions()

    def discard(self) -> None:
        """Give up what is left of the attempt."""
        if self._fd >= 0:
            self._store.files.close(self._fd)
            self._fd = -1
        self._store.unlink(self._name + names.LOG + names.CLEANED)


def finish_swap(store: Store, base: int, last: int | None = None) -> None:
    """Steps 2 and 3; doing them again does no harm. Raises ``StorageError``.

    ``last`` is the new segment's last offset; a start, which does not know it, reads it from the file.
    """
    name = names.stem(base)
    swap = name + names.LOG + names.SWAP
    if last is None:
        last = _last_offset(store, base, swap)
    store.unlink(name + names.LOG + names.CLEANED)
    store.link(swap, name + names.LOG + names.CLEANED)
    store.rename(name + names.LOG + names.CLEANED, name + names.LOG)
    for suffix in (names.INDEX, names.TIME_INDEX):
        if store.files.exists(store.path(name + suffix + names.SWAP)):
            store.rename(name + suffix + names.SWAP, name + suffix)
    for entry in store.list():
        parts = names.parse(entry.name)
        if parts is not None and not parts.state and base < parts.base <= last and parts.kind in names.SEGMENT_FILES:
            store.unlink(entry.name)
    store.sync_names()
    store.unlink(swap)


def _last_offset(store: Store, base: int, swap: str) -> int:
    fd = store.open_read(swap)
    try:
        walk = Walk(store.files, fd, 0, store.files.size(fd), next_offset=base)
        last = base
        for _position, header in walk:
            last = header.last_offset
        if walk.fault:
            raise CorruptMessageError(walk.fault)
        return last
    except (OSError, CorruptMessageError) as error:
        path = store.path(swap)
        raise StorageError(f"cannot read {path}: {error}", path) from error
    finally:
        store.files.close(fd)
