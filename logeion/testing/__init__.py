"""A real broker for tests: pytest fixtures (see ``plugin``), and ``broker()`` and ``cluster()`` for everybody else.

    with logeion.testing.broker() as broker:
        my_program(broker.bootstrap)
        broker.assert_produced("orders", value=b"42")

Names are loaded when first used: pytest imports this package in every session, whether a test uses it or not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .clusters import Actor as Actor
    from .clusters import Cluster as Cluster
    from .clusters import cluster as cluster
    from .faults import Fault as Fault
    from .faults import Faults as Faults
    from .kafka import Kafka as Kafka
    from .kafka import Read as Read
    from .plugin import TopicFactory as TopicFactory
    from .running import Broker as Broker
    from .running import BrokerError as BrokerError
    from .running import broker as broker

_HOMES = {
    "Actor": "clusters",
    "Broker": "running",
    "BrokerError": "running",
    "broker": "running",
    "Cluster": "clusters",
    "cluster": "clusters",
    "Fault": "faults",
    "Faults": "faults",
    "Kafka": "kafka",
    "Read": "kafka",
    "TopicFactory": "plugin",
}

__all__ = [
    "Actor",
    "Broker",
    "BrokerError",
    "Cluster",
    "Fault",
    "Faults",
    "Kafka",
    "Read",
    "TopicFactory",
    "broker",
    "cluster",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
