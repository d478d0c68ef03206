"""What goes out on a socket: pieces of memory, and ranges of files that never enter it."""

from __future__ import annotations

import msgspec


class FileRange(msgspec.Struct, frozen=True, gc=False):
    """``size`` bytes of the open descriptor ``fd`` from ``position``; the socket's writer sends it by ``sendfile``.

    Whoever made the range keeps the descriptor open until the writer says that it was sent.
    """

    fd: int
    position: int
    size: int

    def __len__(self) -> int:
        return self.size


# An element of an iovec as the encoders return it.
Buffer = bytes | bytearray | memoryview | FileRange
