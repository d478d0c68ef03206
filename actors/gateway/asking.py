"""Requests on behalf of a client to the Controller and to partitions: one deadline, and failures as Kafka's errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from logeion.wire.errors import (
    BrokerNotAvailableError,
    NotControllerError,
    NotLeaderOrFollowerError,
    PolicyViolationError,
    ReplicaNotAvailableError,
    RequestTimedOutError,
    UnknownServerError,
    for_code,
)

from .. import messages as m
from ..lanes import LaneClosed, LaneError, RefusedError

if TYPE_CHECKING:
    from .state import Gateway

Reply = TypeVar("Reply", bound=m.Message)
Item = TypeVar("Item")
Result = TypeVar("Result")

# A client's timeout is kept within these: below, nothing that writes a log could succeed; above, it is a mistake.
SHORTEST_S, LONGEST_S = 1.0, 120.0

# Bytes of a message to the Controller, which serves the whole cluster one message after the other.
LARGEST = 4_194_304

# How long an answer may wait for the leaders of new partitions; a produce that comes earlier waits by itself.
RUNNING_S = 5.0

# The pause before a controller that went away is asked again.
AGAIN_S = 0.05

# Lane requests of one client request under way at once: enough to hide the round trip, few enough for thousands.
TOGETHER = 64


# Characters of a reason that are told: it may quote what the client sent, and old versions have room for 32,767 bytes.
REASON_MAX = 1_000


def told(reason: object) -> str | None:
    """The text of an error for a response; None where there is none."""
    text = str(reason)
    return (text if len(text) <= REASON_MAX else text[:REASON_MAX] + "…") or None


class Deadline:
    """A moment that all waits of one request share."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @classmethod
    def of_request(cls, timeout_ms: int) -> Deadline:
        """From a request's own ``timeout_ms``."""
        return cls(min(max(timeout_ms / 1000, SHORTEST_S), LONGEST_S))

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self._at - time.monotonic())


async def ask_controller(gateway: Gateway, message: m.Message, expected: type[Reply], deadline: Deadline) -> Reply:
    """The Controller's answer; raises KafkaError with the reason it gave, or RequestTimedOutError."""
    if len(m.encode(message)) > LARGEST:
        raise PolicyViolationError(f"the request is larger than {LARGEST} bytes: split it into several")
    try:
        reply = await gateway.ask_controller(message, deadline.left)
    except RefusedError as refused:
        raise for_code(refused.code)(refused.reason) from refused
    except LaneClosed as closed:
        raise NotControllerError("the controller went away during the request") from closed
    except LaneError as late:
        raise RequestTimedOutError(f"the controller did not answer in time: {late}") from late
    return _checked(reply, expected)


def check_count(gateway: Gateway, topics: int) -> None:
    """Raise PolicyViolationError for more topics in one request than the cluster could have."""
    most = gateway.config.limits.partitions
    if topics > most:
        raise PolicyViolationError(f"{topics} topics in one request, {most} are allowed: split it into several")


def check_partitions(gateway: Gateway, partitions: int) -> None:
    """Raise PolicyViolationError for more partitions in one request than the cluster could have."""
    most = gateway.config.limits.partitions
    if partitions > most:
        raise PolicyViolationError(f"{partitions} partitions in one request, {most} are allowed: split it into several")


async def ask_through(
    gateway: Gateway, message: m.Message, expected: type[Reply], deadline: Deadline
) -> tuple[Reply, bool]:
    """``ask_controller``, and again if the controller dies over it; True: it may have been carried out twice.

    It is asked again, too, while it waits for the nodes of a cluster that starts; then nothing was done.

    The caller must know how to read the second answer ("already exists") when the first was lost.
    """
    again = False
    while True:
        try:
            return await ask_controller(gateway, message, expected, deadline), again
        except NotControllerError:
            if deadline.left < AGAIN_S:
                raise
            again = True
        except BrokerNotAvailableError:
            if deadline.left < AGAIN_S:
                raise
        await asyncio.sleep(AGAIN_S)


async def ask_partition(
    gateway: Gateway,
    topic_id: str,
    partition: int,
    make: Callable[[int], m.Message],
    expected: type[Reply],
    deadline: Deadline,
) -> Reply:
    """The answer of this host's leader to ``make(leader_epoch)``; raises KafkaError."""
    try:
        reply = await gateway.ask_partition(topic_id, partition, make, deadline.left)
    except RefusedError as refused:
        raise for_code(refused.code)(refused.reason) from refused
    except LaneClosed as closed:
        raise NotLeaderOrFollowerError("the partition's process went away during the request") from closed
    except LaneError as late:
        raise RequestTimedOutError(f"the partition did not answer in time: {late}") from late
    return _checked(reply, expected)


async def ask_replica(
    gateway: Gateway, topic_id: str, partition: int, message: m.Message, expected: type[Reply], deadline: Deadline
) -> Reply:
    """The answer of this host's follower of the partition; raises KafkaError."""
    try:
        reply = await gateway.ask_replica(topic_id, partition, message, deadline.left)
    except RefusedError as refused:
        raise for_code(refused.code)(refused.reason) from refused
    except (OSError, LaneError) as gone:
        raise ReplicaNotAvailableError(f"no replica of the partition runs here: {gone}") from gone
    return _checked(reply, expected)


def _checked(reply: m.AnyMessage, expected: type[Reply]) -> Reply:
    if not isinstance(reply, expected):
        raise UnknownServerError(f"{type(reply).__name__} came where {expected.__name__} was due")
    return reply


async def until_applied(gateway: Gateway, committed: int, deadline: Deadline) -> None:
    """Read your writes: until the image holds what was committed; raises RequestTimedOutError."""
    if not await gateway.wait_applied(committed, deadline.left):
        raise RequestTimedOutError("the change is committed but not yet visible on this node")


async def until_running(gateway: Gateway, topic_ids: Iterable[str], deadline: Deadline) -> bool:
    """Until every leader that the image places on this node runs; False if that takes longer than it may."""
    ids = list(topic_ids)

    def all_run() -> bool:
        return all(
            gateway.running(topic_id, partition)
            for topic_id in ids
            if (topic := gateway.image.topic_by_id(topic_id)) is not None
            for partition, state in topic.partitions.items()
            if state.leader == gateway.node
        )

    return await gateway.wait_until(all_run, min(deadline.left, RUNNING_S))


async def each(items: Sequence[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """``work`` for every item, at most ``TOGETHER`` at once; the results in the items' order."""
    results: dict[int, Result] = {}
    rest = iter(enumerate(items))

    async def worker() -> None:
        for at, item in rest:
            results[at] = await work(item)

    await asyncio.gather(*(worker() for _ in range(min(TOGETHER, len(items)))))
    return [results[at] for at in range(len(items))]
