"""A quorum of one: the metadata log on this node's disk, committed when it is synced.

``__cluster_metadata-0/`` is a partition's directory like any other (Kafka's name for it, too). One proposal is one
record batch, so it is there whole or not at all; a record's value is msgpack. Beside the segments lies at most one
snapshot, ``<20 digits: first offset not in it>-<10 digits: epoch>.checkpoint``: record batches that rebuild the image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from logeion.log.config import LogConfig
from logeion.log.files import Files
from logeion.log.log import Log
from logeion.log.names import LOG, stem
from logeion.wire.batch import read_header
from logeion.wire.errors import CorruptMessageError, StorageError
from logeion.wire.records import Record, build_batch, read_records

from ..metadata import MetadataRecord
from .quorum import Commit, NotWrittenError

DIRECTORY = "__cluster_metadata-0"
TOPIC_ID = f"{1:032x}"
"""Kafka's id of ``__cluster_metadata``."""

_SNAPSHOT = re.compile(r"(\d{20})-(\d{10})\.checkpoint", re.ASCII)
# Records of one batch of a snapshot, so that no batch grows without bound.
_SNAPSHOT_BATCH = 1_000
_FILE_BYTES_MAX = 2**31 - 1

_CONFIG = LogConfig(
    retention_ms=-1,
    retention_bytes=-1,
    max_message_bytes=2**31 - 1,
    segment_ms=2**63 - 1,
    file_delete_delay_ms=0,
    flush="ack",
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[MetadataRecord] = msgspec.msgpack.Decoder(MetadataRecord)


class QuorumOfOne:
    """See ``Quorum``. ``now_ms`` only labels records; ``snapshot_bytes`` of log are worth a snapshot."""

    def __init__(
        self,
        data_dir: Path,
        *,
        now_ms: Callable[[], int],
        snapshot_bytes: int = 4_194_304,
        files: Files | None = None,
    ) -> None:
        self.directory = data_dir / DIRECTORY
        self._files = files or Files()
        self._now_ms = now_ms
        self._snapshot_bytes = snapshot_bytes
        self._log: Log | None = None

    @property
    def log(self) -> Log:
        """The open log."""
        assert self._log is not None, "open() comes first"
        return self._log

    @property
    def end_offset(self) -> int:
        return self.log.end_offset

    @property
    def committed(self) -> int:
        return self.log.synced_end

    def open(self) -> list[Commit]:
        """Recover, sync what a crash left unsynced (then it is committed), and begin a leader epoch of our own."""
        log = self._log = Log.open(self.directory, _CONFIG, files=self._files, now_ms=self._now_ms(), topic_id=TOPIC_ID)
        log.sync()
        log.become_leader(log.epoch + 1)
        commits = self.read()
        log.advance_high_watermark(log.end_offset)
        return commits

    def read(self) -> list[Commit]:
        log = self.log
        commits = []
        snapshot = self._newest_snapshot()
        start = 0
        if snapshot is not None:
            start, path = snapshot
            if log.end_offset < start:
                raise StorageError(f"{self.directory}: the log ends at {log.end_offset}, before its snapshot", path)
            commits.append(Commit(0, self._read(path, _FILE_BYTES_MAX), start, snapshot=True))
        if log.start_offset > start:
            raise StorageError(
                f"{self.directory}: the log starts at {log.start_offset} but its snapshot ends at {start}: "
                "restore the snapshot from a backup",
                self.directory,
            )
        records: list[MetadataRecord] = []
        for base, segment in log.segments.items():
            path = self.directory / (stem(base) + LOG)
            records += self._read(path, segment.size, start)
        if start + len(records) != log.end_offset:
            raise StorageError(
                f"{self.directory}: {len(records)} records between offsets {start} and {log.end_offset}", self.directory
            )
        if records:
            commits.append(Commit(start, records, log.end_offset))
        return commits

    def propose(self, records: Sequence[MetadataRecord], on_committed: Callable[[Commit], None]) -> None:
        log, now_ms = self.log, self._now_ms()
        offset = log.end_offset
        batch = build_batch(_as_kafka(records, now_ms))
        try:
            log.append(batch, read_header(batch), epoch=log.epoch, now_ms=now_ms)
        except StorageError as error:
            if log.failed is not None:
                raise
            raise NotWrittenError(str(error), error.path) from error
        log.sync()
        log.advance_high_watermark(log.end_offset)
        on_committed(Commit(offset, list(records), log.end_offset))

    def compact(self, image: Callable[[], list[MetadataRecord]]) -> bool:
        log = self.log
        if log.size < self._snapshot_bytes:
            return False
        records, now_ms = image(), self._now_ms()
        name = f"{log.end_offset:020d}-{log.epoch:010d}.checkpoint"
        data = b"".join(
            build_batch(_as_kafka(records[at : at + _SNAPSHOT_BATCH], now_ms, at))
            for at in range(0, len(records), _SNAPSHOT_BATCH)
        )
        try:
            self._files.replace_file(str(self.directory / name), data, durable=True)
            self._files.sync_dir(str(self.directory))
        except OSError as error:
            raise StorageError(
                f"{self.directory / name}: cannot write the snapshot: {error.strerror}", self.directory / name
            ) from error
        # Only now: until the snapshot is on the device the log is the only copy.
        log.roll()
        log.delete_before(log.end_offset)
        log.apply_retention(now_ms)
        for old in self._snapshots():
            if old[1].name != name:
                self._files.unlink(str(old[1]))
        return True

    def close(self) -> None:
        if self._log is not None:
            self._log.close(clean=True)
            self._log = None

    def _snapshots(self) -> list[tuple[int, Path]]:
        found = []
        for entry in self._files.list(str(self.directory)):
            match = _SNAPSHOT.fullmatch(entry.name)
            if match:
                found.append((int(match[1]), self.directory / entry.name))
        return sorted(found)

    def _newest_snapshot(self) -> tuple[int, Path] | None:
        found = self._snapshots()
        return found[-1] if found else None

    def _read(self, path: Path, size: int, start: int = 0) -> list[MetadataRecord]:
        """The records of a file of batches, those from offset ``start`` on."""
        try:
            data = self._files.read_file(str(path), _FILE_BYTES_MAX)[:size]
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}", path) from error
        try:
            return [
                _decoder.decode(record.value or b"")
                for record in read_records(data, max_bytes=_FILE_BYTES_MAX)
                if record.offset >= start
            ]
        except CorruptMessageError as error:
            raise StorageError(f"{path}: {error}", path) from error
        except msgspec.DecodeError as error:
            raise StorageError(
                f"{path}: a metadata record is unknown to this release ({error}); was a newer one used here?", path
            ) from error


def _as_kafka(records: Sequence[MetadataRecord], now_ms: int, first: int = 0) -> list[Record]:
    return [
        Record(offset=first + at, timestamp=now_ms, value=_encoder.encode(record)) for at, record in enumerate(records)
    ]
