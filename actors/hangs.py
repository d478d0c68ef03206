"""The command's watch over Supervisor and Node, which nobody else watches: who does not answer in time is ended.

Both are asked over sockets of their own, without a loop. Node answers from its asyncio loop, the Supervisor from
Thespian's: that these turn is what is to be known. Every other actor is pinged by Node.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import struct
from pathlib import Path

import msgspec

from .handover import short_name
from .lanes import ANSWER, measure, pack, socket_path, unpack
from .messages import Hello, Ping, Pong
from .stream import FrameError
from .supervising import LIFE
from .vigil import Look, Vigil

log: logging.Logger = logging.getLogger(__name__)

NEVER_S = 3600.0
FRAME_MAX = 1024 * 1024


class Line:
    """A connection to one process, over which it is asked for signs of life; dialled again whenever it has ended."""

    def __init__(self, path: Path, poll: select.poll) -> None:
        self._path = path
        self._poll = poll
        self._sock: socket.socket | None = None
        # Who listens there, 0 for nobody.
        self.pid: int = 0

    @property
    def descriptor(self) -> int:
        """What is readable when there is an answer; -1 while there is no connection."""
        return -1 if self._sock is None else self._sock.fileno()

    def ask(self) -> bool:
        """Ask for a sign of life; whether there is anybody to ask."""
        try:
            if self._sock is None:
                self._dial()
            assert self._sock is not None
            self._sock.sendall(self._question())
        except OSError:
            self.close()
            return False
        return True

    def _dial(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock = sock
        sock.setblocking(False)
        name, directory = short_name(self._path)
        try:
            sock.connect(name)
        finally:
            os.close(directory)
        self.pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self._poll.register(sock, select.POLLIN)
        sock.sendall(self._greeting())

    def answered(self) -> bool | None:
        """Whether what can be read now is an answer; None if the connection has ended."""
        assert self._sock is not None
        try:
            data = self._sock.recv(65536)
            if data:
                return self._heard(data)
        except BlockingIOError:
            return False
        except (OSError, FrameError, msgspec.DecodeError) as error:
            log.debug("%s: %s", self._path, error)
        self.close()
        return None

    def close(self) -> None:
        """Ask no more over this connection."""
        if self._sock is not None:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._sock)
            self._sock.close()
        self._sock, self.pid = None, 0

    def _greeting(self) -> bytes:
        return b""

    def _question(self) -> bytes:
        return b"?"

    def _heard(self, data: bytes) -> bool:
        return True


class NodeLine(Line):
    """The same over a lane, as Node speaks it."""

    _data = b""

    def _greeting(self) -> bytes:
        self._data = b""
        return _frame(0, Hello(actor="watch", kind="command", node=0, pid=os.getpid()))

    def _question(self) -> bytes:
        return _frame(1, Ping())

    def _heard(self, data: bytes) -> bool:
        self._data += data
        found = False
        while len(self._data) >= 8:
            size = measure(memoryview(self._data))
            if size > FRAME_MAX:
                raise FrameError(f"a frame of {size} bytes")
            if len(self._data) < size:
                break
            number, message, _ = unpack(memoryview(self._data)[:size])
            found = found or (number == 1 | ANSWER and isinstance(message, Pong))
            self._data = self._data[size:]
        return found


class Hangs:
    """The watch itself. ``poll`` is what the command waits with; ``hung_s`` 0 watches nobody."""

    def __init__(self, run_dir: Path, supervisor: int, hung_s: float, poll: select.poll, now: float) -> None:
        self._supervisor = supervisor
        self._watched: list[tuple[str, Line, Vigil]] = []
        if hung_s:
            self._watched = [
                ("supervisor", Line(socket_path(run_dir, LIFE), poll), Vigil(hung_s, now)),
                ("node", NodeLine(socket_path(run_dir, "node"), poll), Vigil(hung_s, now)),
            ]

    def wait_ms(self, now: float) -> int:
        """How long nothing is to do."""
        due = min((vigil.due for _, _, vigil in self._watched), default=now + NEVER_S)
        return max(0, int(1000 * (due - now)) + 1)

    def close(self) -> None:
        """Watch nobody any more."""
        for _, line, _ in self._watched:
            line.close()

    def turn(self, readable: set[int], now: float) -> str:
        """Take answers, ask, look, kill: why the whole tree must end, empty while it need not.

        A Node that hangs is killed, and its Supervisor starts another; for a Supervisor the whole tree is started anew.
        """
        for name, line, vigil in self._watched:
            if line.descriptor in readable:
                answered = line.answered()
                if answered or answered is None:
                    vigil.answered(now)
            if vigil.due > now:
                continue
            if not vigil.owed:
                vigil.asked(now) if line.ask() else vigil.answered(now)
                continue
            pid = line.pid if name == "node" else self._supervisor
            cause = vigil.looked(now, look(pid))
            if not cause:
                continue
            if name == "supervisor":
                return f"the supervisor hangs, {cause}"
            vigil.answered(now)
            line.close()
            self._kill(pid, cause)
        return ""

    def _kill(self, pid: int, cause: str) -> None:
        """The number may be somebody else's by now, so it must still be a child of our Supervisor."""
        with contextlib.suppress(OSError):
            held = os.pidfd_open(pid)
            try:
                if _parent(pid) == self._supervisor:
                    log.error("node hangs and is killed pid=%d cause=%s", pid, cause)
                    signal.pidfd_send_signal(held, signal.SIGKILL)
            finally:
                os.close(held)


def look(pid: int) -> Look:
    """What the kernel says of a process now; nothing if it is gone."""
    states = ""
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        states += (_fields(task) or [""])[0]
    fields = _fields(Path(f"/proc/{pid}/stat"))
    return Look(states, int(fields[11]) + int(fields[12]) if fields else 0)


def _parent(pid: int) -> int:
    fields = _fields(Path(f"/proc/{pid}/stat"))
    return int(fields[1]) if fields else 0


def _fields(stat: Path) -> list[str]:
    """From the state on: the name before it may hold anything, a closing bracket, too."""
    try:
        return stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _frame(number: int, message: Hello | Ping) -> bytes:
    # A frame without a payload is one piece.
    return b"".join(part for part in pack(number, message, ())[0] if isinstance(part, bytes))
