"""Which partitions wait for a new leader epoch: one request at a time, with all that wait by then. Pure."""

from __future__ import annotations

from collections.abc import Callable

from .. import messages as m

Key = tuple[str, int]


class Grants:
    """``wish`` is idempotent; a key is either waiting, or in the request that is out, or neither."""

    def __init__(self) -> None:
        self._wishes: dict[Key, None] = {}
        self._out: list[Key] = []
        self._committed: int | None = None

    def wish(self, key: Key) -> None:
        """The next request asks for this one too."""
        if key not in self._out:
            self._wishes[key] = None

    def forget(self, key: Key) -> None:
        """It is not wanted any more."""
        self._wishes.pop(key, None)

    def request(self, node: int, broker_epoch: int, epoch_of: Callable[[Key], int | None]) -> m.GrantEpochs | None:
        """The next request, if one is due; ``epoch_of`` is the newest epoch known, None to leave the key out."""
        if self._out or not self._wishes:
            return None
        asked = []
        for key in self._wishes:
            epoch = epoch_of(key)
            if epoch is not None:
                self._out.append(key)
                asked.append(m.GrantRequest(topic_id=key[0], partition=key[1], seen_epoch=epoch))
        self._wishes.clear()
        return m.GrantEpochs(node=node, broker_epoch=broker_epoch, partitions=asked) if asked else None

    def answered(self, committed: int) -> None:
        """The epochs, if any, are in the metadata log below ``committed``."""
        self._committed = committed

    def settled(self, applied: int) -> list[Key]:
        """The keys of the request that is answered for good once the log is applied so far; then it is over."""
        if self._committed is None or applied < self._committed:
            return []
        return self.failed()

    def failed(self) -> list[Key]:
        """The keys of the request that is given up; what it did is known only from the log."""
        keys, self._out, self._committed = self._out, [], None
        return keys
