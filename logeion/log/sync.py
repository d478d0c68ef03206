"""One group commit, cut off from the log so that it may run in another thread."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from .files import Files
from .segment import Segment
from .store import failed


@dataclass
class SyncHandle:
    """Syncs what a log had written when the handle was made.

    ``run`` touches nothing of the log: it may run in a worker thread while the log appends, rolls or closes. Then the
    log's own thread calls ``Log.note_synced(handle)``, or ``Log.note_sync_failed(error)`` with what ``run`` raised.
    """

    end: int
    generation: int
    sealed: int
    names: bool
    directory: str
    _files: Files
    _descriptors: list[tuple[int, str]] = field(default_factory=list)

    def add(self, segment: Segment, suffixes: Sequence[str]) -> None:
        """These files of the segment too. Raises ``StorageError`` when no descriptor is left."""
        kept = (segment.fd, segment.index_fd, segment.time_fd)
        for suffix, fd in zip(suffixes, kept, strict=False):
            path = segment.store.path(segment.name + suffix)
            try:
                own = self._files.duplicate(fd) if fd >= 0 else self._files.open(path, os.O_RDONLY)
            except OSError as error:
                raise failed(error, "open", path) from error
            self._descriptors.append((own, path))

    def run(self) -> None:
        """Wait for the device. Raises ``StorageError``, which is final for the log."""
        try:
            for fd, path in self._descriptors:
                try:
                    self._files.fdatasync(fd)
                except OSError as error:
                    raise failed(error, "sync", path) from error
            if self.names:
                try:
                    self._files.sync_dir(self.directory)
                except OSError as error:
                    raise failed(error, "sync", self.directory) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Close the descriptors without syncing."""
        while self._descriptors:
            self._files.close(self._descriptors.pop()[0])
