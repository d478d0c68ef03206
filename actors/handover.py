"""How an accepted connection gets from the Node of this host to the actor it is meant for: by SCM_RIGHTS.

Beside its lane socket ``<name>.sock`` every listener has a datagram socket ``<name>.in``. A datagram is one descriptor
and the few bytes that the new owner writes into it first. Only our own user may send there.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

log: logging.Logger = logging.getLogger(__name__)

WELCOME_MAX = 1024
# More descriptors than one are a mistake; so many are received, in order to close them.
_FDS_MAX = 16
_CREDENTIALS = struct.Struct("3i")
_ANCILLARY = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize) + socket.CMSG_SPACE(_CREDENTIALS.size)


def short_name(path: Path) -> tuple[str, int]:
    """A name for the path that fits a socket address (108 bytes), and the descriptor that must outlive its use."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{directory}/{path.name}", directory


def bind_path(sock: socket.socket, path: Path, *, backlog: int = 0) -> int:
    """Bind and (with a backlog) listen; the inode. A stale socket there is replaced.

    Bound under another name and renamed, so that whoever finds the path can also connect.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    name, directory = short_name(fresh)
    try:
        sock.bind(name)
    finally:
        os.close(directory)
    if backlog:
        sock.listen(backlog)
    fresh.rename(path)
    return path.stat().st_ino


def unbind_path(path: Path, inode: int) -> None:
    """Remove what ``bind_path`` made; a successor's socket stays."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


class Inbox:
    """The receiving end. ``on_socket`` is called with a connection of its own and the bytes to write first."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: Path, on_socket: Callable[[socket.socket, bytes], None]
    ) -> None:
        self._loop = loop
        self._path = path
        self._on_socket = on_socket
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._inode = bind_path(self._sock, path)
        loop.add_reader(self._sock.fileno(), self._receive)

    def _receive(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(WELCOME_MAX, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        descriptors = array.array("i")
        user = -1
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                user = _CREDENTIALS.unpack(content)[1]
        whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        if not whole or user != os.getuid() or len(descriptors) != 1:
            log.warning("hand-over dropped path=%s user=%d descriptors=%d", self._path, user, len(descriptors))
            for descriptor in descriptors:
                os.close(descriptor)
            return
        try:
            sock = socket.socket(fileno=descriptors[0])
        except OSError as error:
            log.warning("hand-over dropped path=%s: %s", self._path, error)
            os.close(descriptors[0])
            return
        sock.setblocking(False)
        self._on_socket(sock, data)

    def close(self) -> None:
        """Nothing is received any more; what waits is closed by the kernel."""
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        unbind_path(self._path, self._inode)


def connect_inbox(path: Path) -> socket.socket:
    """A socket to ``send_socket`` by; raises ``OSError`` when nobody receives there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        name, directory = short_name(path)
        try:
            sock.connect(name)
        finally:
            os.close(directory)
    except OSError:
        sock.close()
        raise
    return sock


def send_socket(inbox: socket.socket, connection: socket.socket, welcome: bytes) -> None:
    """Give the connection away. Raises ``BlockingIOError`` while the receiver's queue is full, ``OSError`` if it is
    gone; the caller's own descriptor stays his to close."""
    assert len(welcome) <= WELCOME_MAX
    rights = array.array("i", [connection.fileno()])
    inbox.sendmsg([welcome], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
