"""The patches of ``planted``: one function a bug, each undone by its ``MonkeyPatch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from logeion.actors import messages as m
from logeion.actors.controller import elections, isr, member
from logeion.actors.controller.member import Answer as MemberAnswer
from logeion.actors.controller.raft import following, leading
from logeion.actors.controller.raft.effects import AppendLog, SaveVote, TruncateLog
from logeion.actors.controller.raft.log import RaftLog
from logeion.actors.controller.raft.machine import Raft
from logeion.actors.controller.raft.state import Settings as RaftSettings
from logeion.actors.controller.subscribers import Subscribers
from logeion.actors.coordinator.classic import ClassicGroup
from logeion.actors.gateway.answers import Answers
from logeion.actors.gateway.confirming import Confirming
from logeion.actors.gateway.following import Following
from logeion.actors.gateway.links import Link
from logeion.actors.lanes import LaneClosed
from logeion.actors.metadata import MetadataImage, PartitionChanged
from logeion.actors.node.local import LEADER
from logeion.actors.node.starting import Starts
from logeion.actors.partition.effects import Answer, Effect, Mail, Write, Written
from logeion.actors.partition.isr import Isr
from logeion.actors.partition.machine import ACKS_ALL, ACKS_LEADER, Machine
from logeion.actors.partition.replication import Replication
from logeion.actors.replica.machine import Commit, Fetch, ReplicaMachine
from logeion.log import cutting
from logeion.log import log as log_module
from logeion.log.epochs import EpochCache
from logeion.log.recovery import Recovery
from logeion.log.sync import SyncHandle
from logeion.log.view import LogView
from tests.sim import group_world, raft_world
from tests.sim.followers import ReplicaProcess

# The leader


def ack_early(patch: pytest.MonkeyPatch) -> None:
    """acks=all is answered as soon as the leader itself has the batch."""
    honest = Machine.written

    def written(self: Machine, batches: Sequence[Mail], *rest: Any) -> list[Effect]:
        for item in batches:
            item.acks = ACKS_LEADER if item.acks == ACKS_ALL else item.acks
        return honest(self, batches, *rest)

    patch.setattr(Machine, "written", written)


def watermark_unsynced(patch: pytest.MonkeyPatch) -> None:
    """The leader counts what it has written, synced or not."""
    patch.setattr(Machine, "_own_end", lambda self: self.end)


def same_epoch(patch: pytest.MonkeyPatch) -> None:
    """A leader that died is started again in the epoch that it had."""
    honest = Starts.want

    def want(self: Starts, key: tuple[str, int]) -> None:
        local, state = self.host.locals[key], self.host.image.partition(*key)
        if state is not None and local.role == LEADER:
            local.unused_epoch = state.leader_epoch
        honest(self, key)

    patch.setattr(Starts, "want", want)


def stale_reply(patch: pytest.MonkeyPatch) -> None:
    """The answer to a fetch is taken whoever gives it: neither the dial nor the leader epoch is looked at."""
    honest = ReplicaMachine.answered

    def answered(self: ReplicaMachine, dial: int, answer: m.LogFetched, size: int, now: float) -> list[Any]:
        answer = msgspec.structs.replace(answer, epoch=self.slice.leader_epoch)
        return honest(self, self.dial, answer, size, now)

    patch.setattr(ReplicaMachine, "answered", answered)


def stale_incarnation(patch: pytest.MonkeyPatch) -> None:
    """What an earlier start of a replica has acknowledged counts for the later one."""
    honest = Replication.fetched

    def fetched(self: Replication, lane: Any, fetch: m.FetchLog, now: float) -> list[Effect]:
        follower = self.followers.get(fetch.node)
        before = -1
        if follower is not None:
            before, follower.acknowledged, follower.lost = follower.end, -1, False
            follower.directory_id = fetch.directory_id
            follower.incarnation, follower.broker_epoch = fetch.incarnation, fetch.broker_epoch
        effects = honest(self, lane, fetch, now)
        if follower is not None and before > follower.end:
            self._progressed(effects, follower, before, now)
        return effects

    patch.setattr(Replication, "fetched", fetched)


def expand_early(patch: pytest.MonkeyPatch) -> None:
    """Whoever has reached the watermark and keeps up joins the ISR, though a new leader's watermark is an old one."""
    honest = Replication._review

    def review(self: Replication, effects: list[Effect], now: float) -> None:
        start, self.epoch_start = self.epoch_start, 0
        honest(self, effects, now)
        self.epoch_start = start

    patch.setattr(Replication, "_review", review)


