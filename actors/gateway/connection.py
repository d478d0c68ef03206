"""One client's connection: requests in, responses out in the same order, bounded on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .state import Gateway


class Exchange:
    """One request and the place of its response in the connection's order."""

    connection: Connection
    header: RequestHeader

    def answer(self, body: Any) -> None:
        """Send this response once all earlier ones are out; does nothing if the connection is closed."""

    def drop(self) -> None:
        """There is no response to this request (Produce with acks=0)."""


class Connection:
    """What handlers may know of their client."""

    gateway: Gateway
    # The address the client connected to and the client's own, as (host, port).
    local: tuple[str, int]
    peer: tuple[str, int]
    client_id: str | None
    software: str

    def close(self, reason: str) -> None:
        """End the connection now; ``reason`` is logged."""
