"""One controller as a whole, pure: what is committed, its voice in the quorum, and (leading) what it decides.

Three roles, one class. A *leader* decides by a ``ControllerMachine`` on an image of its own, which is ahead of what is
committed; it begins to once its term's first entry is committed, and answers once what it decided is, too. A *follower*
relays what it is asked to the leader. An *observer* has no vote: it learns what is committed from a voter.

``step(event, now)`` returns what the shell must do, in this order: ``raft`` as ``raft.effects`` says, then
``publish``, ``answers``, ``relays``. At most one step of Raft is taken in one step here, so the next one comes when all
that is done; it is due at ``deadline``. A shell that cannot carry out what ``raft`` writes begins with another member.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from logeion.wire.errors import (
    KafkaError,
    NotControllerError,
    PolicyViolationError,
    RequestTimedOutError,
    ThrottlingQuotaExceededError,
)

from ..messages import (
    ChangeVoters,
    Committed,
    DescribeQuorum,
    Message,
    Recorded,
    Refused,
)
from ..metadata import BrokerRegistered, MetadataImage, MetadataRecord
from . import voters
from .describing import described
from .entries import Commit, read_records, unpack_records
from .events import (
    Acts,
    Answer,
    Ask,
    Asks,
    Compacted,
    Event,
    HostSeen,
    Learned,
    NotRelayed,
    Relay,
    Relayed,
)
from .machine import ControllerMachine
from .raft.effects import Effects
from .raft.machine import Raft
from .raft.messages import (
    AddVoter,
    Compact,
    Elapsed,
    Entry,
    Input,
    Proposal,
    Propose,
    RemoveVoter,
    Snapshot,
    VoterId,
)
from .raft.roles import LONG_AGO, Follower, Leader
from .raft.state import Settings, Stored

# Requests that are decided in one go, so become one write and one sync.
DECIDED_AT_ONCE = 1_000
# Requests that wait here for a leader, for its answer or for a majority; more are refused.
ASKED_MAX = 5_000
# How long a request waits for somebody who leads, and how long after a first refusal it is tried again.
LEADERLESS_S, AGAIN_S = 5.0, 0.05
# How long the word counts that a node does not run, for whoever is elected meanwhile.
GONE_KEPT_S = 3.0
# An entry travels in one message, whose length is bounded.
ENTRY_BYTES_MAX = 8 * 1024 * 1024
NOWHERE = float("inf")


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a member needs of the world: ``machine`` makes one for an image, ``reachable`` knows the nodes whose
    address is known, ``pack`` and ``pack_image`` make the bytes of an entry and of a snapshot, ``cluster_id`` names a
    new cluster. A snapshot is due after ``snapshot_bytes`` of entries."""

    machine: Callable[[MetadataImage], ControllerMachine]
    reachable: Callable[[VoterId], bool]
    cluster_id: Callable[[], str]
    pack: Callable[[Sequence[MetadataRecord]], bytes]
    pack_image: Callable[[Sequence[MetadataRecord]], bytes]
    snapshot_bytes: int


class _Waiting(msgspec.Struct):
    """A question nobody has decided yet; to be relayed from ``again`` on, and refused at ``until``."""

    ask: Ask
    until: float
    again: float = LONG_AGO


class _Pending(msgspec.Struct, frozen=True):
    """An answer that is true once what ends at ``end`` is committed."""

    end: int
    ticket: int
    answer: Message


class _Change(msgspec.Struct, frozen=True, gc=False):
    """The change of voters under way."""

    ticket: int
    voter: VoterId
    adding: bool


