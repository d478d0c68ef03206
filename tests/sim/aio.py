"""What an actor's asyncio side gets in the simulator in place of sockets, clocks, files, chance and ``_exit``.

The real shells run unchanged, each on its process's own loop (``virtual_loop``); whose hands these are is whose loop
runs at the moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from logeion.actors import runtime
from logeion.actors.coordinator import actor as coordinator
from logeion.actors.coordinator import hosting, index_hosting, tailing, topics
from logeion.actors.gateway import asking, connection, following, forwarding
from logeion.actors.gateway import groups as gateway_groups
from logeion.log.view import Descriptors, LogView
from tests.sim.lanes import SimListener, SimStream, current, dial, dial_host
from tests.sim.virtual_loop import Exited


def _exit(status: int) -> None:
    raise Exited(status)


def _now_ns() -> int:
    on = current().on
    assert on is not None
    return on.now_ms() * 1_000_000


def _pread(fd: int, size: int, at: int) -> bytes:
    files = current().files
    assert files is not None
    return files.pread(fd, size, at)


def _view(directory: Path) -> LogView:
    return LogView(directory, descriptors=Descriptors(current().files))


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """The shells' hands are simulated ones meanwhile."""
    clock = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time(), time_ns=_now_ns)
    hands: list[tuple[Any, str, Any]] = [
        *((module, "dial", dial) for module in (runtime, coordinator, topics, gateway_groups, following)),
        (forwarding, "dial_host", dial_host),
        (forwarding, "load_secret", lambda config: b""),
        (connection, "FrameStream", SimStream),
        *((module, "time", clock) for module in (hosting, index_hosting, asking)),
        # In the time that a seed has.
        (index_hosting, "FIRST_UPKEEP_S", 0.7),
        (coordinator, "LaneListener", SimListener),
        (coordinator, "os", SimpleNamespace(_exit=_exit)),
        (hosting, "uuid", SimpleNamespace(uuid4=lambda: current().world.fresh_id())),
        (tailing, "LogView", _view),
        (tailing, "os", SimpleNamespace(pread=_pread)),
    ]
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.ExitStack() as stack:
            for module, name, hand in hands:
                stack.enter_context(mock.patch.object(module, name, hand))
            yield
    finally:
        logging.disable(disabled)
