"""A lane for who has no loop: the command, which asks its Node one thing at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .handover import short_name
from .lanes import ANSWER, PREFIX, measure, pack
from .messages import AnyMessage, Hello, Message, decode


class BlockingLane:
    """The command's lane: one question at a time, without a loop. A context manager."""

    def __init__(self, path: Path, actor: str) -> None:
        """Raises ``OSError`` when nobody listens at ``path``."""
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            name, directory = short_name(path)
            try:
                self._sock.connect(name)
            finally:
                os.close(directory)
        except OSError:
            self._sock.close()
            raise
        hello = Hello(actor=actor, kind="command", node=0, pid=os.getpid())
        self._sock.sendall(pack(0, hello, ())[0][0])  # type: ignore[arg-type]

    def __enter__(self) -> BlockingLane:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, message: Message, waits: Iterator[float]) -> AnyMessage:
        """The answer; ``waits`` yields how long to wait, again and again, and ends the wait by raising.

        Raises ``EOFError`` when the peer closes, ``OSError`` when the socket fails.
        """
        self._sock.sendall(pack(1, message, ())[0][0])  # type: ignore[arg-type]
        while True:
            prefix = self._receive(PREFIX.size, waits)
            header, _, number = PREFIX.unpack(prefix)
            body = self._receive(measure(memoryview(prefix)) - PREFIX.size, waits)
            if number == 1 | ANSWER:
                return decode(body[: header - 8])

    def _receive(self, size: int, waits: Iterator[float]) -> bytes:
        data = b""
        while len(data) < size:
            self._sock.settimeout(next(waits))
            try:
                more = self._sock.recv(size - len(data))
            except TimeoutError:
                continue
            if not more:
                raise EOFError("the peer closed the lane")
            data += more
        return data
