"""What an unclean election may lose, and nothing else: the judge of seeds in which there are such elections.

Whoever is elected from neither ISR nor ELR begins a new *line* of the partition: what is true in it is what was true
before up to where the new leader's log parts from that, and above it what that leader's log holds and what is
committed from then on. Where they part is looked at when the leader begins to lead. The older line goes on as long as
its last leader has not heard of it: what that still acknowledges is lost, too. A log belongs to the older line until
it has nothing left that the newer one does not have, and only on that way may a watermark or a log start go back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from logeion.actors.messages import Appended
from logeion.actors.metadata import BrokerChanged, BrokerRegistered, MetadataImage, MetadataRecord, PartitionChanged
from tests.sim.cluster_judge import Judge, Key, Truth
from tests.sim.engine import Stuck, Violated
from tests.sim.logview import Batch, LogView

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.world import World


class Awaited(msgspec.Struct):
    """A leader elected uncleanly has not begun yet. ``held``: so much of what is true it had when it was elected;
    ``leader`` -1: whoever begins next."""

    epoch: int
    leader: int
    held: int = 0


class Line(Truth):
    """What is true since an unclean election. ``since``: the leader epoch that it began with."""

    def __init__(self, older: Truth, since: int) -> None:
        super().__init__(older.key, older.directory)
        self.since = since
        self.states, self.isrs, self.appenders = older.states, older.isrs, older.appenders
        self.newest = older.newest
        # Who has begun it, until all that is true in it from the first is on that host's device.
        self.unsynced = -1


class Lines:
    """One partition's, oldest first. ``lost``: the producers of whom something committed is in no newer line."""

    def __init__(self, first: Truth) -> None:
        self.truths = [first]
        self.lost: set[int] = set()
        # Offset and epoch of what was acknowledged.
        self.acked: set[tuple[int, int]] = set()
        # Elected, and others were before they had begun: they may not have heard of it.
        self.superseded: list[Awaited] = []

    def of(self, epoch: int) -> Truth:
        """The line of this leader epoch."""
        at = len(self.truths) - 1
        while since(self.truths[at]) > epoch:
            at -= 1
        return self.truths[at]

    def add(self, line: Line) -> None:
        """One more, in its place."""
        self.truths.append(line)
        self.truths.sort(key=since)


def since(truth: Truth) -> int:
    """The leader epoch with which a line began."""
    return truth.since if isinstance(truth, Line) else -1


