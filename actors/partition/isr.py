"""The in-sync replicas as their leader knows them: what is committed, and what it has proposed (KIP-497). Pure.

While a proposal is under way nobody knows whether it has been committed already: the watermark counts everybody who is
in either (the *maximal* ISR), and no other proposal is made. It ends in one of four ways (kafka.md 6.2, rule 11):

* committed: adopted from the answer, or from a newer slice, whichever comes first;
* refused because a member may not be in the ISR now: it is as if it had never been made;
* refused because our picture of the partition is old: it stays until a newer slice tells what is;
* no answer, or one that says nothing about it: the very same is proposed again.

An answer does not come by the metadata log, and may overtake it: the controller may have decided under a higher
``min.insync.replicas`` than is known here, and hold whoever has left eligible to lead (KIP-966). Until a slice is here
that is as new, and with it the configuration, the watermark moves only if both agree that it may.
"""

from __future__ import annotations

from logeion.wire.errors import (
    FencedLeaderEpochError,
    IneligibleReplicaError,
    InvalidRequestError,
    InvalidUpdateVersionError,
    OperationNotAttemptedError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)

from ..messages import PartitionAltered, Slice

REVERT = frozenset((IneligibleReplicaError.code, OperationNotAttemptedError.code))
AWAIT_SLICE = frozenset(
    (
        FencedLeaderEpochError.code,
        InvalidUpdateVersionError.code,
        InvalidRequestError.code,
        UnknownTopicOrPartitionError.code,
        UnknownTopicIdError.code,
    )
)

# How soon the same proposal is made again that was not answered, another one after a refusal, and the same one after a
# refusal that a newer slice should have explained by then.
AGAIN_S = 0.1
REFUSED_AGAIN_S = 0.5
AWAIT_SLICE_S = 2.0


class Isr:
    """One partition's, for one leader epoch."""

    def __init__(self, committed: frozenset[int], partition_epoch: int) -> None:
        self.committed: frozenset[int] = committed
        self.partition_epoch: int = partition_epoch
        self.proposed: frozenset[int] | None = None
        # Everybody who is in either.
        self.maximal: frozenset[int] = committed
        # What the controller went by when it answered, while no slice is as new as that answer; else 0.
        self.min_insync: int = 0
        self._heard_epoch = partition_epoch
        self.number: int = 0
        # Whether an answer to proposal ``number`` is still to come.
        self.asked: bool = False
        # When the next proposal may be made; of a pending one, when it is repeated; None: once it is answered.
        self.next_at: float | None = 0.0

    def may_propose(self, now: float) -> bool:
        """Whether another proposal can be made now."""
        return self.proposed is None and self.next_at is not None and self.next_at <= now

    def must_repeat(self, now: float) -> bool:
        """Whether the pending proposal is to be made again now."""
        return self.proposed is not None and not self.asked and self.next_at is not None and self.next_at <= now

    def propose(self, wanted: frozenset[int]) -> int:
        """Begin a proposal, or repeat the pending one; returns its number."""
        self.proposed = wanted
        self.maximal = self.committed | wanted
        self.number += 1
        self.asked = True
        self.next_at = None
        return self.number

    def answered(self, number: int, result: PartitionAltered | int, now: float) -> None:
        """The controller has answered this proposal, or its lane did with a code (0: nobody has)."""
        if number != self.number or not self.asked:
            return
        self.asked = False
        if isinstance(result, PartitionAltered):
            # One that is older than what the metadata log has said meanwhile ends nothing.
            self.next_at = now + AGAIN_S
            if result.partition_epoch >= self.partition_epoch:
                if result.partition_epoch > self._heard_epoch:
                    self.min_insync = max(self.min_insync, result.min_insync)
                self._adopt(frozenset(result.isr), result.partition_epoch)
        elif result in REVERT:
            self.proposed, self.maximal = None, self.committed
            self.next_at = now + REFUSED_AGAIN_S
        else:
            self.next_at = now + (AWAIT_SLICE_S if result in AWAIT_SLICE else AGAIN_S)

    def heard(self, slice: Slice, now: float) -> None:
        """What the metadata log says."""
        self._heard_epoch = max(self._heard_epoch, slice.partition_epoch)
        if self._heard_epoch >= self.partition_epoch:
            self.min_insync = 0
        if slice.partition_epoch > self.partition_epoch:
            self._adopt(frozenset(slice.isr), slice.partition_epoch)
        elif self.proposed is None:
            # The nodes may have changed: what was refused may be granted now.
            self.next_at = now

    def _adopt(self, committed: frozenset[int], partition_epoch: int) -> None:
        self.committed = self.maximal = committed
        self.partition_epoch = partition_epoch
        self.proposed = None
        self.asked = False
        self.next_at = 0.0
