"""A voter's disk: the metadata log on ``logeion.log``, snapshots beside its segments, and the term and vote.

``__cluster_metadata-0/`` is a partition's directory like any other (Kafka's name for it, too). Beside the segments lies
at most one snapshot, ``<20 digits: first offset not in it>-<10 digits: term>.checkpoint``, and ``quorum-state``. What a
quorum of one wrote before there were several voters is read as it is: its leader epochs are terms.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import assert_never

import msgspec

from logeion.log import names
from logeion.log.config import LogConfig
from logeion.log.files import Files
from logeion.log.log import Log
from logeion.log.store import Store
from logeion.wire.errors import CorruptMessageError, StorageError

from .entries import BYTES_MAX, as_batch, as_file, entries_in, from_file
from .raft.effects import AppendLog, SaveSnapshot, SaveVote, TruncateLog, Write
from .raft.log import continued
from .raft.messages import Entry, Snapshot, VoterId
from .raft.state import Stored

log: logging.Logger = logging.getLogger(__name__)

DIRECTORY = "__cluster_metadata-0"
TOPIC_ID = f"{1:032x}"
"""Kafka's id of ``__cluster_metadata``."""

_SNAPSHOT = re.compile(r"(\d{20})-(\d{10})\.checkpoint", re.ASCII)
_STATE_MAX = 65_536
_CONFIG = LogConfig(
    retention_ms=-1,
    retention_bytes=-1,
    max_message_bytes=2**31 - 1,
    segment_ms=2**63 - 1,
    file_delete_delay_ms=0,
    flush="ack",
)
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


class QuorumState(msgspec.Struct, frozen=True, kw_only=True):
    """The newest term and whom this voter elected in it; ``voters`` is the set that the empty log began with.
    ``blank``: see ``raft.state.Voter``."""

    term: int
    voted_for: VoterId | None
    voters: tuple[VoterId, ...]
    blank: bool = False
    version: int = 0


def is_full(error: StorageError) -> bool:
    """Whether there was only no room for what was to be written."""
    return getattr(error.__cause__, "errno", None) in _FULL


def doubt_vote(directory: Path, files: Files | None = None) -> None:
    """What this voter has acknowledged is perhaps about to be cut off: its vote counts again once it has its log anew.

    Nothing where no voter has been. Raises ``StorageError``.
    """
    store = Store(files or Files(), str(directory))
    data = store.read(names.QUORUM_STATE, _STATE_MAX)
    if data is None:
        return
    path = store.path(names.LOCK)
    try:
        lock = store.files.lock(path)
    except OSError as error:
        raise StorageError(f"{directory} is in use by another process (it holds {path})", path) from error
    try:
        state = msgspec.structs.replace(_decode_state(data, directory), blank=True)
        store.replace(names.QUORUM_STATE, msgspec.json.encode(state) + b"\n", durable=True)
        store.sync_names()
    finally:
        store.files.close(lock)


def _decode_state(data: bytes, directory: Path) -> QuorumState:
    try:
        return msgspec.json.decode(data, type=QuorumState)
    except msgspec.DecodeError as error:
        path = directory / names.QUORUM_STATE
        raise StorageError(f"{path}: {error}; it says whom this voter elected, so it is not guessed", path) from error


