"""Which replicas the controller has to be told are down: one request at a time, with all that wait by then. Pure."""

from __future__ import annotations

from collections.abc import Callable

from .. import messages as m

Key = tuple[str, int]


class Downs:
    """``wish`` is idempotent; ``waits`` says whether a start must wait for what the controller makes of it."""

    def __init__(self) -> None:
        self._wishes: dict[Key, bool] = {}
        self._out: dict[Key, bool] = {}
        self._committed: int | None = None
        # After a failure: not before this.
        self.retry_at: float | None = None

    def wish(self, key: Key, *, lost: bool) -> None:
        """The next request tells of this one."""
        told = self._out.get(key)
        if told is None or (lost and not told):
            self._wishes[key] = self._wishes.get(key, False) or lost

    def forget(self, key: Key) -> None:
        """It is no business of ours any more."""
        self._wishes.pop(key, None)

    def waits(self, key: Key) -> bool:
        """Whether the controller has not yet said what becomes of this one."""
        return key in self._wishes or key in self._out

    def request(self, node: int, broker_epoch: int, epoch_of: Callable[[Key], int | None]) -> m.ReplicasDown | None:
        """The next request, if one is due; ``epoch_of`` is the leader epoch known, None to leave the key out."""
        if self._out or not self._wishes or self.retry_at is not None:
            return None
        told = []
        for key, lost in self._wishes.items():
            epoch = epoch_of(key)
            if epoch is not None:
                self._out[key] = lost
                told.append(m.DownReplica(topic_id=key[0], partition=key[1], leader_epoch=epoch, lost=lost))
        self._wishes.clear()
        return m.ReplicasDown(node=node, broker_epoch=broker_epoch, replicas=told) if told else None

    def answered(self, committed: int) -> None:
        """What the controller made of it is in the metadata log below ``committed``."""
        self._committed = committed

    def settled(self, applied: int) -> list[Key]:
        """The keys of the request whose outcome is known once the log is applied so far; then it is over."""
        if self._committed is None or applied < self._committed:
            return []
        keys, self._out, self._committed = list(self._out), {}, None
        return keys

    def failed(self, retry_at: float) -> list[Key]:
        """The request came to nothing. What is lost is told again; the other keys are on their own."""
        out, self._out, self._committed = self._out, {}, None
        for key, lost in out.items():
            if lost:
                self._wishes[key] = True
                self.retry_at = retry_at
        return [key for key, lost in out.items() if not lost]

    def elapsed(self, now: float) -> None:
        """What failed may be told again."""
        if self.retry_at is not None and self.retry_at <= now:
            self.retry_at = None
