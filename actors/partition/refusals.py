"""Which idempotent producers had a batch refused for want of replicas, and so may not go on behind it. Pure.

A client sends up to five batches without waiting. When the first of them is refused because the ISR is too small, and
the ISR is large enough before the others are seen, a later one would be appended: of a producer that is unknown here
any sequence is accepted (its state may have expired), and the first batch, sent again, would come too late for ever. So
whoever was refused is refused, with the same retriable error, until that very sequence comes again.
"""

from __future__ import annotations

from logeion.wire.batch import BatchHeader
from logeion.wire.errors import KafkaError, NotEnoughReplicasError

# More producers than that are not remembered; the ones refused longest ago go first.
REMEMBERED_MAX = 10_000


class Refusals:
    """Of one leader epoch."""

    def __init__(self) -> None:
        # (producer id, producer epoch): the sequence that was refused first.
        self._first: dict[tuple[int, int], int] = {}

    def __bool__(self) -> bool:
        return bool(self._first)

    def note(self, header: BatchHeader) -> None:
        """This batch was refused."""
        if header.producer_id < 0:
            return
        self._first.setdefault((header.producer_id, header.producer_epoch), header.base_sequence)
        if len(self._first) > REMEMBERED_MAX:
            del self._first[next(iter(self._first))]

    def objection(self, header: BatchHeader) -> KafkaError | None:
        """Whether this batch comes behind one that was refused; if it is that one, all is well again."""
        key = (header.producer_id, header.producer_epoch)
        first = self._first.get(key)
        if first is None:
            return None
        if header.base_sequence == first:
            del self._first[key]
            return None
        return NotEnoughReplicasError(
            f"producer {header.producer_id} was refused sequence {first} when too few replicas were in sync: send that "
            "before anything else"
        )
