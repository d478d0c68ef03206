"""Who is sent the metadata log, and what a subscriber that comes late is sent first."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from ..lanes import Lane
from ..messages import Committed
from ..metadata import MetadataRecord
from .quorum import Commit

log = logging.getLogger(__name__)

# Recent records kept in memory; whoever is further behind gets a snapshot of the image instead.
RECENT_RECORDS = 10_000
# Subscribers of one host: its Node and its gateways, with room for those that a dead lane leaves behind a moment.
SUBSCRIBERS_MAX = 1_000


class Subscribers:
    """``image`` gives the records that all that is committed adds up to."""

    def __init__(self, image: Callable[[], list[MetadataRecord]]) -> None:
        self._image = image
        self._lanes: dict[Lane, None] = {}
        self._recent: deque[Commit] = deque()
        self._kept = 0
        self._end = 0

    def committed(self, commit: Commit) -> None:
        """Remember it and send it to everybody."""
        self._remember(commit)
        message = Committed(offset=commit.offset, next_offset=commit.next_offset, records=commit.records)
        for lane in list(self._lanes):
            if lane.congested:
                # It does not read; when it does again it dials, and asks for what it lacks.
                lane.close("the follower of the metadata log does not keep up")
            else:
                lane.tell(message)

    def recovered(self, commit: Commit) -> None:
        """What a start has read; nobody listens yet."""
        if commit.snapshot:
            self._end = commit.next_offset
        else:
            self._remember(commit)

    def _remember(self, commit: Commit) -> None:
        self._recent.append(commit)
        self._kept += len(commit.records)
        self._end = commit.next_offset
        while self._kept > RECENT_RECORDS:
            self._kept -= len(self._recent.popleft().records)

    def subscribe(self, lane: Lane, request: int, from_offset: int) -> None:
        """Answer with everything from ``from_offset`` on, or a snapshot if that reaches too far back; then follow.

        A subscriber that claims to have more than there is has followed another log: it gets the snapshot.
        """
        if len(self._lanes) >= SUBSCRIBERS_MAX:
            lane.close(f"{SUBSCRIBERS_MAX} actors follow the metadata log already")
            return
        oldest = self._recent[0].offset if self._recent else self._end
        if oldest <= from_offset <= self._end:
            records: list[MetadataRecord] = []
            for commit in self._recent:
                if commit.next_offset > from_offset:
                    records += commit.records[max(0, from_offset - commit.offset) :]
            answer = Committed(offset=from_offset, next_offset=self._end, records=records)
        else:
            answer = Committed(offset=0, next_offset=self._end, records=self._image(), snapshot=True)
        lane.reply(request, answer)
        self._lanes[lane] = None

    def gone(self, lane: Lane) -> None:
        """Its lane has closed."""
        self._lanes.pop(lane, None)
