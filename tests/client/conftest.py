"""What Apache Kafka's protocol has and Tansu lacks: tests marked ``not_on_tansu(why)`` are skipped there.

That each is Tansu's own, another client shows in test_tansu.py.
"""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "not_on_tansu(why): what Tansu does not do, as test_tansu.py shows")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("KAFKA_PEER") != "tansu":
        return
    for item in items:
        for mark in item.iter_markers("not_on_tansu"):
            item.add_marker(pytest.mark.skip(reason=f"Tansu: {mark.args[0]}"))