class VoterStorage:
    """``now_ms`` only labels. Whatever raises ``StorageError`` leaves the disk in doubt: open it anew."""

    def __init__(self, data_dir: Path, *, now_ms: Callable[[], int], files: Files | None = None) -> None:
        self.directory: Path = data_dir / DIRECTORY
        self._files = files or Files()
        self._now_ms = now_ms
        self._log: Log | None = None
        self._voters: tuple[VoterId, ...] = ()
        # The snapshot that is surely on the disk, and the newest.
        self._saved: tuple[int, int] | None = None

    @property
    def log(self) -> Log:
        """The open log."""
        assert self._log is not None, "open() comes first"
        return self._log

    @property
    def exists(self) -> bool:
        """Whether this node has ever been a voter, or has begun to become one."""
        return self._files.exists(str(self.directory))

    def open(self, me: VoterId, voters: tuple[VoterId, ...]) -> Stored:
        """Recover. ``voters`` are those of a log that begins now; one that is there knows its own.

        Raises ``StorageError``.
        """
        log = self._log = Log.open(self.directory, _CONFIG, files=self._files, now_ms=self._now_ms(), topic_id=TOPIC_ID)
        state = self._read_state()
        if state is not None:
            self._voters = state.voters
        elif log.end_offset:
            # A quorum of one wrote this, before there was a state file.
            self._voters = (me,)
        else:
            self._voters = voters
        snapshot = self._newest_snapshot()
        entries = self._read_entries()
        if state is None:
            # Its snapshots are named for the epoch in which they were taken, not for the last record's.
            ended = (entry.term for entry in entries if entry.end == snapshot.end)
            snapshot = msgspec.structs.replace(snapshot, term=next(ended, snapshot.term))
        if log.start_offset > snapshot.end:
            raise StorageError(
                f"{self.directory}: the log starts at {log.start_offset} but its snapshot ends at {snapshot.end}: "
                "restore the snapshot from a backup",
                self.directory,
            )
        if (entries and not continued(snapshot, entries)) or log.end_offset < snapshot.end:
            # A snapshot of another history was installed, and the crash came before the log was cut.
            log.reset(snapshot.end)
            entries = []
        known = max(snapshot.term, entries[-1].term if entries else 0)
        if state is None:
            # Before the log says anything: it must never be taken for that of a quorum of one.
            state = QuorumState(
                term=max(known, log.epoch, 0), voted_for=None, voters=self._voters, blank=self._voters != (me,)
            )
            self._save_state(state)
        # What a crash left unsynced counts from now on.
        log.sync()
        if known > state.term:
            return Stored(known, None, snapshot, entries, state.blank)
        return Stored(state.term, state.voted_for, snapshot, entries, state.blank)

    def carry_out(self, writes: Sequence[Write]) -> None:
        """All of it, in order, durable on return. Raises ``StorageError``."""
        for write in writes:
            match write:
                case SaveVote():
                    self._save_state(
                        QuorumState(term=write.term, voted_for=write.voted_for, voters=self._voters, blank=write.blank)
                    )
                case SaveSnapshot():
                    self.store_snapshot(write.snapshot)
                    self._cut(write)
                case TruncateLog():
                    self.log.truncate(write.end)
                case AppendLog():
                    view = b"".join(map(as_batch, write.entries))
                    self.log.append_fetched(view, now_ms=self._now_ms())
                    assert self.log.end_offset == write.entries[-1].end
                case _:
                    assert_never(write)
        self.log.sync()

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Write its file, durably, unless that was done already. Raises ``StorageError``; the log is as before."""
        if self._saved == (snapshot.end, snapshot.term):
            return
        path = self.directory / f"{snapshot.end:020d}-{snapshot.term:010d}.checkpoint"
        try:
            self._files.replace_file(str(path), as_file(snapshot.voters, snapshot.data), durable=True)
            self._files.sync_dir(str(self.directory))
        except OSError as error:
            raise StorageError(f"{path}: cannot write the snapshot: {error.strerror}", path) from error
        self._saved = (snapshot.end, snapshot.term)

    def close(self, *, clean: bool = True) -> None:
        """Give the log back; everything committed stays."""
        if self._log is not None:
            self._log.close(clean=clean)
            self._log = None

    def _save_state(self, state: QuorumState) -> None:
        # The rename is durable with the step's sync, like the rest of the step.
        self.log.store.replace(names.QUORUM_STATE, msgspec.json.encode(state) + b"\n", durable=True)

    def _cut(self, write: SaveSnapshot) -> None:
        """The snapshot stands for what goes now."""
        log = self.log
        if write.reset:
            log.reset(write.snapshot.end)
        else:
            try:
                log.roll()
                log.advance_high_watermark(write.start)
                log.delete_before(write.start)
            except StorageError as error:
                if not is_full(error) or log.failed is not None:
                    raise
                _log_full(error)
        log.apply_retention(self._now_ms())
        for end, term, path in self._snapshots():
            if (end, term) != (write.snapshot.end, write.snapshot.term):
                self._files.unlink(str(path))

    def _read_state(self) -> QuorumState | None:
        data = self.log.store.read(names.QUORUM_STATE, _STATE_MAX)
        return None if data is None else _decode_state(data, self.directory)

    def _read_entries(self) -> list[Entry]:
        log = self.log
        entries: list[Entry] = []
        for base, segment in log.segments.items():
            path = self.directory / (names.stem(base) + names.LOG)
            try:
                found = list(entries_in(self._read(path)[: segment.size]))
            except CorruptMessageError as error:
                raise StorageError(f"{path}: {error}", path) from error
            entries += [entry for entry in found if entry.offset >= log.start_offset]
        at = log.start_offset
        for entry in entries:
            if entry.offset != at:
                break
            at = entry.end
        if at != log.end_offset:
            raise StorageError(f"{self.directory}: no entry begins at offset {at}", self.directory)
        return entries

    def _newest_snapshot(self) -> Snapshot:
        found = self._snapshots()
        if not found:
            return Snapshot(0, 0, self._voters)
        end, term, path = found[-1]
        try:
            voters, data = from_file(self._read(path))
        except CorruptMessageError as error:
            raise StorageError(f"{path}: {error}", path) from error
        self._saved = (end, term)
        return Snapshot(end, term, self._voters if voters is None else voters, data)

    def _snapshots(self) -> list[tuple[int, int, Path]]:
        found = []
        for entry in self._files.list(str(self.directory)):
            match = _SNAPSHOT.fullmatch(entry.name)
            if match:
                found.append((int(match[1]), int(match[2]), self.directory / entry.name))
        return sorted(found)

    def _read(self, path: Path) -> bytes:
        try:
            return self._files.read_file(str(path), BYTES_MAX)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}", path) from error


def _log_full(error: StorageError) -> None:
    log.warning("the metadata log stays longer than it should: %s", error)