class UncleanJudge(Judge):
    """Instead of ``Judge`` where unclean elections may be."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.image = MetadataImage(world.settings.topic_defaults)
        self.lines: dict[Key, Lines] = {}
        self.awaited: dict[Key, Awaited] = {}
        # The line that a host's log is of, by the epoch that began it.
        self.tags: dict[tuple[int, Key], int] = {}
        # (host, partition) whose watermark is not known: the next one is neither a higher nor a lower one.
        self.unknown: set[tuple[int, Key]] = set()
        # (host, partition) whose log has failed, or is gone, and was not opened since.
        self.failed: set[tuple[int, Key]] = set()
        # Records that came of an admin's wish, and of a leader's proposal: whom that has vouched for. Not all of them
        # will be committed.
        self.wished: set[str] = set()
        self.vouched: dict[str, list[int]] = {}
        # Members that were passed over although they are said to live, and the record that did it.
        self._passed: dict[int, PartitionChanged] = {}
        self._compared: dict[LogView, Truth] = {}
        self.unclean = self.wishes_granted = self.last_known = 0
        self.lost_batches = self.lost_acks = self.late_acks = self.resets = 0

    # Lines

    def _lines(self, key: Key) -> Lines:
        found = self.lines.get(key)
        if found is None:
            found = self.lines[key] = Lines(self.truths[key])
        return found

    def truth_of(self, key: Key, epoch: int | None) -> Truth | None:
        if epoch is None or key not in self.truths:
            return self.truths.get(key)
        return self._lines(key).of(epoch)

    def may_have_lost(self, key: Key, producer: int) -> bool:
        return key in self.truths and producer in self._lines(key).lost

    def is_member(self, host: int, truth: Truth) -> bool:
        if truth.key in self.awaited or truth is not self.truths.get(truth.key):
            return False
        if isinstance(truth, Line) and truth.unsynced == host:
            # It led off with more than is on its device, and is to sync that first.
            return False
        return super().is_member(host, truth)

    @staticmethod
    def agreed(view: LogView, truth: Truth) -> int:
        """Up to which offset this log is the truth."""
        view.refresh()
        end = 0
        for batch in view.batches:
            known = truth.batches.get(batch.base)
            same = known is not None and known.epoch == batch.epoch and known.body == batch.body
            # A power cut may leave later segments behind a hole.
            if (not same and batch.next > truth.start) or (end and batch.base != end):
                return min(end, truth.end)
            end = batch.next
        return min(end, truth.end)

    def _vouched(self, host: int, truth: Truth) -> LogView:
        replica = self.replica(host, truth)
        return replica.durable if self.world.settings.flush == "ack" else replica.here

    # Elections

    def proposed(self, records: list[MetadataRecord], isr: list[int]) -> None:
        self.vouched |= {str(record): isr for record in records}

    def asked(self, records: list[MetadataRecord]) -> None:
        """This is what the controller makes of an admin's wish for unclean elections."""
        self.wished |= set(map(str, records))

    def published(self, host: int, offset: int, records: list[MetadataRecord], next_offset: int) -> None:
        super().published(host, offset, records, next_offset)
        for node, record in self._passed.items():
            raise Violated(f"an unclean election although member {node} lives and has lost nothing: {record}")
        for truth in self.truths.values():
            self._must_be_led(truth)

    def _apply(self, record: MetadataRecord) -> None:
        super()._apply(record)
        # A decision takes a node out of its ISRs before it says what that node is from now on.
        gone = isinstance(record, BrokerChanged) and (record.fenced or record.shutting_down)
        if gone or isinstance(record, BrokerRegistered):
            assert isinstance(record, BrokerChanged | BrokerRegistered)
            self._passed.pop(record.node, None)

    def allowed(self, truth: Truth) -> bool:
        """Whether the topic's configuration allows unclean elections now."""
        topic = self.image.topic_by_id(truth.key[0])
        return topic is not None and self.image.unclean_election(topic.name)

    def _must_be_led(self, truth: Truth) -> None:
        """An unclean election that may be is held in the same moment in which it can be."""
        newest = truth.newest
        if newest is None or newest.leader >= 0 or not self.allowed(truth):
            return
        # A host that lives is no use if its log is what was lost: that was told, and others are waited for.
        can = [node for node in newest.replicas if self.image.eligible(node) and (node, truth.key) not in self.failed]
        if can:
            raise Stuck(f"nobody leads {truth.directory} although {can} could, uncleanly: {newest}")

    def _partition_changed(self, before: PartitionChanged | None, record: PartitionChanged) -> None:
        # A reassignment ends with the one that is in sync at last: that may lead at once.
        vouched = self.vouched.get(str(record), [])
        if before is not None and record.leader >= 0 and record.leader not in (*before.isr, *before.elr, *vouched):
            self._elected_uncleanly(before, record)
        elif before is not None and record.recovering and not before.recovering:
            raise Violated(f"member {record.leader} was elected, and is to recover: {before}, {record}")
        super()._partition_changed(before, record)

    def _elected_uncleanly(self, before: PartitionChanged, record: PartitionChanged) -> None:
        key = (record.topic_id, record.partition)
        truth = self.truths[key]
        self.unclean += 1
        members = (*before.isr, *before.elr)
        self._check_permission(truth, before, record)
        if record.isr != [record.leader] or record.elr or not record.recovering:
            raise Violated(f"{record.leader} was elected uncleanly, so it is alone and has to recover: {record}")
        for node in members:
            taken_away = node not in record.replicas and self.allowed(truth)
            if self.image.eligible(node) and (node, key) not in self.lost and not taken_away:
                self._passed[node] = record
        held = 0
        if (record.leader, key) not in self.lost:
            held = self.agreed(self._vouched(record.leader, truth), truth)
        if key in self.awaited:
            self._lines(key).superseded.append(self.awaited[key])
        self.awaited[key] = Awaited(record.leader_epoch, record.leader, held)
        self.world.note(
            f"{truth.describe()}: {record.leader} is elected uncleanly, holds {held}; before isr {before.isr} "
            f"elr {before.elr}"
        )

    def _check_permission(self, truth: Truth, before: PartitionChanged, record: PartitionChanged) -> None:
        if self.allowed(truth):
            return
        if str(record) in self.wished:
            self.wishes_granted += 1
            return
        # KIP-966: who led last may lead again when ISR and ELR are empty: nobody is known to have more.
        left = [node for node in (*before.isr, *before.elr) if (node, truth.key) not in self.lost]
        if record.leader in before.last_known and not left:
            self.last_known += 1
            return
        raise Violated(f"an unclean election that nobody has allowed: {truth.describe()} from {before} to {record}")

    # Leaders

    def begins(self, host: int, key: Key, epoch: int, log_start: int, high_watermark: int) -> None:
        truth, awaited = self.truths.get(key), self.awaited.get(key)
        if truth is None:
            return
        lines = self._lines(key)
        if awaited is not None and epoch >= awaited.epoch:
            if awaited.leader not in (-1, host):
                raise Violated(f"I4: {awaited.leader} was elected uncleanly, and {host} begins to lead in {epoch}")
            self.truths[key] = self._begin(host, truth, awaited, log_start, high_watermark)
            del self.awaited[key]
            return
        for late in lines.superseded:
            # It has not heard that others were elected since: what it tells anybody is lost already.
            if late.leader == host and since(lines.of(epoch)) < late.epoch <= epoch:
                self._begin(host, lines.of(late.epoch), late, log_start, high_watermark)

    def _begin(self, host: int, truth: Truth, awaited: Awaited, log_start: int, high_watermark: int) -> Line:
        lines, vouched, here = self._lines(truth.key), self._vouched(host, truth), self.replica(host, truth).here
        cut = max(self.agreed(vouched, truth), log_start)
        if cut < awaited.held:
            raise Violated(
                f"{truth.describe()}: {host} held {awaited.held} when it was elected uncleanly, and begins with {cut}"
            )
        if log_start > max(one.trimmed for one in lines.truths):
            raise Violated(f"I2: {truth.describe()} begins at {log_start} on {host}, and nobody has deleted so much")
        line = Line(truth, awaited.epoch)
        if log_start <= truth.end:
            line.batches = {base: batch for base, batch in truth.batches.items() if batch.next <= cut}
        line.start, line.end = max(min(truth.start, cut), log_start), cut
        here.refresh()
        for batch in here.holding(cut):
            # What it had heard to be committed, in whichever line; the first may begin before the log does.
            if cut < batch.next <= high_watermark:
                line.batches[batch.base] = batch
                line.end = batch.next
        # What people had deleted in any line a log may lack.
        line.trimmed = max(min(max(one.trimmed for one in lines.truths), line.end), log_start)
        line.unsynced = host if vouched.durable and vouched.end < line.end else -1
        lost = [batch for base, batch in truth.batches.items() if base >= cut]
        lines.lost |= {batch.producer for batch in lost if batch.producer >= 0}
        self.lost_batches += len(lost)
        self.lost_acks += sum((batch.base, batch.epoch) in lines.acked for batch in lost)
        lines.add(line)
        self.tags[host, truth.key] = line.since
        self.world.note(f"{truth.describe()}: true is now what {host} has, from {cut} on its own: {len(lost)} are lost")
        return line

    def _more_truth(self, host: int, truth: Truth, view: LogView, end: int, partition_epoch: int) -> None:
        before = truth.end
        super()._more_truth(host, truth, view, end, partition_epoch)
        if truth is self.truths[truth.key]:
            return
        # A leader that has not heard that others lead: nobody will ever see that again.
        late = {batch.producer for base, batch in truth.batches.items() if base >= before and batch.producer >= 0}
        self._lines(truth.key).lost |= late

    def forget(self, host: int, truth: Truth) -> None:
        super().forget(host, truth)
        self.unknown.add((host, truth.key))
        if (
            isinstance(truth, Line)
            and truth.unsynced == host
            and self.agreed(self.replica(host, truth).durable, truth) < truth.end
        ):
            assert truth.newest is not None
            self.world.note(f"{truth.describe()}: {host} loses what it led with, and had not synced yet")
            self.awaited.setdefault(truth.key, Awaited(truth.newest.leader_epoch + 1, -1))
        awaited = self.awaited.get(truth.key)
        if awaited is not None and awaited.leader == host and self.world.settings.flush != "ack":
            awaited.held = 0

    def storage_lost(self, host: int, key: Key) -> None:
        super().storage_lost(host, key)
        awaited = self.awaited.get(key)
        if awaited is not None and awaited.leader == host:
            awaited.held = 0
        self.unknown.add((host, key))
        self.failed.add((host, key))

    def lost_is_known(self, host: int, key: Key) -> None:
        super().lost_is_known(host, key)
        self.failed.discard((host, key))

    # Replicas

    def _compare(self, view: LogView, truth: Truth, end: int, what: str, host: int) -> None:
        if self._compared.get(view) is not truth:
            self._compared[view] = truth
            view.compared = 0
        super()._compare(view, truth, end, what, host)

    def watermark(
        self,
        host: int,
        truth: Truth,
        high_watermark: int,
        *,
        leading: bool,
        partition_epoch: int = -1,
    ) -> None:
        key, replica = truth.key, self.replica(host, truth)
        tag = self.tags.get((host, key), -1)
        known = (host, key) not in self.unknown
        self.unknown.discard((host, key))
        if leading:
            self.tags[host, key] = max(tag, since(truth))
            super().watermark(host, truth, high_watermark, leading=True, partition_epoch=partition_epoch)
            if isinstance(truth, Line) and truth.unsynced == host and self.agreed(replica.durable, truth) >= truth.end:
                truth.unsynced = -1
            return
        if tag < since(truth):
            # It may go back on the way to the newer line; what is new comes from a leader of that.
            higher = known and high_watermark > replica.high_watermark
            replica.high_watermark = min(replica.high_watermark, high_watermark)
            if not higher:
                truth = self._newest_fit(truth, tag, lambda line: self._fits(replica.here, line, high_watermark))
            self.tags[host, key] = since(truth)
        super().watermark(host, truth, high_watermark, leading=False)

    def _newest_fit(self, truth: Truth, tag: int, fits: Callable[[Truth], bool]) -> Truth:
        """The newest line from ``truth`` back to the one of this tag into which something fits; at last that one."""
        while since(truth) > tag and not fits(truth):
            truth = self._lines(truth.key).of(since(truth) - 1)
        return truth

    @staticmethod
    def _fits(view: LogView, truth: Truth, high_watermark: int) -> bool:
        """Whether all that this log calls committed is so in this line."""
        view.refresh()
        below = [batch for batch in view.batches if batch.base < high_watermark]
        if not below:
            return high_watermark <= truth.start
        for batch in below:
            known = truth.batches.get(batch.base)
            if known is None and batch.next <= truth.start:
                continue
            if known is None or (known.epoch, known.body) != (batch.epoch, batch.body):
                return False
        return True

    def started(self, host: int, truth: Truth, log_start: int) -> None:
        tag = self.tags.get((host, truth.key), -1)
        if tag < since(truth):
            replica = self.replica(host, truth)
            replica.log_start = min(replica.log_start, log_start)
            truth = self._newest_fit(truth, tag, lambda line: log_start <= line.trimmed)
        super().started(host, truth, log_start)

    def trimming(self, host: int, truth: Truth, offset: int, high_watermark: int) -> None:
        super().trimming(host, truth, offset, high_watermark)
        # Whoever follows this leader deletes that too, and keeps it deleted in the lines to come.
        for line in self._lines(truth.key).truths:
            line.trimmed = max(line.trimmed, min(offset, line.end))

    # Clients

    def acknowledged(self, truth: Truth, appended: Appended, body: bytes, epoch: int) -> None:
        super().acknowledged(truth, appended, body, epoch)
        base = appended.base_offset
        if truth is self.truths.get(truth.key):
            self._lines(truth.key).acked.add((base, truth.batches[base].epoch))
        else:
            self.late_acks += 1

    def goes_on(self, host: int, key: Key, epoch: int, last: Batch | None, reader: str) -> None:
        """A consumer that has read ``last`` reads on from a leader, and nobody has told it to begin elsewhere."""
        truth = self.truth_of(key, epoch)
        if truth is None or last is None or last.next <= truth.start:
            return
        view = self.replica(host, truth).here
        view.refresh()
        found = view.at(last.base)
        if found is None or (found.epoch, found.body) != (last.epoch, last.body):
            raise Violated(
                f"I6: {reader} has read offset {last.base} of epoch {last.epoch}, which leader {host} of epoch {epoch} "
                "does not have, and goes on there unwarned"
            )

    def sent_back(self, host: int, key: Key, epoch: int, last: Batch | None, to: int, reader: str) -> None:
        """A consumer that has read ``last`` is told to go back to ``to``."""
        truth = self.truth_of(key, epoch)
        if truth is None or last is None:
            return
        view = self.replica(host, truth).here
        view.refresh()
        found = view.at(last.base)
        if found is not None and (found.epoch, found.body) == (last.epoch, last.body):
            raise Violated(
                f"I6: {reader} is sent back to {to}, though leader {host} has all it has read to {last.next}"
            )
        lines = self._lines(key).truths
        if len(lines) == 1:
            raise Violated(f"I6: {reader} is sent back to {to}, though nothing was ever lost")
