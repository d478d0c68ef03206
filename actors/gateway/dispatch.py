"""Which handler answers which API.

``HANDLERS`` is the whole of what this gateway serves; ApiVersions advertises exactly its keys. Most handlers are
coroutines: they run one at a time a connection, in the order of their requests, and return the response's body (the
class that ``APIS`` names). Produce and Fetch are ``Direct``: called in the frame's callback, they answer through the
``Exchange`` whenever they can, and several of them may be under way on a connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from .cluster import describe_cluster, describe_log_dirs
from .configs import alter_configs, describe_configs, incremental_alter_configs
from .coordinators import find_coordinator
from .fetch import fetch
from .group_admin import consumer_group_describe, delete_groups, describe_groups, list_groups
from .group_membership import consumer_group_heartbeat, heartbeat, join_group, leave_group, sync_group
from .group_offsets import offset_commit, offset_delete, offset_fetch
from .leaders_admin import alter_partition_reassignments, elect_leaders, list_partition_reassignments
from .offsets import list_offsets
from .produce import produce
from .producer_ids import init_producer_id
from .quorum import add_raft_voter, describe_quorum, remove_raft_voter, unregister_broker, update_features
from .records_admin import delete_records, offset_for_leader_epoch
from .topics_admin import create_partitions, create_topics, delete_topics
from .topics_metadata import describe_topic_partitions, metadata
from .versions import api_versions

if TYPE_CHECKING:
    from logeion.wire.codec import RequestHeader

    from .connection import Connection, Exchange
    from .state import Gateway

# async def handle(gateway, connection, header, request) -> response body; None closes the connection. A KafkaError
# that escapes a handler closes the connection too: handlers put error codes where their response has a place for them.
AsyncHandler = Callable[["Gateway", "Connection", "RequestHeader", Any], Awaitable[Any]]


class Direct(NamedTuple):
    """A handler without a task: ``call(gateway, exchange, request)`` ends in ``answer(body)`` or ``drop()``."""

    call: Callable[[Gateway, Exchange, Any], None]


HANDLERS: dict[int, AsyncHandler | Direct] = {
    0: Direct(produce),
    1: Direct(fetch),
    2: list_offsets,
    3: metadata,
    8: offset_commit,
    9: offset_fetch,
    10: find_coordinator,
    11: join_group,
    12: heartbeat,
    13: leave_group,
    14: sync_group,
    15: describe_groups,
    16: list_groups,
    18: api_versions,
    19: create_topics,
    20: delete_topics,
    21: delete_records,
    22: init_producer_id,
    23: offset_for_leader_epoch,
    32: describe_configs,
    33: alter_configs,
    35: describe_log_dirs,
    37: create_partitions,
    42: delete_groups,
    43: elect_leaders,
    44: incremental_alter_configs,
    45: alter_partition_reassignments,
    46: list_partition_reassignments,
    47: offset_delete,
    55: describe_quorum,
    57: update_features,
    60: describe_cluster,
    64: unregister_broker,
    68: consumer_group_heartbeat,
    69: consumer_group_describe,
    75: describe_topic_partitions,
    80: add_raft_voter,
    81: remove_raft_voter,
}
