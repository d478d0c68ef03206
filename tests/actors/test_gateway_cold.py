"""Ranges that are not in the page cache are read by a thread before they are sent."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from logeion.actors.cold import ColdReads, cached
from logeion.log.view import Slice

SIZE = 3 * 1024 * 1024


class Held:
    """The descriptor of a slice, as the view's cache would hold it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd


def test_what_is_not_cached_is_read_first_and_what_is_cached_at_once(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(os.urandom(SIZE))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    probe = bytearray(1)
    if cached(fd, 0, SIZE, probe):
        pytest.skip("this file system keeps its pages whatever it is told")
    piece = Slice(Held(fd), 0, SIZE, 0, 0)  # type: ignore[arg-type]

    async def scenario() -> None:
        cold = ColdReads(asyncio.get_running_loop())
        warmed = asyncio.Event()
        assert not cold.warm([piece], warmed.set)
        await asyncio.wait_for(warmed.wait(), 10)
        assert cached(fd, 0, SIZE, probe)
        assert cold.warm([piece], warmed.set)
        cold.close()

    asyncio.run(scenario())
    os.close(fd)
