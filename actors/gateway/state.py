"""What a gateway knows: the metadata image, the lanes to the Controller and the partitions of this host."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..messages import AnyMessage, Message

if TYPE_CHECKING:
    from ..config import Config
    from ..metadata import MetadataImage


class Gateway:
    """One gateway's state; everything here is used only in its asyncio loop."""

    node: int
    config: Config
    image: MetadataImage
    # The offset in the metadata log up to which ``image`` is applied (exclusive).
    applied: int

    async def wait_applied(self, committed: int, timeout_s: float) -> bool:
        """Until the image holds all records below ``committed``; False if that took longer."""
        raise NotImplementedError

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Until ``condition`` holds; it is asked again after each change of the image or of what runs here."""
        raise NotImplementedError

    async def ask_controller(self, message: Message, timeout_s: float) -> AnyMessage:
        """The Controller's answer. Raises ``RefusedError`` (code, reason); waits while the Controller restarts, and
        raises ``RequestTimedOutError`` when the time is over. A request may have been carried out all the same."""
        raise NotImplementedError

    def running(self, topic_id: str, partition: int) -> bool:
        """Whether this host's leader of the partition can be asked now."""
        raise NotImplementedError

    def leader_code(self, topic_id: str, partition: int) -> int:
        """0 if this host leads the partition, else the Kafka error to answer: 3, 5 or 6."""
        raise NotImplementedError

    async def ask_partition(
        self, topic_id: str, partition: int, make: Callable[[int], Message], timeout_s: float
    ) -> AnyMessage:
        """The answer of this host's leader to ``make(leader_epoch)``; waits while it restarts.

        Raises ``RefusedError``, or a ``KafkaError``: NotLeaderOrFollower, UnknownTopicOrPartition, RequestTimedOut.
        """
        raise NotImplementedError

    def advertised(self, local: tuple[str, int]) -> tuple[str, int]:
        """Host and port to tell a client that connected to ``local``: as configured, else just that."""
        raise NotImplementedError

