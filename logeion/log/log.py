"""One partition's log, as its single writer sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from logeion.wire.batch import BatchHeader
from logeion.wire.errors import KafkaError

from .config import LogConfig
from .files import Files


class AppendInfo(NamedTuple):
    """Where one batch went. ``append_time_ms`` is -1 unless the topic has LogAppendTime."""

    first_offset: int
    last_offset: int
    append_time_ms: int = -1
    duplicate: bool = False


class SyncHandle:
    """One sync, which may run in another thread: ``run()`` touches nothing of the log."""

    end: int

    def run(self) -> None:
        """Raises ``StorageError``; give it to ``Log.note_sync_failed``."""


class Log:
    """Published early: the names P and C code against. See the methods' docstrings."""

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
        raise NotImplementedError

    start_offset: int
    end_offset: int
    synced_end: int
    high_watermark: int
    size: int
    epoch: int

    def become_leader(self, epoch: int) -> None: ...
    def append(self, view: memoryview, header: BatchHeader, *, epoch: int, now_ms: int) -> AppendInfo:
        raise NotImplementedError

    def append_many(
        self, batches: Sequence[tuple[memoryview, BatchHeader]], *, epoch: int, now_ms: int
    ) -> list[AppendInfo | KafkaError]:
        """One write for all; a refused batch is an exception in its place. Raises ``StorageError`` for the whole."""
        raise NotImplementedError

    def append_fetched(self, view: memoryview, *, now_ms: int) -> int:
        raise NotImplementedError

    def sync_due(self, now_ms: int) -> bool:
        raise NotImplementedError

    def sync(self) -> int:
        raise NotImplementedError

    def sync_handle(self) -> SyncHandle | None:
        raise NotImplementedError

    def note_synced(self, handle: SyncHandle) -> int:
        raise NotImplementedError

    def note_sync_failed(self, error: OSError) -> None: ...
    def advance_high_watermark(self, offset: int) -> bool:
        raise NotImplementedError

    def watermark_position(self) -> tuple[int, int]:
        raise NotImplementedError

    def position_of(self, offset: int) -> tuple[int, int]:
        raise NotImplementedError

    def find_offset(self, timestamp: int) -> tuple[int, int, int] | None:
        raise NotImplementedError

    def delete_before(self, offset: int) -> int:
        raise NotImplementedError

    def truncate(self, offset: int) -> None: ...
    def reset(self, offset: int) -> None: ...
    def epoch_end(self, epoch: int) -> tuple[int, int]:
        raise NotImplementedError

    def roll(self) -> None: ...
    def apply_retention(self, now_ms: int) -> int:
        raise NotImplementedError

    def compact(self, now_ms: int) -> int:
        raise NotImplementedError

    def configure(self, config: LogConfig) -> None: ...
    def close(self, *, clean: bool = True) -> None: ...
