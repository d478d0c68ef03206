"""A fetch session with one broker (KIP-227): after the first fetch only what changes is said. Pure.

A broker that keeps no sessions answers with id 0, and each fetch then says everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from logeion.wire.apis import FetchPartition, FetchTopic, ForgottenTopic
from logeion.wire.errors import FetchSessionIdNotFoundError, InvalidFetchSessionEpochError

from .positions import TopicPartition

FIRST_EPOCH, LAST_EPOCH = 0, 2**31 - 1
# The broker has forgotten the session, or missed something of it: it is begun again, at once.
LOST = (FetchSessionIdNotFoundError.code, InvalidFetchSessionEpochError.code)


class Asked(NamedTuple):
    """What a fetch request says of its session and its partitions."""

    session_id: int
    session_epoch: int
    topics: list[FetchTopic]
    forgotten: list[ForgottenTopic]


class FetchSession:
    """Use: ``ask``, send, then ``answered``; or ``broken`` when no answer came."""

    def __init__(self) -> None:
        self.session_id: int = 0
        self.epoch: int = FIRST_EPOCH
        self._known: dict[TopicPartition, tuple[int, int]] = {}

    def ask(self, wanted: Mapping[TopicPartition, tuple[int, int]]) -> Asked:
        """``wanted`` maps each partition to (offset, most bytes): all that the answer may hold."""
        changed, gone = dict(wanted), set[TopicPartition]()
        if self.epoch != FIRST_EPOCH:
            changed = {tp: what for tp, what in wanted.items() if self._known.get(tp) != what}
            gone = self._known.keys() - wanted.keys()
        self._known = dict(wanted)
        topics: dict[str, list[FetchPartition]] = {}
        for tp, (offset, most) in changed.items():
            topics.setdefault(tp.topic, []).append(
                FetchPartition(partition=tp.partition, fetch_offset=offset, partition_max_bytes=most)
            )
        forgotten: dict[str, list[int]] = {}
        for tp in sorted(gone):
            forgotten.setdefault(tp.topic, []).append(tp.partition)
        return Asked(
            self.session_id,
            self.epoch,
            [FetchTopic(topic=name, partitions=rows) for name, rows in topics.items()],
            [ForgottenTopic(topic=name, partitions=rows) for name, rows in forgotten.items()],
        )

    def answered(self, code: int, session_id: int) -> bool:
        """Whether the answer counts; False: ask again, with everything (``code`` is one of LOST)."""
        if code in LOST:
            self.broken()
            return False
        if code:
            self.broken()
        elif self.epoch == FIRST_EPOCH:
            self.session_id = session_id
            self.epoch = 1 if session_id else FIRST_EPOCH
        else:
            self.epoch = 1 if self.epoch == LAST_EPOCH else self.epoch + 1
        return True

    def broken(self) -> None:
        """What the broker knows is uncertain: begin again."""
        self.session_id, self.epoch = 0, FIRST_EPOCH
        self._known.clear()
