"""One host's disk: what its page cache holds, what its device holds, and what each process has open.

``HostDisk`` survives its processes and, minus what was not synced, its power. ``ProcessFiles`` is the seam that one
process's log works through: its descriptors and locks go with it, and it can be killed in the middle of any change.
After a failed sync the pages count as clean, as they do on Linux: a later sync that succeeds has not written them.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Sequence

from logeion.log.files import Data, Entry, Files
from logeion.log.names import LOCK, STATE

SECTOR = 512
_STATE = f"/{STATE}"
# The changes after which a directory may name other inodes.
NAMING = frozenset(("create", "rename", "link", "unlink", "sync_dir", "mkdir"))


class Killed(BaseException):
    """The process was killed in the middle of a change. Not an Exception: nothing may catch it on the way out."""


class Inode:
    """``data`` is what a reader sees, ``synced`` what the device has, ``pending`` the changes in between.

    ``shape`` (of the device: ``synced_shape``) grows when bytes that were there have changed: whoever has read up to
    some place must read again.
    """

    __slots__ = ("data", "number", "pending", "shape", "synced", "synced_shape")

    def __init__(self, number: int) -> None:
        self.number = number
        self.data = bytearray()
        self.synced = bytearray()
        self.pending: list[tuple[int, bytes | None]] = []
        self.shape = self.synced_shape = 0

    def write(self, at: int, data: bytes) -> None:
        if at < len(self.data):
            self.shape += 1
        _put(self.data, at, data)
        self.pending.append((at, data))

    def cut(self, size: int) -> None:
        self.shape += 1
        _cut(self.data, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        for at, data in self.pending:
            if data is None:
                self.synced_shape += 1
                _cut(self.synced, at)
            else:
                if at < len(self.synced):
                    self.synced_shape += 1
                _put(self.synced, at, data)
        self.pending.clear()

    def lose_power(self, chance: random.Random) -> None:
        """The device has what was synced, and of the rest whatever it came to: nothing mostly, any beginning, torn,
        zeroes where blocks never came, or all of it."""
        if not self.pending:
            # Pages that a failed sync had marked as clean are gone.
            if self.data != self.synced:
                self.data = bytearray(self.synced)
                self.shape += 1
            return
        image = bytearray(self.synced)
        what = chance.random()
        if what < 0.25:
            for at, data in self.pending[: chance.randint(0, len(self.pending))]:
                _put(image, at, data) if data is not None else _cut(image, at)
        elif what < 0.45:
            at, data = self.pending[0]
            _put(image, at, data[: len(data) // 2]) if data is not None else _cut(image, at)
        elif what < 0.55 and len(self.data) > len(image):
            image += bytes(len(self.data) - len(image))
        elif what < 0.65:
            for at, data in self.pending:
                _put(image, at, data) if data is not None else _cut(image, at)
        self.data, self.synced = image, bytearray(image)
        self.pending.clear()
        self.shape += 1
        self.synced_shape += 1


def _put(into: bytearray, at: int, data: bytes) -> None:
    size = len(into)
    if at == size:
        into += data
        return
    if at > size:
        into += bytes(at - size)
    into[at : at + len(data)] = data


def _cut(into: bytearray, size: int) -> None:
    if size < len(into):
        del into[size:]
    else:
        into += bytes(size - len(into))


class HostDisk:
    """Directories of names of inodes. ``durable`` is what a power cut would leave of the names."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.boot = 1
        self.names: dict[str, dict[str, Inode]] = {}
        self.durable: dict[str, dict[str, Inode]] = {}
        self.locks: dict[str, ProcessFiles] = {}
        self.full = False
        # Grows with every change of a name, also of a durable one: whoever has looked need not look again.
        self.changes = 0
        # Paths whose reads, writes or syncs fail: (kind, part of the path).
        self.broken: set[tuple[str, str]] = set()
        # Directories whose watermark could not be written, and the process that could not: the next one knows less.
        self.unwritten: dict[str, ProcessFiles] = {}
        self._inodes = 0

    def make(self, path: str) -> None:
        """A directory that is there for good."""
        self.names.setdefault(path, {})
        self.durable.setdefault(path, {})

    def new_inode(self) -> Inode:
        self._inodes += 1
        return Inode(self._inodes)

    def lose_power(self) -> None:
        """All processes must have been killed."""
        self.boot += 1
        self.changes += 1
        survivors: dict[str, dict[str, Inode]] = {}
        for path, names in self.names.items():
            if path not in self.durable:
                continue
            old = self.durable[path]
            kept = dict(names) if self.chance.random() < 0.3 else dict(old)
            survivors[path] = kept
        self.names = survivors
        self.durable = {path: dict(names) for path, names in survivors.items()}
        seen: set[int] = set()
        for names in survivors.values():
            for inode in names.values():
                if inode.number not in seen:
                    seen.add(inode.number)
                    inode.lose_power(self.chance)

    def move(self, source: str, target: str) -> bool:
        """Rename a directory, for good; False when there is none."""
        if source not in self.names:
            return False
        self.changes += 1
        self.names[target] = self.names.pop(source)
        self.durable[target] = self.durable.pop(source, {})
        return True

    def knows_less(self, path: str) -> bool:
        """Whether the process that has this directory's lock begins with an older watermark than its predecessor had,
        which could not write it. To be asked once: what this process writes counts from now on."""
        unable, holder = self.unwritten.get(path), self.locks.get(f"{path}/{LOCK}")
        if unable is None or holder is None or holder is unable:
            return False
        del self.unwritten[path]
        return True

    def remove(self, path: str) -> None:
        """Remove a directory with all in it."""
        self.changes += 1
        self.names.pop(path, None)
        self.durable.pop(path, None)