class Member:
    """See the module. ``image`` and ``applied`` are what is committed, as far as it is known here."""

    def __init__(self, me: VoterId, image: MetadataImage, around: Surroundings, closed: Refused | None = None) -> None:
        self.me = me
        self.image: MetadataImage = image
        self.applied: int = 0
        self.raft: Raft | None = None
        # Why nothing is decided here, until ``join``.
        self.closed = closed
        self._around = around
        self._now = LONG_AGO
        self._machine: ControllerMachine | None = None
        self._term = 0
        self._learned_leader = -1
        # What the log says beyond what is committed of where nodes are, and up to where it was read for that.
        self._registered: dict[int, tuple[str, int]] = {}
        self._read_to = 0
        # Since when this voter knows of no leader.
        self._leaderless_since = NOWHERE
        self._waiting: deque[_Waiting] = deque()
        self._relayed: dict[int, tuple[VoterId, _Waiting]] = {}
        self._pending: deque[_Pending] = deque()
        self._reads: list[_Waiting] = []
        self._change: _Change | None = None
        # Nodes that were found not to run, and when.
        self._gone: dict[int, float] = {}
        self._since_snapshot = 0
        self._snapshot_before = 0

    # What the shell looks at -----------------------------------------------------------------------------------------

    @property
    def votes(self) -> bool:
        """Whether this node is a voter, as far as it knows."""
        return self.raft is not None and self.me in self.raft.log.voters and not self._is_passed_over(self.raft)

    @property
    def follows(self) -> bool:
        """Whether to learn from a voter what is committed: without a vote, or where nobody has led for long.

        Whoever was removed while it was away still finds itself among the voters of its log, and no leader will ever
        speak to it.
        """
        raft = self.raft
        return not self.votes or (raft is not None and self._now >= self._leaderless_since + lonely_s(raft.settings))

    def where(self, node: int) -> tuple[str, int] | None:
        """This node's cluster port, as far as the log says, committed or not: it is only tried.

        After a start nothing is known to be committed before a leader has been elected, and for that the voters must
        find each other; who was added since this node was configured is only in the log.
        """
        broker = self.image.brokers.get(node)
        if broker is None:
            self._read_ahead()
            return self._registered.get(node)
        return (broker.cluster_host, broker.cluster_port) if broker.cluster_port else None

    def _read_ahead(self) -> None:
        raft = self.raft
        if raft is None or self._read_to == raft.log.end:
            return
        since = raft.committed if self._read_to > raft.log.end else max(raft.committed, self._read_to)
        for entry in raft.log.read(since, raft.log.end):
            for record in unpack_records(entry.data):
                if isinstance(record, BrokerRegistered) and record.cluster_port:
                    self._registered[record.node] = (record.cluster_host, record.cluster_port)
        self._read_to = raft.log.end

    @property
    def leader(self) -> int:
        """Who leads the quorum, as far as this node knows; -1: nobody."""
        if self.raft is not None and self.votes:
            return -1 if self.raft.leader is None else self.raft.leader
        return self._learned_leader

    def led_by(self, node: int) -> int | None:
        """The term in which this voter follows that one; None if it does not."""
        raft = self.raft
        if raft is None or not isinstance(raft.role, Follower) or raft.role.leader != node:
            return None
        return raft.term

    @property
    def decides(self) -> bool:
        """Whether this is the leader and knows all that is committed."""
        return self._machine is not None

    @property
    def deadline(self) -> float:
        """When ``step(Elapsed(), now)`` is due; long ago if it is at once."""
        due = NOWHERE
        if self.raft is not None:
            due = LONG_AGO if self._may_activate() else self.raft.deadline
        if self._machine is not None:
            if (self._waiting or self._unknown_voters()) and self._has_room():
                return LONG_AGO
            due = min(due, self._machine.deadline(self._now))
        elif self._waiting:
            leads = self.leader not in (-1, self.me)
            due = min(due, *(min(each.until, each.again) if leads else each.until for each in self._waiting))
        return due

    def _is_passed_over(self, raft: Raft) -> bool:
        """Whether nobody leads this voter, and it has learned of more than its log has.

        It was removed while it was away, or stands on an addition that came to nothing; or it is only cut off from who
        leads. It lacks what is committed, so could win no election in any case: it is as good as without a vote.
        """
        return raft.leader is None and self.applied > raft.log.end

    # Steps -----------------------------------------------------------------------------------------------------------

    def join(self, stored: Stored, settings: Settings, seed: int, now: float) -> list[Commit]:
        """Have a disk, with this on it; returns what it knows to be committed beyond ``applied``."""
        self.closed = None
        self.raft = Raft(self.me, stored, settings, seed, now)
        self._since_snapshot = 0
        self._snapshot_before = stored.snapshot.end
        if stored.snapshot.end <= self.applied:
            return []
        return [self._restore(read_records(stored.snapshot.data), stored.snapshot.end)]

    def step(self, event: Event, now: float) -> Acts:
        """Take one event; what comes back must be done before the next."""
        self._now = now
        acts = Acts(Effects())
        match event:
            case Asks():
                self._take(event.asks, now, acts)
                if self._machine is not None:
                    self._decide(now, acts)
            case Elapsed():
                self._elapsed(now, acts)
            case Relayed():
                found = self._relayed.pop(event.ticket, None)
                if found is not None:
                    acts.answers.append(Answer(event.ticket, event.answer or _lost("it went away over the request")))
            case NotRelayed():
                found = self._relayed.pop(event.ticket, None)
                if found is not None:
                    found[1].again = now + AGAIN_S
                    self._waiting.append(found[1])
            case Learned():
                self._learn(event.committed, acts)
            case Compacted():
                self._compact(event.snapshot, now, acts)
            case HostSeen():
                self._see(event.node, event.running, now)
            case _:
                if self.raft is not None:
                    self._run(event, now, acts)
        self._settle(now, acts)
        return acts

    def _elapsed(self, now: float, acts: Acts) -> None:
        raft = self.raft
        if raft is not None and raft.deadline <= now:
            self._run(Elapsed(), now, acts)
        elif self._may_activate():
            self._activate(now, acts)
        elif self._machine is not None:
            self._decide(now, acts)

    def _run(self, message: Input, now: float, acts: Acts) -> None:
        """The one step of Raft."""
        raft = self.raft
        assert raft is not None
        acts.raft = raft.step(message, now)
        for what in acts.raft.committed:
            if isinstance(what, Snapshot):
                if what.end > self.applied:
                    acts.publish.append(self._restore(read_records(what.data), what.end))
                self._since_snapshot = 0
                self._snapshot_before = what.end
            else:
                self._since_snapshot += len(what.data)
                if what.end > self.applied:
                    acts.publish.append(self._apply(what))

    def _apply(self, entry: Entry) -> Commit:
        assert entry.offset == self.applied, f"{entry.offset} follows {self.applied}"
        records = unpack_records(entry.data)
        self.image.apply_all(records)
        self.applied = entry.end
        return Commit(entry.offset, records, entry.end)

    def _restore(self, records: list[MetadataRecord], end: int) -> Commit:
        self.image = self.image.restored(records)
        self.applied = end
        return Commit(0, records, end, snapshot=True)

    def _learn(self, committed: Committed, acts: Acts) -> None:
        """A voter's word for what is committed; it may lag behind what we have from elsewhere."""
        self._learned_leader = committed.leader
        if committed.snapshot:
            if committed.next_offset > self.applied:
                acts.publish.append(self._restore(committed.records, committed.next_offset))
            return
        assert committed.offset <= self.applied, f"records {self.applied} to {committed.offset} are missing"
        if committed.next_offset > self.applied:
            commit = Commit(self.applied, committed.records[self.applied - committed.offset :], committed.next_offset)
            self.image.apply_all(commit.records)
            self.applied = commit.next_offset
            acts.publish.append(commit)

    def _see(self, node: int, running: bool, now: float) -> None:
        """A node that does not run is fenced by whoever leads, now or within a moment."""
        if running:
            self._gone.pop(node, None)
        else:
            self._gone[node] = now
            if self._machine is not None:
                self._machine.gone(node)

    # Being asked -----------------------------------------------------------------------------------------------------

    def _take(self, asks: list[Ask], now: float, acts: Acts) -> None:
        for ask in asks:
            if self.closed is not None:
                acts.answers.append(Answer(ask.ticket, self.closed))
            elif ask.relayed and self.leader != self.me:
                refusal = Refused(code=NotControllerError.code, reason=f"node {self.me} does not lead the quorum")
                acts.answers.append(Answer(ask.ticket, refusal))
            elif len(self._waiting) + len(self._relayed) + len(self._pending) >= ASKED_MAX:
                refusal = Refused(
                    code=ThrottlingQuotaExceededError.code, reason=f"{ASKED_MAX} requests wait for the controller"
                )
                acts.answers.append(Answer(ask.ticket, refusal))
            else:
                self._waiting.append(_Waiting(ask, now + LEADERLESS_S))

    def _settle(self, now: float, acts: Acts) -> None:
        """Answer what has become true, and give back what this node can no longer answer."""
        raft = self.raft
        if raft is None or raft.leader is not None:
            self._leaderless_since = NOWHERE
        else:
            self._leaderless_since = min(self._leaderless_since, now)
        if self._machine is not None and (raft is None or not isinstance(raft.role, Leader) or raft.term != self._term):
            self._abdicate(_lost("another one leads by now"), acts)
        if raft is not None and self._machine is not None:
            while self._pending and self._pending[0].end <= raft.committed:
                pending = self._pending.popleft()
                acts.answers.append(Answer(pending.ticket, pending.answer))
            self._answer_change(raft, acts)
            if self._reads and raft.lease_until(now) > now:
                told = described(raft, self.image.brokers, self._machine.followed, now)
                acts.answers += [Answer(read.ask.ticket, told) for read in self._reads]
                self._reads.clear()
            return
        if not self._relayed and not self._waiting:
            return
        leader = self.leader
        if leader != -1:
            for ticket, (to, _) in list(self._relayed.items()):
                if to != leader:
                    del self._relayed[ticket]
                    acts.answers.append(Answer(ticket, _lost("another one leads by now")))
        self._relay(leader, now, acts)

    def _relay(self, leader: int, now: float, acts: Acts) -> None:
        """What waits goes to whoever leads, or is refused when its time is over."""
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            ask = each.ask
            if now >= each.until or (ask.relayed and leader != self.me):
                refusal = Refused(code=NotControllerError.code, reason="nobody leads the metadata quorum")
                acts.answers.append(Answer(ask.ticket, refusal))
            elif leader not in (-1, self.me) and now >= each.again:
                self._relayed[ask.ticket] = (leader, each)
                acts.relays.append(Relay(leader, ask.ticket, ask.question))
            else:
                self._waiting.append(each)

    # Leading ---------------------------------------------------------------------------------------------------------

    def _may_activate(self) -> bool:
        raft = self.raft
        return (
            self._machine is None
            and raft is not None
            and isinstance(raft.role, Leader)
            and raft.committed >= raft.role.term_end
        )

    def _activate(self, now: float, acts: Acts) -> None:
        """Begin to decide, from all that is committed: nothing else is in the log yet."""
        raft = self.raft
        assert raft is not None and raft.log.end == raft.committed == self.applied
        machine = self._machine = self._around.machine(self.image.restored(self.image.records()))
        self._term = raft.term
        machine.next_offset = raft.log.end
        machine.lead(now)
        for node, seen in self._gone.items():
            if now - seen < GONE_KEPT_S:
                machine.gone(node)
        founding = machine.found(self._around.cluster_id())
        if founding:
            self._run(Propose([Proposal(len(founding), self._around.pack(founding))]), now, acts)

    def _abdicate(self, lost: Refused, acts: Acts) -> None:
        """Lead no longer. What was committed in this very step is answered; of the rest nobody knows."""
        raft = self.raft
        for pending in self._pending:
            sure = raft is not None and pending.end <= raft.committed and raft.log.term_at(pending.end) == self._term
            acts.answers.append(Answer(pending.ticket, pending.answer if sure else lost))
        self._pending.clear()
        if self._change is not None:
            if raft is not None:
                self._answer_change(raft, acts)
            if self._change is not None:
                acts.answers.append(Answer(self._change.ticket, lost))
                self._change = None
        self._waiting += self._reads
        self._reads.clear()
        self._machine = None

    def _unknown_voters(self) -> bool:
        """Whether the metadata log does not say yet who votes. Of the first voters it need not: their nodes are those
        of ``cluster.voters``."""
        raft, machine = self.raft, self._machine
        if raft is None or machine is None or not (0 < raft.log.voters_end <= raft.committed or machine.image.voters):
            return False
        return raft.committed >= raft.log.voters_end and bool(voters.changes(machine.image, raft.log.voters))

    def _has_room(self) -> bool:
        raft = self.raft
        if raft is None:
            return False
        undecided = len(raft.log.read(raft.committed, raft.log.end)) if raft.log.end > raft.committed else 0
        return undecided + DECIDED_AT_ONCE <= raft.settings.undecided_max

    def _decide(self, now: float, acts: Acts) -> None:
        """All that waits, and what is due by the clock, becomes one proposal of Raft."""
        raft, machine = self.raft, self._machine
        assert raft is not None and machine is not None
        if not self._has_room():
            return
        machine.next_offset = end = raft.log.end
        if self._unknown_voters():
            # Before anything else is decided: whoever follows a voter must know the others when that one is removed.
            told = machine.know_voters(raft.log.voters)
            self._run(Propose([Proposal(len(told), self._around.pack(told))]), now, acts)
            return
        proposals: list[Proposal] = []
        while self._waiting and len(proposals) < DECIDED_AT_ONCE - 1:
            waiting = self._waiting[0]
            question = waiting.ask.question
            if isinstance(question, ChangeVoters) and proposals:
                break  # its own step, with the log as it is then
            self._waiting.popleft()
            if isinstance(question, ChangeVoters):
                self._change_voters(waiting.ask.ticket, question, now, acts)
                return
            if isinstance(question, DescribeQuorum):
                self._reads.append(waiting)
                continue
            decision = machine.handle(question, now)
            if decision.records:
                data = self._around.pack(decision.records)
                if len(data) > ENTRY_BYTES_MAX:
                    acts.answers.append(Answer(waiting.ask.ticket, _TOO_LARGE))
                    self._start_over(proposals)
                    continue
                proposals.append(Proposal(len(decision.records), data))
                end += len(decision.records)
                assert end == machine.next_offset, "the controller's machine and its log disagree"
            self._pending.append(_Pending(end, waiting.ask.ticket, decision.reply))
        if machine.deadline(now) <= now:
            records = machine.tick(now)
            if records:
                proposals.append(Proposal(len(records), self._around.pack(records)))
        if proposals:
            self._run(Propose(proposals), now, acts)

    def _start_over(self, proposals: list[Proposal]) -> None:
        """Let the machine forget its last decision, which will not be."""
        raft, machine = self.raft, self._machine
        assert raft is not None and machine is not None
        image = self.image.restored(self.image.records())
        for entry in raft.log.read(raft.committed, raft.log.end):
            image.apply_all(unpack_records(entry.data))
        for proposal in proposals:
            image.apply_all(unpack_records(proposal.data))
        machine.reset(image, raft.log.end + sum(proposal.count for proposal in proposals))

    def _change_voters(self, ticket: int, wish: ChangeVoters, now: float, acts: Acts) -> None:
        voter = wish.add if wish.add is not None else wish.remove
        try:
            if voter is None or (wish.add is not None and wish.remove is not None):
                raise PolicyViolationError("name one voter to add or one to remove")
            if wish.add is not None and not self._around.reachable(voter):
                raise PolicyViolationError(f"node {voter} has not registered the address of its cluster port")
            if self._change is not None:
                raise RequestTimedOutError("another change of the metadata quorum is under way: try again")
            self._run(AddVoter(voter) if wish.add is not None else RemoveVoter(voter), now, acts)
        except KafkaError as error:
            acts.answers.append(Answer(ticket, Refused(code=error.code, reason=str(error))))
        else:
            self._change = _Change(ticket, voter, wish.add is not None)

    def _answer_change(self, raft: Raft, acts: Acts) -> None:
        """Whether the change of voters is committed, or has failed."""
        change = self._change
        if change is None:
            return
        there = change.voter in raft.log.voters
        answer: Message | None = None
        if there == change.adding:
            if raft.committed >= raft.log.voters_end:
                answer = Recorded(committed=raft.committed)
        elif isinstance(raft.role, Leader) and raft.role.joining != change.voter:
            answer = Refused(
                code=RequestTimedOutError.code, reason=f"node {change.voter} did not get the metadata log in time"
            )
        if answer is not None:
            acts.answers.append(Answer(change.ticket, answer))
            self._change = None

    # Snapshots -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot | None:
        """One that is due: to be stored, then told as ``Compacted``; or it is not due again for a while."""
        raft = self.raft
        if raft is None or self._since_snapshot < self._around.snapshot_bytes or self.applied != raft.committed:
            return None
        self._since_snapshot = 0
        end = self.applied
        term = raft.log.term_at(end)
        if term is None or end <= raft.log.snapshot.end:
            return None
        if not raft.log.voters_at(end):
            # One that has joined by the log does not know who voted before the first change. Whoever got a snapshot
            # without voters could stand no more.
            return None
        return Snapshot(end, term, raft.log.voters_at(end), self._around.pack_image(self.image.records()))

    def _compact(self, snapshot: Snapshot, now: float, acts: Acts) -> None:
        """Others that are a little behind find the last stretch in the log."""
        raft = self.raft
        if raft is None or snapshot.end <= raft.log.snapshot.end:
            return
        tail = snapshot.end if not raft.peers else self._snapshot_before
        self._snapshot_before = snapshot.end
        self._run(Compact(snapshot.end, snapshot.data, tail), now, acts)


def lonely_s(settings: Settings) -> float:
    """After how long without a leader a voter looks for somebody who knows one: several elections would be over."""
    return 3 * settings.election_max_s


_TOO_LARGE = Refused(
    code=PolicyViolationError.code, reason=f"the change is larger than {ENTRY_BYTES_MAX} bytes: split it into several"
)


def _lost(why: str) -> Refused:
    return Refused(code=RequestTimedOutError.code, reason=f"the controller cannot tell whether this was done: {why}")
