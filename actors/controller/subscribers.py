"""Who is sent the metadata log, and what a subscriber that comes late is sent first."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import msgspec

from ..lanes import Lane
from ..messages import Committed
from ..metadata import MetadataRecord
from .entries import Commit

log: logging.Logger = logging.getLogger(__name__)

# Recent records kept in memory; whoever is further behind gets a snapshot of the image instead.
RECENT_RECORDS = 10_000
# Subscribers of one host: its Node and its gateways, with room for those that a dead lane leaves behind a moment.
SUBSCRIBERS_MAX = 1_000


class Subscribers:
    """``image`` gives the records that all that is committed adds up to, ``applied`` the offset to which it does.

    Nobody is ever sent back. After a start a controller may know less than its subscribers have heard, and as long as
    no leader can be reached it learns no more: an image of that would look as if all that came later had been deleted.
    ``complete`` tells whether what is known is surely all there is.
    """

    def __init__(
        self,
        image: Callable[[], list[MetadataRecord]],
        applied: Callable[[], int],
        complete: Callable[[], bool] = lambda: True,
    ) -> None:
        self._image = image
        self._applied = applied
        self._complete = complete
        self._lanes: dict[Lane, None] = {}
        # Those that have heard more than we know: the request, and from where on they want to hear.
        self._early: dict[Lane, tuple[int, int]] = {}
        self._recent: deque[Commit] = deque()
        self._kept = 0
        self._end = 0
        self._leader = -1

    def committed(self, commit: Commit) -> None:
        """Remember it and send it to everybody; what is known already, from before the disk was full, is not news."""
        if commit.next_offset <= self._end:
            self._answer_early()
            return
        if commit.snapshot:
            self._recent.clear()
            self._kept = 0
            self._end = commit.next_offset
        else:
            self._remember(commit)
        self._tell(self._message(commit))
        self._answer_early()

    def leads(self, leader: int) -> None:
        """Who leads the quorum (-1: nobody knows), if that is news."""
        if leader != self._leader:
            self._leader = leader
            self._tell(self._message(Commit(self._end, [], self._end)))
        if self._early:
            self._answer_early()

    def _message(self, commit: Commit) -> Committed:
        return Committed(
            offset=commit.offset,
            next_offset=commit.next_offset,
            records=commit.records,
            snapshot=commit.snapshot,
            leader=self._leader,
        )

    def _answer_to(self, commit: Commit) -> Committed:
        return msgspec.structs.replace(self._message(commit), known_end=self._end)

    def _tell(self, message: Committed) -> None:
        for lane in list(self._lanes):
            if lane.congested:
                # It does not read; when it does again it dials, and asks for what it lacks.
                lane.close("the follower of the metadata log does not keep up")
            else:
                lane.tell(message)

    def _remember(self, commit: Commit) -> None:
        self._recent.append(commit)
        self._kept += len(commit.records) + 1
        self._end = commit.next_offset
        while self._kept > RECENT_RECORDS:
            self._kept -= len(self._recent.popleft().records) + 1

    def subscribe(self, lane: Lane, request: int, from_offset: int) -> bool:
        """Answer with everything from ``from_offset`` on, or a snapshot if that reaches too far back; then follow.

        False if that has to wait until we know as much, for as long as the subscriber likes to.
        """
        if len(self._lanes) + len(self._early) >= SUBSCRIBERS_MAX:
            lane.close(f"{SUBSCRIBERS_MAX} actors follow the metadata log already")
            return True
        # What is known may also be ahead of what was told for a moment: that image is not the one of this offset.
        if self._applied() != self._end or from_offset > self._end:
            self._early[lane] = (request, from_offset)
            return False
        self._answer(lane, request, from_offset)
        return True

    def explain(self, lane: Lane) -> None:
        """It has waited for long: say why."""
        early = self._early.get(lane)
        if early is None:
            return
        _, offset = early
        who = lane.peer.actor if lane.peer is not None else "a subscriber"
        if self._complete():
            log.error(
                "%s follows a metadata log up to offset %d, the committed one ends at %d: it has followed another one, "
                "or this one was lost in part. It is told nothing, so that it removes nothing: restart its node",
                who,
                offset,
                self._end,
            )
        else:
            log.warning(
                "%s has heard of the metadata log up to offset %d, it is known here up to %d only: "
                "it waits until a leader of the quorum can be reached",
                who,
                offset,
                self._end,
            )

    def _answer_early(self) -> None:
        for lane, (request, from_offset) in list(self._early.items()):
            del self._early[lane]
            self.subscribe(lane, request, from_offset)

    def _answer(self, lane: Lane, request: int, from_offset: int) -> None:
        oldest = self._recent[0].offset if self._recent else self._end
        self._lanes[lane] = None
        if not oldest <= from_offset <= self._end:
            lane.reply(request, self._answer_to(Commit(0, self._image(), self._end, snapshot=True)))
            return
        first, *more = self._since(from_offset)
        lane.reply(request, self._answer_to(first))
        for commit in more:
            lane.tell(self._message(commit))

    def _since(self, from_offset: int) -> list[Commit]:
        """The recent commits from there on, in as few as can say which offset each record has; at least one."""
        found = [Commit(from_offset, [], from_offset)]
        for commit in self._recent:
            if commit.next_offset <= from_offset:
                continue
            records = commit.records[max(0, from_offset - commit.offset) :]
            last = found[-1]
            if records and len(last.records) == last.next_offset - last.offset:
                found[-1] = Commit(last.offset, last.records + records, commit.next_offset)
            else:
                found.append(Commit(last.next_offset, records, commit.next_offset))
        return found

    def gone(self, lane: Lane) -> None:
        """Its lane has closed."""
        self._lanes.pop(lane, None)
        self._early.pop(lane, None)
