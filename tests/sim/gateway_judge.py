"""What must hold of gateways and of what they tell, whatever happened: in addition to ``cluster_judge``.

What was acknowledged is true, what is read is true and in order, and nobody is sent back: neither a gateway in the
metadata log, nor a client to a leader epoch before the one that the same gateway has told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from logeion.actors import messages as m
from tests.sim.engine import Violated
from tests.sim.gateways import GatewayProcess

if TYPE_CHECKING:
    from tests.sim.cluster_judge import Key, Truth
    from tests.sim.network import Port
    from tests.sim.replicas import Actor
    from tests.sim.world import World

# Of a batch, what a leader does not stamp: after base offset, length and leader epoch.
BODY = 16
# By what clients count up: acks and reads that were judged, answers by their kinds.
Counts = dict[str, int]


class GatewayJudge:
    """Told by gateways, leaders and clients; raises ``Violated``."""

    def __init__(self, world: World) -> None:
        self.world = world
        # What leaders have answered to appends, by the batch: (leader epoch, answer).
        self.replies: dict[bytes, list[tuple[int, m.Message]]] = {}
        self.counts: Counts = {}
        # What each gateway has known: how far it has read, and the leader epochs.
        self._applied: dict[GatewayProcess, int] = {}
        self._changes: dict[GatewayProcess, int] = {}
        self._epochs: dict[tuple[GatewayProcess, Key], int] = {}
        # By connection: the epoch that was told on it last.
        self._told: dict[tuple[Port, Key], int] = {}

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    # Gateways

    def stepped(self, process: GatewayProcess) -> None:
        """It may know more now, and never less."""
        gateway = process.gateway
        if self._changes.get(process) == gateway.changes:
            return
        self._changes[process] = gateway.changes
        applied = self._applied.get(process, 0)
        if gateway.applied < applied:
            raise Violated(f"{process.name} goes back in the metadata log from {applied} to {gateway.applied}")
        if gateway.applied > self.world.judge.committed:
            raise Violated(f"{process.name} has applied {gateway.applied}, committed is {self.world.judge.committed}")
        self._applied[process] = gateway.applied
        for key in self.world.judge.truths:
            state = gateway.image.partition(*key)
            known = self._epochs.get((process, key), -1)
            epoch = state.leader_epoch if state is not None else -1
            if epoch < known:
                raise Violated(f"I3: {process.name} goes back from leader epoch {known} of {key} to {epoch}")
            self._epochs[process, key] = epoch

    def knows(self, process: GatewayProcess, key: Key) -> int:
        """The leader epoch that it knows now."""
        return self._epochs.get((process, key), -1)

    # Clients

    def told(self, port: Port, truth: Truth, leader: int, epoch: int, at_least: int) -> None:
        """A client was told who leads; when it asked, that gateway knew of epoch ``at_least``."""
        self.count("told")
        gateway = port.other.name
        state = truth.states.get(epoch)
        if state is None:
            raise Violated(f"{gateway} tells of leader epoch {epoch} of {truth.describe()}, which was never committed")
        if leader >= 0 and state.leader >= 0 and state.leader != leader:
            raise Violated(
                f"I4: {gateway} tells that {leader} leads {truth.directory} in {epoch}: {state} was committed"
            )
        known = max(at_least, self._told.get((port, truth.key), -1))
        if epoch < known:
            raise Violated(f"I3: {gateway} tells of leader epoch {epoch} of {truth.directory}, and knew of {known}")
        self._told[port, truth.key] = epoch

    def answered(self, leader: Actor, epoch: int, batch: bytes, reply: m.Message) -> None:
        """A leader has answered to an append."""
        self.replies.setdefault(batch[BODY:], []).append((epoch, reply))

    def acknowledged(self, port: Port, truth: Truth, batch: bytes, base: int, acks: int) -> None:
        """A gateway tells a producer that its batch lies there."""
        self.count(f"acks={acks}")
        who = port.other.name
        if not any(
            isinstance(reply, m.Appended) and reply.base_offset == base
            for _, reply in self.replies.get(batch[BODY:], ())
        ):
            raise Violated(
                f"{who} acknowledges a batch of {truth.directory} at {base}, which no leader has told it: "
                f"{self.replies.get(batch[BODY:])}"
            )
        if acks != -1:
            return
        known = truth.batches.get(base)
        if known is None or known.body != batch[BODY:]:
            raise Violated(
                f"I2: {who} acknowledges offset {base} of {truth.describe()}, where something else is committed"
            )

    def refused_by(self, batch: bytes, code: int) -> int:
        """The epoch of the leader that has refused this batch last with this code; -1 if none has."""
        for epoch, reply in reversed(self.replies.get(batch[BODY:], [])):
            if isinstance(reply, m.Refused) and reply.code == code:
                return epoch
        return -1

    def watermark(self, port: Port, truth: Truth, high_watermark: int) -> None:
        """A consumer is told of this high watermark."""
        if high_watermark > truth.end:
            raise Violated(f"I6: {port.other.name} tells of the watermark {high_watermark} of {truth.describe()}")

    def out_of_range(self, port: Port, truth: Truth, position: int) -> None:
        """A consumer is told that there is nothing where it reads, and never will be."""
        self.count("out of range")
        if position >= truth.trimmed:
            raise Violated(
                f"I6: {port.other.name} tells a consumer at {position} of {truth.describe()} that it is out of range; "
                f"only up to {truth.trimmed} was anything to be deleted"
            )

    def latest(self, port: Port, truth: Truth, offset: int, when_asked: int) -> None:
        """Somebody is told where a log ends; ``when_asked``, so much was committed."""
        newest, gateway = truth.newest, port.other
        assert isinstance(gateway, GatewayProcess)
        deposed = newest is not None and newest.leader_epoch > self.knows(gateway, truth.key)
        self.count("latest by one who is behind" if deposed else "latest")
        if not when_asked <= offset <= truth.end:
            raise Violated(
                f"I6: {port.other.name} tells that {truth.describe()} ends at {offset}; "
                f"when it was asked, all up to {when_asked} was committed"
            )

    # The end

    def nothing_twice(self, truth: Truth) -> None:
        """Who carries no producer id is sent on once: nobody would recognise a second copy."""
        seen: dict[bytes, int] = {}
        for batch in truth.batches.values():
            if batch.producer < 0 and seen.setdefault(batch.body, batch.base) != batch.base:
                raise Violated(
                    f"I7: {truth.directory} holds a batch that was sent once at {seen[batch.body]} and {batch.base}"
                )

    def agrees(self) -> bool:
        """Whether every gateway listens and knows of each partition what was committed last."""
        image = self.world.judge.image
        for process in self.world.gateways():
            if not process.listens:
                return False
            for key in self.world.judge.truths:
                mine, newest = process.gateway.image.partition(*key), image.partition(*key)
                if mine is None or newest is None:
                    return False
                if (mine.leader, mine.leader_epoch) != (newest.leader, newest.leader_epoch):
                    return False
        expected = len(self.world.hosts) * self.world.settings.gateways
        return len(self.world.gateways()) == expected
