"""What a Gateway sees of a log that another process writes: byte ranges below a watermark it was told."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .files import Files


class Descriptor:
    """One open segment file, shared by the slices that point into it."""

    fd: int

    def retain(self) -> None:
        """One more user."""

    def release(self) -> None:
        """One user fewer; the last one closes a descriptor that the cache has given up."""


class Slice(NamedTuple):
    """``size`` bytes of ``file`` from ``position``: whole batches from the one that holds the offset asked for.

    The descriptor stays open until ``release`` is called, exactly once, when the bytes were sent.
    """

    file: Descriptor
    position: int
    size: int
    first_offset: int
    segment: int

    @property
    def fd(self) -> int:
        return self.file.fd

    def release(self) -> None:
        self.file.release()


class Descriptors:
    """A bounded cache of open segment files, shared by all the views of a process."""

    def __init__(self, files: Files | None = None, *, limit: int = 256) -> None: ...

    def close(self) -> None:
        """Close all that no slice holds; the others close as they are released."""


class LogView:
    """A read-only view of one partition's directory. Not thread-safe; takes no lock."""

    def __init__(self, directory: Path, *, descriptors: Descriptors | None = None) -> None: ...

    def slice(
        self, offset: int, max_bytes: int, *, end_segment: int, end_position: int, log_start: int = 0
    ) -> Slice | None:
        """The batches from ``offset`` on, at most ``max_bytes`` but at least one whole batch (KIP-74).

        Nothing past byte ``end_position`` of segment ``end_segment`` (where the high watermark lies) is returned;
        ``None`` when nothing lies between. Raises ``OffsetOutOfRangeError`` and ``StorageError``.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Forget this directory's descriptors."""
