"""One directory through the file seam: names instead of paths, and errors that say which file and what was tried."""

from __future__ import annotations

import os
from collections.abc import Sequence

from logeion.wire.errors import StorageError

from .files import Data, Entry, Files


def failed(error: OSError, doing: str, path: str) -> StorageError:
    """The typed error for a failed system call."""
    reason = error.strerror or str(error)
    hint = ""
    if error.errno == 28:
        hint = "; free space on this volume, appends resume by themselves"
    elif error.errno == 24:
        hint = "; raise the limit of open files (ulimit -n)"
    failure = StorageError(f"cannot {doing} {path}: {reason}{hint}", path)
    failure.__cause__ = error
    return failure


class Store:
    """A partition's directory. ``names_dirty`` tells that a name was made, moved or removed since the last sync."""

    def __init__(self, files: Files, directory: str) -> None:
        self.files = files
        self.directory = directory
        self.names_dirty: bool = False
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        """Keep a sentence about something odd that could be lived with; the last twenty are kept."""
        if message not in self.warnings:
            self.warnings[:] = [*self.warnings[-19:], message]

    def path(self, name: str) -> str:
        """The whole path of a name in here."""
        return f"{self.directory}/{name}"

    def list(self) -> list[Entry]:
        """What is in here, sorted by name."""
        try:
            return sorted(self.files.list(self.directory))
        except OSError as error:
            raise failed(error, "list", self.directory) from error

    def open_read(self, name: str) -> int:
        """A descriptor for reading."""
        try:
            return self.files.open(self.path(name), os.O_RDONLY)
        except OSError as error:
            raise failed(error, "open", self.path(name)) from error

    def open_write(self, name: str, *, create: bool = False, empty: bool = False) -> int:
        """A descriptor for reading and writing; ``empty`` cuts what is there."""
        flags = os.O_RDWR | (os.O_CREAT if create else 0) | (os.O_TRUNC if empty else 0)
        try:
            fd = self.files.open(self.path(name), flags)
        except OSError as error:
            raise failed(error, "open", self.path(name)) from error
        if create:
            self.names_dirty = True
        return fd

    def read(self, name: str, limit: int) -> bytes | None:
        """A small file's bytes; None when there is none."""
        try:
            return self.files.read_file(self.path(name), limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise failed(error, "read", self.path(name)) from error

    def replace(self, name: str, data: bytes, *, durable: bool) -> None:
        """Put a small file in place of the old one, in one step."""
        try:
            self.files.replace_file(self.path(name), data, durable=durable)
        except OSError as error:
            raise failed(error, "write", self.path(name)) from error
        self.names_dirty = True

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name, in place of whatever had it."""
        try:
            self.files.rename(self.path(name), self.path(new_name))
        except OSError as error:
            raise failed(error, "rename", self.path(name)) from error
        self.names_dirty = True

    def put_aside(self, name: str, suffix: str) -> bool:
        """Rename by adding a suffix; False when there was no such file."""
        try:
            self.files.rename(self.path(name), self.path(name + suffix))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise failed(error, "rename", self.path(name)) from error
        self.names_dirty = True
        return True

    def link(self, name: str, new_name: str) -> None:
        """A second name for the same file."""
        try:
            self.files.link(self.path(name), self.path(new_name))
        except OSError as error:
            raise failed(error, "link", self.path(name)) from error
        self.names_dirty = True

    def unlink(self, name: str) -> None:
        """Remove a name; one that is gone already is fine."""
        try:
            self.files.unlink(self.path(name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise failed(error, "remove", self.path(name)) from error
        self.names_dirty = True

    def sync_names(self) -> None:
        """Make what was created, renamed and removed in here last."""
        try:
            self.files.sync_dir(self.directory)
        except OSError as error:
            raise failed(error, "sync", self.directory) from error
        self.names_dirty = False

    def write(self, fd: int, name: str, buffers: Sequence[Data], at: int) -> int:
        """Append to an open file at its end; returns the bytes written."""
        try:
            return self.files.write_all(fd, buffers, at)
        except OSError as error:
            raise failed(error, "write", self.path(name)) from error

    def cut(self, fd: int, name: str, size: int) -> None:
        """Shorten an open file."""
        try:
            self.files.ftruncate(fd, size)
        except OSError as error:
            raise failed(error, "cut", self.path(name)) from error

    def sync(self, fd: int, name: str) -> None:
        """Sync an open file. Whoever calls this for log data fences the log on failure."""
        try:
            self.files.fdatasync(fd)
        except OSError as error:
            raise failed(error, "sync", self.path(name)) from error
