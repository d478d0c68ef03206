"""A gateway's side of one partition that this host leads: its lane, what is known of its log, and who waits for it.

When another host leads it from now on, what was held goes there (``forwarding``), and the link ends with the last of
it; when this host leads it again before that, the link goes on, and so does the order of its batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from logeion.log.view import LogView
from logeion.wire.errors import KafkaError, NotLeaderOrFollowerError, RequestTimedOutError, for_code

from ..lanes import Lane, LaneBusy, LaneClosed, LaneError, LaneTimeout, RefusedError
from ..messages import Advanced, Append, Message, Watch
from .forwarding import Forward
from .holding import Held, Holding

if TYPE_CHECKING:
    from ..metadata import PartitionChanged
    from .produce import Part
    from .state import Gateway

log: logging.Logger = logging.getLogger(__name__)

Key = tuple[str, int]

# A watch is asked again after this long without news: a lane that is silently dead is found out this way.
WATCH_S = 300.0

# How long the answer to "your state, now" may take.
STATE_S = 10.0

# What is added to a client's own timeout, so that the partition's typed answer comes before the lane's.
SLACK_S = 5.0


class Link:
    """One partition. ``lane`` is None while its process restarts; everything that waits stays here meanwhile.

    ``away``: this host does not lead it, and only batches that it had accepted are left.
    """

    def __init__(self, gateway: Gateway, topic_id: str, partition: int, view: LogView) -> None:
        self.gateway = gateway
        self.key: Key = (topic_id, partition)
        self.view = view
        self.epoch: int = -1
        self.lane: Lane | None = None
        self.state: Advanced | None = None
        self.holding: Holding[Part] = Holding()
        # Set when no process will lead this partition here until somebody acts.
        self.offline: KafkaError | None = None
        self.away: bool = False
        self._forward: Forward | None = None
        self._forward_epoch = -1
        self._probe: Watch | None = None
        self._armed: int | None = None
        self._watch = 0

    # The lane -------------------------------------------------------------------------------------------------------

    def connected(self, lane: Lane, epoch: int) -> None:
        """This leader serves: ask its state, send what was held, and arm what is parked."""
        self.lane, self.epoch, self.offline = lane, epoch, None
        self._probe = Watch(epoch=epoch, offset=-1)
        self._armed = None
        self.refresh(lambda _told: None)
        self._send_again(self.holding.serving())
        self.arm()

    def disconnected(self, lane: Lane) -> None:
        """The leader's process is gone, or cannot be heard."""
        if lane is not self.lane:
            return
        self.lane, self._armed = None, None
        for held in self.holding.lost(self.gateway.now_ms()):
            held.work.failed(NotLeaderOrFollowerError("the partition's leader ended; whether it kept this is unknown"))
        self.gateway.timers.arm(self.holding.next_deadline)

    def give_up(self, error: KafkaError) -> None:
        """Nobody will lead this partition here: all that waits for it fails with this error."""
        self.offline = error
        self._end_forward()
        lane, self.lane, self._armed = self.lane, None, None
        if lane is not None:
            lane.close()
        for held in self.holding.give_up():
            held.work.failed(error)
        for call in self.gateway.parking.all_at(self.key):
            call.attempt()

    # Led elsewhere --------------------------------------------------------------------------------------------------

    def leave(self, partition: PartitionChanged) -> None:
        """This host does not lead it any more: whoever reads is told so, and what can be goes to who does."""
        leading = (partition.leader, partition.leader_epoch)
        if self._forward is not None and (self._forward.node, self._forward.epoch) == leading:
            return
        self._end_forward()
        lane, self.lane, self._armed = self.lane, None, None
        if lane is not None:
            lane.close("another node leads")
        if not self.away:
            self.away, self.state, self.epoch = True, None, -1
            self.view.close()
        gateway = self.gateway
        for held in self.holding.moved(gateway.now_ms()):
            held.work.failed(NotLeaderOrFollowerError("this node does not lead the partition any more"))
        for call in gateway.parking.all_at(self.key):
            call.attempt()
        gateway.timers.arm(self.holding.next_deadline)
        leader = gateway.image.brokers.get(partition.leader)
        if self.holding.holding and leader is not None and leader.cluster_port:
            self._forward = Forward(gateway, self, leader, partition.leader_epoch)
        self._end_if_empty()

    def come_back(self) -> None:
        """This host leads it again; its process will be dialled when it runs."""
        if self.away:
            self.away = False
            self._end_forward()
            self.holding.lost(self.gateway.now_ms())
            self.gateway.timers.arm(self.holding.next_deadline)

    def reached(self, forward: Forward, epoch: int) -> None:
        """The leader on that host can be told: all that is held, in its order."""
        if forward is self._forward:
            self._forward_epoch = epoch
            again = self.holding.serving()
            log.info("%d held batches of %s-%d go to node %d", len(again), *self.key, forward.node)
            self._send_again(again)
            self._end_if_empty()

    def unreached(self, forward: Forward) -> None:
        """It cannot, for now; what it did not answer is held again."""
        if forward is self._forward:
            self.holding.lost(self.gateway.now_ms())
            self.gateway.timers.arm(self.holding.next_deadline)

    def close(self) -> None:
        """The gateway ends."""
        self._end_forward()

    def _end_forward(self) -> None:
        forward, self._forward = self._forward, None
        if forward is not None:
            forward.close()

    def _end_if_empty(self) -> None:
        if self.away and self.holding.empty:
            self._end_forward()
            self.gateway.forget(self)

    # Appends --------------------------------------------------------------------------------------------------------

    def submit(self, held: Held[Part]) -> None:
        """Append this batch now, or hold it until a leader serves."""
        if self.offline is not None:
            held.work.failed(self.offline)
        elif self.holding.submit(held, self.gateway.now_ms()):
            self._send(held)
        elif held.acks == 0:
            self.holding.withdraw(held)
            held.work.failed(NotLeaderOrFollowerError("no leader serves, and acks=0 is not held"))
        else:
            self.gateway.timers.arm(held.until_ms)

    def expire(self, now_ms: int) -> None:
        """Fail what was held too long."""
        for held in self.holding.expire(now_ms):
            held.work.failed(NotLeaderOrFollowerError("no leader of the partition served in time"))
        self._end_if_empty()

    def _send_again(self, again: list[Held[Part]]) -> None:
        """What was held goes to whoever leads now, but not behind a batch that the leader before has not confirmed in
        time: this one need not have it, and would take what follows for out of order."""
        for held in again:
            sender = held.work.sender
            if sender is not None and self.gateway.refusals.before(sender.producer, sender.sequence):
                self.holding.withdraw(held)
                held.work.failed(NotLeaderOrFollowerError("a batch before this one was refused: send that one first"))
            else:
                self._send(held)

    def _send(self, held: Held[Part]) -> None:
        lane, epoch = self.lane, self.epoch
        if self._forward is not None:
            lane, epoch = self._forward.lane, self._forward_epoch
        if lane is None:
            return  # it closed under the batch before this one, and ``disconnected`` has dealt with them all
        part = held.work
        if part.call.exchange.closed:
            self.holding.withdraw(held)
            part.failed(NotLeaderOrFollowerError("the client went away before a leader served"))
            return
        message = Append(epoch=epoch, acks=held.acks, timeout_ms=part.timeout_ms)
        suspicion = self.gateway.suspicion
        # acks=all waits for followers, which is no sign of anything. Another host's processes are its own Node's care.
        number = suspicion.begin(lane, self._probe if held.acks < 0 else None) if self._forward is None else -1

        def on_reply(reply: Message | LaneError) -> None:
            suspicion.end(number)
            self._on_append(held, lane, reply)

        # The frame outlives the lane's use of it even if the client goes away.
        release = part.call.exchange.keep()
        timeout_s = part.timeout_ms / 1000 + SLACK_S
        lane.call(message, (part.records,), on_reply=on_reply, timeout_s=timeout_s, on_sent=release)

    def _on_append(self, held: Held[Part], lane: Lane, reply: Message | LaneError) -> None:
        if isinstance(reply, LaneClosed) or lane is not (self.lane or (self._forward and self._forward.lane)):
            return  # whatever ended the lane has decided, for all of them in order
        if isinstance(reply, RefusedError) and reply.code == NotLeaderOrFollowerError.code:
            if not self.holding.not_leader(held, self.gateway.now_ms()):
                held.work.failed(NotLeaderOrFollowerError(reply.reason))
            self.gateway.timers.arm(held.until_ms)
            return
        if self.holding.answered(held):
            held.work.replied(reply)
        self._end_if_empty()

    # Reading --------------------------------------------------------------------------------------------------------

    def refresh(self, done: Callable[[bool], None]) -> None:
        """Ask the leader for its state as it is now; ``done`` is called in any case, at the latest after STATE_S.

        It is told whether the leader has answered: if not, what is known is no newer than before.
        """
        lane = self.lane
        if lane is None:
            done(False)
            return

        def on_reply(reply: Message | LaneError) -> None:
            if isinstance(reply, Advanced):
                self.learn(reply)
            done(isinstance(reply, Advanced))

        self.gateway.suspicion.call(lane, Watch(epoch=self.epoch, offset=-1), on_reply=on_reply, timeout_s=STATE_S)

    def learn(self, state: Advanced) -> None:
        """Newer knowledge replaces older; a lower epoch, or a lower watermark of the same one, is old news."""
        known = self.state
        if known is not None:
            if state.epoch < known.epoch:
                return
            if state.epoch == known.epoch and (state.high_watermark, state.log_start, state.end) < (
                known.high_watermark,
                known.log_start,
                known.end,
            ):
                return
        self.state = state
        if known is None:
            self.gateway.changed()
        for call in self.gateway.parking.passed(self.key, state.high_watermark):
            call.attempt()

    def arm(self) -> None:
        """Have the leader tell when the watermark passes the lowest offset that somebody waits for."""
        lane = self.lane
        lowest = self.gateway.parking.lowest(self.key)
        if lane is None or lowest is None or (self._armed is not None and self._armed <= lowest):
            return
        self._armed = lowest
        self._watch += 1
        number = self._watch

        def on_reply(reply: Message | LaneError) -> None:
            if number == self._watch:
                self._armed = None
            if isinstance(reply, Advanced):
                self.learn(reply)
            elif not isinstance(reply, LaneTimeout):
                return  # armed again when a leader serves
            self.arm()

        lane.call(Watch(epoch=self.epoch, offset=max(lowest, 0)), on_reply=on_reply, timeout_s=WATCH_S)


def as_kafka_error(reply: Message | LaneError) -> KafkaError:
    """What to tell a client when this came instead of the answer."""
    if isinstance(reply, RefusedError):
        return for_code(reply.code)(reply.reason)
    if isinstance(reply, LaneTimeout | LaneBusy):
        return RequestTimedOutError("the partition did not answer in time")
    return NotLeaderOrFollowerError("the partition's leader ended")
