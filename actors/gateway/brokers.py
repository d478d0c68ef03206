"""Where clients find the brokers: as seen from the connection that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from logeion.wire.apis import LeaderIdAndEpoch, NodeEndpoint

if TYPE_CHECKING:
    from logeion.wire.apis import FetchResponse, PartitionData, PartitionProduceResponse, ProduceResponse

    from ..metadata import PartitionChanged
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


def endpoints(gateway: Gateway, local: tuple[str, int], *, fenced: bool = False) -> list[Endpoint]:
    """The brokers that clients may use, by number: all that are registered and not fenced (``fenced``: those too).

    This node is listed even before its registration is committed: it answers, so it can be reached.
    """
    image = gateway.image
    found = {
        broker.node: Endpoint(broker.node, broker.host, broker.port, broker.rack)
        for broker in image.brokers.values()
        if fenced or broker.node not in image.fenced
    }
    found[gateway.node] = own_endpoint(gateway, local)
    return [found[node] for node in sorted(found)]


def alive(gateway: Gateway, node: int) -> bool:
    """Whether clients may be sent to this node."""
    return node == gateway.node or (node in gateway.image.brokers and node not in gateway.image.fenced)


def tell_leader(
    gateway: Gateway,
    local: tuple[str, int],
    partition: PartitionChanged | None,
    result: PartitionProduceResponse | PartitionData,
    response: ProduceResponse | FetchResponse,
) -> None:
    """KIP-951: beside NOT_LEADER_OR_FOLLOWER, who leads instead and where it is, so that the client need not ask."""
    if partition is None or partition.leader < 0 or partition.leader == gateway.node:
        return
    result.current_leader = LeaderIdAndEpoch(leader_id=partition.leader, leader_epoch=partition.leader_epoch)
    if any(one.node_id == partition.leader for one in response.node_endpoints):
        return
    response.node_endpoints += [
        NodeEndpoint(node_id=one.node, host=one.host, port=one.port, rack=one.rack)
        for one in endpoints(gateway, local)
        if one.node == partition.leader
    ]
