"""The seam between the controller's machine and whatever makes its records durable and agreed on.

The shell decides by the machine, proposes the records and answers once they are committed. A quorum of one is a log
and a sync; several voters put Raft behind the same four methods. Only what ``on_committed`` has handed out is true:
it is what subscribers are sent, and an answer goes out after the records it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from logeion.wire.errors import StorageError

from ..metadata import MetadataRecord


class Commit(NamedTuple):
    """Committed records in order; the first has the offset ``offset``. A snapshot replaces all before it."""

    offset: int
    records: list[MetadataRecord]
    next_offset: int
    snapshot: bool = False


class NotWrittenError(StorageError):
    """A proposal that did not fit on the disk: the log is as it was before, and the next one may succeed."""


class Quorum(Protocol):
    """The metadata log as its active controller sees it."""

    def open(self) -> list[Commit]:
        """Recover what was committed: a snapshot, if there is one, and what follows it. Raises ``StorageError``."""

    @property
    def end_offset(self) -> int:
        """The offset that the next proposed record gets."""

    @property
    def committed(self) -> int:
        """The first offset that is not committed."""

    def propose(self, records: Sequence[MetadataRecord], on_committed: Callable[[Commit], None]) -> None:
        """Append these records atomically; ``on_committed`` is called when they are decided, in order of proposals.

        Raises ``NotControllerError`` where another voter leads, ``NotWrittenError`` when nothing of it was appended
        (a full disk), ``StorageError`` when the disk fails; after that the process must end, for nobody knows what
        is on the disk.
        """

    def read(self) -> list[Commit]:
        """What ``open`` returned, with all that was committed since. Raises ``StorageError``."""

    def compact(self, image: Callable[[], list[MetadataRecord]]) -> bool:
        """Replace the committed prefix by ``image()``, the records it adds up to, if it is long enough to be worth
        it; True if that was done. Raises ``StorageError``; the log goes on without the snapshot."""

    def close(self) -> None:
        """Give the log back; everything committed stays."""
