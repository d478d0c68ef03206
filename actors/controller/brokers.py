"""Nodes come and go: what becomes of the partitions that have a replica there. Pure.

Each function returns the records of all partitions concerned, made in one pass over that node's partitions and none
else. A node that leaves is taken out of the ISRs *before* the record that says it is gone, and a node that returns is
elected *after* the record that says it is back: no prefix of the log shows a leader that may not lead.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from logeion.wire.errors import BrokerIdNotRegisteredError

from ..messages import RegisterNode, ReplicasDown
from ..metadata import BrokerChanged, BrokerRegistered, MetadataImage, MetadataRecord, PartitionChanged
from . import elections
from .elections import RulesByTopic

# What a new incarnation finds of its predecessor's logs: all of them, all but what was not synced, nothing.
Found = Literal["whole", "unsynced", "empty"]


def found_by(known: BrokerRegistered, request: RegisterNode) -> Found:
    """How much of the logs there were survived from the known incarnation to the one that registers now.

    A process that dies leaves its writes with the host; a host that goes down without a clean end loses those that
    were not synced (``boot_id`` tells; an empty one tells nothing).
    """
    if request.directory_id != known.directory_id:
        return "empty"
    rebooted = "" not in (known.boot_id, request.boot_id) and request.boot_id != known.boot_id
    return "unsynced" if rebooted and not request.clean else "whole"


def left(image: MetadataImage, nodes: Collection[int], found: Found = "whole") -> list[PartitionChanged]:
    """These nodes are in no ISR any more, and lead nothing."""
    rules = RulesByTopic(image)
    changed: dict[tuple[str, int], PartitionChanged | None] = {}
    synced: dict[str, bool] = {}
    for node in nodes:
        for state in image.partitions_of(node):
            key = (state.topic_id, state.partition)
            if key in changed:
                continue
            lost = found == "empty"
            if found == "unsynced":
                lost = not _always_synced(image, state.topic_id, synced)
            if lost or node in state.isr or node == state.leader:
                changed[key] = elections.change(
                    image,
                    state,
                    rules.of(state),
                    isr=[member for member in state.isr if member not in nodes],
                    barred=nodes,
                    lost=nodes if lost else (),
                    emptied=nodes if found == "empty" else (),
                )
    return [after for after in changed.values() if after is not None]


def _always_synced(image: MetadataImage, topic_id: str, known: dict[str, bool]) -> bool:
    """Whether nothing of this topic is acknowledged before it is synced."""
    if topic_id not in known:
        known[topic_id] = image.topic_config(image.topics[topic_id].name, "logeion.flush") == "ack"
    return known[topic_id]


def fenced(image: MetadataImage, nodes: Collection[int]) -> list[MetadataRecord]:
    """These nodes have fallen silent."""
    records: list[MetadataRecord] = [*left(image, nodes)]
    return records + [status(image, node, fenced=True) for node in nodes]


def status(
    image: MetadataImage, node: int, *, fenced: bool | None = None, shutting_down: bool | None = None
) -> BrokerChanged:
    """The node's registration with one of the two changed."""
    return BrokerChanged(
        node=node,
        broker_epoch=image.brokers[node].broker_epoch,
        fenced=node in image.fenced if fenced is None else fenced,
        shutting_down=node in image.shutting_down if shutting_down is None else shutting_down,
    )


def unregistered(image: MetadataImage, node: int) -> list[MetadataRecord]:
    """This node is forgotten, though it stays a replica of what it was a replica of.

    Raises ``BrokerIdNotRegisteredError``.
    """
    known = image.brokers.get(node)
    if known is None:
        raise BrokerIdNotRegisteredError(f"node {node} is not registered")
    gone = BrokerChanged(node=node, broker_epoch=known.broker_epoch, fenced=True, unregistered=True)
    return [*left(image, [node]), gone]


def returned(image: MetadataImage, node: int) -> list[PartitionChanged]:
    """This node may lead again, as the image says: it leads what nobody leads."""
    rules = RulesByTopic(image)
    changes = (
        elections.change(image, state, rules.of(state))
        for state in image.partitions_of(node)
        if state.leader == elections.NOBODY
    )
    return [after for after in changes if after is not None]


def handed_over(image: MetadataImage, node: int) -> list[PartitionChanged]:
    """This node shuts down, as the image says: others lead, and wait for it no more, wherever there are any."""
    rules = RulesByTopic(image)
    changes = (
        elections.change(image, state, rules.of(state)) for state in image.partitions_of(node) if node in state.isr
    )
    return [after for after in changes if after is not None]


def may_stop(image: MetadataImage, node: int) -> bool:
    """Whether this node leads nothing that another one in sync could lead."""
    if node in image.fenced:
        return True
    return not any(
        state.leader == node and any(image.eligible(member) for member in state.isr)
        for state in image.partitions_of(node)
    )


def down(image: MetadataImage, request: ReplicasDown) -> list[PartitionChanged]:
    """Single replicas that do not run on a node that lives.

    One that only waits for its next start is left alone if nobody else in sync can lead: electing nobody helps nobody.
    One that is lost always makes a newer partition epoch, also where it is in no ISR: its leader's proposal to take it
    in may be under way, made of what it had.
    """
    node = request.node
    changed: dict[tuple[str, int], PartitionChanged | None] = {}
    for one in request.replicas:
        state = image.partition(one.topic_id, one.partition)
        key = (one.topic_id, one.partition)
        if state is None or node not in state.replicas or key in changed:
            continue
        rules = elections.rules_of(image, one.topic_id)
        others = [member for member in state.isr if member != node]
        if one.lost:
            after = elections.change(image, state, rules, isr=others, barred=[node], lost=[node])
            changed[key] = after or elections.bumped(state)
        elif one.leader_epoch >= state.leader_epoch and node in state.isr and any(map(image.eligible, others)):
            changed[key] = elections.change(image, state, rules, isr=others, barred=[node])
    return [after for after in changed.values() if after is not None]
