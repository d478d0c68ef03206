"""Every file operation of the log, in one place, so that tests can put a worse disk underneath.

A log calls nothing of ``os`` by itself. ``Files`` is the real disk; ``tests/log/disk.py`` has one that loses what was
not synced, tears writes, fills up and returns EIO. All methods raise ``OSError`` as the system call does; the log turns
it into a ``StorageError`` that names the path.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

Data: TypeAlias = bytes | bytearray | memoryview

# The kernel takes at most this many pieces in one vectored write (IOV_MAX of Linux).
IOV_MAX = 1024


class Entry(NamedTuple):
    """One name in a directory; ``size`` in bytes, 0 for what is not a regular file."""

    name: str
    size: int
    regular: bool


class Files:
    """The real disk. Holds no state: one instance serves any number of logs and threads."""

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        """A descriptor that no child inherits; ``flags`` are ``os.O_*``."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)

    def duplicate(self, fd: int) -> int:
        """A second descriptor of the same open file, for a sync in another thread."""
        return os.dup(fd)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        """At most ``size`` bytes from position ``at``; fewer only at the end of the file."""
        return os.pread(fd, size, at)

    def pwritev(self, fd: int, buffers: Sequence[Data], at: int) -> int:
        """Write the pieces at position ``at``; returns the bytes written, which may be fewer than asked."""
        return os.pwritev(fd, buffers, at)

    def ftruncate(self, fd: int, size: int) -> None:
        """Cut the file to ``size`` bytes."""
        os.ftruncate(fd, size)

    def fdatasync(self, fd: int) -> None:
        """Wait until the file's bytes and its size are on the device. A failure is final (see ``Log.fence``)."""
        os.fdatasync(fd)

    def sync_dir(self, path: str) -> None:
        """Wait until the names in this directory are on the device."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def size(self, fd: int) -> int:
        """The size of the open file in bytes."""
        return os.fstat(fd).st_size

    def identity(self, fd: int) -> tuple[int, int]:
        """Device and inode of the open file: two paths with equal identity are one file."""
        status = os.fstat(fd)
        return status.st_dev, status.st_ino

    def identity_at(self, path: str) -> tuple[int, int]:
        """Device and inode of the file that has this name now."""
        status = os.stat(path)
        return status.st_dev, status.st_ino

    def list(self, path: str) -> list[Entry]:
        """What the directory holds, in no order. One ``stat`` a name, no file is opened."""
        entries = []
        with os.scandir(path) as scan:
            for item in scan:
                try:
                    regular = item.is_file(follow_symlinks=False)
                    size = item.stat(follow_symlinks=False).st_size if regular else 0
                except FileNotFoundError:
                    continue  # a writer renamed it while we looked
                entries.append(Entry(item.name, size, regular))
        return entries

    def exists(self, path: str) -> bool:
        """Whether the name is there."""
        return os.path.lexists(path)

    def mkdir(self, path: str) -> None:
        """Make the directory and those above it; one that exists is fine."""
        os.makedirs(path, mode=0o755, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        """Rename within a directory, replacing ``target`` in one step."""
        os.rename(source, target)

    def link(self, source: str, target: str) -> None:
        """A second name for the same file."""
        os.link(source, target)

    def unlink(self, path: str) -> None:
        """Remove the name; the bytes live on while a descriptor is open."""
        os.unlink(path)

    def copy(self, source: int, target: int, size: int) -> None:
        """The first ``size`` bytes of one open file into an empty one, without passing through this process."""
        done = 0
        while done < size:
            copied = os.copy_file_range(source, target, size - done, done, done)
            if copied == 0:
                raise OSError(5, "the source is shorter than the part to copy")
            done += copied

    def lock(self, path: str) -> int:
        """Hold the file's exclusive lock for as long as the returned descriptor is open.

        Raises ``BlockingIOError`` at once when another process holds it. A forked child would keep the lock: whoever
        holds it must not fork.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def boot_id(self) -> str:
        """What tells two boots of this host apart: if it changed, the page cache was lost."""
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as source:
            return source.read().strip()

    # Built from the above ----------------------------------------------------------------------------------------

    def write_all(self, fd: int, buffers: Sequence[Data], at: int) -> int:
        """Write all the pieces at ``at``, in as few calls as the kernel allows; returns their length in bytes.

        Goes on after a short write, so that the reason (a full disk, mostly) is raised as ``OSError``.
        """
        begin = at
        for first in range(0, len(buffers), IOV_MAX):
            part: Sequence[Data] = buffers[first : first + IOV_MAX] if len(buffers) > IOV_MAX else buffers
            missing = sum(map(len, part))
            while True:
                written = self.pwritev(fd, part, at)
                at += written
                missing -= written
                if not missing:
                    break
                if written == 0:
                    raise OSError(28, "the disk took no byte")
                rest: list[Data] = []
                for piece in part:
                    if written >= len(piece):
                        written -= len(piece)
                    else:
                        rest.append(memoryview(piece)[written:] if written else piece)
                        written = 0
                part = rest
        return at - begin

    def read_exactly(self, fd: int, size: int, at: int) -> bytes:
        """``size`` bytes from ``at``, fewer only at the end of the file, whatever the kernel hands out at a time."""
        data = self.pread(fd, size, at)
        if len(data) == size or not data:
            return data
        parts = [data]
        got = len(data)
        while got < size:
            data = self.pread(fd, size - got, at + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def read_file(self, path: str, limit: int) -> bytes:
        """A whole small file; one longer than ``limit`` bytes raises ``OSError`` (EFBIG) before it is read."""
        fd = self.open(path, os.O_RDONLY)
        try:
            size = self.size(fd)
            if size > limit:
                raise OSError(27, f"{size} bytes, expected at most {limit}", path)
            return self.read_exactly(fd, size, 0)
        finally:
            self.close(fd)

    def replace_file(self, path: str, data: bytes, *, durable: bool) -> None:
        """Put ``data`` at ``path`` by a new file and a rename: a reader sees the old file or the new one.

        ``durable`` syncs the bytes before the rename; the name is on disk only after the directory's next sync.
        """
        temporary = path + ".tmp"
        fd = self.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self.write_all(fd, [data], 0)
            if durable:
                self.fdatasync(fd)
        finally:
            self.close(fd)
        self.rename(temporary, path)
