"""One partition's log, as its single writer sees it.

Synchronous and single-threaded; every file operation goes through ``files.Files``. Hot path: ``append_many`` stamps
sixteen bytes a batch and writes all batches of a drained mailbox in one call; what arrived is never copied, decoded or
rebuilt unless the topic asks for it. A failed write leaves the log as it was and may be tried again; a failed sync is
final.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from sortedcontainers import SortedDict

from logeion.wire.batch import BatchHeader, stamped
from logeion.wire.errors import (
    FencedLeaderEpochError,
    KafkaError,
    LogeionError,
    OffsetOutOfRangeError,
    StorageError,
    UnknownLeaderEpochError,
    WireError,
)

from . import checkpoints, compaction, cutting, doubt, following, lookup, names, retention
from .admission import admit
from .config import LogConfig
from .epochs import EpochCache
from .files import Data, Files
from .opening import open_log
from .producers import ProducerStates
from .recovery import Recovered
from .running import Run, must_roll
from .segment import Placed, Segment
from .store import Store, failed
from .sync import SyncHandle

__all__ = ["AppendInfo", "Log", "SyncHandle"]

# How far the log may grow before the next recovery point and producer snapshot: what a start has to walk or check.
CHECKPOINT_BYTES = 64 * 1024 * 1024
# Each batch past the snapshot costs a start 5 µs. A snapshot costs as much a producer, so it never comes sooner than it
# has producers.
CHECKPOINT_BATCHES = 1_000
# Batch ends remembered above the watermark, so that its position needs no search; beyond that, searching is fine.
_REMEMBERED_ENDS = 65_536


class AppendInfo(NamedTuple):
    """Where one batch lies. ``append_time_ms`` is -1 unless the topic has LogAppendTime; ``duplicate`` means it was
    there already: it is answered when the watermark passes ``last_offset``, like any other."""

    first_offset: int
    last_offset: int
    append_time_ms: int = -1
    duplicate: bool = False


class Log:
    """Made by ``Log.open``. Offsets are absolute, sizes and positions bytes, times milliseconds since 1970.

    ``start_offset`` ≤ ``high_watermark`` ≤ ``end_offset``; ``synced_end`` is what a power cut would leave. ``failed``
    is set, for good, once a sync has failed. ``warnings`` tells what a start found odd but could live with.
    """

    def __init__(
        self, store: Store, config: LogConfig, lock_fd: int, boot_id: str, found: Recovered, now_ms: int
    ) -> None:
        self.store = store
        self.config: LogConfig = config
        self.boot_id = boot_id
        self.segments: SortedDict[int, Segment] = found.segments
        self.active: Segment = found.segments.peekitem(-1)[1]
        self.end_offset: int = found.next_offset
        # What a sync would not write although it may not be on the device, and what ``synced-end`` says: see ``doubt``.
        self.doubt: tuple[int, int] | None = None
        if found.certain < found.next_offset:
            self.doubt = (found.certain, found.next_offset)
        self.told_end: int = found.told_end
        self.synced_end: int = min(found.synced, found.certain)
        self.recovery_point: int = found.synced
        self.start_offset: int = min(found.log_start, found.next_offset)
        state = found.state
        self.epoch: int = max(state.epoch if state else -1, found.epochs.latest)
        self.high_watermark: int = min(max(state.high_watermark if state else 0, self.start_offset), self.end_offset)
        self.epochs: EpochCache = found.epochs
        self.producers: ProducerStates = found.producers
        self.snapshots: list[int] = found.snapshots
        self.warnings: list[str] = store.warnings
        self.was_clean: bool = found.clean
        self.after_host_crash: bool = found.host_crash
        self.cut_bytes: int = found.cut_bytes
        self.size: int = sum(segment.size for segment in found.segments.values())
        self.failed: StorageError | None = None
        self.generation: int = 0
        # The caller's clock when it last told: the log has none of its own.
        self.now_ms: int = now_ms
        # Sealed segments whose bytes or indexes may not be on the device yet, oldest first.
        self.unsynced: list[Segment] = [
            segment for segment in list(found.segments.values())[:-1] if self._end_of(segment) > found.synced
        ]
        # Files put aside, and when to remove them; None until housekeeping has seen them.
        self.put_aside: list[tuple[int | None, str]] = []
        self._lock_fd = lock_fd
        self._state_fd = -1
        self._ends: deque[tuple[int, int, int]] = deque()
        self._position: tuple[int, int] | None = None
        self._half_made: Segment | None = None
        self._last_sync_ms = 0
        self._unsynced_records = 0
        self._since_checkpoint = 0
        self._since_told = 0
        self._since_snapshot = 0
        self._batches_since_snapshot = 0

    @classmethod
    def open(
        cls,
        directory: Path,
        config: LogConfig,
        *,
        files: Files | None = None,
        now_ms: int,
        topic_id: str | None = None,
        create: bool = True,
        accept_cut: bool = False,
    ) -> Log:
        """Take the directory's lock, recover, and be ready to append.

        ``topic_id`` (32 hex digits) is written into a new directory and compared with an old one's. ``accept_cut`` is
        the operator's word that a log whose sync failed may go on from its last synced offset. Raises ``StorageError``
        that names the file: locked, damaged, foreign, of another topic, or failed before.
        """
        store = Store(files or Files(), str(directory))
        log = open_log(cls, store, config, now_ms=now_ms, topic_id=topic_id, create=create, accept_cut=accept_cut)
        assert isinstance(log, cls)
        return log

    # Appending -------------------------------------------------------------------------------------------------------

    def become_leader(self, epoch: int) -> None:
        """Begin a leader epoch at the log's end, before anything is served in it.

        Raises ``FencedLeaderEpochError`` for an epoch below one this log has seen, ``StorageError``.
        """
        self.check_usable()
        if epoch < self.epoch:
            raise FencedLeaderEpochError(f"epoch {epoch} begins after epoch {self.epoch} did")
        if self.epochs.assign(epoch, self.end_offset):
            self.write_epochs()
        self.epoch = epoch
        self.write_state()

    def append(self, view: Data, header: BatchHeader, *, epoch: int, now_ms: int) -> AppendInfo:
        """Append one batch; see ``append_many``. Raises what that returns."""
        result = self.append_many([(view, header)], epoch=epoch, now_ms=now_ms)[0]
        if isinstance(result, LogeionError):
            raise result
        return result

    def append_many(
        self, batches: Sequence[tuple[Data, BatchHeader]], *, epoch: int, now_ms: int
    ) -> list[AppendInfo | LogeionError]:
        """Append what a mailbox held, in order, with one write (or one a segment if it rolls).

        One result a batch: where it lies, or why it was not appended. A refused batch does not stop the others; after
        a failed write all that follow have its ``StorageError``, and nothing of them is in the log. The views must be
        whole batches that ``check_produced`` has passed.
        """
        self.now_ms = now_ms
        refusal = self._refusal(epoch)
        if refusal is not None:
            return [refusal] * len(batches)
        results: list[AppendInfo | LogeionError] = []
        run = Run(self.active.size, self.end_offset)
        broken: StorageError | None = None
        for view, header in batches:
            if broken is not None:
                results.append(broken)
                continue
            try:
                view, header, append_time = admit(view, header, self.config, now_ms)
                if header.producer_id >= 0:
                    duplicate = self.producers.check(header)
                    if duplicate is not None:
                        if duplicate.last_offset >= self.end_offset:
                            # Its first copy waits in this very run, and fails with it.
                            run.slots.append(len(results))
                        results.append(AppendInfo(duplicate.first_offset, duplicate.last_offset, -1, True))
                        continue
            except (KafkaError, WireError) as error:
                results.append(error)
                continue
            try:
                if must_roll(self, run, header, now_ms):
                    self.write_run(run, now_ms)
                    self.roll()
                    run = Run(0, self.end_offset)
            except StorageError as error:
                broken = error
                self._fail_run(run, results, error)
                results.append(error)
                run = Run(self.active.size, self.end_offset)
                continue
            first = run.next_offset
            run.slots.append(len(results))
            results.append(AppendInfo(first, first + header.last_offset_delta, append_time))
            if header.producer_id >= 0:
                run.undo.append((header.producer_id, self.producers.note(header, first, now_ms)))
            self.add_to_run(run, cast("list[Data]", stamped(view, first, epoch)), first, header)
        try:
            self.write_run(run, now_ms)
        except StorageError as error:
            self._fail_run(run, results, error)
        return results

    def append_fetched(self, view: Data, *, now_ms: int) -> int:
        """Append whole batches as a leader sent them: offsets, epochs and CRCs stay. Returns the new end.

        An incomplete batch at the end of ``view`` is ignored. Raises ``CorruptMessageError`` (nothing is appended) for
        a wrong CRC or an offset that does not follow, ``StorageError``.
        """
        return following.append_fetched(self, view, now_ms)

    def add_to_run(self, run: Run, buffers: Sequence[Data], first: int, header: BatchHeader) -> None:
        run.buffers += buffers
        last, size = first + header.last_offset_delta, header.size
        run.placed.append(Placed(last, run.position, size, header.max_timestamp))
        run.position += size
        run.next_offset = last + 1

    def write_run(self, run: Run, now_ms: int) -> None:
        if not run.placed:
            return
        self._remove_half_made()
        segment = self.active
        before = segment.size
        segment.append(run.buffers, run.placed, self.config.index_interval_bytes)
        written = segment.size - before
        self.size += written
        self._unsynced_records += run.next_offset - self.end_offset
        self.end_offset = run.next_offset
        base = segment.base
        if len(self._ends) < _REMEMBERED_ENDS:
            self._ends.extend((batch.last_offset + 1, base, batch.position + batch.size) for batch in run.placed)
        self._since_checkpoint += written
        self._since_told += written
        self._since_snapshot += written
        self._batches_since_snapshot += len(run.placed)
        batches = max(CHECKPOINT_BATCHES, len(self.producers))
        if self._since_snapshot >= CHECKPOINT_BYTES or self._batches_since_snapshot >= batches:
            self._interim_snapshot()

    def undo_run(self, run: Run) -> None:
        for producer_id, before in reversed(run.undo):
            self.producers.restore(producer_id, before)

    def _fail_run(self, run: Run, results: list[AppendInfo | LogeionError], error: StorageError) -> None:
        # A run that reached the disk before a roll failed keeps its results.
        if run.placed and run.next_offset <= self.end_offset:
            return
        self.undo_run(run)
        for slot in run.slots:
            results[slot] = error

    def _refusal(self, epoch: int) -> LogeionError | None:
        if self.failed is not None:
            return self.failed
        if epoch != self.epoch:
            kind = FencedLeaderEpochError if epoch < self.epoch else UnknownLeaderEpochError
            return kind(f"the log is in leader epoch {self.epoch}, the batch is for {epoch}")
        return None

    def roll(self, base: int | None = None) -> None:
        """Close the active segment and begin an empty one at the log's end; nothing happens to an empty one.

        Raises ``StorageError``, with the log as before.
        """
        self.check_usable()
        old = self.active
        begin = self.end_offset if base is None else base
        if not old.size:
            return
        old.seal()
        self._write_snapshot(begin)
        new = Segment(self.store, begin)
        try:
            new.open_for_append(create=True)
        except StorageError:
            self._half_made = new
            self._remove_half_made()
            raise
        self.segments[begin] = new
        self.active = new
        # Its log stays open until it is synced, so that no write error of it can be missed.
        old.close_indexes()
        self.unsynced.append(old)

    def _remove_half_made(self) -> None:
        """A new segment that could not be made whole goes before the old one grows: a start would believe its name."""
        half = self._half_made
        if half is not None:
            for suffix in names.SEGMENT_FILES:
                self.store.unlink(half.name + suffix)
            self._half_made = None

    # Durability --------------------------------------------------------------------------------------------------

    @property
    def durable_end(self) -> int:
        """The offset up to which this replica vouches: the synced end with flush=ack, else the log's end."""
        return self.synced_end if self.config.flush == "ack" else self.end_offset

    def sync_due(self, now_ms: int) -> bool:
        """Whether ``flush`` asks for a sync now. With flush=os only closed segments are synced, for a quick start."""
        if self.failed is not None:
            return False
        if self.config.flush == "ack":
            return self.synced_end < self.end_offset
        if self.config.flush == "interval":
            overdue = now_ms - self._last_sync_ms >= self.config.flush_ms
            full = self._unsynced_records >= self.config.flush_messages
            if self.synced_end < self.end_offset and (overdue or full):
                self._last_sync_ms = now_ms
                return True
            return False
        return bool(self.unsynced)

    def sync_handle(self, *, everything: bool | None = None) -> SyncHandle | None:
        """The sync that is due, to be run here or in a worker thread; None when there is nothing to sync.

        One at a time. ``everything`` includes the active segment, as is the default unless flush=os.
        """
        self.check_usable()
        if self.doubt is not None and self.config.flush == "ack":
            doubt.dispel(self)
        active = self.config.flush != "os" if everything is None else everything
        end = self.end_offset if active else self.active.base
        if end <= self.synced_end and not self.unsynced and not (active and self.store.names_dirty):
            return None
        handle = SyncHandle(
            end, self.generation, len(self.unsynced), self.store.names_dirty, self.store.directory, self.store.files
        )
        try:
            for segment in self.unsynced:
                # Indexes below the recovery point are believed after a host crash, so they go to the device too.
                handle.add(segment, names.SEGMENT_FILES)
            if active:
                handle.add(self.active, names.SEGMENT_FILES[:1])
        except StorageError:
            handle.discard()
            raise
        self.store.names_dirty = False
        return handle

    def note_synced(self, handle: SyncHandle) -> int:
        """A sync came back; returns the synced end."""
        if handle.generation != self.generation or self.failed is not None:
            return self.synced_end
        for segment in self.unsynced[: handle.sealed]:
            segment.close()
        del self.unsynced[: handle.sealed]
        self.synced_end = max(self.synced_end, handle.end)
        self._unsynced_records = self.end_offset - self.synced_end
        if self._since_checkpoint >= CHECKPOINT_BYTES or handle.sealed:
            self.write_recovery_point(self.synced_end)
            self._since_checkpoint = 0
        if self._since_told >= doubt.TELL_BYTES:
            doubt.rise(self)
            self._since_told = 0
        return self.synced_end

    def sync(self) -> int:
        """Sync everything here and now; returns the synced end. Raises ``StorageError``, which is final."""
        handle = self.sync_handle(everything=True)
        if handle is None:
            return self.synced_end
        try:
            handle.run()
        except StorageError as error:
            self.note_sync_failed(error)
            raise
        return self.note_synced(handle)

    def note_sync_failed(self, error: StorageError) -> None:
        """Fence the log: after a failed sync its pages look clean but may not be on the device.

        Nothing is appended or synced any more, reads go on, and the directory says that nobody may start in it until
        an operator accepts the cut at the last synced offset.
        """
        if self.failed is not None:
            return
        self.failed = StorageError(
            f"{error}; the log is fenced at offset {self.synced_end}, its last synced one: replace this replica, or "
            "open it with the cut accepted",
            error.path,
        )
        marker = checkpoints.Failure(cause=str(error), synced_end=self.synced_end, boot_id=self.boot_id)
        try:
            self.store.replace(names.FAILED, checkpoints.encode_json(marker), durable=False)
            self.store.sync_names()
        except StorageError:
            pass  # the disk is failing; the process that dies of it still leaves the marker in the page cache, if any

    def check_usable(self) -> None:
        """Raises the ``StorageError`` that fenced the log."""
        if self.failed is not None:
            raise self.failed

    # The watermark -----------------------------------------------------------------------------------------------

    def advance_high_watermark(self, offset: int) -> bool:
        """Raise the high watermark to ``offset``, capped by the log's end; it never falls. Returns whether it moved."""
        offset = min(offset, self.end_offset)
        if offset <= self.high_watermark:
            return False
        self.high_watermark = offset
        self._position = None
        self.write_state()
        return True

    def watermark_position(self) -> tuple[int, int]:
        """(segment, position): the high watermark as a base offset and a byte position in that segment's file."""
        if self._position is None:
            found = None
            ends = self._ends
            while ends and ends[0][0] <= self.high_watermark:
                found = ends.popleft()
            if found is not None and found[0] == self.high_watermark:
                self._position = found[1:]
            else:
                self._position = self.position_of(self.high_watermark)
        return self._position

    def position_of(self, offset: int) -> tuple[int, int]:
        """(segment, position) of the batch that holds ``offset``, or of the first after it; the log's end for its end.

        Raises ``OffsetOutOfRangeError``, ``StorageError``.
        """
        if offset == self.end_offset:
            return self.active.base, self.active.size
        if not self.start_offset <= offset < self.end_offset:
            raise OffsetOutOfRangeError(f"offset {offset} is not in {self.start_offset}..{self.end_offset}")
        for number in range(self.segments.bisect_right(offset) - 1, len(self.segments)):
            segment = self.segments.peekitem(number)[1]
            found = segment.locate(offset)
            if found is not None:
                return segment.base, found[0]
        return self.active.base, self.active.size

    def find_offset(self, timestamp: int) -> tuple[int, int, int] | None:
        """(offset, timestamp, leader epoch) of the first record not older than ``timestamp``, below the watermark.

        Special values: -1 the watermark, -2 and -4 the log start, -3 the newest record; -5 and -6 (tiered storage)
        find nothing. Raises ``StorageError``.
        """
        return lookup.find_offset(self, timestamp)

    def epoch_end(self, epoch: int) -> tuple[int, int]:
        """(epoch, end): the largest known epoch not above ``epoch`` and the offset after its last record; -1, -1."""
        return self.epochs.end_of(epoch, self.end_offset)

    # Growing shorter -------------------------------------------------------------------------------------------------

    def delete_before(self, offset: int) -> int:
        """DeleteRecords (KIP-107): move the log start to ``offset`` (-1: the watermark), durably; returns it.

        Raises ``OffsetOutOfRangeError`` above the watermark, ``StorageError``.
        """
        return retention.delete_before(self, offset)

    def truncate(self, offset: int) -> None:
        """Cut off everything from ``offset`` on, and the epochs that began there. Raises ``StorageError``."""
        self._cutting(cutting.truncate, offset)

    def reset(self, offset: int) -> None:
        """Empty the log and begin again at ``offset``: a follower whose end lies before its leader's start."""
        self._cutting(cutting.reset, offset)

    def _cutting(self, cut: Callable[[Log, int], None], offset: int) -> None:
        try:
            cut(self, offset)
        except StorageError as error:
            # Half done: what is in memory no longer fits the files, a start does.
            self.failed = self.failed or error
            raise

    def apply_retention(self, now_ms: int) -> int:
        """Remove segments that are too old or too many, and files put aside before; returns the bytes removed."""
        return retention.apply(self, now_ms)

    def compact(self, now_ms: int) -> int:
        """Keep the last record a key, if the topic is compacted and dirty enough; returns the bytes saved."""
        return compaction.compact(self, now_ms)

    def compact_in_steps(self, now_ms: int) -> Iterator[None]:
        """The same, a batch a step, for a caller that serves others between the steps.

        The log may append, roll and be read meanwhile; a truncation or a moved log start ends it without effect.
        """
        return compaction.compaction(self, now_ms)

    def configure(self, config: LogConfig) -> None:
        """Take another configuration from now on."""
        if config.flush == "ack" and self.config.flush != "ack" and self.doubt is not None:
            # Nobody minded what syncs were worth; now they must be made again, also the one that may be under way.
            self.synced_end = min(self.synced_end, self.doubt[0])
            self.generation += 1
        self.config = config

    # Small files -----------------------------------------------------------------------------------------------------

    def write_epochs(self) -> None:
        """The leader-epoch checkpoint; on the device with the next sync at the latest."""
        self.store.replace(names.EPOCHS, self.epochs.encode(), durable=True)

    def write_state(self) -> None:
        """Epoch, watermark and log start, in place and without sync: it has to survive the process, not the host.

        Older ones that come back are lower ones, unless the log was cut (``write_lower_state``).
        """
        try:
            self._put_state()
        except StorageError as error:
            # It can only be older than the log, which a start allows for.
            self.store.warn(str(error))

    def write_lower_state(self) -> None:
        """After a cut below watermark or log start: on the device before anything that will lie there instead.

        A power cut that brought the higher ones back would hide that part of it, or call it committed. Raises
        ``StorageError``.
        """
        self._put_state()
        self.store.sync(self._state_fd, names.STATE)

    def _put_state(self) -> None:
        state = checkpoints.State(epoch=self.epoch, high_watermark=self.high_watermark, log_start=self.start_offset)
        if self._state_fd < 0:
            self._state_fd = self.store.open_write(names.STATE, create=True)
        try:
            self.store.files.pwritev(self._state_fd, [state.encode()], 0)
        except OSError as error:
            raise failed(error, "write", self.store.path(names.STATE)) from error

    def write_recovery_point(self, offset: int) -> None:
        """Tell the next start that all below ``offset`` is on the device; durable before it returns."""
        point = checkpoints.RecoveryPoint(offset=offset, boot_id=self.boot_id)
        self.store.replace(names.RECOVERY_POINT, checkpoints.encode_json(point), durable=True)
        self.recovery_point = offset

    def _interim_snapshot(self) -> None:
        self._since_snapshot = self._batches_since_snapshot = 0
        try:
            self._write_snapshot(self.end_offset)
        except StorageError as error:
            self.store.warn(str(error))

    def _write_snapshot(self, offset: int) -> None:
        data = self.producers.encode_snapshot()
        self.store.replace(names.stem(offset) + names.SNAPSHOT, data, durable=False)
        while self.snapshots and self.snapshots[-1] not in self.segments and self.snapshots[-1] != offset:
            self.store.unlink(names.stem(self.snapshots.pop()) + names.SNAPSHOT)
        if not self.snapshots or self.snapshots[-1] != offset:
            self.snapshots.append(offset)

    def forget_positions(self) -> None:
        """After segments were rewritten: positions are searched for anew."""
        self._ends.clear()
        self._position = None

    def _end_of(self, segment: Segment) -> int:
        number = self.segments.bisect_right(segment.base)
        return self.segments.peekitem(number)[0] if number < len(self.segments) else self.end_offset

    def close(self, *, clean: bool = True) -> None:
        """Give up the lock and all descriptors.

        ``clean`` syncs, writes a producer snapshot and the marker that tells the next start that nothing was lost.
        Raises ``StorageError``, with everything closed all the same.
        """
        try:
            if clean and self.failed is None:
                self._write_snapshot(self.end_offset)
                self.write_state()
                self.sync()
                doubt.rise(self)
                self.write_recovery_point(self.end_offset)
                marker = checkpoints.CleanShutdown(end=self.end_offset, segment=self.active.base, size=self.active.size)
                self.store.replace(names.CLEAN_SHUTDOWN, checkpoints.encode_json(marker), durable=True)
                self.store.sync_names()
        finally:
            for segment in [*self.unsynced, self.active]:
                segment.close()
            for fd in (self._state_fd, self._lock_fd):
                if fd >= 0:
                    self.store.files.close(fd)
            self._state_fd = self._lock_fd = -1
