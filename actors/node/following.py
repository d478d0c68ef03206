"""Node's lane to the Controller: the metadata log, this node's registration, and requests for epochs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from .. import messages as m
from ..lanes import Lane, LaneError, RefusedError, dial, socket_path
from ..stream import Frame
from .events import AnyEvent, GrantFailed

log = logging.getLogger(__name__)

# Between two attempts to dial: the Controller starts beside Node, and is back within tens of milliseconds.
FIRST_RETRY_S, LAST_RETRY_S = 0.01, 1.0
SUBSCRIBE_S = 30.0
REQUEST_S = 10.0
REGISTER_AGAIN_S = 1.0


class Following:
    """Keeps that lane up. ``applied`` says from where on to follow, ``registration`` who is registered as what."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run_dir: Path,
        *,
        step: Callable[[AnyEvent], None],
        applied: Callable[[], int],
        registration: Callable[[], m.RegisterNode],
    ) -> None:
        self._loop = loop
        self._path = socket_path(run_dir, "controller")
        self._step = step
        self._applied = applied
        self._registration = registration
        self._lane: Lane | None = None
        self._gone = asyncio.Event()
        self._task = loop.create_task(self._keep())

    def close(self) -> None:
        """Follow no more."""
        self._task.cancel()
        if self._lane is not None:
            self._lane.close()

    async def _keep(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                lane = await dial(self._loop, self._path, on_message=self._on_message, on_closed=self._on_closed)
            except (OSError, LaneError):
                # Not up yet, or just gone.
                await asyncio.sleep(retry_s)
                retry_s = min(2 * retry_s, LAST_RETRY_S)
                continue
            retry_s = FIRST_RETRY_S
            self._gone.clear()
            if not lane.closed:
                self._lane = lane
                # By callback: what is committed next must not overtake this answer.
                lane.call(m.Subscribe(from_offset=self._applied()), on_reply=self._on_subscribed, timeout_s=SUBSCRIBE_S)
                self.register()
                await self._gone.wait()
            await asyncio.sleep(FIRST_RETRY_S)

    def _on_subscribed(self, reply: m.AnyMessage | LaneError) -> None:
        if isinstance(reply, m.Committed):
            self._step(reply)
        elif self._lane is not None:
            self._lane.close(f"cannot follow the metadata log: {reply}")

    def _on_message(self, lane: Lane, request: int, message: m.AnyMessage, frame: Frame) -> None:
        if isinstance(message, m.Committed):
            self._step(message)

    def _on_closed(self, lane: Lane, reason: str) -> None:
        log.info("the lane to the controller closed: %s", reason)
        self._lane = None
        self._gone.set()

    def register(self) -> None:
        """Register (again); without a lane this happens as soon as there is one."""
        if self._lane is not None:
            self._lane.call(self._registration(), on_reply=self._on_registered, timeout_s=REQUEST_S)

    def _on_registered(self, reply: m.AnyMessage | LaneError) -> None:
        if isinstance(reply, m.NodeRegistered):
            self._step(reply)
        elif self._lane is not None:
            log.warning("the controller did not register this node: %s", reply)
            self._loop.call_later(REGISTER_AGAIN_S, self.register)

    def ask(self, message: m.GrantEpochs) -> None:
        """Ask for leader epochs; the answer or ``GrantFailed`` becomes an event, never before this returns."""
        if self._lane is None:
            self._loop.call_soon(self._step, GrantFailed(code=0, reason="there is no lane to the controller"))
        else:
            self._lane.call(message, on_reply=self._on_granted, timeout_s=REQUEST_S)

    def _on_granted(self, reply: m.AnyMessage | LaneError) -> None:
        if isinstance(reply, m.EpochsGranted):
            self._step(reply)
        else:
            code = reply.code if isinstance(reply, RefusedError) else 0
            log.warning("no leader epochs granted: %s", reply)
            self._step(GrantFailed(code=code, reason=str(reply)))
