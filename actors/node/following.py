"""Node's lane to the Controller: the metadata log, this node's registration and heartbeats, and what its actors ask."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .. import messages as m
from ..lanes import Lane, LaneClosed, LaneError, LaneTimeout, OnReply, RefusedError, dial, socket_path
from ..stream import Frame
from ..suspicion import Suspicion
from .events import AnyEvent, Beat, BeatAnswered, BeatFailed, DownFailed, GrantFailed, Stale, Suspected

log: logging.Logger = logging.getLogger(__name__)

# Between two attempts to dial: the Controller starts beside Node, and is back within tens of milliseconds. Where it is
# not, clients wait for nothing else: an attempt that finds nobody costs a few system calls.
FIRST_RETRY_S, LAST_RETRY_S = 0.01, 0.05
SUBSCRIBE_S = 30.0
REQUEST_S = 10.0
REGISTER_AGAIN_S = 1.0
# A heartbeat that is older has been followed by others.
BEAT_S = 2.0
# What the partitions of this host propose: how long one may take, and how many may be under way.
RELAY_S = 8.0
RELAYS_MAX = 10_000
NOT_CONTROLLER, STALE_BROKER_EPOCH = 41, 77


class Following:
    """Keeps that lane up. ``applied`` says from where on to follow, ``registration`` who is registered as what,
    ``goes_back`` what is not to be taken."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run_dir: Path,
        *,
        step: Callable[[AnyEvent], None],
        applied: Callable[[], int],
        goes_back: Callable[[m.Committed], bool],
        registration: Callable[[], m.RegisterNode],
    ) -> None:
        self._loop = loop
        self._path = socket_path(run_dir, "controller")
        self._step = step
        self._applied = applied
        self._goes_back = goes_back
        self._registration = registration
        self._lane: Lane | None = None
        # Heartbeats alone see to it that a Controller that hangs is found soon. One that waits for a quorum answers
        # none of these requests either, but its loop turns, and it answers the ping.
        self._suspicion = Suspicion(loop, self._suspect)
        self._relays = 0
        self._gone = asyncio.Event()
        self._task = loop.create_task(self._keep())

    def close(self) -> None:
        """Follow no more."""
        self._task.cancel()
        self._suspicion.close()
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
                subscribe = m.Subscribe(from_offset=self._applied())
                self._suspicion.call(lane, subscribe, on_reply=self._on_subscribed, timeout_s=SUBSCRIBE_S)
                self.register()
                await self._gone.wait()
            await asyncio.sleep(FIRST_RETRY_S)

    def _on_subscribed(self, reply: m.AnyMessage | LaneError) -> None:
        if isinstance(reply, m.Committed):
            self._heard(reply)
        elif self._lane is not None:
            self._lane.close(f"cannot follow the metadata log: {reply}")

    def _on_message(self, lane: Lane, request: int, message: m.AnyMessage, frame: Frame) -> None:
        if isinstance(message, m.Committed):
            self._heard(message)

    def _heard(self, message: m.Committed) -> None:
        if self._goes_back(message):
            log.error("a snapshot of the metadata log up to %d goes back, and is not taken", message.next_offset)
            if self._lane is not None:
                self._lane.close("it would lead back in the metadata log")
        else:
            self._step(message)

    def _on_closed(self, lane: Lane, reason: str) -> None:
        log.info("the lane to the controller closed: %s", reason)
        self._lane = None
        self._gone.set()

    def register(self) -> None:
        """Register (again); without a lane this happens as soon as there is one."""
        if self._lane is not None:
            self.call(self._registration(), self._on_registered, REQUEST_S)

    def _on_registered(self, reply: m.AnyMessage | LaneError) -> None:
        if isinstance(reply, m.NodeRegistered):
            self._step(reply)
        elif self._lane is not None:
            log.warning("the controller did not register this node: %s", reply)
            self._loop.call_later(REGISTER_AGAIN_S, self.register)

    def ask(self, message: m.GrantEpochs | m.ReplicasDown) -> None:
        """Ask; the answer, or that there is none, becomes an event, never before this returns."""
        on_reply = self._on_granted if isinstance(message, m.GrantEpochs) else self._on_recorded
        self.call(message, on_reply, REQUEST_S)

    def call(self, message: m.Message, on_reply: OnReply, timeout_s: float) -> None:
        """Ask this host's Controller; without a lane the answer is an error."""
        if self._lane is None:
            self._loop.call_soon(on_reply, LaneClosed("there is no lane to the controller"))
        else:
            self._suspicion.call(self._lane, message, on_reply=on_reply, timeout_s=timeout_s)

    def _suspect(self, message: m.Message) -> None:
        if isinstance(message, m.Suspect):
            self._step(Suspected(actor=message.actor, incarnation=message.incarnation))

    def _on_granted(self, reply: m.AnyMessage | LaneError) -> None:
        if isinstance(reply, m.EpochsGranted):
            self._step(reply)
        else:
            log.warning("no leader epochs granted: %s", reply)
            self._step(GrantFailed(code=_code(reply), reason=str(reply)))

    def _on_recorded(self, reply: m.AnyMessage | LaneError) -> None:
        if isinstance(reply, m.Recorded):
            self._step(reply)
        else:
            log.warning("the controller was not told of replicas that are down: %s", reply)
            self._step(DownFailed(code=_code(reply), reason=str(reply)))

    def on_beaten(self, attempt: int, reply: m.AnyMessage | LaneError) -> None:
        """What became of a heartbeat, whichever way it went."""
        if isinstance(reply, m.HeartbeatAnswered):
            self._step(BeatAnswered(attempt=attempt, may_stop=reply.may_stop))
        elif not isinstance(reply, LaneTimeout):
            self._step(BeatFailed(attempt=attempt, code=_code(reply)))

    def beat(self, effect: Beat) -> None:
        """Send a heartbeat by this host's Controller."""
        self.call(effect.message, partial(self.on_beaten, effect.attempt), BEAT_S)

    def relay(self, lane: Lane, request: int, message: m.AlterPartition) -> None:
        """Pass a partition's proposal on, and the answer back."""
        if self._relays >= RELAYS_MAX:
            lane.reply(request, m.Refused(code=NOT_CONTROLLER, reason=f"{RELAYS_MAX} proposals are under way"))
            return
        self._relays += 1
        self.call(message, partial(self._on_relayed, lane, request), RELAY_S)

    def _on_relayed(self, lane: Lane, request: int, reply: m.AnyMessage | LaneError) -> None:
        self._relays -= 1
        if isinstance(reply, m.PartitionAltered):
            lane.reply(request, reply)
            return
        if _code(reply) == STALE_BROKER_EPOCH:
            self._step(Stale())
        if isinstance(reply, RefusedError):
            lane.reply(request, m.Refused(code=reply.code, reason=reply.reason, leader_epoch=reply.leader_epoch))
        else:
            lane.reply(request, m.Refused(code=NOT_CONTROLLER, reason=f"no controller answers: {reply}"))


def _code(reply: m.AnyMessage | LaneError) -> int:
    """Kafka's code of a refusal; 0 if nobody answered."""
    return reply.code if isinstance(reply, RefusedError) else 0