def shrink_alone(patch: pytest.MonkeyPatch) -> None:
    """The leader drops who lags from its own ISR, and tells the controller when it gets round to it."""
    honest = Isr.propose

    def propose(self: Isr, wanted: frozenset[int]) -> int:
        number = honest(self, wanted)
        if wanted < self.committed:
            self.committed = self.maximal = wanted
        return number

    patch.setattr(Isr, "propose", propose)


def duplicate_early(patch: pytest.MonkeyPatch) -> None:
    """A batch that is there already is answered on sight."""
    honest = Machine.written

    def written(self: Machine, batches: Sequence[Mail], results: Sequence[Any], end: int, now: float) -> list[Effect]:
        kept, left, early = [], [], []
        for item, result in zip(batches, results, strict=True):
            if isinstance(result, Written) and result.last_offset < self.end:
                appended = m.Appended(base_offset=result.first_offset, log_start=self.log_start)
                early.append(Answer(item.ticket, appended))
            else:
                kept.append(item)
                left.append(result)
        return early + honest(self, kept, left, end, now)

    patch.setattr(Machine, "written", written)


# The follower


def truncate_to_watermark(patch: pytest.MonkeyPatch) -> None:
    """A start cuts the log to the watermark that it knows (KAFKA-1211)."""
    honest = ReplicaProcess.begin

    def begin(self: ReplicaProcess, log: Any) -> None:
        log.truncate(log.high_watermark)
        honest(self, log)

    patch.setattr(ReplicaProcess, "begin", begin)


def watermark_first(patch: pytest.MonkeyPatch) -> None:
    """The watermark of a reply that says where the logs part is taken, then the log is cut (KAFKA-14704)."""
    honest = ReplicaMachine._diverged

    def diverged(self: ReplicaMachine, effects: list[Any], answer: m.LogFetched) -> None:
        watermark = min(answer.high_watermark, self.end)
        if watermark > self.high_watermark:
            self.high_watermark = watermark
            effects.append(Commit(watermark))
        honest(self, effects, answer)

    patch.setattr(ReplicaMachine, "_diverged", diverged)


def suffix_kept(patch: pytest.MonkeyPatch) -> None:
    """A follower does not cut what it knows to be committed: it waits until the leader's log is as long as its own, and
    goes on as if both agreed."""
    cut, fetch, out_of_range = ReplicaMachine._diverged, ReplicaMachine._fetch, ReplicaMachine._out_of_range

    def diverged(self: ReplicaMachine, effects: list[Any], answer: m.LogFetched) -> None:
        found: list[Any] = []
        cut(self, found, answer)
        if found[0].below_watermark:
            vars(self)["kept"] = True
            found[0] = msgspec.structs.replace(found[0], offset=self.end)
        effects += found

    def trusting(self: ReplicaMachine, effects: list[Any], now: float) -> None:
        fetch(self, effects, now)
        if "kept" in vars(self) and effects and isinstance(effects[-1], Fetch):
            message = msgspec.structs.replace(effects[-1].message, last_epoch=-1)
            effects[-1] = msgspec.structs.replace(effects[-1], message=message)

    def waiting(self: ReplicaMachine, effects: list[Any], answer: m.LogFetched, now: float) -> None:
        if "kept" in vars(self):
            self._give_up(effects, now)
        else:
            out_of_range(self, effects, answer, now)

    patch.setattr(ReplicaMachine, "_diverged", diverged)
    patch.setattr(ReplicaMachine, "_out_of_range", waiting)
    patch.setattr(ReplicaMachine, "_fetch", trusting)


def suffix_unseen(patch: pytest.MonkeyPatch) -> None:
    """A leader takes a follower's log for its own as long as it is not longer, whatever its epochs are."""
    patch.setattr(Replication, "_epoch_end", lambda self, asked: (asked, self.end))


def watermark_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A start does not look at the watermark that was written down."""
    patch.setattr(Recovery, "_state", lambda self: None)


def empties_log(patch: pytest.MonkeyPatch) -> None:
    """A follower's start empties its log up to the watermark that it knows."""
    honest = ReplicaProcess.begin

    def begin(self: ReplicaProcess, log: Any) -> None:
        log.reset(log.high_watermark)
        honest(self, log)

    patch.setattr(ReplicaProcess, "begin", begin)


# The controller


def lower_partition_epoch(patch: pytest.MonkeyPatch) -> None:
    """A proposal that was made of an older state of the partition is taken."""
    honest = isr.alter

    def alter(image: MetadataImage, request: m.AlterPartition) -> PartitionChanged | None:
        state = image.partition(request.topic_id, request.partition)
        if state is not None and request.partition_epoch < state.partition_epoch:
            request = msgspec.structs.replace(request, partition_epoch=state.partition_epoch)
        return honest(image, request)

    patch.setattr(isr, "alter", alter)


