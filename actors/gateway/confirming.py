"""Whether what this gateway knows of leaders is still true: asked before an answer that only a true leader may give.

A host that was stopped or cut off goes on as if it led, while another leads and acknowledges records; whoever asks it
for a log's end would be told an old one, and whoever reads beyond it that there is nothing. So the metadata quorum's
leader is asked how far its log is committed, and the image must have come as far. That holds for half a session: no
node is fenced, and so replaced, in less than a whole one. A node that is alone needs none of this.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from logeion.wire.errors import KafkaError

from ..lanes import LaneError
from ..messages import DescribeQuorum, QuorumDescribed

if TYPE_CHECKING:
    from .state import Gateway

AGAIN_S = 0.05
# One question; a controller that does not answer in this time is asked anew.
ASK_S = 2.0


class Confirming:
    """One question at a time; everybody waits for the same answer."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._alone = not gateway.config.cluster.voters
        self._lease_s = gateway.config.controller.session_ms / 2000
        self._until = 0.0
        self._asking: asyncio.Task[None] | None = None

    @property
    def confirmed(self) -> bool:
        """Whether it is certain enough at this moment."""
        return self._alone or self._gateway.loop.time() < self._until

    async def confirm(self, timeout_s: float) -> bool:
        """Have it confirmed; False if that takes longer."""
        deadline = self._gateway.loop.time() + timeout_s
        while not self.confirmed:
            left = deadline - self._gateway.loop.time()
            if left <= 0:
                return False
            if self._asking is None:
                self._asking = self._gateway.loop.create_task(self._ask(min(left, ASK_S)))
            asking = self._asking
            await asyncio.wait([asking], timeout=left)
            if asking.done() and not self.confirmed:
                await asyncio.sleep(AGAIN_S)
        return True

    async def _ask(self, timeout_s: float) -> None:
        gateway, began = self._gateway, self._gateway.loop.time()
        try:
            quorum = await gateway.ask_controller(DescribeQuorum(), timeout_s)
            if not isinstance(quorum, QuorumDescribed) or not self._leads(quorum):
                return
            if await gateway.wait_applied(quorum.committed, timeout_s):
                self._until = began + self._lease_s
        except (LaneError, KafkaError):
            return
        finally:
            self._asking = None

    def _leads(self, quorum: QuorumDescribed) -> bool:
        """Whether who answered has heard of most voters just now; one that was stopped itself has not."""
        recent_ms = self._gateway.config.controller.election_ms
        heard = sum(one.voter == quorum.leader or 0 <= one.contact_ms <= recent_ms for one in quorum.voters)
        return 2 * heard > len(quorum.voters)

    def close(self) -> None:
        """Ask nobody any more."""
        if self._asking is not None:
            self._asking.cancel()
