"""What must hold of a cluster after every step, whatever happened (kafka.md, 6.5: I1 to I8).

The judge knows disks, committed metadata, what leaders answered and what clients saw. ``truth`` is what was ever below
a leader's watermark, first come first kept; whatever else is seen of a partition is compared with it. From I1, I2 and
the rules of elections follows one sentence that is looked at whenever it could have become false: whoever is in the
ISR or eligible for it (ELR), and has not lost its storage, holds the whole truth, durably.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from logeion.actors.messages import Appended, PartitionAltered
from logeion.actors.metadata import BrokerRegistered, MetadataImage, MetadataRecord, PartitionChanged, TopicDeleted
from tests.sim.engine import Violated
from tests.sim.hosts import DATA
from tests.sim.logview import Batch, LogView

if TYPE_CHECKING:
    from tests.sim.world import World

Key = tuple[str, int]


class Truth:
    """One partition's."""

    def __init__(self, key: Key, directory: str) -> None:
        self.key = key
        self.directory = directory
        self.batches: dict[int, Batch] = {}
        self.end = 0
        # Below ``start`` some log was deleted; ``trimmed`` is up to where a leader was told to delete, and no log may
        # begin later.
        self.start = 0
        self.trimmed = 0
        # By leader epoch: what was last committed of the partition in it, and who appended in it.
        self.states: dict[int, PartitionChanged] = {}
        self.newest: PartitionChanged | None = None
        self.isrs: dict[int, list[int]] = {}
        self.appenders: dict[int, str] = {}
        self.acked = 0

    def describe(self) -> str:
        return f"{self.directory} (true to {self.end})"


class Replica:
    """What a host's disk holds of one partition."""

    def __init__(self, here: LogView, durable: LogView) -> None:
        self.here = here
        self.durable = durable
        # Where each producer's sequence lies.
        self.sequences: dict[tuple[int, int, int], int] = {}
        self.looked = 0
        self.high_watermark = 0
        self.log_start = 0