def elect_anybody(patch: pytest.MonkeyPatch) -> None:
    """If nobody of ISR and ELR lives, anybody will do."""
    honest = elections._elect

    def elect(image: MetadataImage, leader: int, replicas: Sequence[int], *rest: Any) -> tuple[int, str]:
        found = honest(image, leader, replicas, *rest)
        barred = rest[3]
        if found[0] == elections.NOBODY:
            alive = [node for node in replicas if node not in barred and image.eligible(node)]
            return (alive[0], "eligible") if alive else found
        return found

    patch.setattr(elections, "_elect", elect)


def unclean_unasked(patch: pytest.MonkeyPatch) -> None:
    """Unclean elections are held whatever the topic's configuration says."""
    honest = elections._elect
    patch.setattr(elections, "_elect", lambda *given: honest(*given[:-1], True))


def eligible_passed_over(patch: pytest.MonkeyPatch) -> None:
    """Where an unclean election may be, it is held as soon as the ISR is empty, be there an ELR or not."""
    honest = elections._elect

    def elect(image: MetadataImage, leader: int, replicas: Sequence[int], *rest: Any) -> tuple[int, str]:
        isr, elr, _last_known, barred, _preferred, unclean = rest
        others = [node for node in replicas if node not in elr and node not in barred and image.eligible(node)]
        if unclean and not isr and others:
            return others[0], "unclean"
        return honest(image, leader, replicas, *rest)

    patch.setattr(elections, "_elect", elect)


def act_uncommitted(patch: pytest.MonkeyPatch) -> None:
    """The controller answers what it has decided before a majority has it."""
    honest = member.Member._settle

    def settle(self: member.Member, now: float, acts: member.Acts) -> None:
        while self._machine is not None and self._pending:
            pending = self._pending.popleft()
            acts.answers.append(MemberAnswer(pending.ticket, pending.answer))
        honest(self, now, acts)

    patch.setattr(member.Member, "_settle", settle)


# The quorum


def vote_not_persisted(patch: pytest.MonkeyPatch) -> None:
    """A new term, and whom it was given, is not among what a step has to write."""
    honest = Raft.step

    def step(self: Raft, message: Any, now: float) -> Any:
        blank = self.blank
        out = honest(self, message, now)
        if self.blank == blank:
            out.writes[:] = [write for write in out.writes if not isinstance(write, SaveVote)]
        return out

    patch.setattr(Raft, "step", step)


