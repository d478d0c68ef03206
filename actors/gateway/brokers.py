"""Where clients find the brokers: as seen from the connection that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .state import Gateway


class Endpoint(NamedTuple):
    """One broker's address for clients."""

    node: int
    host: str
    port: int
    rack: str | None


def endpoints(gateway: Gateway, local: tuple[str, int]) -> list[Endpoint]:
    """All registered brokers by id; this node by the address that the client used (or the one it must advertise).

    This node is listed even before its registration is committed: it answers, so it can be reached.
    """
    found: dict[int, Endpoint] = {
        broker.node: Endpoint(broker.node, broker.host, broker.port, broker.rack)
        for broker in gateway.image.brokers.values()
    }
    mine = found.get(gateway.node)
    host, port = gateway.advertised(local)
    found[gateway.node] = Endpoint(gateway.node, host, port, mine.rack if mine else None)
    return [found[node] for node in sorted(found)]
