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


def own_endpoint(gateway: Gateway, local: tuple[str, int]) -> Endpoint:
    """This node, by the address ``local`` that the client connected to or the one it must advertise."""
    host, port = gateway.advertised(local)
    # An IPv4 client of a socket that is bound to :: is better told an IPv4 address.
    return Endpoint(gateway.node, host.removeprefix("::ffff:"), port, gateway.config.node.rack)


def endpoints(gateway: Gateway, local: tuple[str, int]) -> list[Endpoint]:
    """All registered brokers by number.

    This node is listed even before its registration is committed: it answers, so it can be reached.
    """
    found = {
        broker.node: Endpoint(broker.node, broker.host, broker.port, broker.rack)
        for broker in gateway.image.brokers.values()
    }
    found[gateway.node] = own_endpoint(gateway, local)
    return [found[node] for node in sorted(found)]