class Judge:
    """Told by the world; raises ``Violated``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.image = MetadataImage()
        self.history: dict[int, MetadataRecord] = {}
        self.committed = 0
        self.truths: dict[Key, Truth] = {}
        self.deleted: list[Truth] = []
        self.replicas: dict[tuple[int, Key], Replica] = {}
        self.read: dict[bytes, Batch] = {}
        # (host, partition) that may lack what it should hold, and whether the cluster can know that by now.
        self.lost: dict[tuple[int, Key], bool] = {}
        # (host, partition) that has lost storage and has not been in the ISR since; not before this time, anyway.
        self.budget: dict[tuple[int, Key], float] = {}
        self.sent: dict[tuple[int, int, int], bytes] = {}
        self.acks = 0
        self.elections = 0

    def truth_of(self, key: Key, epoch: int | None) -> Truth | None:
        """What is true for a process of this leader epoch: the same for all, unless there are unclean elections."""
        return self.truths.get(key)

    # Metadata

    def published(self, host: int, offset: int, records: list[MetadataRecord], next_offset: int) -> None:
        """A controller hands out committed records."""
        for at, record in enumerate(records, offset):
            known = self.history.get(at)
            if known is None:
                if at < self.committed:
                    raise Violated(f"controller {host} publishes {record} at {at}, where no record was committed")
                self.history[at] = record
            elif known != record:
                raise Violated(f"controller {host} publishes {record} at {at}, where {known} was committed")
        if next_offset <= self.committed:
            return
        first = self.committed
        self.committed = next_offset
        for at, record in enumerate(records, offset):
            if at >= first:
                self._apply(record)

    def answered(self, host: int, committed: int) -> None:
        """A controller answers that something is committed below this offset."""
        if committed > self.committed:
            raise Violated(f"controller {host} answers that {committed} is committed, but that is {self.committed}")

    def _apply(self, record: MetadataRecord) -> None:
        before = None
        if isinstance(record, BrokerRegistered):
            known = self.image.brokers.get(record.node)
            if known is not None and record.broker_epoch < known.broker_epoch:
                raise Violated(f"I3: broker {record.node} from epoch {known.broker_epoch} to {record.broker_epoch}")
            host = self.world.hosts[record.node]
            if record.directory_id == host.directory_id and record.boot_id == f"boot-{host.disk.boot}":
                for where in [where for where in self.lost if where[0] == record.node]:
                    self.lost_is_known(*where)
        elif isinstance(record, PartitionChanged):
            before = self.image.partition(record.topic_id, record.partition)
        elif isinstance(record, TopicDeleted):
            for key in [key for key in self.truths if key[0] == record.topic_id]:
                self.deleted.append(self.truths.pop(key))
        self.image.apply(record)
        if isinstance(record, PartitionChanged):
            self._partition_changed(before, record)

    def _partition_changed(self, before: PartitionChanged | None, record: PartitionChanged) -> None:
        key = (record.topic_id, record.partition)
        topic = self.image.topic_by_id(record.topic_id)
        if topic is None:
            return
        truth = self.truths.get(key)
        if truth is None:
            truth = self.truths[key] = Truth(key, f"{topic.name}-{record.partition}")
            # Whoever had lost an earlier topic's log may still have to register anew, and leaves this ISR, too.
            for node in sorted({node for node, old in self.budget if old not in self.truths}):
                self.budget[node, key] = self.world.engine.time
        where = truth.directory
        if before is not None:
            if record.leader_epoch < before.leader_epoch or record.partition_epoch <= before.partition_epoch:
                raise Violated(f"I3: {where} from {before} to {record}")
            if record.leader != before.leader and record.leader >= 0 and record.leader_epoch == before.leader_epoch:
                raise Violated(f"I4: {where} has leaders {before.leader} and {record.leader} in {record.leader_epoch}")
        if record.leader >= 0 and record.leader not in record.isr:
            raise Violated(f"I5: the leader of {where} is not in its ISR: {record}")
        if set(record.isr) & set(record.elr) or not set(record.isr) | set(record.elr) <= set(record.replicas):
            raise Violated(f"ISR and ELR of {where} overlap or hold a stranger: {record}")
        if before is None or record.leader_epoch != before.leader_epoch:
            self.elections += 1
            self.world.note(
                f"{where} epoch {record.leader_epoch}: leader {record.leader} isr {record.isr} elr {record.elr}"
            )
        else:
            self.world.note(f"{where} isr {record.isr} elr {record.elr}")
        truth.newest = record
        truth.states[record.leader_epoch] = record
        truth.isrs[record.partition_epoch] = record.isr
        members = set(record.isr) | set(record.elr)
        known = set() if before is None else set(before.isr) | set(before.elr)
        for node in self.world.hosts:
            if self.lost.get((node, key)) and (node not in members or node not in known):
                del self.lost[node, key]
            since = self.budget.get((node, key))
            back = node in record.isr and (node, key) not in self.lost
            if since is not None and back and since < self.world.engine.time:
                del self.budget[node, key]
        for node in sorted(members - known):
            self.holds_truth(node, truth)
        if before is not None and record.leader_epoch != before.leader_epoch:
            self.world.elected(truth)

    # Logs

    def replica(self, host: int, truth: Truth) -> Replica:
        """What this host's disk holds of the partition."""
        found = self.replicas.get((host, truth.key))
        if found is None:
            disk, path = self.world.hosts[host].disk, f"{DATA}/{truth.directory}"
            here = LogView(disk, path, self.read, durable=False)
            found = Replica(here, LogView(disk, path, self.read, durable=True))
            self.replicas[(host, truth.key)] = found
        return found

    def is_member(self, host: int, truth: Truth) -> bool:
        """Whether it may be counted on to hold the truth."""
        newest = truth.newest
        if newest is None or (host, truth.key) in self.lost:
            return False
        return host in newest.isr or host in newest.elr

    def holds_truth(self, host: int, truth: Truth) -> None:
        """A member holds all that was ever committed, durably; with flush=os, written."""
        if not self.is_member(host, truth):
            return
        replica = self.replica(host, truth)
        view = replica.durable if self.world.settings.flush == "ack" else replica.here
        view.refresh()
        self._compare(view, truth, truth.end, "I1, I2: member {} of {}", host)
        if max(view.end, replica.log_start) < truth.end and truth.end > truth.start:
            raise Violated(
                f"I2: {truth.describe()}: member {host} holds {'durably ' if view.durable else ''}only up to "
                f"{view.end}: {truth.newest}"
            )

    def _compare(self, view: LogView, truth: Truth, end: int, what: str, host: int) -> None:
        """What lies below ``end`` in this log is what is true, without a hole, from where it was told to begin.

        ``what`` is put together with host and directory only if it is not: this is asked after every other step.
        """
        for number in range(bisect_left(view.bases, view.compared), len(view.batches)):
            batch = view.batches[number]
            if batch.base >= end:
                return
            if batch.next <= truth.start:
                continue  # deleted, whatever it is: nobody is given it any more
            wrong = _wrong(view, number, truth)
            if wrong:
                raise Violated(f"{what.format(host, truth.directory)} {wrong}")
            view.compared = batch.next

    def logged(self, host: int, truth: Truth, *, leader: str, epoch: int, alive: bool = True) -> None:
        """A replica's log has changed; ``leader`` names the process if a leader of ``epoch`` has done it."""
        replica = self.replica(host, truth)
        view = replica.here
        if view.refresh() or view.shape != replica.looked >> 32:
            replica.sequences.clear()
            replica.looked = view.shape << 32
            if self.is_member(host, truth):
                self.holds_truth(host, truth)
        looked = replica.looked & 0xFFFFFFFF
        for number in range(looked, len(view.batches)):
            batch = view.batches[number]
            if number and view.batches[number - 1].next != batch.base:
                raise Violated(
                    f"{truth.directory} on {host} has nothing between {view.batches[number - 1].next} and {batch.base}"
                )
            if batch.producer >= 0:
                sequence = (batch.producer, batch.producer_epoch, batch.sequence)
                first_at = replica.sequences.get(sequence, -1)
                if first_at >= replica.log_start:
                    # What was deleted may come again: a replica that began after it knows nothing of it.
                    raise Violated(
                        f"I7: {truth.directory} on {host} holds {sequence} twice, at {first_at} and {batch.base}"
                    )
                replica.sequences[sequence] = batch.base
            if leader and batch.epoch == epoch:
                first = truth.appenders.setdefault(epoch, leader)
                if first != leader:
                    raise Violated(f"I4: {first} and {leader} have both appended to {truth.directory} in epoch {epoch}")
        replica.looked = (view.shape << 32) | len(view.batches)
        if alive and view.torn:
            raise Violated(f"{truth.directory} on {host}, in use: {view.torn}")

    def begins(self, host: int, key: Key, epoch: int, log_start: int, high_watermark: int) -> None:
        """A leader begins; its log is as it was found."""

    def proposed(self, records: list[MetadataRecord], isr: list[int]) -> None:
        """This is what the controller makes of a leader's proposal."""

    def asked(self, records: list[MetadataRecord]) -> None:
        """This is what the controller makes of an admin's wish for unclean elections."""

    def watermark(
        self, host: int, truth: Truth, high_watermark: int, *, leading: bool, partition_epoch: int = -1
    ) -> None:
        """A replica's watermark stands there."""
        replica = self.replica(host, truth)
        disk = self.world.hosts[host].disk
        knows_less = bool(disk.unwritten) and disk.knows_less(f"{DATA}/{truth.directory}")
        if high_watermark < replica.high_watermark and not knows_less:
            raise Violated(
                f"I3: the watermark of {truth.directory} on {host} from {replica.high_watermark} to {high_watermark}"
            )
        replica.high_watermark = high_watermark
        view = replica.here
        if leading and high_watermark > truth.end:
            self._more_truth(host, truth, view, high_watermark, partition_epoch)
            return
        if high_watermark > truth.end:
            raise Violated(
                f"I1: replica {host} of {truth.describe()} has the watermark {high_watermark}, which none had"
            )
        self._compare(view, truth, high_watermark, "I1: replica {} of {}, below its watermark,", host)
        if view.end < high_watermark and high_watermark > max(truth.start, replica.log_start):
            raise Violated(
                f"I1: replica {host} of {truth.describe()} ends at {view.end}, below its watermark {high_watermark}"
            )

    def _more_truth(self, host: int, truth: Truth, view: LogView, end: int, partition_epoch: int) -> None:
        isr = truth.isrs.get(partition_epoch)
        needed = min(self.world.settings.min_isr, len(truth.newest.replicas) if truth.newest is not None else 1)
        if isr is None:
            raise Violated(f"leader {host} of {truth.directory} has partition epoch {partition_epoch}, never committed")
        if len(isr) < needed:
            raise Violated(
                f"I8: leader {host} of {truth.describe()} moves its watermark to {end} with the ISR {isr} of "
                f"{needed} needed"
            )
        self._compare(view, truth, truth.end, "I1, I2: leader {} of {}", host)
        for batch in view.from_offset(truth.end):
            if batch.base >= end:
                break
            if batch.base != truth.end and truth.batches:
                raise Violated(f"I1: leader {host} of {truth.describe()} commits offset {batch.base} next")
            truth.batches[batch.base] = batch
            truth.end = batch.next
            view.compared = batch.next
        if truth.end != end:
            raise Violated(f"I1: leader {host} of {truth.directory}: watermark {end}, but batches end at {truth.end}")
        newest = truth.newest
        assert newest is not None
        for node in (*newest.isr, *newest.elr):
            self.holds_truth(node, truth)
        self.world.committed(truth, host)

    def started(self, host: int, truth: Truth, log_start: int) -> None:
        """The log begins there; that only grows, and no further than a leader was told to delete."""
        replica = self.replica(host, truth)
        if log_start == replica.log_start:
            return
        if log_start < replica.log_start:
            raise Violated(f"I3: the log start of {truth.directory} on {host} from {replica.log_start} to {log_start}")
        replica.log_start = log_start
        if log_start > truth.trimmed:
            raise Violated(
                f"I2: {truth.describe()} begins at {log_start} on {host}, but nobody has deleted anything at or after "
                f"{truth.trimmed}"
            )
        truth.start = max(truth.start, log_start)

    def trimming(self, host: int, truth: Truth, offset: int, high_watermark: int) -> None:
        """A leader is about to delete what lies before this offset, by order of an owner."""
        if offset > min(high_watermark, truth.end):
            raise Violated(
                f"leader {host} of {truth.describe()} deletes up to {offset}, its watermark {high_watermark}"
            )
        truth.trimmed = max(truth.trimmed, offset)

    def forget(self, host: int, truth: Truth) -> None:
        """The power went, and the watermark is not synced: the next process on this log may know less of it."""
        self.replica(host, truth).high_watermark = 0

    def storage_lost(self, host: int, key: Key) -> None:
        """What this host held of the partition is gone."""
        self.lost[host, key] = False
        self.budget[host, key] = self.world.engine.time
        replica = self.replicas.get((host, key))
        if replica is not None:
            replica.log_start = replica.high_watermark = 0

    def lost_is_known(self, host: int, key: Key) -> None:
        """From now on the controller can know that: whoever is in the ISR again has got it all back."""
        if (host, key) in self.lost:
            self.lost[host, key] = True
            truth = self.truths.get(key)
            newest = truth.newest if truth is not None else None
            if newest is not None and host not in newest.isr and host not in newest.elr:
                del self.lost[host, key]

    def removed(self, host: int, key: Key) -> None:
        """The partition's directory is gone: the next one there begins from nothing."""
        replica = self.replicas.get((host, key))
        if replica is not None:
            replica.log_start = replica.high_watermark = 0

    def restored(self, host: int, image: MetadataImage, next_offset: int) -> None:
        """A controller begins with a snapshot."""
        if next_offset > self.committed:
            raise Violated(f"controller {host} has a snapshot up to {next_offset}, committed is {self.committed}")

    def altered(self, host: int, answer: PartitionAltered) -> None:
        """A controller tells a leader its ISR: that must be committed."""
        for truth in (*self.truths.values(), *self.deleted):
            if truth.isrs.get(answer.partition_epoch) == answer.isr:
                return
        raise Violated(f"controller {host} answers {answer}, which is not committed")

    # Clients

    def acknowledged(self, truth: Truth, appended: Appended, body: bytes, epoch: int) -> None:
        """A leader tells a producer with acks=all that its batch lies there."""
        self.acks += 1
        batch = truth.batches.get(appended.base_offset)
        if batch is None:
            raise Violated(
                f"I2: an ack of epoch {epoch} for offset {appended.base_offset} of {truth.describe()}, "
                "which is not committed"
            )
        if batch.body != body[16:]:
            raise Violated(
                f"I2: an ack of epoch {epoch} for offset {appended.base_offset} of {truth.directory}, where a batch "
                f"of producer {batch.producer} sequence {batch.sequence} is committed"
            )

    def may_have_lost(self, key: Key, producer: int) -> bool:
        """Whether anything that was acknowledged to this producer may be gone."""
        return False

    def out_of_range(self, truth: Truth, position: int, log_start: int) -> int:
        """A consumer is told that the log begins after its position; returns where it reads on (I6)."""
        if log_start > truth.trimmed:
            raise Violated(
                f"I6: a consumer of {truth.describe()} at {position} is told that the log begins at {log_start}, but "
                f"nobody has deleted anything at or after {truth.trimmed}"
            )
        return log_start

    def consumed(self, truth: Truth, position: int, batches: list[Batch]) -> int:
        """A consumer at ``position`` has been given these; returns its new one (I6)."""
        for batch in batches:
            if batch.next <= position:
                continue
            if batch.base > position:
                raise Violated(f"I6: a consumer of {truth.directory} at {position} is given offset {batch.base} next")
            known = truth.batches.get(batch.base)
            if known is None or known.body != batch.body or known.epoch != batch.epoch:
                raise Violated(f"I1: a consumer of {truth.describe()} reads at {batch.base} what is not committed")
            position = batch.next
        return position


def _wrong(view: LogView, number: int, truth: Truth) -> str:
    """What is wrong with this batch of a log that should hold the truth; "" for nothing."""
    batch = view.batches[number]
    if number and view.batches[number - 1].next != batch.base:
        return f"has nothing between {view.batches[number - 1].next} and {batch.base}"
    if not number and batch.base > truth.trimmed:
        return f"begins at {batch.base}; only up to {truth.trimmed} was anything to be deleted"
    known = truth.batches.get(batch.base)
    if known is None:
        return f"holds an offset {batch.base} that is none of the committed batches'"
    if known.epoch != batch.epoch:
        return f"holds at offset {batch.base} a batch of epoch {batch.epoch}, not the committed one of {known.epoch}"
    return "" if known.body == batch.body else f"holds at offset {batch.base} not the committed bytes"