class ProcessFiles(Files):
    """One process's view. ``kill_in`` counts changes down to the one in which the process is killed."""

    def __init__(self, disk: HostDisk) -> None:
        self.disk = disk
        self.kill_in: int | None = None
        self._open: dict[int, tuple[Inode, str]] = {}
        self._held: dict[int, str] = {}
        self._next = 3

    def release(self) -> None:
        """The process is gone."""
        for path in self._held.values():
            self.disk.locks.pop(path, None)
        self._held.clear()
        self._open.clear()

    def _change(self, kind: str, path: str) -> None:
        if self.kill_in is not None:
            if not self.kill_in:
                raise Killed
            self.kill_in -= 1
        if self.disk.broken:
            self._check(kind, path)
        if kind in NAMING:
            self.disk.changes += 1

    def _check(self, kind: str, path: str) -> None:
        for broken, part in self.disk.broken:
            if broken == kind and part in path:
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def _directory(self, path: str) -> tuple[dict[str, Inode], str]:
        parent, _, name = path.rpartition("/")
        names = self.disk.names.get(parent)
        if names is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return names, name

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        names, name = self._directory(path)
        inode = names.get(name)
        if inode is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._change("create", path)
            inode = names[name] = self.disk.new_inode()
        elif flags & os.O_TRUNC and inode.data:
            self._change("cut", path)
            inode.cut(0)
        fd = self._next
        self._next += 1
        self._open[fd] = (inode, path)
        return fd

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)
        path = self._held.pop(fd, None)
        if path is not None:
            self.disk.locks.pop(path, None)

    def duplicate(self, fd: int) -> int:
        own = self._next
        self._next += 1
        self._open[own] = self._open[fd]
        return own

    def pread(self, fd: int, size: int, at: int) -> bytes:
        inode, path = self._open[fd]
        if self.disk.broken:
            self._check("read", path)
        return bytes(inode.data[at : at + size])

    def pwritev(self, fd: int, buffers: Sequence[Data], at: int) -> int:
        inode, path = self._open[fd]
        if not path.endswith(_STATE):
            return self._write(inode, path, b"".join(buffers), at)
        directory = path.removesuffix(_STATE)
        try:
            written = self._write(inode, path, b"".join(buffers), at)
        except OSError:
            self.disk.unwritten[directory] = self
            raise
        if self.disk.unwritten.get(directory) is self:
            del self.disk.unwritten[directory]
        return written

    def _write(self, inode: Inode, path: str, data: bytes, at: int) -> int:
        if self.kill_in == 0:
            # An overwrite within one sector happens or does not; a longer write ends anywhere.
            if data and (at + len(data) > len(inode.data) or at // SECTOR != (at + len(data) - 1) // SECTOR):
                inode.write(at, data[: self.disk.chance.randrange(len(data))])
            raise Killed
        self._change("write", path)
        if self.disk.full and data and at + len(data) > len(inode.data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        inode.write(at, data)
        return len(data)

    def ftruncate(self, fd: int, size: int) -> None:
        inode, path = self._open[fd]
        self._change("cut", path)
        inode.cut(size)

    def fdatasync(self, fd: int) -> None:
        inode, path = self._open[fd]
        try:
            self._change("sync", path)
        except OSError:
            inode.pending.clear()
            raise
        inode.sync()

    def sync_dir(self, path: str) -> None:
        self._change("sync_dir", path)
        names = self.disk.names
        if path in names:
            self.disk.durable[path] = dict(names[path])
        prefix = path + "/"
        for other in names:
            if other.startswith(prefix):
                self.disk.durable.setdefault(other, {})

    def size(self, fd: int) -> int:
        return len(self._open[fd][0].data)

    def identity(self, fd: int) -> tuple[int, int]:
        return 1, self._open[fd][0].number

    def identity_at(self, path: str) -> tuple[int, int]:
        names, name = self._directory(path)
        if name not in names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return 1, names[name].number

    def list(self, path: str) -> list[Entry]:
        names = self.disk.names.get(path)
        if names is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return [Entry(name, len(inode.data), True) for name, inode in names.items()]

    def exists(self, path: str) -> bool:
        if path in self.disk.names:
            return True
        parent, _, name = path.rpartition("/")
        return name in self.disk.names.get(parent, ())

    def mkdir(self, path: str) -> None:
        self._change("mkdir", path)
        self.disk.names.setdefault(path, {})

    def rename(self, source: str, target: str) -> None:
        names, name = self._directory(source)
        if name not in names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        self._change("rename", source)
        names[target.rpartition("/")[2]] = names.pop(name)

    def link(self, source: str, target: str) -> None:
        names, name = self._directory(source)
        other = target.rpartition("/")[2]
        if other in names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self._change("link", source)
        names[other] = names[name]

    def unlink(self, path: str) -> None:
        names, name = self._directory(path)
        if name not in names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._change("unlink", path)
        del names[name]

    def copy(self, source: int, target: int, size: int) -> None:
        data = bytes(self._open[source][0].data[:size])
        if len(data) != size:
            raise OSError(errno.EIO, "the source is shorter than the part to copy")
        self.write_all(target, [data], 0)

    def lock(self, path: str) -> int:
        fd = self.open(path, os.O_RDWR | os.O_CREAT)
        if path in self.disk.locks:
            self.close(fd)
            raise BlockingIOError(errno.EAGAIN, "locked", path)
        self.disk.locks[path] = self
        self._held[fd] = path
        return fd

    def boot_id(self) -> str:
        return f"boot-{self.disk.boot}"
