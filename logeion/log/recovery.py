"""From a directory, in whatever state a crash left it, to a log that can be appended to.

What a start must do depends on what was lost. If only the process died the page cache survived it: the last segment is
walked from its last index entry, header by header, and a last batch that reaches beyond the end of the file is cut off
(one large write can be torn by SIGKILL). The cost does not depend on the size of the log: of the other segments only
names and sizes are looked at. If the host went down (the boot id differs) everything above the recovery point is
suspect: each batch's CRC is checked, the log is cut at the first bad one, and the indexes are written anew.
Damage *below* the recovery point, or in a log whose host never went down, is not a crash's doing: it is reported, never
cut away.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from sortedcontainers import SortedDict

from logeion.wire.batch import BatchHeader
from logeion.wire.errors import MalformedError, StorageError

from . import checkpoints, names
from . import index as indexes
from .compaction import finish_swap
from .config import LogConfig
from .epochs import EpochCache
from .producers import ProducerStates
from .segment import Segment
from .store import Store, failed
from .walk import Walk


@dataclass
class Recovered:
    """What a start found. ``segments`` by base offset; the last one is open for appending."""

    segments: SortedDict[int, Segment]
    next_offset: int
    synced: int
    log_start: int
    state: checkpoints.State | None
    epochs: EpochCache
    producers: ProducerStates
    snapshots: list[int]
    clean: bool
    host_crash: bool
    # What ``synced-end`` says, -1 without one, and up to where the pages in the cache need no doubt (see ``doubt``).
    told_end: int
    certain: int
    cut_bytes: int = 0


@dataclass
class _Listing:
    segments: dict[int, dict[str, int]] = field(default_factory=dict)
    snapshots: list[int] = field(default_factory=list)
    swaps: list[int] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


class Recovery:
    """One start. ``run`` leaves the directory in a state from which another start does the same."""

    def __init__(self, store: Store, config: LogConfig, *, boot_id: str, now_ms: int) -> None:
        self._store = store
        self._config = config
        self._boot_id = boot_id
        self._now_ms = now_ms
        self._epochs_seen: list[tuple[int, int]] = []
        self._cut_bytes = 0

    def run(self) -> Recovered:
        """Raises ``StorageError`` that names the file at fault."""
        store = self._store
        listing = self._look()
        if listing.swaps:
            for base in listing.swaps:
                finish_swap(store, base)
            listing = self._look()
        for name in listing.leftovers:
            store.unlink(name)
        start_checkpoint = self._log_start()
        state = self._state()
        segments = self._segments(listing)
        if not segments:
            segment = Segment(store, start_checkpoint)
            segment.open_for_append(create=True)
            segments[start_checkpoint] = segment
        point = self._recovery_point()
        last: Segment = segments.peekitem(-1)[1]
        clean = self._clean(last)
        host_crash = point is None or point.boot_id != self._boot_id
        trusted = point.offset if point is not None else segments.peekitem(0)[0]
        if host_crash and not clean:
            next_offset = self._check_all(segments, trusted, rolled=point is not None)
        else:
            next_offset = self._check_tail(segments, listing)
        last = segments.peekitem(-1)[1]
        if last.fd < 0:
            last.open_for_append()
        snapshots = [base for base in listing.snapshots if base <= next_offset]
        for base in listing.snapshots:
            if base > next_offset:
                store.unlink(names.stem(base) + names.SNAPSHOT)
        log_start = max(segments.peekitem(0)[0], start_checkpoint, state.log_start if state else 0)
        suspect_from = trusted if host_crash and not clean else None
        told_end = self._synced_end()
        if point is None or point.boot_id == self._boot_id:
            # A release that did not tell, or a log that we never opened: then there was no reason for doubt yet.
            untold = next_offset if clean or point is None else trusted
            certain = min(told_end if told_end >= 0 else untold, next_offset)
        else:
            certain = next_offset
        epochs = self._epochs(segments, next_offset, suspect_from)
        producers = load_producers(store, segments, snapshots, next_offset, self._now_ms)
        return Recovered(
            segments=segments,
            next_offset=next_offset,
            synced=next_offset if clean else min(trusted, next_offset),
            log_start=log_start,
            state=state,
            epochs=epochs,
            producers=producers,
            snapshots=snapshots,
            clean=clean,
            host_crash=host_crash,
            told_end=told_end,
            certain=certain,
            cut_bytes=self._cut_bytes,
        )

    # The directory -------------------------------------------------------------------------------------------------

    def _look(self) -> _Listing:
        listing = _Listing()
        swapping: list[tuple[int, str]] = []
        for entry in self._store.list():
            name = entry.name
            parts = names.parse(name)
            if parts is None:
                self._single(name, listing)
                continue
            if not entry.regular:
                path = self._store.path(name)
                raise StorageError(f"{path} is not a regular file; move it out of the log directory", path)
            if parts.state == names.SWAP:
                if parts.kind == names.LOG:
                    listing.swaps.append(parts.base)
                else:
                    swapping.append((parts.base, name))
            elif parts.state:
                listing.leftovers.append(name)
            elif parts.kind == names.SNAPSHOT:
                listing.snapshots.append(parts.base)
            else:
                listing.segments.setdefault(parts.base, {})[parts.kind] = entry.size
        # New indexes whose log was not swapped in: that compaction never came about.
        listing.leftovers += [name for base, name in swapping if base not in listing.swaps]
        return listing

    def _single(self, name: str, listing: _Listing) -> None:
        path = self._store.path(name)
        if names.is_known(name):
            return
        if name.endswith(names.TEMPORARY) and names.is_known(name.removesuffix(names.TEMPORARY)):
            listing.leftovers.append(name)
        elif names.looks_like_segment(name):
            raise StorageError(
                f"foreign file {path}: it looks like a part of the log but no segment has such a name; "
                "move it out of the log directory",
                path,
            )
        else:
            self._store.warn(f"foreign file {path} is ignored")

    def _segments(self, listing: _Listing) -> SortedDict[int, Segment]:
        segments: SortedDict[int, Segment] = SortedDict()
        for base, sizes in listing.segments.items():
            if names.LOG not in sizes:
                for kind in sizes:
                    self._store.unlink(names.stem(base) + kind)
                continue
            segments[base] = Segment(
                self._store,
                base,
                size=sizes[names.LOG],
                index_size=sizes.get(names.INDEX, 0),
                time_size=sizes.get(names.TIME_INDEX, 0),
            )
        return segments

    # Small files -----------------------------------------------------------------------------------------------------

    def _log_start(self) -> int:
        data = self._store.read(names.LOG_START, checkpoints.LIMIT)
        if data is None:
            return 0
        try:
            return checkpoints.decode_offset(data)
        except MalformedError as error:
            path = self._store.path(names.LOG_START)
            raise StorageError(
                f"{path}: {error}; it says which records were deleted, so it is not guessed", path
            ) from None

    def _state(self) -> checkpoints.State | None:
        data = self._store.read(names.STATE, checkpoints.LIMIT)
        if not data:
            return None
        try:
            return checkpoints.State.decode(data)
        except MalformedError as error:
            self._store.warn(f"{self._store.path(names.STATE)}: {error}; the watermark is found anew")
            return None

    def _synced_end(self) -> int:
        data = self._store.read(names.SYNCED_END, checkpoints.LIMIT)
        if not data:
            return -1
        try:
            return checkpoints.decode_synced_end(data)
        except MalformedError as error:
            self._store.warn(f"{self._store.path(names.SYNCED_END)}: {error}; the recovery point will do")
            return -1

    def _recovery_point(self) -> checkpoints.RecoveryPoint | None:
        data = self._store.read(names.RECOVERY_POINT, checkpoints.LIMIT)
        if data is None:
            return None
        try:
            return checkpoints.decode_recovery_point(data)
        except MalformedError as error:
            self._store.warn(f"{self._store.path(names.RECOVERY_POINT)}: {error}; the whole log is checked")
            return None

    def _clean(self, last: Segment) -> bool:
        data = self._store.read(names.CLEAN_SHUTDOWN, checkpoints.LIMIT)
        if data is None:
            return False
        try:
            marker = checkpoints.decode_clean_shutdown(data)
        except MalformedError:
            return False
        return marker.segment == last.base and marker.size == last.size

    # Segments --------------------------------------------------------------------------------------------------------

    def _note_epoch(self, header: BatchHeader) -> None:
        if not self._epochs_seen or self._epochs_seen[-1][0] != header.leader_epoch:
            self._epochs_seen.append((header.leader_epoch, header.base_offset))

    def _check_all(self, segments: SortedDict[int, Segment], trusted: int, *, rolled: bool) -> int:
        """After a host crash: every CRC from the recovery point on; returns the end of what is whole.

        ``rolled``: above the recovery point segments follow each other without a hole, for compaction stays below it.
        """
        first = max(segments.bisect_right(trusted) - 1, 0)
        suspects = list(segments.values())[first:]
        end: int = suspects[0].base
        for number, segment in enumerate(suspects):
            if number and (segment.base != end if rolled else segment.base < end):
                self._drop(segments, suspects[number:])
                return end
            if not (segment.size or segment.index_count or segment.time_count):
                # A new log, mostly: there is nothing to check, and its indexes are as empty.
                end = segment.base
                continue
            walk = segment.rebuild_indexes(
                self._config.index_interval_bytes, check_from=trusted, on_batch=self._note_epoch
            )
            end = walk.next_offset
            if walk.fault or walk.position < segment.size:
                if end < trusted:
                    path = self._store.path(segment.name + names.LOG)
                    raise StorageError(
                        f"{path} is damaged at byte {walk.position}, below the recovery point {trusted}: {walk.fault}; "
                        "restore it from a replica",
                        path,
                    )
                self._cut(segment, walk)
                self._drop(segments, suspects[number + 1 :])
                return end
        return end

    def _check_tail(self, segments: SortedDict[int, Segment], listing: _Listing) -> int:
        """After a process crash, or none: the last segment from its last index entry on."""
        for base, sizes in listing.segments.items():
            segment = segments.get(base)
            if segment is None or (names.INDEX in sizes and names.TIME_INDEX in sizes):
                continue
            walk = segment.rebuild_indexes(self._config.index_interval_bytes)
            self._store.warn(f"{self._store.path(segment.name)} lacked an index; it was written anew")
            if base != segments.peekitem(-1)[0] and (walk.fault or walk.position < segment.size):
                path = self._store.path(segment.name + names.LOG)
                raise StorageError(
                    f"{path} is damaged at byte {walk.position}: {walk.fault or 'cut short'}; restore it from a "
                    "replica, or move it out of the log directory if it does not belong there",
                    path,
                )
        last: Segment = segments.peekitem(-1)[1]
        if not last.size and len(segments) > 1:
            # Left behind by a roll that failed, if the segment before went on growing.
            before: Segment = segments.peekitem(-2)[1]
            tail = walk_tail(self._store, before, lambda header: None)
            if tail is not None and tail.next_offset > last.base:
                self._drop(segments, [last])
                last = before
        walk = walk_tail(self._store, last, self._note_epoch)
        if walk is None:
            self._store.warn(f"{self._store.path(last.name + names.INDEX)} does not fit its log; it was written anew")
            walk = last.rebuild_indexes(self._config.index_interval_bytes, on_batch=self._note_epoch)
        if walk.fault and walk.fault != "torn":
            path = self._store.path(last.name + names.LOG)
            raise StorageError(
                f"{path} is damaged at byte {walk.position}: {walk.fault}; no crash does this, so nothing is cut off: "
                "restore the file from a replica",
                path,
            )
        if walk.position < last.size:
            self._cut(last, walk)
        return walk.next_offset

    def _cut(self, segment: Segment, walk: Walk) -> None:
        """Take what no reader ever saw off the end of the last segment, in place."""
        self._cut_bytes += segment.size - walk.position
        was_open = segment.fd >= 0
        if not was_open:
            segment.open_for_append()
        self._store.cut(segment.fd, segment.name + names.LOG, walk.position)
        segment.size = walk.position

    def _drop(self, segments: SortedDict[int, Segment], doomed: list[Segment]) -> None:
        for segment in reversed(doomed):
            self._cut_bytes += segment.size
            segment.close()
            for suffix in names.SEGMENT_FILES:
                self._store.unlink(segment.name + suffix)
            del segments[segment.base]

    # Caches ----------------------------------------------------------------------------------------------------------

    def _epochs(self, segments: SortedDict[int, Segment], next_offset: int, suspect_from: int | None) -> EpochCache:
        data = self._store.read(names.EPOCHS, 1 << 24)
        try:
            cache = EpochCache.decode(data) if data is not None else EpochCache()
            known = data is not None
        except MalformedError as error:
            self._store.warn(f"{self._store.path(names.EPOCHS)}: {error}; rebuilt from the log")
            cache, known = EpochCache(), False
        if not known and segments.peekitem(-1)[1].size + len(segments) > 1:
            for segment in segments.values():
                for _position, header in segment.walk(0):
                    if header.leader_epoch > cache.latest:
                        cache.assign(header.leader_epoch, header.base_offset)
        cache.truncate_end(next_offset if suspect_from is None else min(suspect_from, next_offset))
        for epoch, start in self._epochs_seen:
            if epoch > cache.latest and start < next_offset:
                cache.assign(epoch, start)
        return cache


def load_producers(
    store: Store, segments: SortedDict[int, Segment], snapshots: list[int], end: int, now_ms: int
) -> ProducerStates:
    """The producers as of ``end``: the newest snapshot that can be read, then the headers after it.

    Snapshots that cannot be read are removed, from ``snapshots`` too. A producer found by its header counts as having
    appended now: its batch says when it was made, not when it came.
    """
    states = ProducerStates()
    start = 0
    for base in sorted(snapshots, reverse=True):
        if base > end:
            continue
        data = store.read(names.stem(base) + names.SNAPSHOT, 1 << 30)
        try:
            states = ProducerStates.decode_snapshot(data or b"")
        except MalformedError:
            store.unlink(names.stem(base) + names.SNAPSHOT)
            snapshots.remove(base)
            continue
        start = base
        break
    if start >= end:
        return states
    first = max(segments.bisect_right(start) - 1, 0)
    for segment in list(segments.values())[first:]:
        found = segment.locate(start) if start > segment.base else (0, None)
        if found is None:
            continue
        for _position, header in segment.walk(found[0]):
            if header.base_offset >= end:
                break
            if header.producer_id >= 0 and not header.is_control and header.base_offset >= start:
                states.note(header, header.base_offset, now_ms)
    return states


def walk_tail(store: Store, last: Segment, on_batch: Callable[[BatchHeader], None]) -> Walk | None:
    """The last segment from its last index entry to its end; None when its indexes do not fit the log.

    Brings the segment's newest timestamp and its distance from the last index entry up to date.
    """
    position, relative = 0, -1
    try:
        if last.index_count:
            size = indexes.OFFSET_ENTRY.size
            with last.reading(names.INDEX) as fd:
                data = store.files.read_exactly(fd, size, (last.index_count - 1) * size)
            relative, position = indexes.OFFSET_ENTRY.unpack(data)
            if position >= last.size:
                return None
        indexed = last.newest()
    except (OSError, StorageError, struct.error):
        return None
    since = 0
    with last.reading() as fd:
        walk = Walk(store.files, fd, position, last.size, next_offset=last.base)
        try:
            for at, header in walk:
                if at == position and relative >= 0 and header.last_offset - last.base != relative:
                    return None
                on_batch(header)
                last.note_newest(header.max_timestamp, header.last_offset)
                since += header.size
        except OSError as error:
            raise failed(error, "read", store.path(last.name + names.LOG)) from error
    if walk.fault and walk.position == position and relative >= 0:
        return None
    if indexed[0] >= 0 and indexed[1] >= walk.next_offset:
        return None
    last.since_index = since
    return walk
