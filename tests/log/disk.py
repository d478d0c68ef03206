"""A disk in memory that keeps what a device would keep apart from what the page cache would.

Every change is a numbered step. ``crash_at`` stops the run before a step (a write is torn in half first), then
``crash_process`` keeps the page cache and ``crash_host`` loses it in one of ``HOST_CRASHES``. ``fail`` makes the next
operations of a kind return an error, ``capacity`` fills the disk.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from logeion.log.files import Data, Entry, Files

SECTOR = 512


class Crash(BaseException):
    """The process is gone. Not an Exception: nothing may catch it on the way out."""


class Inode:
    """``data`` is what a reader sees; ``synced`` what the device has; ``pending`` the writes in between."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.data = bytearray()
        self.synced = b""
        self.pending: list[tuple[int, bytes | None]] = []

    def write(self, at: int, data: bytes) -> None:
        if at > len(self.data):
            self.data += bytes(at - len(self.data))
        self.data[at : at + len(data)] = data
        self.pending.append((at, data))

    def cut(self, size: int) -> None:
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data += bytes(size - len(self.data))
        self.pending.append((size, None))

    def sync(self) -> None:
        self.synced = self.after_crash("kept")
        self.pending = []

    def after_crash(self, content: str) -> bytes:
        """What the device has after a power cut: see HOST_CRASHES."""
        if content == "lost" or not self.pending:
            return self.synced
        if content == "kept":
            whole = Inode(0)
            whole.data = bytearray(self.synced)
            for at, data in self.pending:
                whole.cut(at) if data is None else whole.write(at, data)
            return bytes(whole.data)
        if content == "zeroed":
            # the size was journalled, the blocks never came
            kept = bytearray(self.synced[: len(self.data)])
            return bytes(kept + bytes(len(self.data) - len(kept)))
        image = Inode(0)
        image.data = bytearray(self.synced)
        if content == "torn":
            half = self.pending[: (len(self.pending) + 1) // 2]
            for number, (at, data) in enumerate(half):
                if data is None:
                    image.cut(at)
                else:
                    image.write(at, data[: len(data) // 2] if number == len(half) - 1 else data)
        elif content == "reordered":
            # only the last write came, what lies before it is a hole
            at, last = self.pending[-1]
            if last is None:
                image.cut(at)
            else:
                image.write(at, last)
        return bytes(image.data)


# (what happened to the bytes that were not synced, what to the names that were not)
HOST_CRASHES = [
    ("lost", "lost"),
    ("kept", "kept"),
    ("kept", "lost"),
    ("lost", "kept"),
    ("torn", "kept"),
    ("torn", "half"),
    ("zeroed", "kept"),
    ("reordered", "kept"),
]

NameOperation = Callable[[dict[str, Inode]], None]


class MemoryDisk(Files):
    """All of ``Files`` without a file."""

    def __init__(self) -> None:
        self.boot = 1
        self.names: dict[str, Inode] = {}
        self.directories: set[str] = {"/"}
        self.durable_names: dict[str, Inode] = {}
        self.durable_directories: set[str] = {"/"}
        self.pending_names: list[NameOperation] = []
        self.descriptors: dict[int, tuple[Inode, str]] = {}
        self.locks: dict[int, str] = {}
        self.steps = 0
        self.trace: list[str] = []
        self.crash_at: int | None = None
        self.capacity: int | None = None
        self._rules: list[tuple[str, str, int, int]] = []
        self._next_fd = 3
        self._next_inode = 1

    # Misfortune ------------------------------------------------------------------------------------------------------

    def fail(self, kind: str, path: str, error: int, times: int = 1) -> None:
        """The next ``times`` operations of ``kind`` on a path that contains ``path`` fail with this errno."""
        self._rules.append((kind, path, error, times))

    def heal(self) -> None:
        """No more failures and no limit."""
        self._rules.clear()
        self.capacity = None

    def crash_process(self) -> None:
        """Descriptors and locks are gone, the page cache stays."""
        self.descriptors.clear()
        self.locks.clear()
        self.crash_at = None

    def crash_host(self, content: str, names: str) -> None:
        """The power went: ``content`` and ``names`` as in HOST_CRASHES."""
        self.crash_process()
        self.boot += 1
        kept = dict(self.durable_names)
        applied = {"lost": 0, "half": (len(self.pending_names) + 1) // 2, "kept": len(self.pending_names)}[names]
        for operation in self.pending_names[:applied]:
            operation(kept)
        self.directories = set(self.durable_directories if names == "lost" else self.directories)
        kept = {path: inode for path, inode in kept.items() if os.path.dirname(path) in self.directories}
        for inode in set(kept.values()):
            inode.data = bytearray(inode.after_crash(content))
            inode.synced = bytes(inode.data)
            inode.pending = []
        self.names = kept
        self.durable_names = dict(kept)
        self.durable_directories = set(self.directories)
        self.pending_names = []

    def fork(self) -> MemoryDisk:
        """An independent copy, to crash in another way."""
        copy = MemoryDisk()
        copy.boot = self.boot
        twins: dict[int, Inode] = {}

        def twin(inode: Inode) -> Inode:
            if inode.number not in twins:
                fresh = twins[inode.number] = Inode(inode.number)
                fresh.data, fresh.synced = bytearray(inode.data), inode.synced
                fresh.pending = list(inode.pending)
            return twins[inode.number]

        copy.names = {path: twin(inode) for path, inode in self.names.items()}
        copy.durable_names = {path: twin(inode) for path, inode in self.durable_names.items()}
        # The operations name inodes by number, so that they can be replayed on the copy's.
        copy.pending_names = [_bound(operation, twin) for operation in self.pending_names]
        copy.directories, copy.durable_directories = set(self.directories), set(self.durable_directories)
        copy._next_inode = self._next_inode
        return copy

    def _step(self, kind: str, path: str) -> None:
        if self.crash_at is not None and self.steps >= self.crash_at:
            raise Crash
        self.steps += 1
        self.trace.append(f"{kind} {path}")
        self._check(kind, path)

    def _check(self, kind: str, path: str) -> None:
        for number, (rule_kind, part, error, times) in enumerate(self._rules):
            if rule_kind == kind and part in path:
                if times > 1:
                    self._rules[number] = (rule_kind, part, error, times - 1)
                else:
                    del self._rules[number]
                raise OSError(error, os.strerror(error), path)

    def _rename_names(self, operation: NameOperation) -> None:
        operation(self.names)
        self.pending_names.append(operation)

    def _used(self) -> int:
        return sum(len(inode.data) for inode in set(self.names.values()))

    # Files -----------------------------------------------------------------------------------------------------------

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        self._check("open", path)
        inode = self.names.get(path)
        if inode is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file", path)
            if os.path.dirname(path) not in self.directories:
                raise FileNotFoundError(errno.ENOENT, "No such directory", path)
            self._step("create", path)
            inode = Inode(self._next_inode)
            self._next_inode += 1
            self._rename_names(Link(path, inode))
        elif flags & os.O_TRUNC and inode.data:
            self._step("truncate", path)
            inode.cut(0)
        self._next_fd += 1
        self.descriptors[self._next_fd] = (inode, path)
        return self._next_fd

    def close(self, fd: int) -> None:
        self.descriptors.pop(fd, None)
        self.locks.pop(fd, None)

    def duplicate(self, fd: int) -> int:
        self._next_fd += 1
        self.descriptors[self._next_fd] = self.descriptors[fd]
        return self._next_fd

    def pread(self, fd: int, size: int, at: int) -> bytes:
        inode, path = self.descriptors[fd]
        self._check("read", path)
        return bytes(inode.data[at : at + size])

    def pwritev(self, fd: int, buffers: Sequence[Data], at: int) -> int:
        inode, path = self.descriptors[fd]
        data = b"".join(buffers)
        try:
            self._step("write", path)
        except Crash:
            # An overwrite within one sector happens or does not: kernel and device do it in one go.
            if data and (at + len(data) > len(inode.data) or at // SECTOR != (at + len(data) - 1) // SECTOR):
                inode.write(at, data[: len(data) // 2])
            raise
        if self.capacity is not None:
            room = max(self.capacity - self._used() + max(len(inode.data) - at, 0), 0)
            if not room and data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            data = data[:room]
        inode.write(at, data)
        return len(data)

    def ftruncate(self, fd: int, size: int) -> None:
        inode, path = self.descriptors[fd]
        self._step("cut", path)
        inode.cut(size)

    def fdatasync(self, fd: int) -> None:
        inode, path = self.descriptors[fd]
        try:
            self._step("sync", path)
        except OSError:
            # The pages count as clean from now on: no later sync writes them, unless they are written again.
            inode.pending = []
            raise
        inode.sync()

    def sync_dir(self, path: str) -> None:
        self._step("sync_dir", path)
        self.durable_names = dict(self.names)
        self.durable_directories = set(self.directories)
        self.pending_names = []

    def size(self, fd: int) -> int:
        return len(self.descriptors[fd][0].data)

    def identity(self, fd: int) -> tuple[int, int]:
        return 1, self.descriptors[fd][0].number

    def identity_at(self, path: str) -> tuple[int, int]:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return 1, self.names[path].number

    def list(self, path: str) -> list[Entry]:
        prefix = path + "/"
        return [
            Entry(name[len(prefix) :], len(inode.data), True)
            for name, inode in self.names.items()
            if name.startswith(prefix)
        ]

    def exists(self, path: str) -> bool:
        return path in self.names or path in self.directories

    def mkdir(self, path: str) -> None:
        self._step("mkdir", path)
        self.directories.add(path)

    def rename(self, source: str, target: str) -> None:
        if source not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file", source)
        self._step("rename", source)
        self._rename_names(Rename(source, target))

    def link(self, source: str, target: str) -> None:
        if target in self.names:
            raise FileExistsError(errno.EEXIST, "File exists", target)
        self._step("link", source)
        self._rename_names(Link(target, self.names[source]))

    def unlink(self, path: str) -> None:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        self._step("unlink", path)
        self._rename_names(Unlink(path))

    def copy(self, source: int, target: int, size: int) -> None:
        data = bytes(self.descriptors[source][0].data[:size])
        if len(data) != size:
            raise OSError(errno.EIO, "the source is shorter than the part to copy")
        self.write_all(target, [data], 0)

    def lock(self, path: str) -> int:
        fd = self.open(path, os.O_RDWR | os.O_CREAT)
        if path in self.locks.values():
            self.close(fd)
            raise BlockingIOError(errno.EAGAIN, "locked", path)
        self.locks[fd] = path
        return fd

    def boot_id(self) -> str:
        return f"boot-{self.boot}"


class DyingDisk(MemoryDisk):
    """The sync that would be step ``dies_at`` fails, and its process comes to nothing more."""

    dies_at: int | None = None

    def _check(self, kind: str, path: str) -> None:
        if kind == "sync" and self.steps - 1 == self.dies_at:
            self.crash_at = self.steps
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        super()._check(kind, path)


class Link:
    def __init__(self, path: str, inode: Inode) -> None:
        self.path, self.inode = path, inode

    def __call__(self, names: dict[str, Inode]) -> None:
        names[self.path] = self.inode


class Unlink:
    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, names: dict[str, Inode]) -> None:
        names.pop(self.path, None)


class Rename:
    def __init__(self, source: str, target: str) -> None:
        self.source, self.target = source, target

    def __call__(self, names: dict[str, Inode]) -> None:
        names[self.target] = names.pop(self.source)


def _bound(operation: NameOperation, twin: Callable[[Inode], Inode]) -> NameOperation:
    return Link(operation.path, twin(operation.inode)) if isinstance(operation, Link) else operation
