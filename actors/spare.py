"""A process that is forked ahead: what it becomes, it is told when some actor has to start.

Of the time between a leader's death and its successor's first acknowledgement most goes into a fork: not the system
call, but the two thousand pages that a fresh Python process copies as soon as it touches their reference counts. A
spare has done that while nobody waited. It is told once, by the pipe that it inherited, and is from then on a
Partition, Replica or Coordinator like any other; if its parent ends first, so does it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from logeion.wire.batch import check_produced
from logeion.wire.errors import StorageError
from logeion.wire.records import Record, build_batch

from .lanes import socket_path
from .messages import Hello
from .partition.leading import Leadership
from .runtime import ActorBase, ActorSpec, Shell

KIND = "spare"


def rehearse(run_dir: Path) -> None:
    """Lead a log that nobody knows, twice, so that all it takes has been touched: half of the pages are that."""
    batch = build_batch([Record(0, 0, None, b"")])
    hello = Hello(
        actor="partition/rehearsal-0", kind="partition", node=0, pid=0, incarnation=0, epoch=0, topic_id="0" * 32
    )
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(dir=run_dir, prefix=f"{KIND}-") as folder:
        for _ in range(2):
            leadership = Leadership(
                loop,
                hello=hello,
                path=socket_path(run_dir, f"{KIND}-{os.getpid()}"),
                directory=Path(folder) / "log",
                configs={"logeion.flush": "os"},
                fatal=_fatal,
            )
            leadership.log.append(memoryview(batch), check_produced(batch, len(batch)), epoch=0, now_ms=0)
            loop.run_until_complete(asyncio.sleep(0))
            leadership.close(clean=False)
    loop.close()


def _fatal(error: StorageError) -> None:
    raise error


class Spare(ActorBase):
    """The Thespian actor; ``orders`` in its requirements is the descriptor from which it reads what it becomes."""

    shell: type[Shell] = Shell
    _orders: int = -1

    def __init__(self, capabilities: object = None, requirements: dict[str, Any] | None = None) -> None:
        assert requirements is not None
        self._orders = requirements["orders"]
        super().__init__(capabilities, requirements)

    def _on_sigterm(self) -> None:
        if self._spec.kind == KIND:
            os._exit(0)
        super()._on_sigterm()

    def _await_role(self) -> None:
        rehearse(self._spec.run_dir)
        with open(self._orders, "rb") as orders:
            order = orders.read()
        if not order:
            os._exit(0)
        from .supervisor import actor_class

        spec = ActorSpec.decode(order)
        self.shell = actor_class(spec.kind).shell
        self._spec = spec
        self._become()