def commit_by_count(patch: pytest.MonkeyPatch) -> None:
    """An entry of an earlier term counts as committed once a majority has it (the Raft paper's figure 8)."""

    def by_count(voter: Any, leader: Any) -> int:
        log = voter.log
        ends = [log.end if peer == voter.me else leader.progress[peer].match for peer in log.voters]
        return sorted(ends, reverse=True)[len(ends) // 2]

    patch.setattr(leading, "committable", by_count)
    # One entry a message, so that there is a moment at which only the earlier term's has a majority.
    patch.setattr(raft_world, "SETTINGS", RaftSettings(append_bytes_max=1))


def truncate_committed(patch: pytest.MonkeyPatch) -> None:
    """A late, shorter message takes back what was acknowledged."""

    def cut(voter: Any, end: int, out: Any) -> None:
        voter.log.truncate(end)
        out.writes.append(TruncateLog(end))

    def trusting(voter: Any, entries: list[Any], out: Any) -> None:
        if entries and entries[0].offset < voter.log.end:
            cut(voter, entries[0].offset, out)
        voter.log.append(entries)
        if entries:
            out.writes.append(AppendLog(entries))

    patch.setattr(following, "take", trusting)
    patch.setattr(following, "cut", cut)


def snapshot_drops_tail(patch: pytest.MonkeyPatch) -> None:
    """A snapshot replaces the whole log, also what follows it."""

    def careless(self: RaftLog, snapshot: Any, *rest: Any, **named: Any) -> bool:
        self.__init__(snapshot)  # type: ignore[misc]
        return False

    patch.setattr(RaftLog, "install", careless)


# The log


def producers_kept(patch: pytest.MonkeyPatch) -> None:
    """A truncation leaves the producers' state as it was."""
    honest = cutting.truncate

    def truncate(log: Any, offset: int) -> None:
        before = log.producers
        honest(log, offset)
        log.producers = before

    patch.setattr(cutting, "truncate", truncate)
    patch.setattr(log_module.cutting, "truncate", truncate)


def sync_retried(patch: pytest.MonkeyPatch) -> None:
    """A sync that fails is tried again, succeeds (the pages are clean by now), and is believed."""

    def run(self: SyncHandle) -> None:
        try:
            for fd, _path in self._descriptors:
                try:
                    self._files.fdatasync(fd)
                except OSError:
                    continue
            if self.names:
                try:
                    self._files.sync_dir(self.directory)
                except OSError:
                    pass
        finally:
            self.discard()

    patch.setattr(SyncHandle, "run", run)


def torn_kept(patch: pytest.MonkeyPatch) -> None:
    """Recovery goes on after a batch that was cut short by a crash, instead of before it."""
    patch.setattr(Recovery, "_cut", lambda self, segment, walk: None)


# Gateways


def older_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A Controller that has just started tells a gateway what it knows, and the gateway takes it for all there is."""
    honest_subscribe, honest_committed = Subscribers.subscribe, Following._on_committed

    def subscribe(self: Subscribers, lane: Any, request: int, from_offset: int) -> bool:
        early = lane.peer is not None and lane.peer.kind == "gateway" and from_offset > self._end
        return honest_subscribe(self, lane, request, 0 if early else from_offset)

    def on_committed(self: Following, lane: Any, message: m.Committed) -> None:
        with pytest.MonkeyPatch.context() as trusting:
            trusting.setattr(MetadataImage, "goes_back", lambda *_: False)
            honest_committed(self, lane, message)

    patch.setattr(Subscribers, "subscribe", subscribe)
    patch.setattr(Following, "_on_committed", on_committed)


def success_without_answer(patch: pytest.MonkeyPatch) -> None:
    """A produce whose lane closes before the answer counts as done."""
    honest = Link._on_append

    def on_append(self: Link, held: Any, lane: Any, reply: Any) -> None:
        if isinstance(reply, LaneClosed) and self.state is not None and self.holding.answered(held):
            held.work.replied(m.Appended(base_offset=self.state.end, log_start=self.state.log_start))
        honest(self, held, lane, reply)

    patch.setattr(Link, "_on_append", on_append)


def read_to_the_end(patch: pytest.MonkeyPatch) -> None:
    """A fetch is answered with what the file has, also above the watermark."""
    honest = LogView.slice

    def slice_(self: LogView, offset: int, max_bytes: int, **bounds: int) -> Any:
        return honest(self, offset, max_bytes, **{**bounds, "end_position": 1 << 40})

    patch.setattr(LogView, "slice", slice_)


def never_confirmed(patch: pytest.MonkeyPatch) -> None:
    """A gateway tells where a log ends without finding out whether its host still leads."""
    patch.setattr(Confirming, "confirmed", True)


def stale_answers(patch: pytest.MonkeyPatch) -> None:
    """An answer to Metadata is kept though the image has changed."""
    honest = Answers.find

    def find(self: Answers, state: Any, asked: Any, correlation_id: int) -> Any:
        return honest(self, self._state, asked, correlation_id)

    patch.setattr(Answers, "find", find)


# Groups


class FencedLog(group_world.OffsetsLog):
    """The offsets partition's log behind the real leader's machine: who may append is its decision."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(node=1, epoch=1, epochs=EpochCache([(1, 0)]), end=0, synced_end=0, high_watermark=0)

    def open(self) -> int:
        session = super().open()
        self.machine.open_writer("ticket", 1, "coordinator/g", session)
        return session

    def append(self, session: int, records: list[Any]) -> bool:
        mail = Mail("ticket", 1, ACKS_ALL, 1e9, None, "coordinator/g", session)
        if not any(isinstance(effect, Write) for effect in self.machine.take([mail])):
            return False
        self.fences = False
        return super().append(session, records)


def real_fence(patch: pytest.MonkeyPatch) -> None:
    """The group's world with the real machine behind its log."""
    patch.setattr(group_world, "OffsetsLog", FencedLog)


def late_append(patch: pytest.MonkeyPatch) -> None:
    """Whoever had a session once may append for ever."""
    honest = Machine._objection

    def objection(self: Machine, item: Mail) -> Any:
        item.writer = ""
        return honest(self, item)

    patch.setattr(Machine, "_objection", objection)


def old_generation(patch: pytest.MonkeyPatch) -> None:
    """A member's commit is taken whatever generation it is of."""
    patch.setattr(ClassicGroup, "check_commit", lambda self, *_: 0)
