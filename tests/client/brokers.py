"""The broker that client tests run against."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.cluster.broker import Broker, running_broker


@contextlib.contextmanager
def some_broker(folders: pytest.TempPathFactory) -> Iterator[tuple[str, Broker | None]]:
    """Where it is: a `logeion up` of its own, or what KAFKA_BOOTSTRAP names."""
    named = os.environ.get("KAFKA_BOOTSTRAP")
    if named:
        yield named, None
        return
    with pytest.MonkeyPatch.context() as patch:
        # Members under KIP-848 hear of a change with their next heartbeat, five seconds later by default.
        patch.setenv("LOGEION_GROUPS__CONSUMER_HEARTBEAT_INTERVAL_MS", "200")
        with running_broker(folders.mktemp("client")) as running:
            yield running.bootstrap, running
