"""AlterPartition: a leader proposes its ISR (KIP-497, KIP-841, KIP-903). Pure."""

from __future__ import annotations

from logeion.wire.errors import (
    FencedLeaderEpochError,
    IneligibleReplicaError,
    InvalidRequestError,
    InvalidUpdateVersionError,
    NotControllerError,
    UnknownTopicIdError,
    UnknownTopicOrPartitionError,
)

from ..messages import AlterPartition
from ..metadata import MetadataImage, PartitionChanged
from . import elections


def alter(image: MetadataImage, request: AlterPartition) -> PartitionChanged | None:
    """The partition with this ISR, None if it has it already; raises what Kafka answers, checked in Kafka's order.

    A proposal of an older partition epoch is refused even if it is just what is committed: the leader learns that from
    the metadata log (KAFKA-14144). A leader that was elected uncleanly proposes once it serves: then it has recovered,
    be its ISR as it was.
    """
    topic = image.topic_by_id(request.topic_id)
    if topic is None:
        raise UnknownTopicIdError(f"there is no topic with id {request.topic_id}")
    state = topic.partitions.get(request.partition)
    where = f"{topic.name}-{request.partition}"
    if state is None:
        raise UnknownTopicOrPartitionError(f"there is no partition {where}")
    if request.leader_epoch > state.leader_epoch or request.partition_epoch > state.partition_epoch:
        raise NotControllerError(f"{where} is at epochs that this controller has not seen: another one leads")
    if request.leader_epoch < state.leader_epoch:
        raise FencedLeaderEpochError(f"{where} is in leader epoch {state.leader_epoch}, not {request.leader_epoch}")
    if request.node != state.leader:
        raise InvalidRequestError(f"node {request.node} does not lead {where}, {state.leader} does")
    if request.partition_epoch < state.partition_epoch:
        raise InvalidUpdateVersionError(
            f"{where} is in partition epoch {state.partition_epoch}, not {request.partition_epoch}"
        )
    _check(image, request, state, where)
    return elections.change(image, state, elections.rules_of(image, state.topic_id), isr=request.isr, recovered=True)


def _check(image: MetadataImage, request: AlterPartition, state: PartitionChanged, where: str) -> None:
    members = request.isr
    if len(request.isr_epochs) != len(members) or len(set(members)) != len(members):
        raise InvalidRequestError(f"{where}: an ISR has each replica once, each with a broker epoch")
    if any(node not in state.replicas for node in members) or state.leader not in members:
        raise InvalidRequestError(f"{where}: the ISR {members} must be among {state.replicas}, with its leader")
    for node, epoch in zip(members, request.isr_epochs, strict=True):
        # A leader that shuts down leads on until there is somebody to hand over to: this proposal may bring one.
        if node != state.leader and not image.eligible(node):
            raise IneligibleReplicaError(f"{where}: node {node} is fenced or shutting down")
        registered = image.brokers.get(node)
        if registered is None or epoch not in (-1, registered.broker_epoch):
            raise IneligibleReplicaError(f"{where}: node {node} has registered anew since it fetched in {epoch}")
